// The lane of eight scalars: how it comes from memory and goes back, and its sums of products.
#pragma once

#include "scalar_ifma.hpp"
#include "wide.cuh"

namespace zkaudit {

template <>
inline constexpr int lane_width<Scalar8> = 8;

template <>
struct LaneWord<Scalar8> {
    using type = __m512i;
};

ZK_HD __m256i* wide_pointer(Scalar* element) { return reinterpret_cast<__m256i*>(element); }
ZK_HD const __m256i* wide_pointer(const Scalar* element) { return reinterpret_cast<const __m256i*>(element); }

/// Registers with two rows of four words each, rows i and i + 4 in register i, to registers of one word of all eight rows;
/// the same 8 shuffles go the other way.
ZK_HD void transpose(const __m512i* in, __m512i* out) {
    const __m512i first = _mm512_set_epi64(13, 12, 5, 4, 9, 8, 1, 0), second = _mm512_set_epi64(15, 14, 7, 6, 11, 10, 3, 2);
    const __m512i even01 = _mm512_unpacklo_epi64(in[0], in[1]), odd01 = _mm512_unpackhi_epi64(in[0], in[1]);
    const __m512i even23 = _mm512_unpacklo_epi64(in[2], in[3]), odd23 = _mm512_unpackhi_epi64(in[2], in[3]);
    out[0] = _mm512_permutex2var_epi64(even01, first, even23);
    out[1] = _mm512_permutex2var_epi64(odd01, first, odd23);
    out[2] = _mm512_permutex2var_epi64(even01, second, even23);
    out[3] = _mm512_permutex2var_epi64(odd01, second, odd23);
}

template <>
ZK_HD Scalar8 load<Scalar8>(const Scalar* base, int64_t stride) {
    if (stride == 0) return Scalar8::broadcast(*base);
    __m512i rows[4], words[4];
    for (int i = 0; i < 4; ++i) {
        const __m512i low = _mm512_castsi256_si512(_mm256_loadu_si256(wide_pointer(base + i * stride)));
        rows[i] = _mm512_inserti64x4(low, _mm256_loadu_si256(wide_pointer(base + (i + 4) * stride)), 1);
    }
    transpose(rows, words);
    return Scalar8::from_words64(words[0], words[1], words[2], words[3]);
}

ZK_HD void store(const Scalar8& value, Scalar* base, int64_t stride = 1) {
    __m512i rows[4], words[4];
    value.canonical().to_words64(words);
    transpose(words, rows);
    for (int i = 0; i < 4; ++i) {
        _mm256_storeu_si256(wide_pointer(base + i * stride), _mm512_castsi512_si256(rows[i]));
        _mm256_storeu_si256(wide_pointer(base + (i + 4) * stride), _mm512_extracti64x4_epi64(rows[i], 1));
    }
}

ZK_HD Scalar8 where_zero(const Scalar8& x, const Scalar8& zero, const Scalar8& other) {
    const Scalar8 reduced = x.canonical();
    __m512i any = reduced.v[0];
    for (int i = 1; i < Scalar8::limbs; ++i) any = _mm512_or_si512(any, reduced.v[i]);
    const __mmask8 zeros = _mm512_testn_epi64_mask(any, any);
    Scalar8 out;
    for (int i = 0; i < Scalar8::limbs; ++i) out.v[i] = _mm512_mask_mov_epi64(other.v[i], zeros, zero.v[i]);
    return out;
}

ZK_HD Scalar across(const Scalar8& value) {
    Scalar parts[8], sum = Scalar::zero();
    store(value, parts);
    for (const Scalar& part : parts) sum += part;
    return sum;
}

template <class T>
struct LoadWords<Scalar8, T> {
    ZK_HD static __m512i at(const T* base) {
        const __m512i words = widened(base);
        return SmallInteger<T>::is_signed ? _mm512_add_epi64(words, Scalar8::all(SmallInteger<T>::bias)) : words;
    }

    ZK_HD static __m512i widened(const T* base) {
        if constexpr (sizeof(T) == 1) return _mm512_cvtepu8_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(base)));
        if constexpr (sizeof(T) == 2) return _mm512_cvtepu16_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i*>(base)));
        if constexpr (sizeof(T) == 8) return _mm512_loadu_si512(base);
        if constexpr (sizeof(T) == 4) {
            const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(base));
            return SmallInteger<T>::is_signed ? _mm512_cvtepi32_epi64(words) : _mm512_cvtepu32_epi64(words);
        }
    }
};

