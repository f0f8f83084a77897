// Sums of products that are reduced once, at the end.
//
// A Montgomery product is half multiplication, half reduction; a sum of n products needs n of the first and one of the
// second. `ProductSum` holds sums of element * element, `SmallSum` sums of element * small integer.
#pragma once

#include "lane.cuh"

namespace zkaudit {

/// A sum must be settled at least once in this many additions: lanes with narrower limbs let carries pile up until then.
constexpr int settle_period = 256;

/// low + high 2^(64 limbs) modulo the modulus, for any limbs: the constant is the reduced factor of each product.
template <class F>
ZK_DEVICE_CALLED F reduced_from(Passed<F> low, Passed<F> high) {
    F square;
    for (int i = 0; i < F::limbs; ++i) square.v[i] = F::Params::square(i);
    return F::one() * low + square * high;
}

/// Montgomery reduction of the lowest limbs of t: afterwards t[limbs..] holds t / 2^(64 limbs). Returns the carry past its end.
template <class F>
ZK_HD uint64_t reduce_lower_half(uint64_t* t) {
    if constexpr (carry_chains) return Chains<typename F::Params>::reduce_lower_half(t);
    uint64_t over = 0;
#pragma GCC unroll 6
    for (int i = 0; i < F::limbs; ++i) {
        const uint64_t m = t[i] * F::Params::inverse;
        uint64_t carry = 0;
#pragma GCC unroll 6
        for (int j = 0; j < F::limbs; ++j) {
            const uint128_t sum = static_cast<uint128_t>(m) * F::Params::modulus(j) + t[i + j] + carry;
            t[i + j] = static_cast<uint64_t>(sum);
            carry = static_cast<uint64_t>(sum >> 64);
        }
        t[i + F::limbs] = F::add_limb(t[i + F::limbs], carry, over);
    }
    return over;
}

/// t = a b, 2 limbs long.
template <class F>
ZK_HD void multiply_full(const F& a, const F& b, uint64_t* t) {
    if constexpr (carry_chains) return Chains<typename F::Params>::multiply_full(t, a.v, b.v);
    for (int i = 0; i < F::limbs; ++i) t[i] = 0;
#pragma GCC unroll 6
    for (int i = 0; i < F::limbs; ++i) {
        uint64_t carry = 0;
#pragma GCC unroll 6
        for (int j = 0; j < F::limbs; ++j) {
            const uint128_t sum = static_cast<uint128_t>(a.v[j]) * b.v[i] + t[i + j] + carry;
            t[i + j] = static_cast<uint64_t>(sum);
            carry = static_cast<uint64_t>(sum >> 64);
        }
        t[i + F::limbs] = carry;
    }
}

/// a b + c d with one reduction. Both products are below modulus^2 < 2^510, so their sum fits and reduces below 2 moduli.
template <class F>
ZK_HD F inlined_pair(const F& a, const F& b, const F& c, const F& d) {
    F out;
    if constexpr (carry_chains) {
        Chains<typename F::Params>::product_pair(out.v, a.v, b.v, c.v, d.v);
        return out;
    }
    uint64_t t[2 * F::limbs], u[2 * F::limbs];
    multiply_full(a, b, t);
    multiply_full(c, d, u);
    uint64_t carry = 0;
    for (int i = 0; i < 2 * F::limbs; ++i) t[i] = F::add_limb(t[i], u[i], carry);
    reduce_lower_half<F>(t);
    for (int i = 0; i < F::limbs; ++i) out.v[i] = t[F::limbs + i];
    return out + F::zero();
}

template <class F>
ZK_NEVER_INLINE F called_pair(Passed<F> a, Passed<F> b, Passed<F> c, Passed<F> d) {
    return inlined_pair(a, b, c, d);
}

/// The same, called where it is long.
template <class F>
ZK_HD F product_pair(const F& a, const F& b, const F& c, const F& d) {
    if constexpr (F::limbs > 4) return called_pair<F>(a, b, c, d);
    return inlined_pair(a, b, c, d);
}

/// low + r (high - low)
template <class F>
ZK_HD F interpolate(const F& low, const F& high, const F& r) {
    return low + r * (high - low);
}

/// value + (high - low): the next point of the line through low and high after the one with that value.
template <class F>
ZK_HD F extrapolate(const F& value, const F& low, const F& high) {
    return value + (high - low);
}

/// a - b for `loose_gate` only: a lane may leave it unreduced.
template <class F>
ZK_HD F loose_difference(const F& a, const F& b) {
    return a - b;
}

/// (x + scale c) b + d c for `ProductSum` only; b, c, d and x may be loose differences.
template <class F>
ZK_HD F loose_gate(const F& x, const F& scale, const F& b, const F& c, const F& d) {
    return product_pair(x + scale * c, b, d, c);
}

/// Takes 2^shift moduli off (over, x) if they are in it.
template <class F>
ZK_HD void subtract_multiple(F& x, uint64_t& over, int shift) {
    if constexpr (carry_chains) return Chains<typename F::Params>::subtract_multiple(x.v, over, shift);
    F less;
    uint64_t borrow = 0, below = 0;
    for (int i = 0; i < F::limbs; ++i) {
        const uint64_t limb = F::Params::modulus(i);
        less.v[i] = F::subtract_limb(x.v[i], (limb << shift) | (shift > 0 ? below >> (64 - shift) : 0), borrow);
        below = limb;
    }
    const uint64_t top = F::subtract_limb(over, shift > 0 ? below >> (64 - shift) : 0, borrow);
    const uint64_t keep = 0 - borrow;
    for (int i = 0; i < F::limbs; ++i) x.v[i] = (x.v[i] & keep) | (less.v[i] & ~keep);
    over = (over & keep) | (top & ~keep);
}

/// a b for `ProductSum` only; the factors may be loose differences.
template <class F>
ZK_HD F loose_product(const F& a, const F& b) {
    return a * b;
}

/// A sum of products of elements.
template <class F>
struct ProductSum {
    uint64_t t[2 * F::limbs + 1];

