// Eight scalars in AVX-512 registers, 52-bit limbs: arithmetic on CPUs with IFMA and VBMI2 (Ice Lake, Zen 4 and later).
//
// Limb i of all eight elements is one register. `vpmadd52` adds the low or high half of a 52 x 52-bit product to a 64-bit
// sum, so carries wait until the end. Montgomery form is memory's own, with R = 2^256 = four digits of 52 bits and one of
// 48: nothing is converted but the limbs' width. Values of a lane are below 1.1 moduli; they are reduced when they are stored.
#pragma once

#include <immintrin.h>

#include "field.cuh"

namespace zkaudit {

/// `multiple` times the modulus in 52-bit limbs.
struct Modulus52 {
    uint64_t v[5];

    constexpr explicit Modulus52(int multiple) : v{} {
        uint128_t sum = 0;
        int taken = 0, held = 0;  // 64-bit limbs taken into the sum, bits held in it
        for (int i = 0; i < 5; ++i) {
            while (held < 52 && taken < 4) {
                sum += static_cast<uint128_t>(ScalarParams::modulus(taken++)) << held;
                held += 64;
            }
            v[i] = static_cast<uint64_t>(sum) & ((uint64_t{1} << 52) - 1);
            sum >>= 52;
            held -= 52;
        }
        uint64_t carry = 0;
        for (int i = 0; i < 5; ++i) {
            const uint64_t limb = v[i] * static_cast<uint64_t>(multiple) + carry;
            v[i] = limb & ((uint64_t{1} << 52) - 1);
            carry = limb >> 52;
        }
    }
};

/// Limb i of 0, 1, .., 7 moduli.
struct Multiples52 {
    alignas(64) uint64_t v[5][8];

    constexpr Multiples52() : v{} {
        for (int k = 0; k < 8; ++k) {
            for (int i = 0; i < 5; ++i) v[i][k] = Modulus52(k).v[i];
        }
    }
};

struct Scalar8 {
    static constexpr int limbs = 5;
    static constexpr Modulus52 modulus = Modulus52(1);
    static constexpr Multiples52 multiples = Multiples52();

    __m512i v[limbs];

    ZK_HD static __m512i all(uint64_t x) { return _mm512_set1_epi64(static_cast<long long>(x)); }
    ZK_HD static __m512i mask() { return all((uint64_t{1} << 52) - 1); }

    ZK_HD static Scalar8 zero() {
        Scalar8 out;
        for (int i = 0; i < limbs; ++i) out.v[i] = _mm512_setzero_si512();
        return out;
    }

    ZK_HD static Scalar8 one() {
        const Scalar unit = Scalar::one();
        return broadcast(unit);
    }

    ZK_HD static Scalar8 broadcast(const Scalar& x) { return from_words64(all(x.v[0]), all(x.v[1]), all(x.v[2]), all(x.v[3])); }

    /// From four registers of 64-bit limbs.
    ZK_HD static Scalar8 from_words64(__m512i a, __m512i b, __m512i c, __m512i d) {
        const __m512i low = mask();
        const __m512i second = _mm512_and_si512(_mm512_shrdi_epi64(a, b, 52), low);
        const __m512i third = _mm512_and_si512(_mm512_shrdi_epi64(b, c, 40), low);
        const __m512i fourth = _mm512_and_si512(_mm512_shrdi_epi64(c, d, 28), low);
        return {{_mm512_and_si512(a, low), second, third, fourth, _mm512_srli_epi64(d, 16)}};
    }

    /// To four registers of 64-bit limbs.
    ZK_HD void to_words64(__m512i* w) const {
        w[0] = _mm512_or_si512(v[0], _mm512_slli_epi64(v[1], 52));
        w[1] = _mm512_or_si512(_mm512_srli_epi64(v[1], 12), _mm512_slli_epi64(v[2], 40));
        w[2] = _mm512_or_si512(_mm512_srli_epi64(v[2], 24), _mm512_slli_epi64(v[3], 28));
        w[3] = _mm512_or_si512(_mm512_srli_epi64(v[3], 36), _mm512_slli_epi64(v[4], 16));
    }

    /// Carries moved up until every limb but the top one has 52 bits; signed limbs borrow.
    ZK_HD Scalar8 carried() const {
        Scalar8 out = *this;
        for (int i = 0; i + 1 < limbs; ++i) {
            out.v[i + 1] = _mm512_add_epi64(out.v[i + 1], _mm512_srai_epi64(out.v[i], 52));
            out.v[i] = _mm512_and_si512(out.v[i], mask());
        }
        return out;
    }

    /// A value below 8 moduli, its limbs not yet carried, less the multiple of the modulus that its top limb shows: below 1.1
    /// moduli, as the quotient's constant, 35 for 35.3, is 1% low.
    ZK_HD Scalar8 lowered() const {
        constexpr uint64_t reciprocal = (uint64_t{1} << 52) / (modulus.v[limbs - 1] + 1);
        const __m512i quotient = _mm512_madd52hi_epu64(_mm512_setzero_si512(), v[limbs - 1], all(reciprocal));
        Scalar8 out;
        for (int i = 0; i < limbs; ++i) {
            out.v[i] = _mm512_sub_epi64(v[i], _mm512_permutexvar_epi64(quotient, _mm512_load_si512(multiples.v[i])));
        }
        return out.carried();
    }

    /// The same values below the modulus.
    ZK_HD Scalar8 canonical() const {
        Scalar8 less;
        for (int i = 0; i < limbs; ++i) less.v[i] = _mm512_sub_epi64(v[i], all(modulus.v[i]));
        less = less.carried();
        const __mmask8 negative = _mm512_movepi64_mask(less.v[limbs - 1]);
        for (int i = 0; i < limbs; ++i) less.v[i] = _mm512_mask_mov_epi64(less.v[i], negative, v[i]);
        return less;
    }

