// Bits of small integers by plane: bit j of entry k is bit k of integer j.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512BW__) && defined(__AVX512DQ__)
#include <immintrin.h>
#endif

namespace zkaudit {

constexpr int most_planes_of_a_row = 64;

/// An integer's bits in two's complement.
template <class T>
uint64_t two_complement(T x) {
    return static_cast<uint64_t>(static_cast<int64_t>(x));
}

/// entries[i] for the planes[i], i < used, of `count` integers, at most 16.
template <class T>
void bit_planes(const T* x, int count, const uint8_t* planes, int used, uint16_t* entries) {
#if defined(__AVX512BW__) && defined(__AVX512DQ__)
    alignas(64) T row[16] = {};
    std::memcpy(row, x, static_cast<size_t>(count) * sizeof(T));
    if constexpr (sizeof(T) <= 2) {
        __m256i words;
        if constexpr (sizeof(T) == 1) words = _mm256_cvtepu8_epi16(_mm_load_si128(reinterpret_cast<const __m128i*>(row)));
        if constexpr (sizeof(T) == 2) words = _mm256_load_si256(reinterpret_cast<const __m256i*>(row));
        for (int i = 0; i < used; ++i) entries[i] = _mm256_movepi16_mask(_mm256_sll_epi16(words, _mm_cvtsi32_si128(15 - planes[i])));
    } else if constexpr (sizeof(T) == 4) {
        const __m512i words = _mm512_load_si512(row);
        for (int i = 0; i < used; ++i) {
            const int plane = planes[i] < 32 ? planes[i] : 31;  // the signs of int32 stand in plane 32 too
            entries[i] = _mm512_movepi32_mask(_mm512_sll_epi32(words, _mm_cvtsi32_si128(31 - plane)));
        }
    } else {
        const __m512i low = _mm512_load_si512(row), high = _mm512_load_si512(row + 8);
        for (int i = 0; i < used; ++i) {
            const __m128i shift = _mm_cvtsi32_si128(63 - planes[i]);
            const uint32_t first = _mm512_movepi64_mask(_mm512_sll_epi64(low, shift)), second = _mm512_movepi64_mask(_mm512_sll_epi64(high, shift));
            entries[i] = static_cast<uint16_t>(first | second << 8);
        }
    }
#else
    for (int i = 0; i < used; ++i) entries[i] = 0;
    for (int j = 0; j < count; ++j) {
        const uint64_t bits = two_complement(x[j]);
        for (int i = 0; i < used; ++i) entries[i] = static_cast<uint16_t>(entries[i] | ((bits >> planes[i]) & 1) << j);
    }
#endif
}

}  // namespace zkaudit
