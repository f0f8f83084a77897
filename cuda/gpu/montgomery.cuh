// Field arithmetic in 32-bit words, for a machine that multiplies those and keeps a carry: what the device runs.
//
// A row of words times a word is two chains of multiply-adds, over the row's even and its odd words: their 64-bit products tile
// the sum without overlap, so each chain carries from one product into the next. Sums therefore come in two halves,
// even + 2^32 odd, which are merged once, at the end. `carry.cuh` has the instructions; a pair of them on one product becomes
// one wide multiply-add. A Montgomery product of n words takes 2 n^2 + n of these, and 1.75 n^2 in the scalar field.
//
// All loops are unrolled and all arrays are registers. Elements come and go as 64-bit limbs.
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

template <class P>
struct Chains {
    using Sum = ShrinkingSum<P>;
    static constexpr int n = Sum::n;

    /// out = a + b modulo the modulus.
    ZK_HD static void add(uint64_t* out, const uint64_t* a, const uint64_t* b) {
        uint32_t x[n], y[n];
        split<n>(x, a);
        split<n>(y, b);
        add_row<n>(x, y);
        reduce_once(out, x);
    }

    /// out = a - b modulo the modulus.
    ZK_HD static void subtract(uint64_t* out, const uint64_t* a, const uint64_t* b) {
        uint32_t x[n], y[n], back[n];
        split<n>(x, a);
        split<n>(y, b);
        subtract_row<n>(x, y);
        const uint32_t mask = carry::subc(0, 0);
        ZK_UNROLL
        for (int j = 0; j < n; ++j) back[j] = Sum::modulus(j) & mask;
        add_row<n>(x, back);
        join<n>(out, x);
    }

    /// out = a b / 2^(32 n) modulo the modulus; a reduced, b any limbs.
    ZK_HD static void product(uint64_t* out, const uint64_t* a, const uint64_t* b) {
        uint32_t x[n], result[n];
        split<n>(x, a);
        Sum sum;
        sum.start(x, word_of(b, 0));
        sum.template reduce<false, false>();
        ZK_UNROLL
        for (int i = 1; i < n; ++i) {
            sum.shift_add(x, word_of(b, i));
            sum.template reduce<false, false>();
        }
        sum.finish(result);
        reduce_once(out, result);
    }

    /// out = (a b + c d) / 2^(32 n) modulo the modulus, all reduced.
    ZK_HD static void product_pair(uint64_t* out, const uint64_t* a, const uint64_t* b, const uint64_t* c, const uint64_t* d) {
        uint32_t x[n], y[n], result[n];
        split<n>(x, a);
        split<n>(y, c);
        Sum sum;
        sum.start(x, word_of(b, 0));
        sum.add(y, word_of(d, 0));
        sum.template reduce<false, true>();
        ZK_UNROLL
        for (int i = 1; i < n; ++i) {
            sum.shift_add(x, word_of(b, i));
            sum.add(y, word_of(d, i));
            sum.template reduce<false, true>();
        }
        sum.finish(result);
        reduce_once(out, result);
    }

    /// t, twice as long as an element, becomes 2^(32 n) times itself / 2^(32 n) modulo the modulus: only its upper half counts.
    /// Returns the carry past it.
    ZK_HD static uint64_t reduce_lower_half(uint64_t* t) {
        Sum sum;
        split<n>(sum.even, t);
        ZK_UNROLL
        for (int j = 0; j < n; ++j) sum.odd[j] = 0;
        sum.over = 0;
        sum.template reduce<false, false>();
        ZK_UNROLL
        for (int i = 1; i < n; ++i) {
            sum.shift();
            sum.template reduce<true, false>();
        }
        uint32_t result[n], upper[n];
        sum.finish(result);
        split<n>(upper, t + P::limbs);
        add_row<n>(upper, result);
        const uint32_t over = carry::addc(0, 0);
        join<n>(t + P::limbs, upper);
        return over;
    }

