// The three lowest levels of a lookup's fraction tree, never stored: made from 16-bit integers whenever a pass needs them.
//
// A leaf is 1 / (gamma - v). The sum of the 2^level leaves under a fraction of that level is p / q with
//     q = prod (gamma - v_i) = gamma^n - gamma^(n-1) e1 + gamma^(n-2) e2 - ..,     p = dq / d gamma,     n = 2^level,
// and the elementary symmetric sums e_k of the v_i are integers below 2^64. With `rounds` of a layer's variables bound, a
// fraction is a sum of such p and q with weights chi: still integers times constants, so that nothing is multiplied out.
#pragma once

#include "logup.cuh"

namespace zkaudit {

/// The symmetric sums of 2^level integers, e4 of four of them as two digits; p needs all but the last of them.
template <class L, int level>
struct Symmetric {
    static constexpr int q_words = level == 0 ? 1 : level == 1 ? 2 : 5, p_words = level == 0 ? 0 : level == 1 ? 1 : 3;

    Word<L> e[q_words];

    template <int log>
    ZK_HD Symmetric(const Window<L, uint16_t, log>& leaves, int offset) {
        if constexpr (level == 0) {
            e[0] = leaves.at(offset);
        } else if constexpr (level == 1) {
            const Word<L> a = leaves.at(offset), b = leaves.at(offset + 1);
            e[0] = a + b;
            e[1] = Words<L>::product(a, b);
        } else {
            const Symmetric<L, 1> left(leaves, offset), right(leaves, offset + 2);
            e[0] = left.e[0] + right.e[0];
            e[1] = Words<L>::product(left.e[0], right.e[0]) + left.e[1] + right.e[1];
            e[2] = Words<L>::product(left.e[0], right.e[1]) + Words<L>::product(left.e[1], right.e[0]);
            e[3] = Words<L>::product(left.e[1], right.e[1]);
            e[4] = Words<L>::product_high(left.e[1], right.e[1]);
        }
    }
};

/// Fractions of a level with `rounds` of a layer's variables bound, as sums of symmetric sums times constants.
template <class L, int level, int rounds>
struct LeafFold {
    using Sums = Symmetric<L, level>;
    static constexpr int parts = 1 << rounds, p_words = Sums::p_words, q_words = Sums::q_words;

    L p_constant, q_constant, p[parts][p_words + 1], q[parts][q_words];

    /// chi: the weights of the parts, which sum to 1.
    ZK_HD LeafFold(const Scalar& gamma, const Scalar* chi) {
        const Scalar one = Scalar::one(), square = gamma * gamma, cube = square * gamma, digit = lifted<1>(one);
        const Scalar q_all[3][5] = {{-one}, {-gamma, one}, {-cube, square, -gamma, one, digit}};
        const Scalar p_all[3][3] = {{}, {-one}, {-(square + square + square), gamma + gamma, -one}};
        const Scalar q_first[3] = {gamma, square, square * square}, p_first[3] = {one, gamma + gamma, (cube + cube).doubled()};
        q_constant = load<L>(&q_first[level], 0);
        p_constant = load<L>(&p_first[level], 0);
        for (int j = 0; j < parts; ++j) {
            const Scalar weight = lifted<1>(chi[j]);
            for (int k = 0; k < q_words; ++k) {
                const Scalar factor = weight * q_all[level][k];
                q[j][k] = load<L>(&factor, 0);
            }
            for (int k = 0; k < p_words; ++k) {
                const Scalar factor = weight * p_all[level][k];
                p[j][k] = load<L>(&factor, 0);
            }
        }
    }

