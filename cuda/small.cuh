// Kernels on matrices of small integers times field weights.
//
// The integers stay small: a product is an element times one word, a row is reduced once. Signed integers are read with
// a bias (lane.cuh), so every sum comes out too large by bias * (sum of the weights), which the caller hands in as
// `correction`. Sums come out divided by 2^(52 digits) (wide.cuh); weights or results are lifted to make up for it.
#pragma once

#include "wide.cuh"

namespace zkaudit {

/// Digits that a sum over integers of type T exceeds the modulus by.
template <class T>
inline constexpr int digits_of = SmallInteger<T>::bits <= 32 ? 1 : 2;

/// sum a[i] (small[i] + bias) over [begin, end), a whole number of lanes, at most 2^20 elements.
template <class L, class T>
ZK_HD Scalar biased_dot_lanes(const Scalar* a, const T* small, int64_t begin, int64_t end) {
    using Sum = SmallSum<L, digits_of<T>>;
    Sum sum = Sum::zero();
    for (int64_t i = begin, k = 1; i < end; i += lane_width<L>, ++k) {
        sum.template add<SmallInteger<T>::bits>(load<L>(a + i), LoadWords<L, T>::at(small + i));
        if (k % settle_period == 0) sum.settle();
    }
    return sum.across();
}

/// The same over any range.
template <class L, class T>
ZK_HD Scalar biased_dot(const Scalar* a, const T* small, int64_t begin, int64_t end) {
    constexpr int64_t piece = int64_t{1} << 20;
    const int64_t split = end - (end - begin) % lane_width<L>;
    Scalar out = Scalar::zero();
    for (int64_t i = begin; i < split; i += piece) {
        out += biased_dot_lanes<L>(a, small, i, i + piece < split ? i + piece : split);
    }
    if (end > split) out += biased_dot_lanes<Scalar>(a, small, split, end);
    return out;
}

/// sums[0] += sum a[i] (small[i] + bias)
template <class T>
struct DotSmall {
    const Scalar* a;
    const T* small;

    template <class L>
    ZK_HD void range(int64_t begin, int64_t end, Scalar* sums) const {
        sums[0] += biased_dot_lanes<L>(a, small, begin, end);
    }
};

/// out[c] = sum over the rows [first, last) of weights[h] matrix[h, c], less the correction; weights are lifted.
template <class T>
struct Combine {
    static constexpr int block = 32;  // columns that are summed together: two cache lines of 32-bit integers

    const Scalar* weights;
    const T* matrix;
    int64_t columns;

    template <class L>
    ZK_HD void part(int64_t first, int64_t last, int64_t begin, int64_t end, const Scalar& correction, Scalar* out) const {
        constexpr int width = lane_width<L>;
        using Sum = SmallSum<L, digits_of<T>>;
        Sum sums[block / width];
        const int count = static_cast<int>((end - begin) / width);
        for (int j = 0; j < count; ++j) sums[j] = Sum::zero();
        for (int64_t h = first; h < last; ++h) {
            const L weight = load<L>(weights + h, 0);
            const T* row = matrix + h * columns + begin;
            for (int j = 0; j < count; ++j) {
                sums[j].template add<SmallInteger<T>::bits>(weight, LoadWords<L, T>::at(row + j * width));
            }
            if ((h - first + 1) % settle_period == 0) {
                for (int j = 0; j < count; ++j) sums[j].settle();
            }
        }
        const L excess = load<L>(&correction, 0);
        for (int j = 0; j < count; ++j) store(sums[j].shrunk() - excess, out + begin + j * width);
    }

    /// The columns from `begin`, at most `block` of them.
    template <class L>
    ZK_HD void columns_from(int64_t first, int64_t last, int64_t begin, const Scalar& correction, Scalar* out) const {
        const int64_t end = begin + block < columns ? begin + block : columns;
        const int64_t split = end - (end - begin) % lane_width<L>;
        if (split > begin) part<L>(first, last, begin, split, correction, out);
        if (end > split) part<Scalar>(first, last, split, end, correction, out);
    }
};

/// out[h, t] = sum over b < length of weights[t length + b] matrix[h, t length + b], less corrections[t]; weights are lifted.
template <class T>
struct SegmentDot {
    const Scalar *weights, *corrections;
    const T* matrix;
    Scalar* out;
    int64_t segments, length, row_length;

