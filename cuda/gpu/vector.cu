// Vectors of elements on a GPU: what zk/gpu/vector.py launches.
#include "kernel.cuh"
#include "mle.cuh"
#include "vector.cuh"

namespace zkaudit {

/// out[i] = the sum of part i mod parts of row i / parts.
struct SumRows {
    const Scalar* rows;
    Scalar* out;
    int64_t length, parts;

    ZK_HD void operator()(int64_t i) const {
        const int64_t part = i % parts;
        Scalar sum = Scalar::zero();
        const Total total{rows + i / parts * length};
        total.range<Scalar>(length * part / parts, length * (part + 1) / parts, &sum);
        store(sum, out + i);
    }
};

/// out[h columns + c]: OuterSum for one entry.
struct OuterEntry {
    OuterSum sum;

    ZK_HD void operator()(int64_t i) const { sum.row<Scalar>(i / sum.columns, i % sum.columns, i % sum.columns + 1); }
};

/// Row i of a matrix of n columns.
struct RowScan {
    const Scalar* a;
    Scalar* out;
    int64_t n;

    ZK_HD void operator()(int64_t i) const { exclusive_scan(a + i * n, out + i * n, 0, n, Scalar::zero()); }
};

/// out[h] = sum over l of low[l] table[h width + l]
struct RowDot {
    const Scalar *table, *low;
    Scalar* out;
    int64_t width;

    ZK_HD void operator()(int64_t h) const {
        const BlockedDot rows{table, low, nullptr, width};
        store(rows.lanes_dot<Scalar>(table + h * width), out + h);
    }
};

using Add = Each<ElementWise<Operation::add>>;
using Subtract = Each<ElementWise<Operation::subtract>>;
using Multiply = Each<ElementWise<Operation::multiply>>;

}  // namespace zkaudit

ZK_KERNEL(add, zkaudit::Add)
ZK_KERNEL(sub, zkaudit::Subtract)
ZK_KERNEL(mul, zkaudit::Multiply)
ZK_KERNEL(neg, zkaudit::Each<zkaudit::Negate>)
ZK_KERNEL(inverse, zkaudit::Ranges<zkaudit::BatchInverse>)
ZK_KERNEL(total, zkaudit::Reduce<1, zkaudit::Total>)
ZK_KERNEL(dot, zkaudit::Reduce<1, zkaudit::Dot>)
ZK_KERNEL(sum_rows, zkaudit::SumRows)
ZK_KERNEL(outer_sum, zkaudit::OuterEntry)
ZK_KERNEL(row_scan, zkaudit::RowScan)
ZK_KERNEL(row_dot, zkaudit::RowDot)
ZK_KERNEL(fold, zkaudit::Each<zkaudit::Fold>)
