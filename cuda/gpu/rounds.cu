// Sumcheck rounds and the fraction tree on a GPU: what zk/gpu/rounds.py launches. A round's pairs are dealt out to the threads one
// by one, so that neighbours read neighbouring memory.
#include "kernel.cuh"
#include "logup.cuh"
#include "sumcheck.cuh"

namespace zkaudit {

/// The sums of ProductsRound: partial[d workers + i] = worker i's part of g at 0, 2, .., degree. Factors are read where they are
/// multiplied, since an array of them that is indexed by a program would lie in memory.
template <int degree>
struct ProductsSums {
    using Round = ProductsRound<degree>;
    using Values = typename Round::template Values<Scalar>;
    using Sums = typename Round::template Sums<Scalar>;

    Round round;
    Scalar* partial;
    int64_t pairs, workers;

    ZK_HD void operator()(int64_t i) const {
        Sums products;
        Values singles;
        clear(products);
#pragma unroll
        for (int d = 0; d < degree; ++d) singles.at[d] = Scalar::zero();
        for (int64_t x = i; x < pairs; x += workers) {
            for (int g = 0; g < round.group_count; ++g) add_group(round.groups[g], x, products, singles);
        }
#pragma unroll
        for (int d = 0; d < degree; ++d) store(products.at[d].across() + singles.at[d], partial + d * workers + i);
    }

    ZK_HD static void clear(Sums& sums) {
#pragma unroll
        for (int d = 0; d < degree; ++d) sums.at[d] = ProductSum<Scalar>::zero();
    }

    ZK_HD static void add(Sums& sums, const Values& a, const Values& b) {
#pragma unroll
        for (int d = 0; d < degree; ++d) sums.at[d].add(a.at[d], b.at[d]);
    }

    ZK_HD Values values(int table, int64_t x) const {
        const Scalar low = load<Scalar>(round.tables[table] + 2 * x), high = load<Scalar>(round.tables[table] + 2 * x + 1);
        Values out;
        out.at[0] = low;
#pragma unroll
        for (int d = 1; d < degree; ++d) out.at[d] = extrapolate(d == 1 ? high : out.at[d - 1], low, high);
        return out;
    }

    ZK_HD void add_group(const ProductGroup& group, int64_t x, Sums& products, Values& singles) const {
        const int* factor = round.factors + group.factors;
        const Values first = values(group.first, x);
        const int length = round.lengths[group.begin];
        if (length == 0) {
#pragma unroll
            for (int d = 0; d < degree; ++d) singles.at[d] = singles.at[d] + first.at[d];
        } else if (length == 1) {
            add(products, first, values(factor[0], x));
        } else {
            Sums bracket;
            clear(bracket);
            for (int t = group.begin; t < group.end; ++t) {
                const int count = round.lengths[t];
                Values product = values(factor[0], x);
                if (count == 3) {
                    const Values second = values(factor[2], x);
#pragma unroll
                    for (int d = 0; d < degree; ++d) product.at[d] = product.at[d] * second.at[d];
                }
                add(bracket, product, values(factor[1], x));
                factor += count;
            }
            Values total;
#pragma unroll
            for (int d = 0; d < degree; ++d) total.at[d] = bracket.at[d].total();
            add(products, first, total);
        }
    }
};

/// partial[i], partial[workers + i] = the sums of a round over worker i's pairs of gates, weighed as pairs from `first` on. The
/// number of workers is a multiple of the width of `equality.low`, so that a worker's pairs share their weight there.
template <class Gates>
struct GateSums {
    Gates gates;
    Scalar lambda;
    Equality equality;
    Scalar* partial;
    int64_t first, pairs, workers;

    ZK_HD void operator()(int64_t i) const {
        ProductSum<Scalar> at_zero = ProductSum<Scalar>::zero(), at_infinity = ProductSum<Scalar>::zero();
        const typename Gates::template On<Scalar> source(gates);
        for (int64_t x = i; x < pairs; x += workers) {
            Gate<Scalar> low, high;
            source.pair(x, low, high);
            const Scalar weight = load<Scalar>(equality.high + ((first + x) >> equality.low_bits));
            at_zero.add(low.combined(lambda), weight);
            at_infinity.add((high - low).combined(lambda), weight);
        }
        const Scalar weight = load<Scalar>(equality.low + ((first + i) & (equality.width() - 1)));
        store(weight * at_zero.across(), partial + i);
        store(weight * at_infinity.across(), partial + workers + i);
    }
};

}  // namespace zkaudit

ZK_KERNEL(products_round_1, zkaudit::ProductsSums<1>)
ZK_KERNEL(products_round_2, zkaudit::ProductsSums<2>)
ZK_KERNEL(products_round_3, zkaudit::ProductsSums<3>)
ZK_KERNEL(products_round_4, zkaudit::ProductsSums<4>)
ZK_KERNEL(fraction_layer, zkaudit::Each<zkaudit::FractionLayer>)
ZK_KERNEL(fraction_fold, zkaudit::Each<zkaudit::FractionFold>)
ZK_KERNEL(fraction_round, zkaudit::GateSums<zkaudit::StoredGates>)
ZK_KERNEL(fraction_fold_round, zkaudit::GateSums<zkaudit::FoldedGates>)
