// A sum of products that is reduced as it grows, the core of Montgomery products (gpu/montgomery.cuh).
//
// A row of words times a word is two chains of multiply-adds, over the row's even and its odd words: their 64-bit products tile
// the sum without overlap, so each chain carries from one product into the next. Sums therefore come in two halves,
// even + 2^32 odd, which are merged once, at the end. `carry.cuh` has the instructions; a pair of them on one product becomes
// one wide multiply-add. A Montgomery product of n words takes 2 n^2 + n of these, and 1.75 n^2 in the scalar field.
#pragma once

#include "gpu/carry.cuh"

namespace zkaudit {

/// A sum of products that loses its lowest word after each word of the factors: even + 2^32 odd + 2^(32 (n + 1)) over.
/// `wide`: three moduli do not fit n words, so that a sum of two products may reach `over`.
template <class P>
struct ShrinkingSum {
    static constexpr int n = 2 * P::limbs;
    static constexpr bool wide = P::modulus(P::limbs - 1) >> 32 > 0xffffffff / 3;
    /// The modulus is 1 - 2^32 modulo 2^64: its two lowest words need no multiplication.
    static constexpr bool sparse = P::modulus(0) == 0xffffffff00000001;
    static_assert(sparse || !wide);

    uint32_t even[n], odd[n], over;

    ZK_HD static uint32_t modulus(int j) { return static_cast<uint32_t>(P::modulus(j / 2) >> (32 * (j % 2))); }

    /// = a b, b one word.
    ZK_HD void start(const uint32_t* a, uint32_t b) {
        multiply_row<n>(even, a, b);
        multiply_row<n>(odd, a + 1, b);
        over = 0;
    }

    /// += a b
    ZK_HD void add(const uint32_t* a, uint32_t b) {
        multiply_add_row<n, false, true>(odd, a + 1, b);
        multiply_add_row<n, false, false>(even, a, b);
        odd[n - 1] = carry::addc(odd[n - 1], 0);
    }

    /// Drops the lowest word, which is zero; the carry into the lowest word of `odd` stays in the flag.
    ZK_HD void shift() {
        const uint32_t second = even[1];
        uint32_t upper[n];
        ZK_UNROLL
        for (int j = 0; j < n; ++j) upper[j] = j + 2 < n ? even[j + 2] : j + 1 < n ? 0 : over;
        ZK_UNROLL
        for (int j = 0; j < n; ++j) even[j] = odd[j], odd[j] = upper[j];
        over = 0;
        even[0] = carry::add_cc(even[0], second);
    }

    /// The same, then += a b.
    ZK_HD void shift_add(const uint32_t* a, uint32_t b) {
        shift();
        multiply_add_row<n, true, true>(odd, a + 1, b);
        multiply_add_row<n, false, false>(even, a, b);
        odd[n - 1] = carry::addc(odd[n - 1], 0);
    }

    /// Adds the multiple of the modulus that clears the lowest word. `carried`: right after `shift`. `paired`: of two products.
    template <bool carried, bool paired>
    ZK_HD void reduce() {
        uint32_t p[n];
        ZK_UNROLL
        for (int j = 0; j < n; ++j) p[j] = modulus(j);
        if constexpr (sparse) {
            // lowest + m (1 - 2^32 + 2^64) = 2^32 (lowest + some) + 2^64 (m - some), where some = (lowest != 0)
            const uint32_t lowest = even[0], came = carried ? carry::addc(0, 0) : 0;
            carry::add_cc(lowest, 0xffffffff);
            const uint32_t less = lowest != 0 ? ~lowest : 0, m = carry::addc(less, 0), second[2] = {lowest, less};
            if constexpr (carried) even[1] = carry::add_cc(even[1], came);
            multiply_add_row<n - 2, carried, false>(even + 2, p + 2, m);
            odd[n - 1] = carry::addc(odd[n - 1], 0);
            carry::add_cc(lowest, 0xffffffff);
            add_row<2, true>(odd, second);
            multiply_add_row<n - 2, true, !(wide && paired)>(odd + 2, p + 3, m);
            if constexpr (wide && paired) over = carry::addc(0, 0);
        } else {
            const uint32_t m = even[0] * static_cast<uint32_t>(P::inverse);
            multiply_add_row<n, carried, true>(odd, p + 1, m);
            multiply_add_row<n, false, false>(even, p, m);
            odd[n - 1] = carry::addc(odd[n - 1], 0);
        }
    }

    /// What is left of the sum without its lowest word, which is zero.
    ZK_HD void finish(uint32_t* out) {
        ZK_UNROLL
        for (int j = 0; j < n; ++j) out[j] = odd[j];
        add_row<n - 1>(out, even + 1);
        out[n - 1] = carry::addc(out[n - 1], 0);
    }
};

}  // namespace zkaudit