    template <class L>
    ZK_HD void job(int64_t i) const {
        const int64_t h = i / segments, t = i % segments;
        const T* row = matrix + h * row_length;
        out[i] = biased_dot<L>(weights, row, t * length, (t + 1) * length) - corrections[t];
    }
};

/// sums[0] += high[h] sum over r of low[r] (matrix[h, r] + bias), over one piece of a row.
template <class T>
struct EvaluateSmall {
    static constexpr int64_t piece = 8192;

    const Scalar *high, *low;
    const T* matrix;
    int64_t columns, pieces;

    template <class L>
    ZK_HD void job(int64_t i, Scalar* sums) const {
        const int64_t h = i / pieces, begin = (i % pieces) * piece;
        const int64_t end = begin + piece < columns ? begin + piece : columns;
        sums[0] += high[h] * biased_dot<L>(low, matrix + h * columns, begin, end);
    }
};

enum class SmallKind { u8, u16, i32, u32, i64 };

/// One term of an affine form: coefficient * small[x], the coefficient lifted by two digits.
struct AffineTerm {
    Scalar coefficient;
    const void* small;
    SmallKind kind;
};

/// out[x] = constant + sum over the terms; `constant` has the biases taken off already.
struct AffineSum {
    static constexpr int block = 32, digits = 2;

    template <class L>
    using Sum = SmallSum<L, digits>;

    const AffineTerm* terms;
    int64_t count;
    Scalar constant;
    Scalar* out;

    template <class L, class T>
    ZK_HD static void add_term(const AffineTerm& term, int64_t begin, int lanes, Sum<L>* sums) {
        const L coefficient = load<L>(&term.coefficient, 0);
        const T* small = static_cast<const T*>(term.small) + begin;
        for (int j = 0; j < lanes; ++j) {
            sums[j].template add<SmallInteger<T>::bits>(coefficient, LoadWords<L, T>::at(small + j * lane_width<L>));
        }
    }

    template <class L>
    ZK_HD void part(int64_t begin, int64_t end) const {
        Sum<L> sums[block / lane_width<L>];
        const int lanes = static_cast<int>((end - begin) / lane_width<L>);
        for (int j = 0; j < lanes; ++j) sums[j] = Sum<L>::zero();
        for (int64_t k = 0; k < count; ++k) {
            switch (terms[k].kind) {
                case SmallKind::u8: add_term<L, uint8_t>(terms[k], begin, lanes, sums); break;
                case SmallKind::u16: add_term<L, uint16_t>(terms[k], begin, lanes, sums); break;
                case SmallKind::i32: add_term<L, int32_t>(terms[k], begin, lanes, sums); break;
                case SmallKind::u32: add_term<L, uint32_t>(terms[k], begin, lanes, sums); break;
                case SmallKind::i64: add_term<L, int64_t>(terms[k], begin, lanes, sums); break;
            }
            if ((k + 1) % settle_period == 0) {
                for (int j = 0; j < lanes; ++j) sums[j].settle();
            }
        }
        const L base = load<L>(&constant, 0);
        for (int j = 0; j < lanes; ++j) store(base + sums[j].shrunk(), out + begin + j * lane_width<L>);
    }

    /// The outputs from `begin`, at most `block` of them below n.
    template <class L>
    ZK_HD void from(int64_t begin, int64_t n) const {
        const int64_t end = begin + block < n ? begin + block : n;
        const int64_t split = end - (end - begin) % lane_width<L>;
        if (split > begin) part<L>(begin, split);
        if (end > split) part<Scalar>(split, end);
    }
};

}  // namespace zkaudit
