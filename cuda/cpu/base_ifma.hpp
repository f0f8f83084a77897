// Eight base-field elements in AVX-512 registers, 52-bit limbs: the curve lane of CPUs with IFMA.
//
// Limb i of all eight elements is one register. Montgomery form has R = 2^416, 35 bits more than the modulus p, so products
// need no final subtraction. Values stay below 1.001 p: sums and differences take off the multiple of p that their top limb
// shows, with at most 3 units of the top limb (p / 35000) of error.
#pragma once

#include <immintrin.h>

#include "base_lane.cuh"

namespace zkaudit {

/// Constants in 52-bit limbs.
struct Limbs52 {
    uint64_t v[8];

    static constexpr uint64_t low = (uint64_t{1} << 52) - 1;

    /// multiple * p for a multiple below 2^10.
    static constexpr Limbs52 modulus(uint64_t multiple) {
        uint64_t words[6] = {};
        for (int i = 0; i < 6; ++i) words[i] = BaseParams::modulus(i);
        Limbs52 out = from_words(words);
        uint64_t carry = 0;
        for (int i = 0; i < 8; ++i) {
            const uint64_t limb = out.v[i] * multiple + carry;
            out.v[i] = limb & low;
            carry = limb >> 52;
        }
        return out;
    }

    /// 2^exponent modulo p for an exponent of at least 384.
    static constexpr Limbs52 power_of_two(int exponent) {
        uint64_t x[6] = {};
        for (int i = 0; i < 6; ++i) x[i] = BaseParams::one(i);
        for (int k = 384; k < exponent; ++k) {
            uint64_t less[6] = {}, borrow = 0;
            for (int i = 5; i >= 0; --i) x[i] = (x[i] << 1) | (i > 0 ? x[i - 1] >> 63 : 0);
            for (int i = 0; i < 6; ++i) {
                const uint128_t difference = static_cast<uint128_t>(x[i]) - BaseParams::modulus(i) - borrow;
                less[i] = static_cast<uint64_t>(difference);
                borrow = static_cast<uint64_t>(difference >> 64) & 1;
            }
            for (int i = 0; i < 6; ++i) x[i] = borrow ? x[i] : less[i];
        }
        return from_words(x);
    }

    static constexpr Limbs52 from_words(const uint64_t* w) {
        return {{w[0] & low, ((w[0] >> 52) | (w[1] << 12)) & low, ((w[1] >> 40) | (w[2] << 24)) & low, ((w[2] >> 28) | (w[3] << 36)) & low,
                 ((w[3] >> 16) | (w[4] << 48)) & low, (w[4] >> 4) & low, ((w[4] >> 56) | (w[5] << 8)) & low, w[5] >> 44}};
    }

    /// 2p, every limb but the top one made at least 2^52 - 1 so that limb-wise differences are not negative.
    static constexpr Limbs52 lifted() {
        Limbs52 out = modulus(2);
        for (int i = 0; i < 8; ++i) out.v[i] = out.v[i] + (i < 7 ? low + 1 : 0) - (i > 0 ? 1 : 0);
        return out;
    }
};

/// Limb i of 0, p, ..., 7p.
struct BaseMultiples52 {
    alignas(64) uint64_t v[8][8];

    constexpr BaseMultiples52() : v{} {
        for (int k = 0; k < 8; ++k) {
            for (int i = 0; i < 8; ++i) v[i][k] = Limbs52::modulus(static_cast<uint64_t>(k)).v[i];
        }
    }
};

struct Base8 {
    static constexpr int limbs = 8;

    __m512i v[limbs];

    ZK_HD static __m512i all(uint64_t x) { return _mm512_set1_epi64(static_cast<long long>(x)); }

    ZK_HD static Base8 constant(const Limbs52& x) {
        Base8 out;
        for (int i = 0; i < limbs; ++i) out.v[i] = all(x.v[i]);
        return out;
    }

    ZK_HD static Base8 zero() {
        Base8 out;
        for (int i = 0; i < limbs; ++i) out.v[i] = _mm512_setzero_si512();
        return out;
    }

    ZK_HD static Base8 one() {
        constexpr Limbs52 unit = Limbs52::power_of_two(416);
        return constant(unit);
    }