    /// Child c of the gate whose leaves begin at `first` of the window.
    template <int log>
    ZK_CALLED void fraction(const Window<L, uint16_t, log>& leaves, int first, int c, L& p_out, L& q_out) const {
        SmallSum<L, 1> p_sum = SmallSum<L, 1>::starting_at(p_constant), q_sum = SmallSum<L, 1>::starting_at(q_constant);
#pragma GCC unroll 8
        for (int j = 0; j < parts; ++j) {
            const Sums sums(leaves, first + ((2 * j + c) << level));
#pragma GCC unroll 5
            for (int k = 0; k < q_words; ++k) q_sum.template add<52>(q[j][k], sums.e[k]);
#pragma GCC unroll 3
            for (int k = 0; k < p_words; ++k) p_sum.template add<52>(p[j][k], sums.e[k]);
        }
        q_out = q_sum.shrunk();
        if constexpr (level == 0) {
            p_out = p_constant;
        } else {
            p_out = p_sum.shrunk();
        }
    }

    template <int log>
    ZK_HD Gate<L> gate(const Window<L, uint16_t, log>& leaves, int first) const {
        Gate<L> out;
        fraction(leaves, first, 0, out.p0, out.q0);
        fraction(leaves, first, 1, out.p1, out.q1);
        return out;
    }
};

/// Pair i of gates of one level, which have the leaves from i 2^(level + 2 + rounds).
template <class L, int level, int rounds>
ZK_HD void leaf_pair(const LeafFold<L, level, rounds>& fold, const uint16_t* values, int64_t i, Gate<L>& first, Gate<L>& second) {
    constexpr int log = level + 2 + rounds;
    const Window<L, uint16_t, log> window(values + (i << log));
    first = fold.gate(window, 0);
    second = fold.gate(window, 1 << (log - 1));
}

/// The gates of one level for FractionRound.
template <int level, int rounds>
struct LeafGates {
    const uint16_t* values;
    Scalar gamma;
    const Scalar* chi;

    template <class L>
    struct On {
        const uint16_t* values;
        LeafFold<L, level, rounds> fold;

        ZK_HD explicit On(const LeafGates& gates) : values(gates.values), fold(gates.gamma, gates.chi) {}

        ZK_HD void pair(int64_t i, Gate<L>& first, Gate<L>& second) const { leaf_pair(fold, values, i, first, second); }
    };
};

/// The same with constants that the caller has made.
template <int level, int rounds>
struct PreparedGates {
    const uint16_t* values;
    const LeafFold<Scalar, level, rounds>* fold;

    template <class L>
    struct On {
        const uint16_t* values;
        const LeafFold<Scalar, level, rounds>& fold;

        ZK_HD explicit On(const PreparedGates& gates) : values(gates.values), fold(*gates.fold) {}

        ZK_HD void pair(int64_t i, Gate<L>& first, Gate<L>& second) const { leaf_pair(fold, values, i, first, second); }
    };
};

/// The same round on leaves themselves, whose numerators are 1: with u = q + 1 / lambda a gate is lambda u0 u1 - 1 / lambda,
/// so that one product serves it. `sums` gets the sums over E of u0 u1 at 0 and at infinity.
template <int rounds>
struct LeafRound {
    const uint16_t* values;
    Scalar shifted;  // gamma + 1 / lambda
    const Scalar* chi;

    template <class L>
    ZK_HD void range(int64_t begin, int64_t end, const Scalar* weights, Scalar& constant, Scalar& leading) const {
        add(LeafFold<L, 0, rounds>(shifted, chi), values, begin, end, weights, constant, leading);
    }

    template <class L>
    ZK_HD static void add(const LeafFold<L, 0, rounds>& fold, const uint16_t* values, int64_t begin, int64_t end, const Scalar* weights,
                          Scalar& constant, Scalar& leading) {
        constexpr int log = 2 + rounds;
        ProductSum<L> at_zero = ProductSum<L>::zero(), at_infinity = ProductSum<L>::zero();
        for (int64_t i = begin, k = 1; i < end; i += lane_width<L>, ++k) {
            // As leaf_pair, which g++ makes a quarter slower here.
            const Window<L, uint16_t, log> window(values + (i << log));
            const Gate<L> first = fold.gate(window, 0), second = fold.gate(window, 1 << (log - 1));
            const L weight = load<L>(weights + (i - begin));
            at_zero.add(loose_product(first.q0, first.q1), weight);
            at_infinity.add(loose_product(loose_difference(second.q0, first.q0), loose_difference(second.q1, first.q1)), weight);
            if (k % settle_period == 0) {
                at_zero.settle();
                at_infinity.settle();
            }
        }
        constant += at_zero.across();
        leading += at_infinity.across();
    }
};

/// The first of these rounds needs integers only: u0 u1 = s^2 - s (a + b) + a b.
template <>
struct LeafRound<0> {
    static constexpr uint64_t bias = uint64_t{1} << 32;  // above the product of two differences

