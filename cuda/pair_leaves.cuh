// The three lowest levels of the tree over looked-up pairs of 16-bit integers, never stored: made whenever a pass needs them.
//
// A leaf is 1 / (gamma - a - beta b). Its denominator is two small products; a level above takes the products of its fractions.
// Where variables of a layer are bound, a fraction is the sum of such p and q with weights chi, which sum to 1.
#pragma once

#include "logup.cuh"

namespace zkaudit {

struct PairColumns {
    const uint16_t *first, *second;
    Scalar gamma, beta;
};

/// Fractions of a level with `rounds` of a layer's variables bound.
template <class L, int level, int rounds>
struct PairFold {
    static constexpr int parts = 1 << rounds;

    L constant, one, weights[parts], first[parts], second[parts];

    ZK_HD PairFold(const PairColumns& columns, const Scalar* chi) {
        const Scalar unit = Scalar::one();
        constant = load<L>(&columns.gamma, 0);
        one = load<L>(&unit, 0);
        for (int j = 0; j < parts; ++j) {
            const Scalar inside = level == 0 ? chi[j] : unit;  // a leaf is linear in its integers, what is above is not
            const Scalar a = lifted<1>(-inside), b = lifted<1>(-(inside * columns.beta));
            weights[j] = load<L>(chi + j, 0);
            first[j] = load<L>(&a, 0);
            second[j] = load<L>(&b, 0);
        }
    }

    /// Child c of the gate whose leaves begin at `begin` of the windows.
    template <int log>
    ZK_CALLED void fraction(const Window<L, uint16_t, log>& a, const Window<L, uint16_t, log>& b, int begin, int c, L& p, L& q) const {
        if constexpr (level == 0) {
            SmallSum<L, 1> sum = SmallSum<L, 1>::starting_at(constant);
#pragma GCC unroll 8
            for (int j = 0; j < parts; ++j) {
                sum.template add<52>(first[j], a.at(begin + 2 * j + c));
                sum.template add<52>(second[j], b.at(begin + 2 * j + c));
            }
            p = one;
            q = sum.shrunk();
        } else if constexpr (rounds == 0) {
            sum_of(a, b, begin + (c << level), p, q);
        } else {
            p = L::zero();
            q = L::zero();
#pragma GCC unroll 4
            for (int j = 0; j < parts; ++j) {
                L p_part, q_part;
                sum_of(a, b, begin + ((2 * j + c) << level), p_part, q_part);
                p = p + weights[j] * p_part;
                q = q + weights[j] * q_part;
            }
        }
    }

    template <int log>
    ZK_HD Gate<L> gate(const Window<L, uint16_t, log>& a, const Window<L, uint16_t, log>& b, int begin) const {
        Gate<L> out;
        fraction(a, b, begin, 0, out.p0, out.q0);
        fraction(a, b, begin, 1, out.p1, out.q1);
        return out;
    }

private:
    template <int log>
    ZK_HD L leaf(const Window<L, uint16_t, log>& a, const Window<L, uint16_t, log>& b, int i) const {
        SmallSum<L, 1> sum = SmallSum<L, 1>::starting_at(constant);
        sum.template add<52>(first[0], a.at(i));
        sum.template add<52>(second[0], b.at(i));
        return sum.shrunk();
    }

    /// The sum of the 2^level leaves from `begin` on.
    template <int log>
    ZK_HD void sum_of(const Window<L, uint16_t, log>& a, const Window<L, uint16_t, log>& b, int begin, L& p, L& q) const {
        const L q0 = leaf(a, b, begin), q1 = leaf(a, b, begin + 1);
        p = q0 + q1;
        q = q0 * q1;
        if constexpr (level == 2) {
            const L q2 = leaf(a, b, begin + 2), q3 = leaf(a, b, begin + 3);
            const L q_right = q2 * q3;
            p = product_pair(p, q_right, q2 + q3, q);
            q = q * q_right;
        }
    }
};

/// The gates of one level for FractionRound.
template <int level, int rounds>
struct PairGates {
    PairColumns columns;
    const Scalar* chi;

    template <class L>
    struct On {
        PairColumns columns;
        PairFold<L, level, rounds> fold;

        ZK_HD explicit On(const PairGates& gates) : columns(gates.columns), fold(gates.columns, gates.chi) {}

        /// Pair i has the leaves from i 2^(level + 2 + rounds).
        ZK_HD void pair(int64_t i, Gate<L>& first, Gate<L>& second) const {
            constexpr int log = level + 2 + rounds;
            const Window<L, uint16_t, log> a(columns.first + (i << log)), b(columns.second + (i << log));
            first = fold.gate(a, b, 0);
            second = fold.gate(a, b, 1 << (log - 1));
        }
    };
};

/// Fractions with `rounds` variables bound, written out: p[2i + c], q[2i + c] for gate i.
template <int level, int rounds>
struct PairWrite {
    PairColumns columns;
    const Scalar* chi;
    Scalar *p, *q;

    template <class L>
    ZK_HD void range(int64_t begin, int64_t end) const {
        const PairFold<L, level, rounds> fold(columns, chi);
        constexpr int log = level + 1 + rounds;
        for (int64_t i = begin; i < end; i += lane_width<L>) {
            const Window<L, uint16_t, log> a(columns.first + (i << log)), b(columns.second + (i << log));
            const Gate<L> gate = fold.gate(a, b, 0);
            store(gate.p0, p + 2 * i, 2);
            store(gate.p1, p + 2 * i + 1, 2);
            store(gate.q0, q + 2 * i, 2);
            store(gate.q1, q + 2 * i + 1, 2);
        }
    }
};

/// Fractions of level 3 or 4: the sums of 8 or 16 leaves each.
template <int level>
struct PairLayer {
    static_assert(level == 3 || level == 4);

    PairColumns columns;
    Scalar *p, *q;

    template <class L>
    ZK_HD void range(int64_t begin, int64_t end) const {
        const Scalar one = Scalar::one();
        const PairFold<L, 2, 0> fold(columns, &one);
        for (int64_t i = begin; i < end; i += lane_width<L>) {
            const Window<L, uint16_t, level> a(columns.first + (i << level)), b(columns.second + (i << level));
            Gate<L> gate = fold.gate(a, b, 0);
            if constexpr (level == 4) {
                const Gate<L> second = fold.gate(a, b, 8);
                gate = {gate.sum_p(), second.sum_p(), gate.sum_q(), second.sum_q()};
            }
            store(gate.sum_p(), p + i);
            store(gate.sum_q(), q + i);
        }
    }
};

}  // namespace zkaudit