    ZK_HD friend Base8 operator+(const Base8& a, const Base8& b) {
        Base8 out;
        for (int i = 0; i < limbs; ++i) out.v[i] = _mm512_add_epi64(a.v[i], b.v[i]);
        return out.lowered();
    }

    ZK_HD friend Base8 operator-(const Base8& a, const Base8& b) {
        Base8 out;
        for (int i = 0; i < limbs; ++i) out.v[i] = _mm512_add_epi64(_mm512_sub_epi64(a.v[i], b.v[i]), all(lifting.v[i]));
        return out.lowered();
    }

    ZK_HD friend Base8 operator-(const Base8& a) { return zero() - a; }

    ZK_HD Base8 doubled() const { return *this + *this; }

    /// 256 multiply-adds: the product, then eight Montgomery digits.
    __attribute__((noinline)) friend Base8 operator*(const Base8& a, const Base8& b) {
        __m512i t[2 * limbs];
        for (int i = 0; i < 2 * limbs; ++i) t[i] = _mm512_setzero_si512();
#pragma GCC unroll 8
        for (int i = 0; i < limbs; ++i) {
#pragma GCC unroll 8
            for (int j = 0; j < limbs; ++j) t[i + j] = _mm512_madd52lo_epu64(t[i + j], a.v[j], b.v[i]);
#pragma GCC unroll 8
            for (int j = 0; j < limbs; ++j) t[i + j + 1] = _mm512_madd52hi_epu64(t[i + j + 1], a.v[j], b.v[i]);
        }
        return montgomery(t);
    }

    /// 72 multiply-adds for the square instead of 128.
    __attribute__((noinline)) Base8 squared() const {
        __m512i t[2 * limbs];
        for (int i = 0; i < 2 * limbs; ++i) t[i] = _mm512_setzero_si512();
#pragma GCC unroll 8
        for (int i = 0; i < limbs; ++i) {
#pragma GCC unroll 8
            for (int j = i + 1; j < limbs; ++j) t[i + j] = _mm512_madd52lo_epu64(t[i + j], v[j], v[i]);
#pragma GCC unroll 8
            for (int j = i + 1; j < limbs; ++j) t[i + j + 1] = _mm512_madd52hi_epu64(t[i + j + 1], v[j], v[i]);
        }
        for (int i = 0; i < 2 * limbs; ++i) t[i] = _mm512_add_epi64(t[i], t[i]);
#pragma GCC unroll 8
        for (int i = 0; i < limbs; ++i) {
            t[2 * i] = _mm512_madd52lo_epu64(t[2 * i], v[i], v[i]);
            t[2 * i + 1] = _mm512_madd52hi_epu64(t[2 * i + 1], v[i], v[i]);
        }
        return montgomery(t);
    }

    /// The same values below p.
    ZK_HD Base8 canonical() const {
        Base8 less;
        for (int i = 0; i < limbs; ++i) less.v[i] = _mm512_sub_epi64(v[i], all(modulus.v[i]));
        less = less.carried();
        const __mmask8 negative = _mm512_movepi64_mask(less.v[limbs - 1]);
        for (int i = 0; i < limbs; ++i) less.v[i] = _mm512_mask_mov_epi64(less.v[i], negative, v[i]);
        return less;
    }

    /// Which elements have the given limbs.
    ZK_HD __mmask8 equals(const Limbs52& x) const {
        __m512i any = _mm512_setzero_si512();
        for (int i = 0; i < limbs; ++i) any = _mm512_or_si512(any, _mm512_xor_si512(v[i], all(x.v[i])));
        return _mm512_testn_epi64_mask(any, any);
    }

    static constexpr Limbs52 modulus = Limbs52::modulus(1);

private:
    static constexpr Limbs52 lifting = Limbs52::lifted();
    static constexpr BaseMultiples52 multiples = BaseMultiples52();

    /// Carries moved up until every limb but the top one has 52 bits; signed limbs borrow.
    ZK_HD Base8 carried() const {
        Base8 out = *this;
        for (int i = 0; i + 1 < limbs; ++i) {
            out.v[i + 1] = _mm512_add_epi64(out.v[i + 1], _mm512_srai_epi64(out.v[i], 52));
            out.v[i] = _mm512_and_si512(out.v[i], all(Limbs52::low));
        }
        return out;
    }

