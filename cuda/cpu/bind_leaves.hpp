// Python bindings of the fraction tree's lowest levels, and of counting looked-up integers.
//
// The leaves lie in runs, each at a multiple of 64: 16-bit integers, or pairs of them, with one gamma and numerators 1, or
// fractions in memory for whatever else is looked up.
#pragma once

#include "bind_sumcheck.hpp"
#include "leaves.cuh"
#include "pair_leaves.cuh"
#include "vector.cuh"

namespace zkaudit {

struct LeafRun {
    int64_t begin, end;      // of its leaves
    const uint16_t* values;  // nullptr for fractions in memory: those of the level at hand, its bound variables bound
    const uint16_t* seconds;  // nullptr but for pairs
    Scalar gamma, beta;
    const Scalar *p, *q;

    PairColumns pairs() const { return {values, seconds, gamma, beta}; }
};

struct LeafRuns {
    std::vector<LeafRun> runs;

    LeafRuns(const std::vector<int64_t>& ends, const std::vector<Small>& values, const std::vector<Small>& seconds, const Input& gammas,
             const Input& betas, const std::vector<Input>& p, const std::vector<Input>& q) {
        int64_t begin = 0;
        for (size_t i = 0; i < ends.size(); ++i) {
            runs.push_back({begin, ends[i], words(values[i]), words(seconds[i]), elements(gammas)[i], elements(betas)[i], elements(p[i]),
                            elements(q[i])});
            begin = ends[i];
        }
    }

    /// Pieces of runs of at most `piece` items, none across a multiple of `piece`; an item is 2^log leaves.
    struct Piece {
        const LeafRun* run;
        int64_t first, begin, end;  // the run's first item, and the piece's
    };

    std::vector<Piece> pieces(int log, int64_t piece) const {
        std::vector<Piece> out;
        for (const LeafRun& run : runs) {
            for (int64_t begin = run.begin >> log; begin < run.end >> log;) {
                const int64_t end = std::min(run.end >> log, (begin / piece + 1) * piece);
                out.push_back({&run, run.begin >> log, begin, end});
                begin = end;
            }
        }
        return out;
    }