template <>
struct Words<Scalar8> {
    ZK_HD static __m512i product(__m512i a, __m512i b) { return _mm512_madd52lo_epu64(_mm512_setzero_si512(), a, b); }
    ZK_HD static __m512i product_high(__m512i a, __m512i b) { return _mm512_madd52hi_epu64(_mm512_setzero_si512(), a, b); }
    ZK_HD static __m512i signed_product(__m512i a, __m512i b) { return _mm512_mul_epi32(a, b); }
    ZK_HD static __m512i all(uint64_t x) { return Scalar8::all(x); }
};

/// Words of 64 bits that hold several integers each; an element has 1, 2 or 4 of them, or less than one.
template <class T, int log>
struct Window<Scalar8, T, log> {
    static constexpr int bits = 8 * sizeof(T), bytes = sizeof(T) << log, words = bytes < 8 ? 1 : bytes / 8;
    static_assert(bytes <= 32);

    __m512i w[words];

    ZK_HD explicit Window(const T* base) {
        const auto* data = reinterpret_cast<const __m512i*>(base);
        if constexpr (bytes == 1) {
            w[0] = _mm512_cvtepu8_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(base)));
        } else if constexpr (bytes == 2) {
            w[0] = _mm512_cvtepu16_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i*>(base)));
        } else if constexpr (bytes == 4) {
            w[0] = _mm512_cvtepu32_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(base)));
        } else if constexpr (bytes == 8) {
            w[0] = _mm512_loadu_si512(data);
        } else if constexpr (bytes == 16) {
            const __m512i first = _mm512_loadu_si512(data), second = _mm512_loadu_si512(data + 1);
            w[0] = _mm512_permutex2var_epi64(first, _mm512_set_epi64(14, 12, 10, 8, 6, 4, 2, 0), second);
            w[1] = _mm512_permutex2var_epi64(first, _mm512_set_epi64(15, 13, 11, 9, 7, 5, 3, 1), second);
        } else {
            const auto* half = reinterpret_cast<const __m256i*>(base);
            __m512i rows[4];
            for (int i = 0; i < 4; ++i) {
                const __m512i low = _mm512_castsi256_si512(_mm256_loadu_si256(half + i));
                rows[i] = _mm512_inserti64x4(low, _mm256_loadu_si256(half + i + 4), 1);
            }
            transpose(rows, w);
        }
    }

    /// Integer k of every element.
    ZK_HD __m512i at(int k) const {
        constexpr int each = 64 / bits;
        const __m512i shifted = _mm512_srli_epi64(w[k / each], bits * (k % each));
        return bits < 64 ? _mm512_and_si512(shifted, Scalar8::all((uint64_t{1} << bits) - 1)) : shifted;
    }
};

/// The sums over the eight elements of 52-bit limbs, as 64-bit limbs.
template <int from, int to>
ZK_HD void limbs_across(const __m512i* t, uint64_t* out) {
    for (int i = 0; i < to; ++i) out[i] = 0;
    for (int i = 0; i < from; ++i) {
        const uint128_t limb = static_cast<uint128_t>(static_cast<uint64_t>(_mm512_reduce_add_epi64(t[i]))) << (52 * i % 64);
        uint64_t carry = 0;
        int word = 52 * i / 64;
        out[word] = Scalar::add_limb(out[word], static_cast<uint64_t>(limb), carry);
        if (++word < to) out[word] = Scalar::add_limb(out[word], static_cast<uint64_t>(limb >> 64), carry);
        while (++word < to) out[word] = Scalar::add_limb(out[word], 0, carry);
    }
}

/// Carries moved up: every limb but the top one has 52 bits afterwards.
template <int count>
ZK_HD void settle_limbs(__m512i* t) {
    for (int i = 0; i + 1 < count; ++i) {
        t[i + 1] = _mm512_add_epi64(t[i + 1], _mm512_srli_epi64(t[i], 52));
        t[i] = _mm512_and_si512(t[i], Scalar8::mask());
    }
}

ZK_HD Scalar8 product_pair(const Scalar8& a, const Scalar8& b, const Scalar8& c, const Scalar8& d) {
    return Scalar8::multiply_pair(a, b, c, d).lowered();
}

