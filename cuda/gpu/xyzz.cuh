// Points of G1 as (X, Y, ZZ, ZZZ): x = X / ZZ, y = Y / ZZZ, ZZ^3 = ZZZ^2; the identity has ZZ = 0. Formulas: "XYZZ coordinates
// for short Weierstrass curves" of the Explicit-Formulas Database, with a = 0.
//
// Adding an affine point costs 8 products and 2 squarings, against 11 products for the complete projective sum (curve.cuh). The
// price are exceptions, taken in branches: they are rare, so the threads of a warp seldom part. F is a lane of one element.
// There is no point of order two, so doubling needs no case of its own.
#pragma once

#include "curve.cuh"

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

    /// 6 products, 3 squarings.
    ZK_HD Xyzz doubled() const {
        Xyzz out = doubled_affine({x, y});
        out.zz = out.zz * zz;
        out.zzz = out.zzz * zzz;
        return out;
    }

    /// this += b, whatever the points: 8 products, 2 squarings.
    ZK_HD void add(const Affine<F>& b) {
        if (b.x.is_zero() && b.y.is_zero()) return;
        if (is_identity()) {
            *this = from(b);
            return;
        }
        const F run = b.x * zz - x, rise = b.y * zzz - y;
        if (run.is_zero()) {
            *this = rise.is_zero() ? doubled_affine(b) : identity();
            return;
        }
        advance(run, rise);
    }

    /// this += b, whatever the points: 12 products, 2 squarings.
    ZK_HD void add(const Xyzz& b) {
        if (b.is_identity()) return;
        if (is_identity()) {
            *this = b;
            return;
        }
        const F ax = x * b.zz, ay = y * b.zzz, run = b.x * zz - ax, rise = b.y * zzz - ay;
        if (run.is_zero()) {
            *this = rise.is_zero() ? b.doubled() : identity();
            return;
        }
        *this = {ax, ay, zz * b.zz, zzz * b.zzz};
        advance(run, rise);
    }

    /// The affine point, given 1 / ZZZ (0 for the identity): 3 products, 1 squaring.
    ZK_HD Affine<F> to_affine(const F& inverse_zzz) const { return {x * (zz * inverse_zzz).squared(), y * inverse_zzz}; }

    /// The same with an inversion.
    ZK_HD Affine<F> to_affine() const { return to_affine(inverted(zzz)); }

private:
    /// Twice an affine point other than the identity: 4 products, 3 squarings.
    ZK_HD static Xyzz doubled_affine(const Affine<F>& b) {
        const F twice = b.y.doubled(), zz = twice.squared(), zzz = twice * zz, s = b.x * zz, square = b.x.squared();
        const F slope = square.doubled() + square, x = slope.squared() - s.doubled();
        return {x, slope * (s - x) - zzz * b.y, zz, zzz};
    }

    /// From (X, Y) to the sum with a point whose X and Y over this ZZ and ZZZ are larger by run and rise.
    ZK_HD void advance(const F& run, const F& rise) {
        const F square = run.squared(), cube = square * run, q = x * square;
        x = rise.squared() - cube - q.doubled();
        y = rise * (q - x) - y * cube;
        zz = zz * square;
        zzz = zzz * cube;
    }
};

}  // namespace zkaudit