    int64_t length() const { return runs.empty() ? 0 : runs.back().end; }

private:
    static const uint16_t* words(const Small& integers) {
        return integers.size() == 0 ? nullptr : static_cast<const uint16_t*>(integers.data());
    }
};

/// One round on a level with `rounds` variables bound: out[0] = h(0), out[1] = h's leading coefficient.
template <int level, int rounds>
void leaf_round_of(const LeafRuns& leaves, const Scalar* chi, const Scalar& lambda, const Equality& equality, Scalar* sums) {
    constexpr int log = level + 2 + rounds;
    const Scalar inverse = lambda.inverted();
    const bool unit = level == 0 && !lambda.is_zero();
    const std::vector<LeafRuns::Piece> pieces = leaves.pieces(log, std::min(equality.width(), chunk));
    std::vector<Scalar> before(equality.width() + 1, Scalar::zero());
    exclusive_scan(equality.low, before.data(), 0, equality.width(), Scalar::zero());
    before.back() = before[equality.width() - 1] + equality.low[equality.width() - 1];
    reduce_jobs<2>(static_cast<int64_t>(pieces.size()), leaves.length() >> log, sums, [&](int64_t i, Scalar* local) {
        const auto& [run, first, begin, end] = pieces[i];
        if (run->values == nullptr) {
            equality.weigh<Lane>(FractionRound<StoredGates>{{run->p, run->q}, lambda}, first, begin, end, local);
        } else if (run->seconds != nullptr) {
            equality.weigh<Lane>(FractionRound<PairGates<level, rounds>>{{run->pairs(), chi}, lambda}, first, begin, end, local);
        } else if (unit) {
            const int64_t place = begin & (equality.width() - 1);
            const Scalar weight = before[place + end - begin] - before[place];
            Scalar part[2] = {Scalar::zero(), Scalar::zero()};
            equality.weigh<Lane>(LeafRound<rounds>{run->values, run->gamma + inverse, chi}, first, begin, end, part);
            local[0] += lambda * part[0] - inverse * (weight * equality.high[begin >> equality.low_bits]);
            local[1] += lambda * part[1];
        } else {
            equality.weigh<Lane>(FractionRound<LeafGates<level, rounds>>{{run->values, run->gamma, chi}, lambda}, first, begin, end, local);
        }
    });
    sums[0] += lambda * (Scalar::one() - total_below(equality, leaves.length() >> log));
}

/// Kernels of every level and number of bound variables that a pass is made for: body.operator()<level, rounds>().
template <class Body>
void at_leaf_level(int64_t level, int64_t rounds, const Body& body) {
    switch (level * 4 + rounds) {
        case 0: return body.template operator()<0, 0>();
        case 1: return body.template operator()<0, 1>();
        case 2: return body.template operator()<0, 2>();
        case 3: return body.template operator()<0, 3>();
        case 4: return body.template operator()<1, 0>();
        case 5: return body.template operator()<1, 1>();
        case 6: return body.template operator()<1, 2>();
        case 8: return body.template operator()<2, 0>();
        case 9: return body.template operator()<2, 1>();
        default: throw nb::value_error("no kernel for this level and number of bound variables");
    }
}

inline void leaf_round(const std::vector<int64_t>& ends, const std::vector<Small>& values, const std::vector<Small>& seconds,
                       const Input& gammas, const Input& betas, const std::vector<Input>& p, const std::vector<Input>& q, int64_t level, const Input& chi, const Input& lambda, const Input& low,
                       const Input& high, const Output& out) {
    const LeafRuns leaves(ends, values, seconds, gammas, betas, p, q);
    const Equality equality{elements(low), elements(high), logarithm(count(low))};
    at_leaf_level(level, logarithm(count(chi)), [&]<int l, int rounds>() {
        if constexpr (l + rounds <= 2) leaf_round_of<l, rounds>(leaves, elements(chi), *elements(lambda), equality, elements(out));
    });
}

/// The fractions of a level with its first variables bound.
inline void leaf_write(const std::vector<int64_t>& ends, const std::vector<Small>& values, const std::vector<Small>& seconds,
                       const Input& gammas, const Input& betas, const std::vector<Input>& p, const std::vector<Input>& q, int64_t level, const Input& chi, const Output& p_out, const Output& q_out) {
    const LeafRuns leaves(ends, values, seconds, gammas, betas, p, q);
    at_leaf_level(level, logarithm(count(chi)), [&]<int l, int rounds>() {
        const std::vector<LeafRuns::Piece> pieces = leaves.pieces(l + 1 + rounds, chunk);
        for_jobs(static_cast<int64_t>(pieces.size()), count(p_out), [&](int64_t i) {
            const auto& [run, first, begin, end] = pieces[i];
            Scalar *to_p = elements(p_out) + 2 * first, *to_q = elements(q_out) + 2 * first;
            if (run->values == nullptr) {
                std::copy(run->p + 2 * (begin - first), run->p + 2 * (end - first), to_p + 2 * (begin - first));
                std::copy(run->q + 2 * (begin - first), run->q + 2 * (end - first), to_q + 2 * (begin - first));
            } else if (run->seconds != nullptr) {
                in_lanes(PairWrite<l, rounds>{run->pairs(), elements(chi), to_p, to_q}, begin - first, end - first);
            } else {
                in_lanes(LeafWrite<l, rounds>{run->values, run->gamma, elements(chi), to_p, to_q}, begin - first, end - first);
            }
        });
    });
}

template <int level>
void leaf_layer_of(const LeafRuns& leaves, Scalar* p_out, Scalar* q_out) {
    const std::vector<LeafRuns::Piece> pieces = leaves.pieces(level, chunk);
    for_jobs(static_cast<int64_t>(pieces.size()), leaves.length(), [&](int64_t i) {
        const auto& [run, first, begin, end] = pieces[i];
        if (run->values == nullptr) {
            std::copy(run->p + (begin - first), run->p + (end - first), p_out + begin);
            std::copy(run->q + (begin - first), run->q + (end - first), q_out + begin);
        } else if (run->seconds != nullptr) {
            in_lanes(PairLayer<level>{run->pairs(), p_out + first, q_out + first}, begin - first, end - first);
        } else {
            in_lanes(LeafLayer<level>{run->values, run->gamma, p_out + first, q_out + first}, begin - first, end - first);
        }
    });
}

/// Level 3 or 4; fractions in memory are those of that level already.
inline void leaf_layer(const std::vector<int64_t>& ends, const std::vector<Small>& values, const std::vector<Small>& seconds,
                       const Input& gammas, const Input& betas, const std::vector<Input>& p, const std::vector<Input>& q, int64_t level, const Output& p_out, const Output& q_out) {
    const LeafRuns leaves(ends, values, seconds, gammas, betas, p, q);
    if (level == 3) return leaf_layer_of<3>(leaves, elements(p_out), elements(q_out));
    if (level == 4) return leaf_layer_of<4>(leaves, elements(p_out), elements(q_out));
    throw nb::value_error("level: must be 3 or 4");
}

/// counts[x] += how often x stands in `values`, all of them below the length of `counts`.
inline void histogram(const Small& values, const nb::ndarray<int64_t, nb::c_contig, nb::device::cpu>& counts) {
    const auto* data = static_cast<const uint16_t*>(values.data());
    const int64_t n = static_cast<int64_t>(values.size()), size = static_cast<int64_t>(counts.size());
    const int64_t parts = n < serial_limit ? 1 : thread_count();
    std::vector<std::vector<uint32_t>> found(parts);
    for_jobs(parts, n, [&](int64_t part) {
        found[part].assign(size, 0);
        for (int64_t i = n * part / parts; i < n * (part + 1) / parts; ++i) ++found[part][data[i]];
    });
    for (const std::vector<uint32_t>& one : found) {
        for (int64_t x = 0; x < size; ++x) counts.data()[x] += one[x];
    }
}

inline void bind_leaves(nb::module_& m) {
    m.def("leaf_round", leaf_round, Release());
    m.def("leaf_write", leaf_write, Release());
    m.def("leaf_layer", leaf_layer, Release());
    m.def("histogram", histogram, Release());
}

}  // namespace zkaudit
