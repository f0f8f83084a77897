// Points as bytes: 48 each, big-endian x, with three flags in the top bits (the encoding of ZCash, also appendix C of the IETF
// BLS draft): compressed, infinity, and whether y is the larger of the two roots.
#pragma once

#include "point_lanes.hpp"

namespace zkaudit {

constexpr int64_t point_bytes = 48;
constexpr uint8_t flag_compressed = 0x80, flag_infinity = 0x40, flag_larger = 0x20;

/// What `decompress` found; the names are in zk/curve.py.
enum class Decoding : uint8_t { valid, uncompressed, bad_infinity, not_canonical, not_on_curve, not_in_subgroup };

inline void compress(const Point* points, int64_t n, uint8_t* out) {
    for_jobs((n + point_chunk - 1) / point_chunk, n * point_work, [&](int64_t c) {
        for (int64_t i = c * point_chunk; i < std::min(n, (c + 1) * point_chunk); ++i) {
            uint8_t* bytes = out + i * point_bytes;
            const Base x = points[i].x.from_montgomery();
            for (int b = 0; b < point_bytes; ++b) bytes[b] = static_cast<uint8_t>(x.v[5 - b / 8] >> (56 - 8 * (b % 8)));
            const bool none = points[i].x.is_zero() && points[i].y.is_zero();
            bytes[0] |= flag_compressed | (none ? flag_infinity : is_larger_root(points[i].y) ? flag_larger : 0);
        }
    });
}

/// The x of one point in Montgomery form, and what the bytes alone show.
inline Decoding parse(const uint8_t* bytes, Base& x) {
    x = Base::zero();
    for (int b = 0; b < point_bytes; ++b) x.v[5 - b / 8] |= static_cast<uint64_t>(b == 0 ? bytes[0] & 0x1f : bytes[b]) << (56 - 8 * (b % 8));
    if (!(bytes[0] & flag_compressed)) return Decoding::uncompressed;
    if (bytes[0] & flag_infinity) return x.is_zero() && !(bytes[0] & flag_larger) ? Decoding::valid : Decoding::bad_infinity;
    if (!x.is_reduced()) return Decoding::not_canonical;
    x = x.to_montgomery();
    return Decoding::valid;
}

/// points and found: one for each 48 bytes; a point is zeros where what was found is not valid.
inline void decompress(const uint8_t* data, int64_t n, bool subgroup, Point* points, Decoding* found) {
    for_lanes(n, [&](int64_t first, int count) {
        for (int i = 0; i < count; ++i) found[first + i] = parse(data + (first + i) * point_bytes, points[first + i].x);
        const BaseLane x = load_x(points + first, count);
        const BaseLane right = curve_right_side(x), y = square_root(right);
        const Mask on = zeros(y.squared() - right);
        store_base(y, &points[first].y, 2, count);
        const Mask inside = subgroup ? LanePoint{x, y, BaseLane::one()}.in_subgroup() : every<BaseLane>;
        for (int i = 0; i < count; ++i) {
            Point& point = points[first + i];
            const uint8_t flags = data[(first + i) * point_bytes];
            Decoding& status = found[first + i];
            if (status == Decoding::valid && !(flags & flag_infinity)) {
                if (is_larger_root(point.y) != ((flags & flag_larger) != 0)) point.y = -point.y;
                if (!((inside >> i) & 1)) status = Decoding::not_in_subgroup;
                if (!((on >> i) & 1)) status = Decoding::not_on_curve;
                if (status == Decoding::valid) continue;
            }
            point = {Base::zero(), Base::zero()};
        }
    });
}

}  // namespace zkaudit
