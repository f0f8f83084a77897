// Field arithmetic in 32-bit words, for a machine that multiplies those and keeps a carry: what the device runs. Products are
// summed and reduced by shrinking_sum.cuh.
//
// All loops are unrolled and all arrays are registers. Elements come and go as 64-bit limbs.
#pragma once

#include "gpu/shrinking_sum.cuh"

namespace zkaudit {

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

    /// t = a^2, twice as long: products of different words once, doubled, and the squares of words.
    ZK_HD static void square_full(uint64_t* t, const uint64_t* a) {
        uint32_t x[n], even[2 * n] = {}, odd[2 * n] = {};
        split<n>(x, a);
        ZK_UNROLL
        for (int i = 0; i + 1 < n; ++i) {
            multiply_above(odd, x, i, 1);
            multiply_above(even, x, i, 2);
        }
        add_row<2 * n - 1>(even + 1, odd);
        add_row<2 * n>(even, even);
        ZK_UNROLL
        for (int i = 0; i < n; ++i) {
            uint32_t* to = even + 2 * i;
            to[0] = i > 0 ? carry::madc_lo_cc(x[i], x[i], to[0]) : carry::mad_lo_cc(x[i], x[i], to[0]);
            to[1] = i + 1 < n ? carry::madc_hi_cc(x[i], x[i], to[1]) : carry::madc_hi(x[i], x[i], to[1]);
        }
        join<2 * n>(t, even);
    }

    /// out = a^2 / 2^(32 n) modulo the modulus: 1.5 n^2 + 1.5 n wide multiply-adds.
    ZK_HD static void square(uint64_t* out, const uint64_t* a) {
        uint64_t t[2 * P::limbs];
        square_full(t, a);
        reduce_lower_half(t);
        uint32_t result[n];
        split<n>(result, t + P::limbs);
        reduce_once(out, result);
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
    /// Adds x[i] times x[i + distance], x[i + distance + 2], .. to the half of a sum where these products lie.
    ZK_HD static void multiply_above(uint32_t* half, const uint32_t* x, int i, int distance) {
        const int shift = distance % 2;
        ZK_UNROLL
        for (int j = 0; j < n; ++j) {
            if (j < i + distance || (j - i - distance) % 2 != 0) continue;
            uint32_t* to = half + i + j - shift;
            to[0] = j > i + distance ? carry::madc_lo_cc(x[j], x[i], to[0]) : carry::mad_lo_cc(x[j], x[i], to[0]);
            to[1] = carry::madc_hi_cc(x[j], x[i], to[1]);
            if (j + 2 >= n) to[2] = carry::addc(to[2], 0);
        }
    }

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
