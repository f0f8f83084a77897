// G1 of BLS12-381, y^2 = x^3 + 4, as templates over a lane of coordinates (base_lane.cuh).
//
// Sums use the complete formulas of Renes, Costello and Batina (2015) for a = 0 in projective coordinates: no exceptions,
// because the number of points over the base field is odd, so they also hold outside the subgroup of order r. Affine points
// write the identity as (0, 0). Time depends on the values: nothing here is constant time.
#pragma once

#include "base_lane.cuh"

namespace zkaudit {

/// A point as arrays hold it; the identity is all zeros. E is `Base` or a lane's packed element.
template <class E>
struct Affine {
    E x, y;
};

/// The absolute value of the curve's parameter z; r = z^4 - z^2 + 1.
constexpr uint64_t curve_parameter = 0xd201000000010000;

/// A cube root of unity: (x, y) -> (beta x, y) is multiplication by -z^2 on the subgroup.
ZK_HD Base cube_root_of_unity() {
    return {{0x30f1361b798a64e8, 0xf3b8ddab7ece5a2a, 0x16a8ca3ac61577f7, 0xc26a2ff874fd029b, 0x3636b76660701c6e, 0x051ba4ab241b6160}};
}

ZK_HD Affine<Base> generator() {
    return {{{0x5cb38790fd530c16, 0x7817fc679976fff5, 0x154f95c7143ba1c1, 0xf0ae6acdf3d0e747, 0xedce6ecc21dbf440, 0x120177419e0bfb75}},
            {{0xbaac93d50ce72271, 0x8c22631a7918fd8e, 0xdd595f13570725ce, 0x51ac582950405194, 0x0e1c8c3fad0059c0, 0x0bbc3efc5008a26a}}};
}

template <class F>
ZK_HD F times_four(const F& x) {
    return x.doubled().doubled();
}

/// Three times the curve's constant 4.
template <class F>
ZK_HD F times_twelve(const F& x) {
    return times_four(x.doubled() + x);
}

/// (x / z, y / z); the identity is (0 : 1 : 0).
template <class F>
struct Projective {
    F x, y, z;

    ZK_HD static Projective identity() { return {F::zero(), F::one(), F::zero()}; }

    /// From affine coordinates, (0, 0) being the identity.
    ZK_HD static Projective from(const F& x, const F& y) {
        const Mask none = zeros(y) & zeros(x);
        return {x, select(none, F::one(), y), select(none, F::zero(), F::one())};
    }

    ZK_HD Projective negated() const { return {x, -y, z}; }

    /// Algorithm 9: 6 products, 2 squarings.
    ZK_HD Projective doubled() const {
        const F yy = y.squared(), b3zz = times_twelve(z.squared()), yz = y * z, xy = x * y;
        const F eight = times_four(yy.doubled()), lower = yy - (b3zz.doubled() + b3zz);
        return {(lower * xy).doubled(), b3zz * eight + lower * (yy + b3zz), yz * eight};
    }

    /// Algorithm 7: 12 products.
    friend ZK_HD Projective operator+(const Projective& a, const Projective& b) {
        const F xx = a.x * b.x, yy = a.y * b.y, zz = a.z * b.z;
        const F xy = (a.x + a.y) * (b.x + b.y) - xx - yy, yz = (a.y + a.z) * (b.y + b.z) - yy - zz, xz = (a.x + a.z) * (b.x + b.z) - xx - zz;
        return joined(xx.doubled() + xx, yy, times_twelve(zz), xy, yz, times_twelve(xz));
    }

    /// Algorithm 8, b affine: 11 products.
    ZK_HD Projective plus(const F& bx, const F& by) const {
        const Mask none = zeros(by) & zeros(bx);
        const F xx = x * bx, yy = y * by;
        const F xy = (x + y) * (bx + by) - xx - yy, yz = by * z + y, xz = bx * z + x;
        const Projective sum = joined(xx.doubled() + xx, yy, times_twelve(z), xy, yz, times_twelve(xz));
        return chosen(none, *this, sum);
    }

    ZK_HD static Projective chosen(Mask mask, const Projective& a, const Projective& b) {
        return {select(mask, a.x, b.x), select(mask, a.y, b.y), select(mask, a.z, b.z)};
    }

    /// k times this for a public k, k > 0, bit by bit.
    ZK_HD Projective times(uint64_t k) const {
        Projective out = *this;
        for (int i = 62 - leading_zeros(k); i >= 0; --i) {
            out = out.doubled();
            if ((k >> i) & 1) out = out + *this;
        }
        return out;
    }