    /// A value below 7p, its limbs not yet carried, less the multiple of p that the top limb shows to be in it.
    ZK_HD Base8 lowered() const {
        constexpr uint64_t reciprocal = (uint64_t{1} << 32) / (modulus.v[limbs - 1] + 1);
        const __m512i quotient = _mm512_srli_epi64(_mm512_mul_epu32(v[limbs - 1], all(reciprocal)), 32);
        Base8 out;
        for (int i = 0; i < limbs; ++i) out.v[i] = _mm512_sub_epi64(v[i], _mm512_permutexvar_epi64(quotient, _mm512_load_si512(multiples.v[i])));
        return out.carried();
    }

    /// t / 2^416 modulo p, below t / 2^416 + p; limbs of t below 2^59. The lowest limb of t + m p is known to be zero, so its
    /// carry needs no product.
    ZK_HD static Base8 montgomery(__m512i* t) {
        const __m512i low = all(Limbs52::low), inverse = all(BaseParams::inverse & Limbs52::low);
#pragma GCC unroll 8
        for (int i = 0; i < limbs; ++i) {
            const __m512i m = _mm512_madd52lo_epu64(_mm512_setzero_si512(), t[i], inverse);
            const __m512i carry = _mm512_srli_epi64(_mm512_add_epi64(t[i], low), 52);
#pragma GCC unroll 8
            for (int j = 1; j < limbs; ++j) t[i + j] = _mm512_madd52lo_epu64(t[i + j], m, all(modulus.v[j]));
            const __m512i next = _mm512_madd52hi_epu64(carry, m, all(modulus.v[0]));
#pragma GCC unroll 8
            for (int j = 1; j < limbs; ++j) t[i + j + 1] = _mm512_madd52hi_epu64(t[i + j + 1], m, all(modulus.v[j]));
            t[i + 1] = _mm512_add_epi64(t[i + 1], next);
        }
        Base8 out;
        for (int i = 0; i < limbs; ++i) out.v[i] = t[limbs + i];
        return out.carried();
    }
};

template <>
inline constexpr int base_width<Base8> = 8;

struct alignas(64) PackedBase8 {
    uint64_t v[8];
};

template <>
struct PackedType<Base8> {
    using type = PackedBase8;
};

/// Eight rows of eight words, transposed in place: 24 shuffles.
ZK_HD void transpose(__m512i* r) {
    __m512i a[8], b[8];
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm512_unpacklo_epi64(r[i], r[i + 1]);
        a[i + 1] = _mm512_unpackhi_epi64(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        for (int k = 0; k < 2; ++k) {
            b[i + k] = _mm512_shuffle_i64x2(a[i + k], a[i + 2 + k], 0x88);
            b[i + 2 + k] = _mm512_shuffle_i64x2(a[i + k], a[i + 2 + k], 0xdd);
        }
    }
    for (int k = 0; k < 4; ++k) {
        r[k] = _mm512_shuffle_i64x2(b[k], b[k + 4], 0x88);
        r[k + 4] = _mm512_shuffle_i64x2(b[k], b[k + 4], 0xdd);
    }
}

template <>
ZK_HD Base8 gather<Base8>(const PackedBase8* const* from, int offset) {
    Base8 out;
    for (int i = 0; i < 8; ++i) out.v[i] = _mm512_load_si512(from[i] + offset);
    transpose(out.v);
    return out;
}

ZK_HD void scatter(const Base8& value, PackedBase8* const* to, int offset) {
    Base8 rows = value;
    transpose(rows.v);
    for (int i = 0; i < 8; ++i) _mm512_store_si512(to[i] + offset, rows.v[i]);
}

ZK_HD bool is_packed_zero(const PackedBase8& x) {
    const __m512i words = _mm512_load_si512(&x);
    return _mm512_test_epi64_mask(words, words) == 0;
}

template <>
inline Base8 load_base<Base8>(const Base* first, int64_t stride, int count) {
    alignas(64) uint64_t words[6][8];
    for (int lane = 0; lane < 8; ++lane) {
        const Base& x = first[lane < count ? lane * stride : 0];
        for (int i = 0; i < 6; ++i) words[i][lane] = x.v[i];
    }
    __m512i w[6];
    for (int i = 0; i < 6; ++i) w[i] = _mm512_load_si512(words[i]);
    const __m512i low = Base8::all(Limbs52::low);
    const auto limb = [&](int i, int down) { return _mm512_and_si512(_mm512_or_si512(_mm512_srli_epi64(w[i], down), _mm512_slli_epi64(w[i + 1], 64 - down)), low); };
    constexpr Limbs52 factor = Limbs52::power_of_two(416 + 416 - 384);
    const Base8 plain{{_mm512_and_si512(w[0], low), limb(0, 52), limb(1, 40), limb(2, 28), limb(3, 16),
                       _mm512_and_si512(_mm512_srli_epi64(w[4], 4), low), limb(4, 56), _mm512_srli_epi64(w[5], 44)}};
    return plain * Base8::constant(factor);
}

template <>
inline Base8 broadcast<Base8>(const Base& x) {
    return load_base<Base8>(&x, 0, 8);
}

inline void store_base(const Base8& value, Base* first, int64_t stride, int count) {
    constexpr Limbs52 factor = Limbs52::power_of_two(384);
    const Base8 x = (value * Base8::constant(factor)).canonical();
    const auto word = [&](int i, int down) { return _mm512_or_si512(_mm512_srli_epi64(x.v[i], down), _mm512_slli_epi64(x.v[i + 1], 52 - down)); };
    const __m512i fifth = _mm512_or_si512(word(4, 48), _mm512_slli_epi64(x.v[6], 56));
    const __m512i w[6] = {word(0, 0), word(1, 12), word(2, 24), word(3, 36), fifth, word(6, 8)};
    alignas(64) uint64_t words[6][8];
    for (int i = 0; i < 6; ++i) _mm512_store_si512(words[i], w[i]);
    for (int lane = 0; lane < count; ++lane) {
        for (int i = 0; i < 6; ++i) first[lane * stride].v[i] = words[i][lane];
    }
}

template <>
inline Base8 pick<Base8>(const Base8* table, const uint32_t* index) {
    alignas(64) int64_t offset[8];
    for (int i = 0; i < 8; ++i) offset[i] = static_cast<int64_t>(index[i]) * Base8::limbs * 8 + i;
    const __m512i offsets = _mm512_load_si512(offset);
    Base8 out;
    for (int i = 0; i < Base8::limbs; ++i) out.v[i] = _mm512_i64gather_epi64(offsets, reinterpret_cast<const long long*>(table) + 8 * i, 8);
    return out;
}

ZK_HD Mask zeros(const Base8& x) { return x.equals(Limbs52{}) | x.equals(Base8::modulus); }

/// The integer itself is the value's Montgomery product with plain one.
inline Mask odds(const Base8& x) {
    constexpr Limbs52 unit{{1}};
    const Base8 plain = (x * Base8::constant(unit)).canonical();
    return _mm512_test_epi64_mask(plain.v[0], Base8::all(1));
}

ZK_HD Base8 select(Mask mask, const Base8& a, const Base8& b) {
    Base8 out;
    for (int i = 0; i < Base8::limbs; ++i) out.v[i] = _mm512_mask_mov_epi64(b.v[i], static_cast<__mmask8>(mask), a.v[i]);
    return out;
}

/// One inversion for the eight elements; the inverse of zero is zero.
inline Base8 inverted(const Base8& x) {
    Base value[8], prefix[8], product = Base::one();
    store_base(x, value, 1, 8);
    for (int i = 0; i < 8; ++i) {
        prefix[i] = product;
        if (!value[i].is_zero()) product *= value[i];
    }
    Base inverse = inverted(product);
    for (int i = 7; i >= 0; --i) {
        if (value[i].is_zero()) continue;
        const Base mine = inverse * prefix[i];
        inverse *= value[i];
        value[i] = mine;
    }
    return load_base<Base8>(value, 1, 8);
}

}  // namespace zkaudit