    ZK_HD static ProductSum zero() {
        ProductSum out;
        for (int i = 0; i <= 2 * F::limbs; ++i) out.t[i] = 0;
        return out;
    }

    ZK_HD void add(const F& a, const F& b) {
        if constexpr (carry_chains) return Chains<typename F::Params>::add_product(t, a.v, b.v);
        uint64_t product[2 * F::limbs];
        multiply_full(a, b, product);
        uint64_t carry = 0;
        for (int i = 0; i < 2 * F::limbs; ++i) t[i] = F::add_limb(t[i], product[i], carry);
        t[2 * F::limbs] += carry;
    }

    ZK_HD void settle() {}

    /// The sum of the Montgomery products, for each element of the lane; at most eight, which leave less than 5 moduli.
    ZK_HD F total() const {
        F out;
        uint64_t over = quotient(out);
        for (int shift = 2; shift >= 0; --shift) subtract_multiple(out, over, shift);
        return out;
    }

    /// The sum over the lane's elements of any number of products.
    ZK_HD F across() const {
        F low, high = F::zero();
        high.v[0] = quotient(low);
        return reduced_from<F>(low, high);
    }

private:
    /// The sum / 2^(64 limbs), below itself + modulus: its lower limbs, and what is above them.
    ZK_HD uint64_t quotient(F& low) const {
        uint64_t copy[2 * F::limbs];
        for (int i = 0; i < 2 * F::limbs; ++i) copy[i] = t[i];
        const uint64_t over = reduce_lower_half<F>(copy);
        for (int i = 0; i < F::limbs; ++i) low.v[i] = copy[F::limbs + i];
        return t[2 * F::limbs] + over;
    }
};

/// A sum of products of elements and words, in units of 2^(-52 digits): one digit serves words of 32 bits, two any word, and one
/// also a few words of 52 bits.
///
/// Only the digits that a sum exceeds the modulus by are reduced away, which divides it by 2^(52 digits); the caller puts
/// that factor back where it costs least (`lifted`). At most 2^20 terms.
template <class F, int digits>
struct SmallSum {
    uint64_t t[F::limbs + 2];

    ZK_HD static SmallSum zero() {
        SmallSum out;
        for (int i = 0; i < F::limbs + 2; ++i) out.t[i] = 0;
        return out;
    }

    /// A sum that `shrunk` takes to x.
    ZK_HD static SmallSum starting_at(const F& x) {
        SmallSum out = zero();
        const int word = 52 * digits / 64, shift = 52 * digits % 64;
        for (int i = 0; i < F::limbs; ++i) {
            out.t[i + word] |= x.v[i] << shift;
            if (shift > 0 && i + word + 1 < F::limbs + 2) out.t[i + word + 1] = x.v[i] >> (64 - shift);
        }
        return out;
    }

    /// `bits`: a bound on the word's width, of use to lanes with narrower limbs.
    template <int bits>
    ZK_HD void add(const F& a, uint64_t word) {
        if constexpr (carry_chains) return Chains<typename F::Params>::template add_multiple<bits>(t, a.v, word);
        uint64_t carry = 0;
#pragma GCC unroll 6
        for (int i = 0; i < F::limbs; ++i) {
            const uint128_t sum = static_cast<uint128_t>(a.v[i]) * word + t[i] + carry;
            t[i] = static_cast<uint64_t>(sum);
            carry = static_cast<uint64_t>(sum >> 64);
        }
        uint64_t over = 0;
        t[F::limbs] = F::add_limb(t[F::limbs], carry, over);
        t[F::limbs + 1] += over;
    }

    ZK_HD void settle() {}

    /// The sum / 2^(52 digits) in every element of the lane; it must be below 7 moduli, whatever the words.
    ZK_HD F shrunk() const {
        SmallSum copy = *this;
        for (int i = 0; i < digits; ++i) copy.drop_digit();
        F out;
        for (int i = 0; i < F::limbs; ++i) out.v[i] = copy.t[i];
        for (int shift = 2; shift >= 0; --shift) subtract_multiple(out, copy.t[F::limbs], shift);
        return out;
    }

    /// The sum over the lane's elements of what `shrunk` gives.
    ZK_HD F across() const { return shrunk(); }

private:
    ZK_HD void drop_digit() {
        const uint64_t m = (t[0] * F::Params::inverse) & ((uint64_t{1} << 52) - 1);
        if constexpr (carry_chains) {
            Chains<typename F::Params>::template add_multiple<52>(t, F::modulus().v, m);
        } else {
            uint64_t carry = 0;
            for (int i = 0; i < F::limbs + 2; ++i) {
                const uint64_t modulus = i < F::limbs ? F::Params::modulus(i) : 0;
                const uint128_t sum = static_cast<uint128_t>(m) * modulus + t[i] + carry;
                t[i] = static_cast<uint64_t>(sum);
                carry = static_cast<uint64_t>(sum >> 64);
            }
        }
        for (int i = 0; i < F::limbs + 1; ++i) t[i] = (t[i] >> 52) | (t[i + 1] << 12);
        t[F::limbs + 1] >>= 52;
    }
};

/// x 2^(52 digits)
template <int digits>
ZK_DEVICE_CALLED Scalar lifted(Scalar x) {
    const Scalar digit = Scalar::from_u64(uint64_t{1} << 52);
    for (int i = 0; i < digits; ++i) x *= digit;
    return x;
}

}  // namespace zkaudit
