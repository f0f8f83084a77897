// Small integers times elements on a GPU: what zk/gpu/small.py launches. Sums over many rows are cut into slices, so that there
// is a thread for each of them; corrections for biases (lane.cuh) come off where slices are added up.
#include "kernel.cuh"
#include "small.cuh"
#include "ternary.cuh"

namespace zkaudit {

/// partial[s columns + c] = sum over the rows of slice s of weights[h] (matrix[h, c] + bias); weights are lifted.
template <class T>
struct CombineSlice {
    const Scalar* weights;
    const T* matrix;
    Scalar* partial;
    int64_t rows, columns, slices;

    ZK_HD void operator()(int64_t i) const {
        const int64_t s = i / columns, c = i % columns;
        SmallSum<Scalar, digits_of<T>> sum = SmallSum<Scalar, digits_of<T>>::zero();
        for (int64_t h = rows * s / slices; h < rows * (s + 1) / slices; ++h) {
            sum.template add<SmallInteger<T>::bits>(load<Scalar>(weights + h), SmallInteger<T>::biased(matrix[h * columns + c]));
        }
        store(sum.shrunk(), partial + i);
    }
};

/// out[c] = sum over s of partial[s columns + c], less the correction.
struct SumSlices {
    const Scalar* partial;
    Scalar* out;
    int64_t columns, slices;
    Scalar correction;

    ZK_HD void operator()(int64_t c) const {
        Scalar sum = Scalar::zero();
        for (int64_t s = 0; s < slices; ++s) sum += load<Scalar>(partial + s * columns + c);
        store(sum - correction, out + c);
    }
};

/// Slice s of SegmentDot's out[h, t], before correction: partial[(h segments + t) slices + s].
template <class T>
struct SegmentSlice {
    const Scalar* weights;
    const T* matrix;
    Scalar* partial;
    int64_t segments, length, row_length, slices;

    ZK_HD void operator()(int64_t i) const {
        const int64_t s = i % slices, t = i / slices % segments, h = i / slices / segments;
        const int64_t begin = t * length + length * s / slices, end = t * length + length * (s + 1) / slices;
        store(biased_dot_lanes<Scalar>(weights, matrix + h * row_length, begin, end), partial + i);
    }
};

/// out[i] = the sum of its slices, less corrections[t] if there are any; i = (h segments + t) group + g.
struct JoinSegments {
    const Scalar *partial, *corrections;
    Scalar* out;
    int64_t group, segments, slices;

    ZK_HD void operator()(int64_t i) const {
        Scalar sum = Scalar::zero();
        for (int64_t s = 0; s < slices; ++s) sum += load<Scalar>(partial + i * slices + s);
        store(corrections == nullptr ? sum : sum - load<Scalar>(corrections + i / group % segments), out + i);
    }
};

/// out[x] = constant + sum over the terms of coefficient * small[x], as AffineSum; `kind` is a SmallKind.
struct AffineEntry {
    static constexpr int most = 4;

    struct Term {
        Scalar coefficient;  // lifted by two digits
        const void* small;
        int64_t kind;
    };

    Term terms[most];
    int64_t count;
    Scalar constant;
    Scalar* out;

    ZK_HD static uint64_t word(const Term& term, int64_t x) {
        switch (static_cast<SmallKind>(term.kind)) {
            case SmallKind::u8: return SmallInteger<uint8_t>::biased(static_cast<const uint8_t*>(term.small)[x]);
            case SmallKind::u16: return SmallInteger<uint16_t>::biased(static_cast<const uint16_t*>(term.small)[x]);
            case SmallKind::i32: return SmallInteger<int32_t>::biased(static_cast<const int32_t*>(term.small)[x]);
            case SmallKind::u32: return SmallInteger<uint32_t>::biased(static_cast<const uint32_t*>(term.small)[x]);
            case SmallKind::i64: return SmallInteger<int64_t>::biased(static_cast<const int64_t*>(term.small)[x]);
        }
        return 0;
    }

    ZK_HD void operator()(int64_t x) const {
        SmallSum<Scalar, AffineSum::digits> sum = SmallSum<Scalar, AffineSum::digits>::zero();
        for (int64_t k = 0; k < count; ++k) sum.add<64>(terms[k].coefficient, word(terms[k], x));
        store(constant + sum.shrunk(), out + x);
    }
};

/// out[u, s] = the lowest bits of (values[s, u] + offset) >> shift; rows of out are `stride` long.
template <class In, class Out>
struct WriteWords {
    const In* values;
    Out* out;
    int64_t units, offset, shift, stride;

    ZK_HD void operator()(int64_t i) const {
        const uint64_t shifted = static_cast<uint64_t>(static_cast<int64_t>(values[i]) + offset);
        out[i % units * stride + i / units] = static_cast<Out>(shifted >> shift);
    }
};

ZK_HD void atomic_add(unsigned long long* counter, unsigned long long x) {
#if defined(__CUDA_ARCH__)
    atomicAdd(counter, x);
#else
    __atomic_fetch_add(counter, x, __ATOMIC_RELAXED);
#endif
}

/// counts[x] += how often x stands in the values of piece i; equal neighbours, as in padding, are added at once.
struct Histogram {
    const uint16_t* values;
    unsigned long long* counts;
    int64_t n, pieces;