    /// t = a b, twice as long; any limbs.
    ZK_HD static void multiply_full(uint64_t* t, const uint64_t* a, const uint64_t* b) {
        uint32_t x[n], even[2 * n] = {}, odd[2 * n] = {};
        split<n>(x, a);
        multiply_row<n>(even, x, word_of(b, 0));
        multiply_row<n>(odd, x + 1, word_of(b, 0));
        ZK_UNROLL
        for (int i = 1; i < n; ++i) {
            // Word i of b turns the parity of its products; both rows end where nothing but a carry has been.
            uint32_t* level = i % 2 == 0 ? even + i : odd + i - 1;
            uint32_t* above = i % 2 == 0 ? odd + i : even + i + 1;
            multiply_add_row<n, false, false>(level, x, word_of(b, i));
            level[n] = carry::addc(0, 0);
            multiply_add_row<n, false, true>(above, x + 1, word_of(b, i));
        }
        add_row<2 * n - 1>(even + 1, odd);
        join<2 * n>(t, even);
    }

    /// t += a b, t one limb longer than the product; any limbs.
    ZK_HD static void add_product(uint64_t* t, const uint64_t* a, const uint64_t* b) {
        uint64_t product[2 * P::limbs];
        uint32_t sum[2 * n + 2], more[2 * n];
        multiply_full(product, a, b);
        split<2 * n + 2>(sum, t);
        split<2 * n>(more, product);
        add_row<2 * n>(sum, more);
        ripple<2>(sum + 2 * n);
        join<2 * n + 2>(t, sum);
    }

    /// t += a word, for `bits` of the word; t two limbs longer than a, any limbs.
    template <int bits>
    ZK_HD static void add_multiple(uint64_t* t, const uint64_t* a, uint64_t word) {
        const uint32_t low = static_cast<uint32_t>(word), high = static_cast<uint32_t>(word >> 32);
        uint32_t x[n], sum[n + 4], odd[n + 2] = {};
        split<n>(x, a);
        split<n + 4>(sum, t);
        multiply_add_row<n, false, false>(sum, x, low);
        ripple<4>(sum + n);
        multiply_row<n>(odd, x + 1, low);
        if constexpr (bits > 32) {
            multiply_add_row<n, false, false>(sum + 2, x + 1, high);
            ripple<2>(sum + n + 2);
            multiply_add_row<n, false, false>(odd, x, high);
            odd[n] = carry::addc(0, 0);
        }
        add_row<n + 1>(sum + 1, odd);
        ripple<2>(sum + n + 2);
        join<n + 4>(t, sum);
    }

    /// Takes 2^shift moduli off (over, x) if they are in it; over is below 2^32.
    ZK_HD static void subtract_multiple(uint64_t* x, uint64_t& over, int shift) {
        uint32_t from[n + 1], less[n + 1], multiple[n + 1];
        split<n>(from, x);
        from[n] = static_cast<uint32_t>(over);
        ZK_UNROLL
        for (int j = 0; j <= n; ++j) {
            const uint64_t word = j < n ? Sum::modulus(j) : 0, below = j > 0 ? Sum::modulus(j - 1) : 0;
            multiple[j] = static_cast<uint32_t>((word << 32 | below) >> (32 - shift));
            less[j] = from[j];
        }
        subtract_row<n + 1>(less, multiple);
        choose_row<n + 1>(less, carry::subc(0, 0) != 0, from, less);
        join<n>(x, less);
        over = less[n];
    }

private:
    /// x, or x less the modulus if it is in it.
    ZK_HD static void reduce_once(uint64_t* out, const uint32_t* x) {
        uint32_t less[n], p[n];
        ZK_UNROLL
        for (int j = 0; j < n; ++j) less[j] = x[j], p[j] = Sum::modulus(j);
        subtract_row<n>(less, p);
        choose_row<n>(less, carry::subc(0, 0) != 0, x, less);
        join<n>(out, less);
    }
};

}  // namespace zkaudit
