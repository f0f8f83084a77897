// Sums of multiples of fixed points by combs (Lim and Lee 1994): tables are made once for each point, and a sum then takes few
// doublings.
//
// An odd number below 2^256 is a sum of +-2^i over all i < 256. With a tooth in each limb of 64 bits, the four signs at place i
// of every limb are the digit of place i. For each of four parts of the places a table has the sums of +-2^(64 k + 16 part)
// times the point; those whose highest tooth is minus are opposites of others. Column c takes place 16 part + c of every part,
// so 16 columns, a doubling apart, make a scalar's 64 digits.
#pragma once

#include <vector>

#include "point_lanes.hpp"

namespace zkaudit {

/// What is kept of one point of the subgroup of order r.
struct CombTable {
    static constexpr int parts = 4, columns = 64 / parts, teeth = Scalar::limbs, half = 1 << (teeth - 1);

    PackedPoint sums[parts][half];  // bit k of the index: tooth k is plus; the highest one always is
};

/// A scalar's digits. An even scalar is taken as itself plus r, which is odd and on the subgroup the same multiple.
class CombDigits {
public:
    explicit CombDigits(const Scalar& scalar) {
        const Scalar plain = scalar.from_montgomery(), modulus = Scalar::modulus();
        uint64_t odd[CombTable::teeth], carry = 0;
        for (int k = 0; k < CombTable::teeth; ++k) {
            odd[k] = plain.v[0] & 1 ? plain.v[k] : Scalar::add_limb(plain.v[k], modulus.v[k], carry);
        }
        // The sum of (2 b_(i + 1) - 1) 2^i is the number, if b are its bits and 1 stands above them.
        for (int k = 0; k < CombTable::teeth; ++k) plus[k] = (odd[k] >> 1) | (k + 1 < CombTable::teeth ? odd[k + 1] : 1) << 63;
    }

    bool is_negative(int place) const { return !bit(CombTable::teeth - 1, place); }

    /// Of the digit's magnitude in a table's part.
    int index(int place) const {
        int out = 0;
        for (int k = 0; k + 1 < CombTable::teeth; ++k) out |= (bit(k, place) ^ static_cast<int>(is_negative(place))) << k;
        return out;
    }

private:
    uint64_t plus[CombTable::teeth];

    int bit(int limb, int place) const { return static_cast<int>((plus[limb] >> place) & 1); }
};

/// Tables of a lane of points.
inline void comb_lane(const Point* points, int count, CombTable* out) {
    constexpr int parts = CombTable::parts, half = CombTable::half, low_teeth = CombTable::teeth - 1;
    LanePoint powers[CombTable::teeth][parts];  // 2^(64 k + 16 part) times the points
    LanePoint power = LanePoint::from(load_x(points, count), load_y(points, count));
    for (int i = 0; i < CombTable::teeth * parts; ++i) {
        for (int k = 0; i > 0 && k < CombTable::columns; ++k) power = power.doubled();
        powers[i / parts][i % parts] = power;
    }
    LanePoint sums[parts * half];
    for (int part = 0; part < parts; ++part) {
        LanePoint* sum = sums + part * half;
        sum[0] = powers[low_teeth][part];
        for (int k = 0; k < low_teeth; ++k) {
            for (int i = 0; i < 1 << k; ++i) {
                sum[i | (1 << k)] = sum[i] + powers[k][part];
                sum[i] = sum[i] + powers[k][part].negated();
            }
        }
    }
    Point affine[parts * half * lane_points];
    make_affine(sums, parts * half * lane_points, affine);
    PackedPoint unused;
    for (int i = 0; i < parts * half; ++i) {
        Packed<BaseLane>* to[lane_points];
        for (int k = 0; k < lane_points; ++k) to[k] = k < count ? &out[k].sums[i / half][i % half].x : &unused.x;
        scatter(load_x(affine + i * lane_points, lane_points), to, 0);
        scatter(load_y(affine + i * lane_points, lane_points), to, 1);
    }
}

inline void comb_tables(const Point* points, int64_t n, CombTable* out) {
    for_jobs((n + lane_points - 1) / lane_points, n * point_work, [&](int64_t lane) {
        const int64_t first = lane * lane_points;
        comb_lane(points + first, static_cast<int>(std::min<int64_t>(lane_points, n - first)), out + first);
    });
}

/// The lane's elements from `by` to 2 `by`, moved to its beginning.
inline BaseLane shifted(const BaseLane& lane, int by) {
    Base all[lane_points];
    store_base(lane, all, 1, lane_points);
    return load_base<BaseLane>(all + by, 1, by);
}

/// out = the sum of scalars (Montgomery form) times the tables' points. A lane's elements hold sums over different parts.
inline void comb_msm(const Scalar* scalars, const std::vector<const CombTable*>& tables, Point* out) {
    constexpr int parts = CombTable::parts;
    const int64_t pairs = static_cast<int64_t>(tables.size()) * parts;  // of a table and a part
    const std::vector<CombDigits> digits(scalars, scalars + tables.size());
    const PackedPoint identity{};
    for (const CombTable* table : tables) {
        for (size_t i = 0; i < sizeof(CombTable); i += 64) __builtin_prefetch(reinterpret_cast<const char*>(table) + i);
    }
    LanePoint lane = LanePoint::identity();
    for (int column = CombTable::columns - 1; column >= 0; --column) {
        if (column + 1 < CombTable::columns) lane = lane.doubled();
        for (int64_t first = 0; first < pairs; first += lane_points) {
            const Packed<BaseLane>* from[lane_points];
            Mask negative = 0;
            for (int k = 0; k < lane_points; ++k) {
                const int64_t table = (first + k) / parts;
                const int part = (first + k) % parts, place = part * CombTable::columns + column;
                const bool used = first + k < pairs;
                from[k] = used ? &tables[table]->sums[part][digits[table].index(place)].x : &identity.x;
                negative |= Mask{used && digits[table].is_negative(place)} << k;
            }
            const BaseLane y = gather<BaseLane>(from, 1);
            lane = lane.plus(gather<BaseLane>(from, 0), select(negative, -y, y));
        }
    }
    for (int width = lane_points / 2; width > 0; width /= 2) {
        lane = lane + LanePoint{shifted(lane.x, width), shifted(lane.y, width), shifted(lane.z, width)};
    }
    const Projective<Base> sum = element(lane, 0);
    make_affine(&sum, 1, out);
}

}  // namespace zkaudit
