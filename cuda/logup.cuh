// The fraction tree of a lookup: layers of sums of neighbouring fractions, and the sumcheck that descends one layer.
//
// A gate y of a layer adds its children's fractions p[2y] / q[2y] and p[2y+1] / q[2y+1]. Past the end of the arrays every
// fraction is the neutral 0 / 1. The kernels see whole pairs only; the caller does the ragged end.
#pragma once

#include "wide.cuh"

namespace zkaudit {

/// The four children of a gate.
template <class L>
struct Gate {
    L p0, p1, q0, q1;

    ZK_HD static Gate load_strided(const Scalar* p, const Scalar* q, int64_t stride) {
        return {load<L>(p, stride), load<L>(p + 1, stride), load<L>(q, stride), load<L>(q + 1, stride)};
    }

    ZK_HD static Gate neutral() { return {L::zero(), L::zero(), L::one(), L::one()}; }

    ZK_HD friend Gate operator-(const Gate& a, const Gate& b) {
        return {loose_difference(a.p0, b.p0), loose_difference(a.p1, b.p1), loose_difference(a.q0, b.q0),
                loose_difference(a.q1, b.q1)};
    }

    /// The gate's fraction.
    ZK_HD L sum_p() const { return product_pair(p0, q1, p1, q0); }
    ZK_HD L sum_q() const { return q0 * q1; }

    /// p0 q1 + p1 q0 + lambda q0 q1
    ZK_HD L combined(const L& lambda) const { return loose_gate(p0, lambda, q1, q0, p1); }
};

/// The gates' fractions: 3 multiplications, 2 reductions each.
struct FractionLayer {
    const Scalar *p, *q;
    Scalar *p_out, *q_out;

    template <class L>
    ZK_HD void at(int64_t y) const {
        const Gate<L> gate = Gate<L>::load_strided(p + 2 * y, q + 2 * y, 2);
        store(gate.sum_p(), p_out + y);
        store(gate.sum_q(), q_out + y);
    }
};

/// The gates of a layer in memory.
struct StoredGates {
    const Scalar *p, *q;

    template <class L>
    struct On {
        const Scalar *p, *q;

        ZK_HD explicit On(const StoredGates& gates) : p(gates.p), q(gates.q) {}

        ZK_HD void pair(int64_t i, Gate<L>& first, Gate<L>& second) const {
            first = Gate<L>::load_strided(p + 4 * i, q + 4 * i, 4);
            second = Gate<L>::load_strided(p + 4 * i + 2, q + 4 * i + 2, 4);
        }
    };
};

/// The gates of a layer whose lowest variable is bound to r on the way: new[2i + c] as in FractionFold, written as they are made,
/// so that folding a layer and its next round take one pass over it. Pair i folds gates 4i to 4i + 3.
struct FoldedGates {
    const Scalar *p, *q;
    Scalar r;
    Scalar *p_out, *q_out;

    template <class L>
    struct On {
        const Scalar *p, *q;
        L factor;
        Scalar *p_out, *q_out;

        ZK_HD explicit On(const FoldedGates& gates)
            : p(gates.p), q(gates.q), factor(load<L>(&gates.r, 0)), p_out(gates.p_out), q_out(gates.q_out) {}

        ZK_HD L fold(const Scalar* old, Scalar* out) const {
            const L value = interpolate(load<L>(old, 8), load<L>(old + 2, 8), factor);
            store(value, out, 4);
            return value;
        }

        ZK_HD Gate<L> gate(int64_t from, int64_t to) const {
            return {fold(p + from, p_out + to), fold(p + from + 1, p_out + to + 1), fold(q + from, q_out + to),
                    fold(q + from + 1, q_out + to + 1)};
        }

        ZK_HD void pair(int64_t i, Gate<L>& first, Gate<L>& second) const {
            first = gate(8 * i, 4 * i);
            second = gate(8 * i + 4, 4 * i + 2);
        }
    };
};

/// One round over pairs of gates: constant += h(0), leading += the leading coefficient of h(X) = sum of E[i] gate(i; X).
/// Cost a pair: 8 multiplications, 4 reductions.
template <class Gates>
struct FractionRound {
    Gates gates;
    Scalar lambda;

    /// `weights`: E from `begin` on.
    template <class L>
    ZK_HD void range(int64_t begin, int64_t end, const Scalar* weights, Scalar& constant, Scalar& leading) const {
        ProductSum<L> at_zero = ProductSum<L>::zero(), at_infinity = ProductSum<L>::zero();
        const L factor = load<L>(&lambda, 0);
        const typename Gates::template On<L> source(gates);
        for (int64_t i = begin, k = 1; i < end; i += lane_width<L>, ++k) {
            Gate<L> first, second;
            source.pair(i, first, second);
            const L weight = load<L>(weights + (i - begin));
            at_zero.add(first.combined(factor), weight);
            at_infinity.add((second - first).combined(factor), weight);
            if (k % settle_period == 0) {
                at_zero.settle();
                at_infinity.settle();
            }
        }
        constant += at_zero.across();
        leading += at_infinity.across();
    }
};

/// What a round over gates weighs them with: E[i] = low[i mod 2^low_bits] high[i >> low_bits].
struct Equality {
    const Scalar *low, *high;
    int64_t low_bits;

    ZK_HD int64_t width() const { return int64_t{1} << low_bits; }

    /// The sums of a round over the pairs [begin, end), which share one entry of `high`; the round counts from `first` on.
    template <class L, class Round>
    ZK_HD void weigh(const Round& round, int64_t first, int64_t begin, int64_t end, Scalar* sums) const {
        const int64_t split = end - (end - begin) % lane_width<L>;
        const Scalar* weights = low + (begin & (width() - 1));
        Scalar constant = Scalar::zero(), leading = Scalar::zero();
        if (split > begin) round.template range<L>(begin - first, split - first, weights, constant, leading);
        if (end > split) round.template range<Scalar>(split - first, end - first, weights + (split - begin), constant, leading);
        sums[0] += high[begin >> low_bits] * constant;
        sums[1] += high[begin >> low_bits] * leading;
    }
};

/// Binds a layer's lowest gate bit to r: new[2i + c] = old[4i + c] + r (old[4i + 2 + c] - old[4i + c]).
struct FractionFold {
    const Scalar* old;
    Scalar* out;
    Scalar r;

    template <class L>
    ZK_HD void at(int64_t i) const {
        const L factor = load<L>(&r, 0);
        for (int c = 0; c < 2; ++c) {
            const L first = load<L>(old + 4 * i + c, 4), second = load<L>(old + 4 * i + 2 + c, 4);
            store(interpolate(first, second, factor), out + 2 * i + c, 2);
        }
    }
};

}  // namespace zkaudit