    /// Which elements are points of the subgroup of order r, given that they are on the curve: those on which the
    /// endomorphism multiplies by -z^2 (Scott 2021, "A note on group membership tests", section 4).
    ZK_HD Mask in_subgroup() const {
        const Projective q = times(curve_parameter).times(curve_parameter);
        return zeros(x * broadcast<F>(cube_root_of_unity()) * q.z - q.x * z) & zeros(y * q.z + q.y * z);
    }

private:
    /// The common end of both sums, from 3 xx, yy, 12 zz, the cross terms and 12 xz.
    ZK_HD static Projective joined(const F& xx3, const F& yy, const F& b3zz, const F& xy, const F& yz, const F& b3xz) {
        const F plus = yy + b3zz, minus = yy - b3zz;
        return {xy * minus - yz * b3xz, minus * plus + b3xz * xx3, plus * yz + xx3 * xy};
    }
};

/// x^3 + 4.
template <class F>
ZK_HD F curve_right_side(const F& x) {
    return x.squared() * x + broadcast<F>(Base::from_u64(4));
}

/// Which elements are on the curve; the identity is.
template <class F>
ZK_HD Mask on_curve(const F& x, const F& y) {
    return zeros(y.squared() - curve_right_side(x)) | (zeros(x) & zeros(y));
}

/// A square root where there is one: x^((p + 1) / 4).
template <class F>
ZK_HD F square_root(const F& x) {
    const uint64_t exponent[6] = {0xee7fbfffffffeaab, 0x07aaffffac54ffff, 0xd9cc34a83dac3d89, 0xd91dd2e13ce144af, 0x92c6e9ed90d2eb35, 0x0680447a8e5ff9a6};
    return public_power(x, exponent, 379);
}

/// Whether y, as an integer below p, is above (p - 1) / 2: the larger of y and -y.
ZK_HD bool is_larger_root(const Base& y) {
    const uint64_t half[6] = {0xdcff7fffffffd555, 0x0f55ffff58a9ffff, 0xb39869507b587b12, 0xb23ba5c279c2895f, 0x258dd3db21a5d66b, 0x0d0088f51cbff34d};
    const Base plain = y.from_montgomery();
    uint64_t borrow = 0;
    for (int i = 0; i < 6; ++i) Base::subtract_limb(half[i], plain.v[i], borrow);
    return borrow != 0;
}

/// The sum of a table's multiples picked by the signed digits of the elements' scalars: windows of four bits.
template <class F>
struct WindowedProduct {
    static constexpr int window = 4;
    static constexpr int windows = Scalar::bits / window + 1;
    static constexpr int width = base_width<F>;

    /// scalars[i] times element i of the point; plain limbs, `count` of them, the last repeated for the rest of the lane.
    ZK_HD static Projective<F> of(const Projective<F>& point, const Scalar* scalars, int count) {
        F x[9], y[9], z[9];  // 0 to 8 times the point
        Projective<F> multiple = Projective<F>::identity();
        for (int i = 0; i < 9; ++i) {
            x[i] = multiple.x, y[i] = multiple.y, z[i] = multiple.z;
            multiple = multiple + point;
        }
        uint32_t digit[windows][width];
        Mask negative[windows] = {};
        for (int lane = 0; lane < width; ++lane) recode(scalars[lane < count ? lane : 0], lane, digit, negative);
        Projective<F> out = Projective<F>::identity();
        for (int k = windows - 1; k >= 0; --k) {
            if (k + 1 < windows) out = out.doubled().doubled().doubled().doubled();
            const F py = pick(y, digit[k]);
            out = out + Projective<F>{pick(x, digit[k]), select(negative[k], -py, py), pick(z, digit[k])};
        }
        return out;
    }

private:
    ZK_HD static void recode(const Scalar& plain, int lane, uint32_t (*digit)[width], Mask* negative) {
        int carry = 0;
        for (int k = 0; k < windows; ++k) {
            int value = carry + static_cast<int>((plain.v[k / 16] >> (4 * (k % 16))) & 15);
            carry = value > 8;
            if (carry) value -= 16;
            if (value < 0) negative[k] |= Mask{1} << lane;
            digit[k][lane] = static_cast<uint32_t>(value < 0 ? -value : value);
        }
    }
};

}  // namespace zkaudit