    /// Limb by limb, carries left for later.
    ZK_HD Scalar8 plus(const Scalar8& b) const {
        Scalar8 out;
        for (int i = 0; i < limbs; ++i) out.v[i] = _mm512_add_epi64(v[i], b.v[i]);
        return out;
    }

    /// *this - b + 2 moduli, limb by limb: not negative as a whole.
    ZK_HD Scalar8 minus(const Scalar8& b) const {
        constexpr Modulus52 twice(2);
        Scalar8 out;
        for (int i = 0; i < limbs; ++i) out.v[i] = _mm512_add_epi64(_mm512_sub_epi64(v[i], b.v[i]), all(twice.v[i]));
        return out;
    }

    ZK_HD friend Scalar8 operator+(const Scalar8& a, const Scalar8& b) { return a.plus(b).lowered(); }

    ZK_HD friend Scalar8 operator-(const Scalar8& a, const Scalar8& b) { return a.minus(b).lowered(); }

    /// sum += a b, in ten limbs that grow by at most ten 52-bit numbers.
    ZK_HD static void add_product(__m512i* sum, const Scalar8& a, const Scalar8& b) {
#pragma GCC unroll 5
        for (int i = 0; i < limbs; ++i) {
#pragma GCC unroll 5
            for (int j = 0; j < limbs; ++j) sum[i + j] = _mm512_madd52lo_epu64(sum[i + j], a.v[j], b.v[i]);
#pragma GCC unroll 5
            for (int j = 0; j < limbs; ++j) sum[i + j + 1] = _mm512_madd52hi_epu64(sum[i + j + 1], a.v[j], b.v[i]);
        }
    }

    /// One Montgomery digit: adds the multiple of the modulus that clears the 52 lowest bits of t[0] and moves what is left of
    /// it to t[1]. That the sum's lowest bits are zero is known, so its carry needs no product.
    ZK_HD static void clear_digit(__m512i* t) {
        const __m512i m = _mm512_madd52lo_epu64(_mm512_setzero_si512(), t[0], all(ScalarParams::inverse));
        const __m512i carry = _mm512_srli_epi64(_mm512_add_epi64(t[0], mask()), 52);
#pragma GCC unroll 5
        for (int j = 1; j < limbs; ++j) t[j] = _mm512_madd52lo_epu64(t[j], m, all(modulus.v[j]));
        const __m512i next = _mm512_madd52hi_epu64(carry, m, all(modulus.v[0]));
#pragma GCC unroll 5
        for (int j = 1; j < limbs; ++j) t[j + 1] = _mm512_madd52hi_epu64(t[j + 1], m, all(modulus.v[j]));
        t[1] = _mm512_add_epi64(t[1], next);
    }

    /// The last digit, of 48 bits; the sum's bits from the 48th on stay in t[0].
    ZK_HD static void clear_last_digit(__m512i* t) {
        const __m512i whole = _mm512_madd52lo_epu64(_mm512_setzero_si512(), t[0], all(ScalarParams::inverse));
        const __m512i m = _mm512_and_si512(whole, all((uint64_t{1} << 48) - 1));
#pragma GCC unroll 5
        for (int j = 0; j < limbs; ++j) t[j] = _mm512_madd52lo_epu64(t[j], m, all(modulus.v[j]));
#pragma GCC unroll 5
        for (int j = 0; j < limbs; ++j) t[j + 1] = _mm512_madd52hi_epu64(t[j + 1], m, all(modulus.v[j]));
    }

    /// t / 2^256 modulo the modulus, below t / 2^256 + modulus, limbs not carried. Limbs of t must be below 2^59.
    ZK_HD static Scalar8 montgomery(__m512i* t) {
        for (int i = 0; i < 4; ++i) clear_digit(t + i);
        clear_last_digit(t + 4);
        Scalar8 out;
        for (int i = 0; i < limbs; ++i) out.v[i] = _mm512_slli_epi64(t[5 + i], 4);
        out.v[0] = _mm512_add_epi64(out.v[0], _mm512_srli_epi64(t[4], 48));
        return out;
    }

    /// a b, limbs not carried: below 0.46 (a / modulus) (b / modulus) + 1 moduli.
    ZK_HD static Scalar8 multiply(const Scalar8& a, const Scalar8& b) {
        __m512i t[2 * limbs];
        for (int i = 0; i < 2 * limbs; ++i) t[i] = _mm512_setzero_si512();
        add_product(t, a, b);
        return montgomery(t);
    }

    /// a b + c d, limbs not carried.
    ZK_HD static Scalar8 multiply_pair(const Scalar8& a, const Scalar8& b, const Scalar8& c, const Scalar8& d) {
        __m512i t[2 * limbs];
        for (int i = 0; i < 2 * limbs; ++i) t[i] = _mm512_setzero_si512();
        add_product(t, a, b);
        add_product(t, c, d);
        return montgomery(t);
    }

    ZK_HD friend Scalar8 operator*(const Scalar8& a, const Scalar8& b) { return multiply(a, b).lowered(); }

    /// Inverses by Fermat; those of zeros are zeros.
    Scalar8 inverted() const {
        Scalar8 out = one();
        for (int i = Scalar::bits - 1; i >= 0; --i) {
            out = out * out;
            const uint64_t word = ScalarParams::modulus(i / 64) - (i < 64 ? 2 : 0);
            if ((word >> (i % 64)) & 1) out = out * *this;
        }
        return out;
    }
};

}  // namespace zkaudit