ZK_HD Scalar8 extrapolate(const Scalar8& value, const Scalar8& low, const Scalar8& high) {
    return value.plus(high.minus(low)).lowered();
}

/// Below 3.1 moduli, carried.
ZK_HD Scalar8 loose_difference(const Scalar8& a, const Scalar8& b) { return a.minus(b).carried(); }

/// From values below 3.1 moduli: the first factor is below 6, the result below 14.
ZK_HD Scalar8 loose_gate(const Scalar8& x, const Scalar8& scale, const Scalar8& b, const Scalar8& c, const Scalar8& d) {
    return Scalar8::multiply_pair(Scalar8::multiply(scale, c).plus(x).carried(), b, d, c).carried();
}

/// From values below 3.1 moduli: below 5.5 of them.
ZK_HD Scalar8 loose_product(const Scalar8& a, const Scalar8& b) { return Scalar8::multiply(a, b).carried(); }

/// 3 + 1 moduli at most before they are lowered.
ZK_HD Scalar8 interpolate(const Scalar8& low, const Scalar8& high, const Scalar8& r) {
    return Scalar8::multiply(r, high.minus(low).carried()).plus(low).lowered();
}

template <>
struct ProductSum<Scalar8> {
    __m512i t[2 * Scalar8::limbs];

    ZK_HD static ProductSum zero() {
        ProductSum out;
        for (int i = 0; i < 2 * Scalar8::limbs; ++i) out.t[i] = _mm512_setzero_si512();
        return out;
    }

    ZK_HD void add(const Scalar8& a, const Scalar8& b) { Scalar8::add_product(t, a, b); }

    ZK_HD void settle() { settle_limbs<2 * Scalar8::limbs>(t); }

    /// Eight products leave less than 5.5 moduli.
    ZK_HD Scalar8 total() const {
        __m512i copy[2 * Scalar8::limbs];
        for (int i = 0; i < 2 * Scalar8::limbs; ++i) copy[i] = t[i];
        return Scalar8::montgomery(copy).lowered();
    }

    ZK_HD Scalar across() const {
        ProductSum settled = *this;
        settled.settle();
        ProductSum<Scalar> sum;
        limbs_across<2 * Scalar8::limbs, 2 * Scalar::limbs + 1>(settled.t, sum.t);
        return sum.across();
    }
};

template <int digits>
struct SmallSum<Scalar8, digits> {
    static constexpr int limbs = Scalar8::limbs + digits;

    __m512i t[limbs];

    ZK_HD static SmallSum zero() {
        SmallSum out;
        for (int i = 0; i < limbs; ++i) out.t[i] = _mm512_setzero_si512();
        return out;
    }

    ZK_HD static SmallSum starting_at(const Scalar8& x) {
        SmallSum out = zero();
        for (int i = 0; i < Scalar8::limbs; ++i) out.t[digits + i] = x.v[i];
        return out;
    }

    template <int bits>
    ZK_HD void add(const Scalar8& a, __m512i word) {
        add_digit(a, word, 0);
        if constexpr (bits > 52) add_digit(a, _mm512_srli_epi64(word, 52), 1);
    }

    ZK_HD void settle() { settle_limbs<limbs>(t); }

    ZK_HD Scalar8 shrunk() const {
        SmallSum copy = *this;
        copy.settle();
        for (int i = 0; i < digits; ++i) Scalar8::clear_digit(copy.t + i);
        Scalar8 out;
        for (int i = 0; i < Scalar8::limbs; ++i) out.v[i] = copy.t[digits + i];
        return out.lowered();
    }

    ZK_HD Scalar across() const {
        SmallSum settled = *this;
        settled.settle();
        SmallSum<Scalar, digits> sum;
        limbs_across<limbs, Scalar::limbs + 2>(settled.t, sum.t);
        return sum.shrunk();
    }

private:
    ZK_HD void add_digit(const Scalar8& a, __m512i word, int shift) {
#pragma GCC unroll 5
        for (int i = 0; i < Scalar8::limbs; ++i) {
            t[i + shift] = _mm512_madd52lo_epu64(t[i + shift], a.v[i], word);
            t[i + shift + 1] = _mm512_madd52hi_epu64(t[i + shift + 1], a.v[i], word);
        }
    }
};

}  // namespace zkaudit
