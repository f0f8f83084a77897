// Multi-exponentiation by buckets (Pippenger), for scalars of any width.
//
// A column of digits is one window of one row of scalars. The points of a bucket are added pairwise, in rounds over the
// buckets of several columns, so that every batch of sums is long; eight columns' buckets are weighed as one lane.
#pragma once

#include "msm.cuh"
#include "pair_adder.hpp"

namespace zkaudit {

/// One window of one row: digits[0..count), of magnitude at most 2^(width - 1).
struct DigitColumn {
    const int16_t* digits;
    int64_t count;
    int width;

    int64_t buckets() const { return int64_t{1} << (width - 1); }
};

/// The points and their opposites, packed.
struct SignedPoints {
    std::vector<PackedPoint> plus, minus;

    SignedPoints(const Point* points, int64_t n) : plus(packed(points, n)), minus(packed(points, n, true)) {}

    const PackedPoint* times_sign(int64_t i, int digit) const { return digit > 0 ? &plus[i] : &minus[i]; }
};

/// Window width for rows of `count` nonzero scalars below 2^bits: a weighed bucket costs about three sums.
inline int best_width(int64_t count, int bits) {
    constexpr int widest = 14;
    int best = 1;
    int64_t least = INT64_MAX;
    for (int width = 2; width <= widest; ++width) {
        const int64_t cost = digit_windows(bits, width) * (count + 3 * (int64_t{1} << (width - 1)));
        if (cost < least) least = cost, best = width;
    }
    return best;
}

/// The buckets of some columns, added up together.
class BucketSums {
public:
    /// Adds up the buckets of `columns`; afterwards `lists()[i]` holds those of column i.
    void run(const SignedPoints& points, const DigitColumn* columns, int count) {
        begins.assign(count, 0);
        int64_t total = 0;
        for (int i = 0; i < count; ++i) {
            begins[i] = total;
            total += columns[i].buckets();
        }
        sums.assign(total, PackedPoint{});
        for (int i = 0; i < count;) {
            int end = i;
            for (int64_t items = 0; end < count && (end == i || items + columns[end].count <= batch_items); ++end) items += columns[end].count;
            sort(points, columns + i, end - i);
            while (halve()) {
            }
            for (size_t bucket = 0; bucket < sizes.size(); ++bucket) {
                if (sizes[bucket] != 0) sums[begins[i] + bucket] = *items[starts[bucket]];
            }
            i = end;
        }
    }

    const PackedPoint* list(int column) const { return &sums[begins[column]]; }

private:
    static constexpr int64_t batch_items = 1 << 15;

    std::vector<int64_t> begins, starts, sizes;
    std::vector<const PackedPoint*> items;
    std::vector<PackedPoint> sums, scratch;
    int64_t used = 0;
    PairAdder adder;

    /// items[starts[b]..starts[b] + sizes[b]) = the points of bucket b, buckets of all columns in order.
    void sort(const SignedPoints& points, const DigitColumn* columns, int count) {
        int64_t buckets = 0;
        for (int i = 0; i < count; ++i) buckets += columns[i].buckets();
        starts.assign(buckets + 1, 0);
        for_digits(columns, count, [&](int64_t bucket, int64_t, int) { ++starts[bucket + 1]; });
        for (int64_t b = 0; b < buckets; ++b) starts[b + 1] += starts[b];
        items.resize(starts[buckets]);
        scratch.resize(std::max<size_t>(scratch.size(), items.size() / 2 + 1));
        used = 0;
        sizes.assign(buckets, 0);
        for_digits(columns, count, [&](int64_t bucket, int64_t i, int digit) { items[starts[bucket] + sizes[bucket]++] = points.times_sign(i, digit); });
    }

    template <class Body>
    static void for_digits(const DigitColumn* columns, int count, const Body& body) {
        int64_t first = 0;
        for (int c = 0; c < count; first += columns[c++].buckets()) {
            for (int64_t i = 0; i < columns[c].count; ++i) {
                const int digit = columns[c].digits[i];
                if (digit != 0) body(first + std::abs(digit) - 1, i, digit);
            }
        }
    }

    bool is_scratch(const PackedPoint* point) const { return std::less_equal<>()(scratch.data(), point) && std::less<>()(point, scratch.data() + scratch.size()); }

