// Sums of many independent pairs of affine points with one inversion for all: 5 products and 1 squaring a sum, against 12
// products for one projective sum. Montgomery's trick runs along the pairs, lane by lane.
//
// Points are packed (base_lane.cuh) and never the identity: callers copy instead of adding it. A batch is first tried without
// looking for equal x; only if the product of all differences is zero it runs again `careful`ly, with doublings and opposites.
#pragma once

#include "curve.cuh"

namespace zkaudit {

/// out = a + b; out may be a or b.
template <class F>
struct PairSum {
    const Affine<Packed<F>>* a;
    const Affine<Packed<F>>* b;
    Affine<Packed<F>>* out;
};

/// One lane of pairs: pair i of the block fills element i.
template <class F>
struct PairLane {
    static constexpr int width = base_width<F>;

    const Packed<F>* a[width];
    const Packed<F>* b[width];
    Packed<F>* out[width];

    /// `count` pairs; the rest of the lane repeats the first and writes to `unused`.
    ZK_HD PairLane(const PairSum<F>* pairs, int count, Affine<Packed<F>>* unused) {
        for (int i = 0; i < width; ++i) {
            const PairSum<F>& pair = pairs[i < count ? i : 0];
            a[i] = &pair.a->x;
            b[i] = &pair.b->x;
            out[i] = i < count ? &pair.out->x : &unused->x;
        }
    }

    /// x_b - x_a, what the slope is divided by; carefully, 2 y for doublings and 1 for opposites.
    template <bool careful>
    ZK_HD F divisor() const {
        const F difference = gather<F>(b, 0) - gather<F>(a, 0);
        if constexpr (!careful) return difference;
        const F y = gather<F>(a, 1);
        const Mask same = zeros(difference), opposite = same & zeros(y + gather<F>(b, 1));
        return select(opposite, F::one(), select(same, y.doubled(), difference));
    }

    /// Writes the sums, given 1 / divisor().
    template <bool careful>
    ZK_HD void finish(const F& inverse) const {
        const F ax = gather<F>(a, 0), bx = gather<F>(b, 0), ay = gather<F>(a, 1), by = gather<F>(b, 1);
        F rise = by - ay;
        Mask opposite = 0;
        if constexpr (careful) {
            const Mask same = zeros(bx - ax);
            opposite = same & zeros(ay + by);
            const F square = ax.squared();
            rise = select(same, square.doubled() + square, rise);
        }
        const F slope = rise * inverse;
        F x = slope.squared() - ax - bx;
        F y = slope * (ax - x) - ay;
        if constexpr (careful) {
            x = select(opposite, F::zero(), x);
            y = select(opposite, F::zero(), y);
        }
        scatter(x, out, 0);
        scatter(y, out, 1);
    }
};

}  // namespace zkaudit
