// Arrays of points as lanes of the widest class this file is compiled for: packed, or made affine with one inversion a chunk.
#pragma once

#include <vector>

#include "curve.cuh"
#include "parallel.hpp"

#if defined(__AVX512IFMA__) && defined(__AVX512VBMI2__)
#include "base_ifma.hpp"
#endif

namespace zkaudit {

#if defined(__AVX512IFMA__) && defined(__AVX512VBMI2__)
using BaseLane = Base8;
#else
using BaseLane = Base;
#endif

using Point = Affine<Base>;
using PackedPoint = Affine<Packed<BaseLane>>;
using LanePoint = Projective<BaseLane>;

constexpr int lane_points = base_width<BaseLane>;
constexpr int64_t point_chunk = 512;

/// What `for_jobs` should take one curve operation for: many elements' work.
constexpr int64_t point_work = 1024;

inline BaseLane load_x(const Point* points, int count) { return load_base<BaseLane>(&points->x, 2, count); }
inline BaseLane load_y(const Point* points, int count) { return load_base<BaseLane>(&points->y, 2, count); }

/// body(first, count) for lanes of points in [0, n): count <= lane_points.
template <class Body>
void for_lanes(int64_t n, const Body& body) {
    for_jobs((n + point_chunk - 1) / point_chunk, n * point_work, [&](int64_t c) {
        const int64_t end = std::min(n, (c + 1) * point_chunk);
        for (int64_t i = c * point_chunk; i < end; i += lane_points) body(i, static_cast<int>(std::min<int64_t>(lane_points, end - i)));
    });
}

/// out[0..count) = the affine forms; the last lane may be part filled.
template <class F>
void make_affine(const Projective<F>* in, int64_t count, Point* out) {
    constexpr int width = base_width<F>;
    const int64_t lanes = (count + width - 1) / width;
    std::vector<F> prefix(lanes);
    F running = F::one();
    for (int64_t i = 0; i < lanes; ++i) {
        prefix[i] = running;
        running = running * select(zeros(in[i].z), F::one(), in[i].z);
    }
    F inverse = inverted(running);
    for (int64_t i = lanes - 1; i >= 0; --i) {
        const Mask none = zeros(in[i].z);
        const F mine = inverse * prefix[i];
        inverse = inverse * select(none, F::one(), in[i].z);
        const int here = static_cast<int>(std::min<int64_t>(width, count - i * width));
        store_base(select(none, F::zero(), in[i].x * mine), &out[i * width].x, 2, here);
        store_base(select(none, F::zero(), in[i].y * mine), &out[i * width].y, 2, here);
    }
}

/// out[i] = the affine form of what produce(first, count) gives for the lane that i is in.
template <class Produce>
void for_points(int64_t n, Point* out, const Produce& produce) {
    for_jobs((n + point_chunk - 1) / point_chunk, n * point_work, [&](int64_t c) {
        const int64_t begin = c * point_chunk, end = std::min(n, begin + point_chunk);
        std::vector<LanePoint> sums;
        sums.reserve(point_chunk / lane_points);
        for (int64_t i = begin; i < end; i += lane_points) sums.push_back(produce(i, static_cast<int>(std::min<int64_t>(lane_points, end - i))));
        make_affine(sums.data(), end - begin, out + begin);
    });
}

/// Packed copies; with `opposite`, of the points' opposites.
inline std::vector<PackedPoint> packed(const Point* points, int64_t n, bool opposite = false) {
    std::vector<PackedPoint> out(n);
    for_lanes(n, [&](int64_t first, int count) {
        PackedPoint unused;
        Packed<BaseLane>* to[lane_points];
        for (int i = 0; i < lane_points; ++i) to[i] = i < count ? &out[first + i].x : &unused.x;
        const BaseLane y = load_y(points + first, count);
        scatter(load_x(points + first, count), to, 0);
        scatter(opposite ? select(zeros(y), y, -y) : y, to, 1);
    });
    return out;
}

/// Element i of a lane of points.
template <class F>
Projective<Base> element(const Projective<F>& lane, int i) {
    Base x[base_width<F>], y[base_width<F>], z[base_width<F>];
    store_base(lane.x, x, 1, base_width<F>);
    store_base(lane.y, y, 1, base_width<F>);
    store_base(lane.z, z, 1, base_width<F>);
    return {x[i], y[i], z[i]};
}

inline bool is_identity(const PackedPoint& point) { return is_packed_zero(point.y) && is_packed_zero(point.x); }

}  // namespace zkaudit
