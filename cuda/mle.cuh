// Kernels on multilinear tables. Bit k of an index is variable k; variable 0 is bound first.
#pragma once

#include "wide.cuh"

namespace zkaudit {

/// One doubling of the equality table: table[i + half] = table[i] x, table[i] -= table[i + half]. One multiplication an output.
struct EqLevel {
    Scalar* table;
    int64_t half;
    Scalar x;

    template <class L>
    ZK_HD void at(int64_t i) const {
        const L old = load<L>(table + i);
        const L high = old * load<L>(&x, 0);
        store(high, table + half + i);
        store(old - high, table + i);
    }
};

/// out[i] = table[2i] + r (table[2i+1] - table[2i])
struct Fold {
    const Scalar* table;
    Scalar* out;
    Scalar r;

    template <class L>
    ZK_HD void at(int64_t i) const {
        const L low = load<L>(table + 2 * i, 2), high = load<L>(table + 2 * i + 1, 2);
        store(interpolate(low, high, load<L>(&r, 0)), out + i);
    }
};

/// sums[0] += high[h] sum over l of low[l] table[h width + l]: a table at a point whose equality table is high x low.
struct BlockedDot {
    const Scalar *table, *low, *high;
    int64_t width;

    template <class L>
    ZK_HD Scalar lanes_dot(const Scalar* row) const {
        ProductSum<L> sum = ProductSum<L>::zero();
        for (int64_t l = 0, k = 1; l < width; l += lane_width<L>, ++k) {
            sum.add(load<L>(row + l), load<L>(low + l));
            if (k % settle_period == 0) sum.settle();
        }
        return sum.across();
    }

    template <class L>
    ZK_HD void job(int64_t h, Scalar* sums) const {
        const Scalar* row = table + h * width;
        sums[0] += high[h] * (width % lane_width<L> == 0 ? lanes_dot<L>(row) : lanes_dot<Scalar>(row));
    }
};

}  // namespace zkaudit
