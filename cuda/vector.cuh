// Kernels on vectors of elements: element-wise arithmetic, batch inverse, sums, prefix sums, conversions.
#pragma once

#include "wide.cuh"

namespace zkaudit {

enum class Operation { add, subtract, multiply };

/// out[i] = a[i] op b[i step]; step 0 takes one b for all.
template <Operation operation>
struct ElementWise {
    const Scalar *a, *b;
    Scalar* out;
    int64_t step;

    template <class L>
    ZK_HD void at(int64_t i) const {
        const L x = load<L>(a + i), y = load<L>(b + i * step, step);
        if constexpr (operation == Operation::add) store(x + y, out + i);
        if constexpr (operation == Operation::subtract) store(x - y, out + i);
        if constexpr (operation == Operation::multiply) store(x * y, out + i);
    }
};

/// out[i] = -a[i]
struct Negate {
    const Scalar* a;
    Scalar* out;

    template <class L>
    ZK_HD void at(int64_t i) const {
        store(L::zero() - load<L>(a + i), out + i);
    }
};

/// out[i] = 1 / a[i], and 0 for 0: Montgomery's trick along a range, 3 multiplications an element and one inversion a range.
struct BatchInverse {
    const Scalar* a;
    Scalar* out;

    template <class L>
    ZK_HD void range(int64_t begin, int64_t end) const {
        constexpr int width = lane_width<L>;
        L product = L::one();
        for (int64_t i = begin; i < end; i += width) {
            const L x = load<L>(a + i);
            store(product, out + i);
            product = product * where_zero(x, L::one(), x);
        }
        L inverse = product.inverted();
        for (int64_t i = end - width; i >= begin; i -= width) {
            const L x = load<L>(a + i);
            const L before = load<L>(out + i);
            store(where_zero(x, L::zero(), inverse * before), out + i);
            inverse = inverse * where_zero(x, L::one(), x);
        }
    }
};

/// sums[0] += sum a[i]
struct Total {
    const Scalar* a;

    template <class L>
    ZK_HD void range(int64_t begin, int64_t end, Scalar* sums) const {
        L sum = L::zero();
        for (int64_t i = begin; i < end; i += lane_width<L>) sum = sum + load<L>(a + i);
        sums[0] += across(sum);
    }
};

/// sums[0] += sum a[i] b[i]
struct Dot {
    const Scalar *a, *b;

    template <class L>
    ZK_HD void range(int64_t begin, int64_t end, Scalar* sums) const {
        ProductSum<L> sum = ProductSum<L>::zero();
        for (int64_t i = begin, k = 1; i < end; i += lane_width<L>, ++k) {
            sum.add(load<L>(a + i), load<L>(b + i));
            if (k % settle_period == 0) sum.settle();
        }
        sums[0] += sum.across();
    }
};

/// out[h columns + c] = sum over k < terms of highs[k rows + h] lows[k columns + c], for the columns [begin, end) of row h.
/// A zero in highs costs nothing, so sparse rows are cheap.
struct OuterSum {
    static constexpr int group = 8;  // products that are reduced together

    const Scalar *highs, *lows;
    Scalar* out;
    int64_t terms, rows, columns;

    template <class L>
    ZK_HD void row(int64_t h, int64_t begin, int64_t end) const {
        for (int64_t c = begin; c < end; c += lane_width<L>) store(L::zero(), out + h * columns + c);
        for (int64_t k = 0; k < terms;) {
            int64_t used[group];
            int count = 0;
            for (; k < terms && count < group; ++k) {
                if (!highs[k * rows + h].is_zero()) used[count++] = k;
            }
            add_group<L>(used, count, h, begin, end);
        }
    }

    template <class L>
    ZK_HD void add_group(const int64_t* used, int count, int64_t h, int64_t begin, int64_t end) const {
        if (count == 0) return;
        L factors[group];
        for (int j = 0; j < count; ++j) factors[j] = load<L>(highs + used[j] * rows + h, 0);
        for (int64_t c = begin; c < end; c += lane_width<L>) {
            ProductSum<L> sum = ProductSum<L>::zero();
            for (int j = 0; j < count; ++j) sum.add(factors[j], load<L>(lows + used[j] * columns + c));
            store(load<L>(out + h * columns + c) + sum.total(), out + h * columns + c);
        }
    }
};

/// out[i] = sum of a[j] over begin <= j < i, for i in [begin, end), after `sum` of what came before.
ZK_HD void exclusive_scan(const Scalar* a, Scalar* out, int64_t begin, int64_t end, Scalar sum) {
    for (int64_t i = begin; i < end; ++i) {
        const Scalar x = a[i];
        out[i] = sum;
        sum += x;
    }
}

/// out[index[i]] += values[i] for the indexes in [first, last): the caller gives each worker its own part of `out`.
ZK_HD void scatter_add_part(const Scalar* values, const int64_t* index, int64_t n, int64_t first, int64_t last, Scalar* out) {
    for (int64_t i = 0; i < n; ++i) {
        if (index[i] >= first && index[i] < last) out[index[i]] += values[i];
    }
}

/// Plain limbs to Montgomery form, any 256-bit value: the reduced factor comes first, so the product stays in range.
struct ToMontgomery {
    const Scalar* a;
    Scalar* out;

    template <class L>
    ZK_HD void at(int64_t i) const {
        store(montgomery_square<L>() * load<L>(a + i), out + i);
    }
};

/// Montgomery form to plain limbs.
struct FromMontgomery {
    const Scalar* a;
    Scalar* out;

    template <class L>
    ZK_HD void at(int64_t i) const {
        Scalar unit = Scalar::zero();
        unit.v[0] = 1;
        store(load<L>(a + i) * load<L>(&unit, 0), out + i);
    }
};

/// out[i] = (a[2i] + a[2i+1] 2^256) mod r in Montgomery form, from plain limbs.
struct FromWide {
    const Scalar* a;
    Scalar* out;

    template <class L>
    ZK_HD void at(int64_t i) const {
        const L square = montgomery_square<L>();
        const L low = load<L>(a + 2 * i, 2), high = load<L>(a + 2 * i + 1, 2);
        store(square * low + square * (square * high), out + i);
    }
};

}  // namespace zkaudit