    /// Adds neighbours in every bucket; false when no bucket had two.
    bool halve() {
        bool any = false;
        for (size_t bucket = 0; bucket < sizes.size(); ++bucket) {
            const int64_t size = sizes[bucket];
            if (size < 2) continue;
            any = true;
            const PackedPoint** item = &items[starts[bucket]];
            for (int64_t i = 0; i + 1 < size; i += 2) {
                const PackedPoint* target = is_scratch(item[i]) ? item[i] : is_scratch(item[i + 1]) ? item[i + 1] : &scratch[used++];
                adder.push(const_cast<PackedPoint*>(target), item[i], item[i + 1]);
                item[i / 2] = target;
            }
            if (size % 2 == 1) item[size / 2] = item[size - 1];
            sizes[bucket] = (size + 1) / 2;
        }
        adder.flush();
        return any;
    }
};

/// sums[i] = the sum of digit times point over column i.
inline void sum_columns(const SignedPoints& points, const std::vector<DigitColumn>& columns, std::vector<Projective<Base>>& sums) {
    constexpr int64_t group = 8;
    const int64_t count = static_cast<int64_t>(columns.size());
    sums.resize(count);
    for_jobs((count + group - 1) / group, count * point_work, [&](int64_t job) {
        const int64_t begin = job * group, end = std::min(count, begin + group);
        BucketSums buckets;
        buckets.run(points, &columns[begin], static_cast<int>(end - begin));
        const PackedPoint identity{};
        for (int64_t i = begin; i < end; i += lane_points) {
            const PackedPoint* lists[lane_points];
            int64_t sizes[lane_points];
            for (int k = 0; k < lane_points; ++k) {
                const bool real = i + k < end;
                lists[k] = real ? buckets.list(static_cast<int>(i + k - begin)) : nullptr;
                sizes[k] = real ? columns[i + k].buckets() : 0;
            }
            const LanePoint lane = weighted_sum<BaseLane>(lists, sizes, &identity);
            for (int k = 0; k < lane_points && i + k < end; ++k) sums[i + k] = element(lane, k);
        }
    });
}

/// The sum of windows, lowest first, each `width` bits above the one before.
inline Projective<Base> joined_windows(const Projective<Base>* windows, int count, int width) {
    Projective<Base> total = windows[count - 1];
    for (int k = count - 2; k >= 0; --k) {
        for (int i = 0; i < width; ++i) total = total.doubled();
        total = total + windows[k];
    }
    return total;
}

/// The same for few points, which buckets would cost more than their multiples: a lane of points at a time.
inline void short_msm(const Scalar* scalars, const Point* points, int64_t n, Point* out) {
    LanePoint total = LanePoint::identity();
    for (int64_t i = 0; i < n; i += lane_points) {
        const int count = static_cast<int>(std::min<int64_t>(lane_points, n - i));
        Scalar plain[lane_points] = {};  // zero for the rest of the lane
        for (int k = 0; k < count; ++k) plain[k] = scalars[i + k].from_montgomery();
        total = total + WindowedProduct<BaseLane>::of(LanePoint::from(load_x(points + i, count), load_y(points + i, count)), plain, lane_points);
    }
    Projective<Base> sum = Projective<Base>::identity();
    for (int k = 0; k < lane_points; ++k) sum = sum + element(total, k);
    make_affine(&sum, 1, out);
}

/// out = the sum of scalars (Montgomery form) times points.
inline void msm(const Scalar* scalars, const Point* points, int64_t n, Point* out) {
    if (n <= 2 * lane_points) return short_msm(scalars, points, n, out);
    const int width = best_width(n, Scalar::bits), windows = digit_windows(Scalar::bits, width);
    std::vector<int16_t> digits(windows * n);
    for (int64_t i = 0; i < n; ++i) {
        const Scalar plain = scalars[i].from_montgomery();
        signed_digits(plain.v, Scalar::limbs, false, width, windows, &digits[i], n);
    }
    std::vector<DigitColumn> columns;
    for (int k = 0; k < windows; ++k) columns.push_back({&digits[k * n], n, width});
    std::vector<Projective<Base>> sums;
    sum_columns(SignedPoints(points, n), columns, sums);
    const Projective<Base> total = joined_windows(sums.data(), windows, width);
    make_affine(&total, 1, out);
}

}  // namespace zkaudit
