// Many scalars times one point: a table of the point's multiples in every window, then one sum a window and scalar.
#pragma once

#include "msm.cuh"
#include "pair_adder.hpp"

namespace zkaudit {

class FixedBase {
public:
    /// Tables for `uses` scalars: with wider windows a table costs more and a scalar less.
    FixedBase(const Point& point, int64_t uses) : width(best_width(uses)), windows(digit_windows(Scalar::bits, width)), half(int64_t{1} << (width - 1)), table(windows * half) {
        std::vector<Projective<Base>> bases{Projective<Base>::from(point.x, point.y)};
        for (int k = 1; k < windows; ++k) {
            bases.push_back(bases.back());
            for (int i = 0; i < width; ++i) bases[k] = bases[k].doubled();
        }
        std::vector<Point> affine(windows);
        make_affine(bases.data(), windows, affine.data());
        const std::vector<PackedPoint> first = packed(affine.data(), windows);
        PairAdder adder;
        for (int k = 0; k < windows; ++k) table[k * half] = first[k];
        for (int64_t known = 1; known < half; known *= 2) {  // multiples known + 1 to 2 known
            for (int k = 0; k < windows; ++k) {
                PackedPoint* multiples = &table[k * half];  // from 1
                for (int64_t m = 0; m < known; ++m) adder.push(&multiples[known + m], &multiples[known - 1], &multiples[m]);
            }
            adder.flush();
        }
    }

    /// out[i] = scalars[i] times the point; scalars in Montgomery form.
    void multiply(const Scalar* scalars, int64_t n, Point* out) const {
        for_jobs((n + block - 1) / block, n * point_work, [&](int64_t b) {
            const int64_t begin = b * block;
            multiply_block(scalars + begin, std::min(block, n - begin), out + begin);
        });
    }

private:
    static constexpr int64_t block = 1024;

    int width, windows;
    int64_t half;
    std::vector<PackedPoint> table;  // window by window, multiples 1 to half

    static int best_width(int64_t uses) {
        int best = 1;
        int64_t least = INT64_MAX;
        for (int candidate = 2; candidate <= 12; ++candidate) {
            const int64_t cost = digit_windows(Scalar::bits, candidate) * ((int64_t{1} << (candidate - 1)) + uses);
            if (cost < least) least = cost, best = candidate;
        }
        return best;
    }

    /// Positive and negative digits are summed apart, so that the table needs no opposites.
    void multiply_block(const Scalar* scalars, int64_t n, Point* out) const {
        std::vector<int16_t> digits(windows * n);
        for (int64_t i = 0; i < n; ++i) {
            const Scalar plain = scalars[i].from_montgomery();
            signed_digits(plain.v, Scalar::limbs, false, width, windows, &digits[i], n);
        }
        std::vector<PackedPoint> sums(2 * n);
        PairAdder adder;
        for (int k = 0; k < windows; ++k) {
            for (int64_t i = 0; i < n; ++i) {
                const int digit = digits[k * n + i];
                PackedPoint* sum = &sums[2 * i + (digit < 0)];
                if (digit != 0) adder.push(sum, sum, &table[k * half + std::abs(digit) - 1]);
            }
            adder.flush();
        }
        std::vector<LanePoint> differences;
        for (int64_t i = 0; i < n; i += lane_points) {
            const Packed<BaseLane>*plus[lane_points], *minus[lane_points];
            for (int k = 0; k < lane_points; ++k) {
                plus[k] = &sums[2 * std::min(n - 1, i + k)].x;
                minus[k] = plus[k] + 2;
            }
            const LanePoint negative = LanePoint::from(gather<BaseLane>(minus, 0), gather<BaseLane>(minus, 1)).negated();
            differences.push_back(negative.plus(gather<BaseLane>(plus, 0), gather<BaseLane>(plus, 1)));
        }
        make_affine(differences.data(), n, out);
    }
};

}  // namespace zkaudit
