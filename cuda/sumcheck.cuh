// One round of a sumcheck over a sum of products of multilinear tables.
//
// g(X) = sum over i and terms of prod over k in the term of T_k(i; X), T_k(i; X) = T_k[2i] + X (T_k[2i+1] - T_k[2i]).
// All tables are read once; the values at X = 0, 2, .., degree come out of the same pass. Terms that begin with the same
// table are taken together, T_a (T_b T_c + T_d T_e + ..): the sum in brackets is reduced once, the outer product not at all.
#pragma once

#include "wide.cuh"

namespace zkaudit {

constexpr int max_degree = 4;
constexpr int max_tables = 32;
constexpr int max_group = 8;  // products that one bracket may hold (ProductSum::total)

/// Terms that begin with the table `first`: what follows in each is the next `lengths[begin..end)` entries of the factor list.
struct ProductGroup {
    int first, begin, end, factors;
};

/// The degree is a template argument so that the products at its points, which do not depend on one another, interleave.
template <int degree>
struct ProductsRound {
    const Scalar* const* tables;
    const ProductGroup* groups;
    const int *lengths, *factors;
    int table_count, group_count;

    /// One table's values, or sums, at every point.
    template <class L>
    struct Values {
        L at[degree];
    };

    template <class L>
    struct Sums {
        ProductSum<L> at[degree];

        ZK_HD void clear() {
            for (int d = 0; d < degree; ++d) at[d] = ProductSum<L>::zero();
        }

        ZK_HD void add(const Values<L>& a, const Values<L>& b) {
#pragma GCC unroll 4
            for (int d = 0; d < degree; ++d) at[d].add(a.at[d], b.at[d]);
        }
    };

    /// sums[0..degree) += g at 0, 2, .., degree over the pairs [begin, end).
    template <class L>
    ZK_HD void range(int64_t begin, int64_t end, Scalar* sums) const {
        Sums<L> products;
        Values<L> singles, values[max_tables];
        products.clear();
        for (int d = 0; d < degree; ++d) singles.at[d] = L::zero();
        int64_t added = 0;
        for (int64_t i = begin; i < end; i += lane_width<L>) {
            for (int k = 0; k < table_count; ++k) {
                const L low = load<L>(tables[k] + 2 * i, 2), high = load<L>(tables[k] + 2 * i + 1, 2);
                values[k].at[0] = low;
                for (int d = 1; d < degree; ++d) values[k].at[d] = extrapolate(d == 1 ? high : values[k].at[d - 1], low, high);
            }
            for (int g = 0; g < group_count; ++g) add_group(groups[g], values, products, singles);
            added += group_count;
            if (added + group_count > settle_period) {
                for (int d = 0; d < degree; ++d) products.at[d].settle();
                added = 0;
            }
        }
        for (int d = 0; d < degree; ++d) sums[d] += products.at[d].across() + across(singles.at[d]);
    }

    /// One group adds one product: a bracket of a single table multiplies as it is, others are summed first.
    template <class L>
    ZK_HD void add_group(const ProductGroup& group, const Values<L>* values, Sums<L>& products, Values<L>& singles) const {
        const int* factor = factors + group.factors;
        if (lengths[group.begin] == 0) {
            for (int d = 0; d < degree; ++d) singles.at[d] = singles.at[d] + values[group.first].at[d];
        } else if (lengths[group.begin] == 1) {
            products.add(values[group.first], values[factor[0]]);
        } else {
            Sums<L> bracket;
            bracket.clear();
            for (int t = group.begin; t < group.end; ++t) {
                add_product(factor, lengths[t], values, bracket);
                factor += lengths[t];
            }
            Values<L> total;
#pragma GCC unroll 4
            for (int d = 0; d < degree; ++d) total.at[d] = bracket.at[d].total();
            products.add(values[group.first], total);
        }
    }

    /// bracket += the product of two or three tables.
    template <class L>
    ZK_HD void add_product(const int* factor, int length, const Values<L>* values, Sums<L>& bracket) const {
        const Values<L>&a = values[factor[0]], &b = values[factor[1]];
        if (length == 2) return bracket.add(a, b);
        Values<L> product;
#pragma GCC unroll 4
        for (int d = 0; d < degree; ++d) product.at[d] = a.at[d] * b.at[d];
        bracket.add(product, values[factor[2]]);
    }
};

}  // namespace zkaudit
