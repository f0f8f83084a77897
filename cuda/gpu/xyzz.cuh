// Points of G1 as (X, Y, ZZ, ZZZ): x = X / ZZ, y = Y / ZZZ, ZZ^3 = ZZZ^2; the identity has ZZ = 0. Formulas: "XYZZ coordinates
// for short Weierstrass curves" of the Explicit-Formulas Database, with a = 0.
//
// Adding an affine point costs 8 products and 2 squarings, two of which share a reduction, against 11 products for the complete
// projective sum (curve.cuh). The price are exceptions, taken in branches: they are rare, so the threads of a warp seldom part.
// F is a lane of one element. There is no point of order two, so doubling needs no case of its own.
#pragma once

#include "curve.cuh"
#include "wide.cuh"

namespace zkaudit {

template <class F>
struct Xyzz {
    F x, y, zz, zzz;

    ZK_HD static Xyzz identity() { return {F::zero(), F::zero(), F::zero(), F::zero()}; }

    /// From affine coordinates, (0, 0) being the identity.
    ZK_HD static Xyzz from(const Affine<F>& b) {
        return b.x.is_zero() && b.y.is_zero() ? identity() : Xyzz{b.x, b.y, F::one(), F::one()};
    }

    ZK_HD bool is_identity() const { return zz.is_zero(); }

    ZK_HD Xyzz negated() const { return {x, -y, zz, zzz}; }

    /// 6 products, 3 squarings; the identity stays what it is.
    ZK_HD Xyzz doubled() const {
        const F twice = y.doubled(), square = twice.squared(), cube = twice * square, s = x * square, xx = x.squared();
        const F slope = xx.doubled() + xx, out = slope.squared() - s.doubled();
        return {out, product_pair(slope, s - out, -y, cube), zz * square, zzz * cube};
    }

    /// this += b, whatever the points: 8 products, 2 squarings.
    ZK_HD void add(const Affine<F>& b) {
        if (b.x.is_zero() && b.y.is_zero()) return;
        if (is_identity()) {
            *this = from(b);
            return;
        }
        const F run = b.x * zz - x;
        advance(run, b.y * zzz - y);
    }

    /// this += b, whatever the points: 12 products, 2 squarings.
    ZK_HD void add(const Xyzz b) {
        if (b.is_identity()) return;
        if (is_identity()) {
            *this = b;
            return;
        }
        x = x * b.zz;
        const F run = b.x * zz - x;
        zz = zz * b.zz;
        y = y * b.zzz;
        const F rise = b.y * zzz - y;
        zzz = zzz * b.zzz;
        advance(run, rise);
    }

    /// The affine point, given 1 / ZZZ (0 for the identity): 3 products, 1 squaring.
    ZK_HD Affine<F> to_affine(const F& inverse_zzz) const { return {x * (zz * inverse_zzz).squared(), y * inverse_zzz}; }

    /// The same with an inversion.
    ZK_HD Affine<F> to_affine() const { return to_affine(inverted(zzz)); }

private:
    /// From this point to its sum with one whose X and Y over this ZZ and ZZZ are larger by run and rise. The order of the
    /// products keeps few elements alive at a time.
    ZK_HD void advance(const F& run, const F& rise) {
        if (run.is_zero()) {
            *this = rise.is_zero() ? doubled() : identity();
            return;
        }
        const F square = run.squared();
        zz = zz * square;
        const F q = x * square, cube = square * run;
        zzz = zzz * cube;
        x = rise.squared() - cube - q.doubled();
        y = product_pair(rise, q - x, -y, cube);
    }
};

}  // namespace zkaudit