    const uint16_t* values;
    Scalar shifted;
    const Scalar* chi;

    template <class L>
    ZK_HD void range(int64_t begin, int64_t end, const Scalar* weights, Scalar& constant, Scalar& leading) const {
        using Sum = SmallSum<L, 1>;
        Sum sums = Sum::zero(), products = Sum::zero(), differences = Sum::zero();
        L total = L::zero();
        const Word<L> lift = Words<L>::all(bias);
        for (int64_t i = begin, k = 1; i < end; i += lane_width<L>, ++k) {
            const Window<L, uint16_t, 2> window(values + 4 * i);
            const Word<L> a = window.at(0), b = window.at(1), c = window.at(2), d = window.at(3);
            const L weight = load<L>(weights + (i - begin));
            sums.template add<52>(weight, a + b);
            products.template add<52>(weight, Words<L>::product(a, b));
            differences.template add<52>(weight, Words<L>::signed_product(c - a, d - b) + lift);
            total = total + weight;
            if (k % settle_period == 0) {
                sums.settle();
                products.settle();
                differences.settle();
            }
        }
        const Scalar all = across(total), back = lifted<1>(Scalar::one());
        constant += shifted * shifted * all + back * (products.across() - shifted * sums.across());
        leading += back * differences.across() - Scalar::from_u64(bias) * all;
    }
};

/// Fractions with `rounds` variables bound, written out: p[2i + c], q[2i + c] for gate i.
template <int level, int rounds>
struct LeafWrite {
    const uint16_t* values;
    Scalar gamma;
    const Scalar* chi;
    Scalar *p, *q;

    template <class L>
    ZK_HD void range(int64_t begin, int64_t end) const {
        write(LeafFold<L, level, rounds>(gamma, chi), begin, end);
    }

    template <class L>
    ZK_HD void write(const LeafFold<L, level, rounds>& fold, int64_t begin, int64_t end) const {
        constexpr int log = level + 1 + rounds;
        for (int64_t i = begin; i < end; i += lane_width<L>) {
            const Gate<L> gate = fold.gate(Window<L, uint16_t, log>(values + (i << log)), 0);
            store(gate.p0, p + 2 * i, 2);
            store(gate.p1, p + 2 * i + 1, 2);
            store(gate.q0, q + 2 * i, 2);
            store(gate.q1, q + 2 * i + 1, 2);
        }
    }
};

/// Fractions of level 3 or 4: the sums of 8 or 16 leaves each.
template <int level>
struct LeafLayer {
    static_assert(level == 3 || level == 4);

    const uint16_t* values;
    Scalar gamma;
    Scalar *p, *q;

    template <class L>
    ZK_HD void range(int64_t begin, int64_t end) const {
        const Scalar one = Scalar::one();
        write(LeafFold<L, 2, 0>(gamma, &one), begin, end);
    }

    template <class L>
    ZK_HD void write(const LeafFold<L, 2, 0>& fold, int64_t begin, int64_t end) const {
        for (int64_t i = begin; i < end; i += lane_width<L>) {
            const Window<L, uint16_t, level> window(values + (i << level));
            Gate<L> gate = fold.gate(window, 0);
            if constexpr (level == 4) {
                const Gate<L> second = fold.gate(window, 8);
                gate = {gate.sum_p(), second.sum_p(), gate.sum_q(), second.sum_q()};
            }
            store(gate.sum_p(), p + i);
            store(gate.sum_q(), q + i);
        }
    }
};

}  // namespace zkaudit