    ZK_HD void operator()(int64_t i) const {
        uint32_t current = 0;
        unsigned long long seen = 0;
        for (int64_t k = n * i / pieces; k < n * (i + 1) / pieces; ++k) {
            if (values[k] != current) {
                if (seen != 0) atomic_add(counts + current, seen);
                current = values[k];
                seen = 0;
            }
            ++seen;
        }
        if (seen != 0) atomic_add(counts + current, seen);
    }
};

/// A third of TernarySums for one weight, one group of eight lows and one slice of the rows: the values with first index t0.
/// partial[((t k) groups + g) slices + s], t k being 27 points by `count` weights. Sums are biased; weights are lifted.
template <class T, class U>
struct TernarySlice {
    static constexpr uint64_t bias = TernarySums<T, U>::bias;
    static constexpr int points = 9;

    const T* left;
    const U* right;
    int64_t left_scale, left_offset, right_scale, right_offset;
    const Scalar* weights;
    Scalar* partial;
    int64_t count, highs, lows, slices;

    /// The nine values at (t0, t1, t2), t0 fixed: index 3 t1 + t2. Variable 0 is the lowest bit.
    template <class V>
    ZK_HD static void values(const V* x, uint64_t scale, uint64_t offset, int t0, uint64_t* at) {
#pragma unroll
        for (int b = 0; b < 2; ++b) {
#pragma unroll
            for (int c = 0; c < 2; ++c) {
                const uint64_t zero = static_cast<uint64_t>(x[2 * b + 4 * c]) * scale + offset, one = static_cast<uint64_t>(x[1 + 2 * b + 4 * c]) * scale + offset;
                at[3 * b + c] = t0 == 0 ? zero : t0 == 1 ? one : one - zero;
            }
            at[3 * b + 2] = at[3 * b + 1] - at[3 * b];
        }
#pragma unroll
        for (int c = 0; c < 3; ++c) at[6 + c] = at[3 + c] - at[c];
    }

    ZK_HD void operator()(int64_t i) const {
        const int64_t groups = lows / 8, g = i % groups, k = i / groups % count, s = i / groups / count % slices, t0 = i / groups / count / slices;
        using Sum = SmallSum<Scalar, TernarySums<T, U>::digits>;
        Sum sums[points];
#pragma unroll
        for (int t = 0; t < points; ++t) sums[t] = Sum::zero();
        for (int64_t h = highs * s / slices; h < highs * (s + 1) / slices; ++h) {
            uint64_t a[points], b[points];
            values(left + h * lows + 8 * g, static_cast<uint64_t>(left_scale), static_cast<uint64_t>(left_offset), static_cast<int>(t0), a);
            values(right + h * lows + 8 * g, static_cast<uint64_t>(right_scale), static_cast<uint64_t>(right_offset), static_cast<int>(t0), b);
            const Scalar weight = load<Scalar>(weights + k * highs + h);
#pragma unroll
            for (int t = 0; t < points; ++t) sums[t].template add<52>(weight, a[t] * b[t] + bias);
        }
#pragma unroll
        for (int t = 0; t < points; ++t) store(sums[t].shrunk(), partial + (((points * t0 + t) * count + k) * groups + g) * slices + s);
    }
};

template <class T>
using DotSmallReduce = Reduce<1, DotSmall<T>>;
template <class In>
using Words8 = WriteWords<In, uint8_t>;
template <class In>
using Words16 = WriteWords<In, uint16_t>;

}  // namespace zkaudit

ZK_SMALL_KERNELS(dot_small, zkaudit::DotSmallReduce)
ZK_SMALL_KERNELS(combine, zkaudit::CombineSlice)
ZK_SMALL_KERNELS(segment_dot, zkaudit::SegmentSlice)
ZK_SMALL_KERNELS(words8, zkaudit::Words8)
ZK_SMALL_KERNELS(words16, zkaudit::Words16)
ZK_KERNEL(sum_slices, zkaudit::SumSlices)
ZK_KERNEL(join_segments, zkaudit::JoinSegments)
ZK_KERNEL(affine, zkaudit::AffineEntry)
ZK_KERNEL(histogram, zkaudit::Histogram)
ZK_KERNEL(ternary_uint8, zkaudit::TernarySlice<uint8_t, uint16_t>)
ZK_KERNEL(ternary_uint16, zkaudit::TernarySlice<uint16_t, uint16_t>)
ZK_KERNEL(fold_small_uint8, zkaudit::Ranges<zkaudit::FoldSmall<uint8_t>>)
ZK_KERNEL(fold_small_uint16, zkaudit::Ranges<zkaudit::FoldSmall<uint16_t>>)
