// One round of a sumcheck over a sum of products of multilinear tables.
//
// g(X) = sum over i and terms of prod over k in the term of T_k(i; X), T_k(i; X) = T_k[2i] + X (T_k[2i+1] - T_k[2i]).
// All tables are read once; the values at X = 0, 2, .., degree come out of the same pass. A term that starts with the
// same tables as the one before it reuses those products. The last product of each term is summed unreduced.
#pragma once

#include "wide.cuh"

namespace zkaudit {

constexpr int max_degree = 4;
constexpr int max_tables = 32;

/// A term: factors [begin, end) of the factor list, the first `shared` of them the same as those of the term before.
struct ProductTerm {
    int begin, end, shared;
};

struct ProductsRound {
    const Scalar* const* tables;
    const int* factors;
    const ProductTerm* terms;
    int table_count, term_count, degree;

    /// The sum over the terms at one point, added to `sum`.
    template <class L>
    ZK_HD void add_terms(const L* values, ProductSum<L>& sum, L& linear) const {
        L prefix[max_degree];
        for (int t = 0; t < term_count; ++t) {
            const int length = terms[t].end - terms[t].begin;
            const int* factor = factors + terms[t].begin;
            if (length == 1) {
                linear = linear + values[factor[0]];
                prefix[0] = values[factor[0]];
                continue;
            }
            for (int k = terms[t].shared; k < length - 1; ++k) {
                prefix[k] = k == 0 ? values[factor[0]] : prefix[k - 1] * values[factor[k]];
            }
            sum.add(prefix[length - 2], values[factor[length - 1]]);
        }
    }

    /// sums[0..degree) += g at 0, 2, .., degree over the pairs [begin, end).
    template <class L>
    ZK_HD void range(int64_t begin, int64_t end, Scalar* sums) const {
        ProductSum<L> sum[max_degree];
        L linear[max_degree], values[max_tables], steps[max_tables];
        for (int d = 0; d < degree; ++d) {
            sum[d] = ProductSum<L>::zero();
            linear[d] = L::zero();
        }
        int64_t added = 0;
        for (int64_t i = begin; i < end; i += lane_width<L>) {
            for (int k = 0; k < table_count; ++k) {
                values[k] = load<L>(tables[k] + 2 * i, 2);
                steps[k] = load<L>(tables[k] + 2 * i + 1, 2) - values[k];
            }
            add_terms(values, sum[0], linear[0]);
            for (int d = 1; d < degree; ++d) {
                for (int k = 0; k < table_count; ++k) {
                    if (d == 1) values[k] = values[k] + steps[k];
                    values[k] = values[k] + steps[k];
                }
                add_terms(values, sum[d], linear[d]);
            }
            added += term_count;
            if (added + term_count > settle_period) {
                for (int d = 0; d < degree; ++d) sum[d].settle();
                added = 0;
            }
        }
        for (int d = 0; d < degree; ++d) sums[d] += sum[d].across() + across(linear[d]);
    }
};

}  // namespace zkaudit
