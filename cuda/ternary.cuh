// The first three rounds of a sumcheck over products of two small integers, summed over one side beforehand.
//
// For tables F, G of shape (highs, lows) and weights u over highs, a round in a low variable needs the sums over h of
// u[h] F(h; x) G(h; x). In three variables F G has degree 2 each: its values at {0, 1, infinity}^3 say all. Value 9 t0 + 3 t1 + t2
// is the one at (t0, t1, t2), variable 0 being t0, and infinity the leading coefficient. Everything but u is a small integer.
#pragma once

#include "wide.cuh"

namespace zkaudit {

constexpr int ternary_points = 27;

/// The 27 values of offset + scale x for eight adjoining integers x, each as a word modulo 2^64.
template <class L, class T>
struct TernaryValues {
    Word<L> at[ternary_points];

    ZK_HD TernaryValues(const T* base, uint64_t scale, uint64_t offset) {
        const Window<L, T, 3> window(base);
        const Word<L> factor = Words<L>::all(scale), constant = Words<L>::all(offset);
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i) at[9 * (i & 1) + 3 * ((i >> 1) & 1) + (i >> 2)] = Words<L>::signed_product(window.at(i), factor) + constant;
#pragma GCC unroll 2
        for (int a = 0; a < 2; ++a) {
#pragma GCC unroll 2
            for (int b = 0; b < 2; ++b) at[9 * a + 3 * b + 2] = at[9 * a + 3 * b + 1] - at[9 * a + 3 * b];
        }
#pragma GCC unroll 2
        for (int a = 0; a < 2; ++a) {
#pragma GCC unroll 3
            for (int c = 0; c < 3; ++c) at[9 * a + 6 + c] = at[9 * a + 3 + c] - at[9 * a + c];
        }
#pragma GCC unroll 9
        for (int c = 0; c < 9; ++c) at[18 + c] = at[9 + c] - at[c];
    }
};

/// out[t][k][g] = sum over h of weights[k][h] (F G)_t(h, group g) for groups of eight lows. Integers of F and G are below 2^17 in
/// size, so products are below 2^40; weights are lifted by `digits`, and corrections[k] is bias times the sum of weights[k].
template <class T, class U>
struct TernarySums {
    static constexpr int digits = 2, together = 16;  // rows that are multiplied before they are added up
    static constexpr uint64_t bias = uint64_t{1} << 41;

    const T* left;
    const U* right;
    uint64_t left_scale, left_offset, right_scale, right_offset;
    const Scalar *weights, *corrections;
    Scalar* out;
    int64_t count, highs, lows;  // count: of weights

    template <class L>
    using Sum = SmallSum<L, digits>;

    /// The groups from `group` on that one lane holds; `sums` has room for ternary_points * count.
    template <class L>
    ZK_HD void lane(int64_t group, Sum<L>* sums) const {
        Word<L> words[ternary_points][together];
        L factors[together];
        for (int64_t i = 0; i < ternary_points * count; ++i) sums[i] = Sum<L>::zero();
        for (int64_t first = 0, round = 1; first < highs; first += together, ++round) {
            const int rows = static_cast<int>(first + together < highs ? together : highs - first);
            for (int r = 0; r < rows; ++r) multiply<L>((first + r) * lows + 8 * group, words, r);
            for (int64_t k = 0; k < count; ++k) {
                for (int r = 0; r < rows; ++r) factors[r] = load<L>(weights + k * highs + first + r, 0);
                for (int t = 0; t < ternary_points; ++t) {
                    Sum<L> sum = sums[t * count + k];
                    for (int r = 0; r < rows; ++r) sum.template add<52>(factors[r], words[t][r]);
                    if (round % (settle_period / together) == 0) sum.settle();
                    sums[t * count + k] = sum;
                }
            }
        }
        const int64_t groups = lows / 8;
        for (int t = 0; t < ternary_points; ++t) {
            for (int64_t k = 0; k < count; ++k) {
                store(sums[t * count + k].shrunk() - load<L>(corrections + k, 0), out + (t * count + k) * groups + group);
            }
        }
    }

private:
    template <class L>
    ZK_HD void multiply(int64_t first, Word<L> (*words)[together], int r) const {
        const TernaryValues<L, T> a(left + first, left_scale, left_offset);
        const TernaryValues<L, U> b(right + first, right_scale, right_offset);
        const Word<L> lift = Words<L>::all(bias);
#pragma GCC unroll 27
        for (int t = 0; t < ternary_points; ++t) words[t][r] = Words<L>::signed_product(a.at[t], b.at[t]) + lift;
    }
};

/// out[i] = offset + sum over j < 8 of weights[j] x[8 i + j]; weights are lifted by one digit.
template <class T>
struct FoldSmall {
    const T* values;
    const Scalar* weights;
    Scalar offset;
    Scalar* out;

    template <class L>
    ZK_HD void range(int64_t begin, int64_t end) const {
        L factors[8];
        for (int j = 0; j < 8; ++j) factors[j] = load<L>(weights + j, 0);
        const L constant = load<L>(&offset, 0);
        for (int64_t i = begin; i < end; i += lane_width<L>) {
            const Window<L, T, 3> window(values + 8 * i);
            SmallSum<L, 1> sum = SmallSum<L, 1>::starting_at(constant);
#pragma GCC unroll 8
            for (int j = 0; j < 8; ++j) sum.template add<52>(factors[j], window.at(j));
            store(sum.shrunk(), out + i);
        }
    }
};

}  // namespace zkaudit
