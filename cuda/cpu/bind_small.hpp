// Python bindings of the kernels on small integers.
#pragma once

#include <nanobind/stl/vector.h>

#include <vector>

#include "arrays.hpp"
#include "parallel.hpp"
#include "vector.cuh"

namespace zkaudit {

inline Scalar total_of(const Scalar* a, int64_t n) {
    Scalar sum;
    reduce<1>(n, &sum, Total{a});
    return sum;
}

/// The elements times 2^(52 digits), to make up for what sums of small products are divided by.
template <int digits>
std::vector<Scalar> all_lifted(const Scalar* a, int64_t n) {
    std::vector<Scalar> out(n);
    const Scalar factor = lifted<digits>(Scalar::one());
    for_each(n, ElementWise<Operation::multiply>{a, &factor, out.data(), 0});
    return out;
}

inline void dot_small(const Input& a, const Small& small, const Output& out) {
    const SmallKind kind = kind_of(small);
    Scalar sum;
    with_small(small.data(), kind, [&]<class T>(const T* data) {
        reduce<1>(count(a), &sum, DotSmall<T>{elements(a), data});
        sum = lifted<digits_of<T>>(sum);
    });
    if (!bias_of(kind).is_zero()) sum -= bias_of(kind) * total_of(elements(a), count(a));
    *elements(out) = sum;
}

/// Rows are taken 4096 at a time, so that tall narrow matrices also spread over the cores.
inline void combine(const Input& weights, const Small& matrix, const Output& out) {
    constexpr int64_t stack = 4096;
    const SmallKind kind = kind_of(matrix);
    const int64_t rows = count(weights), columns = count(out), stacks = std::max<int64_t>(1, (rows + stack - 1) / stack);
    std::vector<Scalar> corrections(stacks), partial(stacks > 1 ? stacks * columns : 0);
    for (int64_t s = 0; s < stacks; ++s) {
        corrections[s] = bias_of(kind) * total_of(elements(weights) + s * stack, std::min(stack, rows - s * stack));
    }
    with_small(matrix.data(), kind, [&]<class T>(const T* data) {
        const std::vector<Scalar> factors = all_lifted<digits_of<T>>(elements(weights), rows);
        const Combine<T> kernel{factors.data(), data, columns};
        const int64_t blocks = (columns + kernel.block - 1) / kernel.block;
        for_jobs(stacks * blocks, rows * columns, [&](int64_t i) {
            const int64_t s = i / blocks, last = std::min(rows, (s + 1) * stack), begin = (i % blocks) * kernel.block;
            Scalar* target = stacks > 1 ? partial.data() + s * columns : elements(out);
            kernel.template columns_from<Lane>(s * stack, last, begin, corrections[s], target);
        });
    });
    if (stacks == 1) return;
    std::copy(partial.begin(), partial.begin() + columns, elements(out));
    for (int64_t s = 1; s < stacks; ++s) {
        for_each(columns, ElementWise<Operation::add>{elements(out), partial.data() + s * columns, elements(out), 1});
    }
}

inline void segment_dot(const Input& weights, const Small& matrix, const Output& out, int64_t segments, int64_t length) {
    const SmallKind kind = kind_of(matrix);
    const int64_t rows = segments == 0 ? 0 : count(out) / segments;
    if (rows == 0) return;
    const int64_t row_length = static_cast<int64_t>(matrix.size()) / rows;
    std::vector<Scalar> corrections(segments);
    for (int64_t t = 0; t < segments; ++t) corrections[t] = bias_of(kind) * total_of(elements(weights) + t * length, length);
    with_small(matrix.data(), kind, [&]<class T>(const T* data) {
        const std::vector<Scalar> factors = all_lifted<digits_of<T>>(elements(weights), count(weights));
        const SegmentDot<T> kernel{factors.data(), corrections.data(), data, elements(out), segments, length, row_length};
        constexpr int64_t batch = 16;
        const int64_t jobs = rows * segments;
        for_jobs((jobs + batch - 1) / batch, jobs * length, [&](int64_t b) {
            for (int64_t i = b * batch; i < std::min(jobs, (b + 1) * batch); ++i) kernel.template job<Lane>(i);
        });
    });
}

inline void evaluate_small(const Small& matrix, const Input& high, const Input& low, const Output& out) {
    const SmallKind kind = kind_of(matrix);
    const int64_t rows = count(high), columns = count(low);
    with_small(matrix.data(), kind, [&]<class T>(const T* data) {
        const int64_t pieces = (columns + EvaluateSmall<T>::piece - 1) / EvaluateSmall<T>::piece;
        const EvaluateSmall<T> kernel{elements(high), elements(low), data, columns, pieces};
        constexpr int64_t batch = 16;
        const int64_t jobs = rows * pieces;
        reduce_jobs<1>((jobs + batch - 1) / batch, rows * columns, elements(out), [&](int64_t b, Scalar* sums) {
            for (int64_t i = b * batch; i < std::min(jobs, (b + 1) * batch); ++i) kernel.template job<Lane>(i, sums);
        });
        *elements(out) = lifted<digits_of<T>>(*elements(out));
    });
    if (bias_of(kind).is_zero()) return;
    *elements(out) -= bias_of(kind) * total_of(elements(high), rows) * total_of(elements(low), columns);
}

/// `coefficients` has the terms' coefficients, then the constant.
inline void affine(const Input& coefficients, const std::vector<Small>& small, const Output& out) {
    std::vector<AffineTerm> terms;
    Scalar constant = elements(coefficients)[small.size()];
    for (size_t k = 0; k < small.size(); ++k) {
        const Scalar coefficient = elements(coefficients)[k];
        terms.push_back({lifted<AffineSum::digits>(coefficient), small[k].data(), kind_of(small[k])});
        constant -= coefficient * bias_of(terms[k].kind);
    }
    const int64_t n = count(out);
    const AffineSum kernel{terms.data(), static_cast<int64_t>(terms.size()), constant, elements(out)};
    for_jobs((n + chunk - 1) / chunk, n, [&](int64_t c) {
        const int64_t end = std::min(n, (c + 1) * chunk);
        for (int64_t begin = c * chunk; begin < end; begin += AffineSum::block) kernel.from<Lane>(begin, end);
    });
}

inline void bind_small(nb::module_& m) {
    m.def("dot_small", dot_small, Release());
    m.def("combine", combine, Release());
    m.def("segment_dot", segment_dot, Release());
    m.def("evaluate_small", evaluate_small, Release());
    m.def("affine", affine, Release());
}

}  // namespace zkaudit
