// The lowest levels of a lookup's fraction tree on a GPU: what zk/gpu/leaves.py launches, a file for each level. One launch
// passes over all runs of leaves: a thread takes a block of items, which may lie in several runs.
#pragma once

#include "kernel.cuh"
#include "leaves.cuh"

namespace zkaudit {

/// Leaves from the end of the run before to `end`: 16-bit integers, or fractions in memory where `values` is null.
struct Run {
    int64_t end;
    const uint16_t* values;
    const Scalar *p, *q;
    Scalar gamma;

    /// Fractions [begin, end) of those in memory, the run's own being numbered from `first`.
    ZK_HD void copy(int64_t first, int64_t begin, int64_t end, Scalar* p_out, Scalar* q_out) const {
        for (int64_t x = begin; x < end; ++x) {
            store(load<Scalar>(p + (x - first)), p_out + x);
            store(load<Scalar>(q + (x - first)), q_out + x);
        }
    }
};

struct RunList {
    const Run* runs;
    int64_t count;

    /// The run of item x, items being 2^log leaves.
    ZK_HD int64_t find(int64_t x, int log) const {
        int64_t low = 0, high = count - 1;
        while (low < high) {
            const int64_t middle = (low + high) / 2;
            if (x < runs[middle].end >> log) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        return low;
    }

    ZK_HD int64_t begin(int64_t i, int log) const { return i == 0 ? 0 : runs[i - 1].end >> log; }

    /// body(run's number, its first item, begin, end) for each run's part of the items [begin, end).
    template <class Body>
    ZK_HD void pieces(int64_t begin, int64_t end, int log, const Body& body) const {
        for (int64_t i = find(begin, log); begin < end; ++i) {
            const int64_t stop = smaller(end, runs[i].end >> log);
            if (begin < stop) body(i, this->begin(i, log), begin, stop);
            begin = stop > begin ? stop : begin;
        }
    }
};

/// folds[i] = the constants of run i, whose gamma is shifted by `shift`.
template <int level, int rounds>
struct PrepareLeaves {
    const Run* runs;
    const Scalar* chi;
    LeafFold<Scalar, level, rounds>* folds;
    Scalar shift;

    ZK_HD void operator()(int64_t i) const { folds[i] = LeafFold<Scalar, level, rounds>(runs[i].gamma + shift, chi); }
};

/// What a round on a level adds up: at level 0 the sums of E u0 u1 alone (LeafRound), with constants made before.
template <int level, int rounds>
struct PreparedRound {
    const uint16_t* values;
    const LeafFold<Scalar, level, rounds>* fold;
    Scalar gamma, lambda;

    template <class L>
    ZK_HD void range(int64_t begin, int64_t end, const Scalar* weights, Scalar& constant, Scalar& leading) const {
        if constexpr (level > 0) {
            FractionRound<PreparedGates<level, rounds>>{{values, fold}, lambda}.template range<L>(begin, end, weights, constant, leading);
        } else if constexpr (rounds > 0) {
            LeafRound<rounds>::add(*fold, values, begin, end, weights, constant, leading);
        } else {
            LeafRound<0>{values, gamma, nullptr}.template range<L>(begin, end, weights, constant, leading);
        }
    }
};

/// Sums of a round on a level over the integers in worker i's block of pairs of gates: partial[i] at 0, partial[workers + i] at
/// infinity. Runs of fractions in memory are passed over. `width` divides blocks, or is a multiple of them.
template <int level, int rounds>
struct LeafRoundBlock {
    static constexpr int log = level + 2 + rounds;

    RunList list;
    const LeafFold<Scalar, level, rounds>* folds;
    Equality equality;
    Scalar* partial;
    int64_t pairs, block, workers;
    Scalar lambda, shift;

    ZK_HD void operator()(int64_t i) const {
        Scalar sums[2] = {Scalar::zero(), Scalar::zero()};
        list.pieces(i * block, smaller(pairs, (i + 1) * block), log, [&](int64_t r, int64_t first, int64_t begin, int64_t end) {
            const Run& run = list.runs[r];
            if (run.values == nullptr) return;
            equality.weigh<Scalar>(PreparedRound<level, rounds>{run.values, folds + r, run.gamma + shift, lambda}, first, begin, end, sums);
        });
        store(sums[0], partial + i);
        store(sums[1], partial + workers + i);
    }
};

/// Fractions of a level with `rounds` variables bound, gate by gate: p[2 x + c], q[2 x + c].
template <int level, int rounds>
struct LeafWriteBlock {
    static constexpr int log = level + 1 + rounds;

    RunList list;
    const LeafFold<Scalar, level, rounds>* folds;
    Scalar *p, *q;
    int64_t gates, block;

    ZK_HD void operator()(int64_t i) const {
        list.pieces(i * block, smaller(gates, (i + 1) * block), log, [&](int64_t r, int64_t first, int64_t begin, int64_t end) {
            const Run& run = list.runs[r];
            if (run.values != nullptr) {
                LeafWrite<level, rounds>{run.values, run.gamma, nullptr, p + 2 * first, q + 2 * first}.write(folds[r], begin - first, end - first);
                return;
            }
            run.copy(2 * first, 2 * begin, 2 * end, p, q);
        });
    }
};

/// Fractions of level 3 or 4.
template <int level>
struct LeafLayerBlock {
    RunList list;
    const LeafFold<Scalar, 2, 0>* folds;
    Scalar *p, *q;
    int64_t fractions, block;

    ZK_HD void operator()(int64_t i) const {
        list.pieces(i * block, smaller(fractions, (i + 1) * block), level, [&](int64_t r, int64_t first, int64_t begin, int64_t end) {
            const Run& run = list.runs[r];
            if (run.values != nullptr) {
                LeafLayer<level>{run.values, run.gamma, p + first, q + first}.write(folds[r], begin - first, end - first);
                return;
            }
            run.copy(first, begin, end, p, q);
        });
    }
};

}  // namespace zkaudit

#define ZK_LEAF_WRITE(level, rounds)                                                                 \
    ZK_KERNEL(prepare_leaves_##level##_##rounds, zkaudit::PrepareLeaves<level, rounds>)              \
    ZK_KERNEL(leaf_write_##level##_##rounds, zkaudit::LeafWriteBlock<level, rounds>)
#define ZK_LEAF_ROUND(level, rounds) ZK_KERNEL(leaf_round_##level##_##rounds, zkaudit::LeafRoundBlock<level, rounds>)
