// Python bindings of the sumcheck rounds and of the fraction tree.
#pragma once

#include <nanobind/stl/vector.h>

#include <vector>

#include "arrays.hpp"
#include "logup.cuh"
#include "parallel.hpp"
#include "sumcheck.cuh"

namespace zkaudit {

using Terms = std::vector<std::vector<int>>;

/// The terms by what they begin with. Terms of one or two tables stay alone: there is no bracket to share.
struct Program {
    std::vector<ProductGroup> groups;
    std::vector<int> lengths, factors;

    explicit Program(const Terms& terms) {
        std::vector<bool> done(terms.size());
        for (size_t t = 0; t < terms.size(); ++t) {
            if (done[t]) continue;
            const int first = terms[t][0], begin = static_cast<int>(lengths.size()), factor = static_cast<int>(factors.size());
            add(terms[t]);
            for (size_t u = t + 1; u < terms.size() && static_cast<int>(lengths.size()) - begin < max_group; ++u) {
                if (done[u] || terms[t].size() < 3 || terms[u].size() < 3 || terms[u][0] != first) continue;
                add(terms[u]);
                done[u] = true;
            }
            groups.push_back({first, begin, static_cast<int>(lengths.size()), factor});
        }
    }

private:
    void add(const std::vector<int>& term) {
        lengths.push_back(static_cast<int>(term.size()) - 1);
        factors.insert(factors.end(), term.begin() + 1, term.end());
    }
};

template <int degree>
void products_round_of(const std::vector<Input>& tables, const Terms& terms, const Output& out) {
    std::vector<const Scalar*> pointers;
    for (const Input& table : tables) pointers.push_back(elements(table));
    const Program program(terms);
    const int table_count = static_cast<int>(pointers.size()), group_count = static_cast<int>(program.groups.size());
    const ProductsRound<degree> kernel{pointers.data(),        program.groups.data(), program.lengths.data(),
                                       program.factors.data(), table_count,           group_count};
    reduce<degree>(count(tables[0]) / 2, elements(out), kernel);
}

inline void products_round(const std::vector<Input>& tables, const Terms& terms, int degree, const Output& out) {
    if (degree == 1) products_round_of<1>(tables, terms, out);
    if (degree == 2) products_round_of<2>(tables, terms, out);
    if (degree == 3) products_round_of<3>(tables, terms, out);
    if (degree == 4) products_round_of<4>(tables, terms, out);
}

/// An odd last fraction passes through: its neighbour is 0 / 1.
inline void fraction_layer(const Input& p, const Input& q, const Output& p_out, const Output& q_out) {
    const int64_t n = count(p), pairs = n / 2;
    for_each(pairs, FractionLayer{elements(p), elements(q), elements(p_out), elements(q_out)});
    if (n % 2 != 0) {
        elements(p_out)[pairs] = elements(p)[n - 1];
        elements(q_out)[pairs] = elements(q)[n - 1];
    }
}

inline int64_t logarithm(int64_t power) { return 63 - __builtin_clzll(static_cast<uint64_t>(power)); }

/// The sum of E[i] over i < end.
inline Scalar total_below(const Equality& equality, int64_t end) {
    Scalar whole = Scalar::zero(), sum = Scalar::zero();
    for (int64_t l = 0; l < equality.width(); ++l) whole += equality.low[l];
    for (int64_t h = 0; h < end >> equality.low_bits; ++h) sum += equality.high[h];
    sum *= whole;
    for (int64_t i = end & ~(equality.width() - 1); i < end; ++i) {
        sum += equality.low[i & (equality.width() - 1)] * equality.high[i >> equality.low_bits];
    }
    return sum;
}

/// out[0] = h(0), out[1] = h's leading coefficient. With an odd number of gates the last one is paired with a neutral gate;
/// the pairs that are neutral altogether each have the value lambda at 0, and E sums to 1.
inline void fraction_round(const Input& p, const Input& q, const Input& lambda, const Input& low, const Input& high,
                           const Output& out) {
    const int64_t gates = count(p) / 2, pairs = gates / 2, active = (gates + 1) / 2, width = count(low), low_bits = logarithm(width);
    const Scalar factor = *elements(lambda);
    const Equality equality{elements(low), elements(high), low_bits};
    const FractionRound<StoredGates> round{{elements(p), elements(q)}, factor};
    const int64_t block = std::min(width, chunk);
    Scalar* sums = elements(out);
    reduce_jobs<2>((pairs + block - 1) / block, pairs, sums, [&](int64_t i, Scalar* local) {
        equality.weigh<Lane>(round, 0, i * block, std::min(pairs, (i + 1) * block), local);
    });
    if (active > pairs) {
        const Gate<Scalar> last = Gate<Scalar>::load_strided(elements(p) + 4 * pairs, elements(q) + 4 * pairs, 0);
        const Scalar weight = elements(low)[pairs & (width - 1)] * elements(high)[pairs >> low_bits];
        sums[0] += weight * last.combined(factor);
        sums[1] += weight * (Gate<Scalar>::neutral() - last).combined(factor);
    }
    sums[0] += factor * (Scalar::one() - total_below(equality, active));
}

/// `neutral` is what a child of the missing gate of an odd layer has: 0 in p, 1 in q.
inline void fraction_fold(const Input& old, const Input& r, const Input& neutral, const Output& out) {
    const int64_t gates = count(old) / 2, pairs = gates / 2;
    for_each(pairs, FractionFold{elements(old), elements(out), *elements(r)});
    if (gates % 2 == 0) return;
    for (int64_t c = 0; c < 2; ++c) {
        const Scalar last = elements(old)[4 * pairs + c];
        elements(out)[2 * pairs + c] = last + *elements(r) * (*elements(neutral) - last);
    }
}

/// fraction_fold, then fraction_round on what it gives, in one pass; a multiple of four gates.
inline void fraction_fold_round(const Input& p, const Input& q, const Input& r, const Input& lambda, const Input& low, const Input& high,
                                const Output& p_out, const Output& q_out, const Output& out) {
    const int64_t pairs = count(p) / 8, width = count(low), block = std::min(width, chunk);
    const Equality equality{elements(low), elements(high), logarithm(width)};
    const FractionRound<FoldedGates> round{{elements(p), elements(q), *elements(r), elements(p_out), elements(q_out)}, *elements(lambda)};
    Scalar* sums = elements(out);
    reduce_jobs<2>((pairs + block - 1) / block, 4 * pairs, sums, [&](int64_t i, Scalar* local) {
        equality.weigh<Lane>(round, 0, i * block, std::min(pairs, (i + 1) * block), local);
    });
    sums[0] += *elements(lambda) * (Scalar::one() - total_below(equality, pairs));
}

inline void bind_sumcheck(nb::module_& m) {
    m.attr("MAX_DEGREE") = max_degree;
    m.attr("MAX_TABLES") = max_tables;
    m.attr("MAX_TERMS") = settle_period;
    m.def("products_round", products_round, Release());
    m.def("fraction_layer", fraction_layer, Release());
    m.def("fraction_round", fraction_round, Release());
    m.def("fraction_fold", fraction_fold, Release());
    m.def("fraction_fold_round", fraction_fold_round, Release());
}

}  // namespace zkaudit
