// Sumcheck rounds and the fraction tree on a GPU: what zk/gpu/rounds.py launches.
#include "kernel.cuh"
#include "logup.cuh"
#include "sumcheck.cuh"

namespace zkaudit {

/// partial[i], partial[workers + i] = the sums of a round over worker i's block of `pairs` pairs, which are weighed as those from
/// `first` on.
template <class Round>
struct WeighBlock {
    Round round;
    Equality equality;
    Scalar* partial;
    int64_t first, pairs, block, workers;

    ZK_HD void operator()(int64_t i) const {
        Scalar sums[2] = {Scalar::zero(), Scalar::zero()};
        const int64_t end = first + smaller(pairs, (i + 1) * block);
        for (int64_t begin = first + i * block; begin < end;) {
            const int64_t stop = smaller(end, (begin | (equality.width() - 1)) + 1);
            equality.weigh<Scalar>(round, first, begin, stop, sums);
            begin = stop;
        }
        store(sums[0], partial + i);
        store(sums[1], partial + workers + i);
    }
};

}  // namespace zkaudit

ZK_KERNEL(products_round_1, zkaudit::Reduce<1, zkaudit::ProductsRound<1>>)
ZK_KERNEL(products_round_2, zkaudit::Reduce<2, zkaudit::ProductsRound<2>>)
ZK_KERNEL(products_round_3, zkaudit::Reduce<3, zkaudit::ProductsRound<3>>)
ZK_KERNEL(products_round_4, zkaudit::Reduce<4, zkaudit::ProductsRound<4>>)
ZK_KERNEL(fraction_layer, zkaudit::Each<zkaudit::FractionLayer>)
ZK_KERNEL(fraction_fold, zkaudit::Each<zkaudit::FractionFold>)
ZK_KERNEL(fraction_round, zkaudit::WeighBlock<zkaudit::FractionRound<zkaudit::StoredGates>>)
ZK_KERNEL(fraction_fold_round, zkaudit::WeighBlock<zkaudit::FractionRound<zkaudit::FoldedGates>>)
