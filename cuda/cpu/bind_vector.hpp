// Python bindings of the vector and table kernels.
#pragma once

#include <vector>

#include "arrays.hpp"
#include "mle.cuh"
#include "parallel.hpp"
#include "vector.cuh"

namespace zkaudit {

template <Operation operation>
void element_wise(const Input& a, const Input& b, const Output& out) {
    const int64_t step = count(b) == 1 ? 0 : 1;
    for_each(count(a), ElementWise<operation>{elements(a), elements(b), elements(out), step});
}

/// out[i] from a[i], or from a's part for i.
template <class Kernel>
void map(const Input& a, const Output& out) {
    for_each(count(out), Kernel{elements(a), elements(out)});
}

inline void inverse(const Input& a, const Output& out) { for_ranges(count(a), BatchInverse{elements(a), elements(out)}); }

inline void total(const Input& a, const Output& out) { reduce<1>(count(a), elements(out), Total{elements(a)}); }

inline void dot(const Input& a, const Input& b, const Output& out) {
    reduce<1>(count(a), elements(out), Dot{elements(a), elements(b)});
}

inline void outer_sum(const Input& highs, const Input& lows, const Output& out, int64_t terms) {
    const int64_t rows = count(highs) / terms, columns = count(lows) / terms;
    const OuterSum kernel{elements(highs), elements(lows), elements(out), terms, rows, columns};
    const int64_t pieces = (columns + chunk - 1) / chunk;
    for_jobs(rows * pieces, rows * columns, [&](int64_t i) {
        const int64_t begin = (i % pieces) * chunk, end = std::min(columns, begin + chunk);
        const int64_t split = end - (end - begin) % lane_width<Lane>;
        if (split > begin) kernel.row<Lane>(i / pieces, begin, split);
        if (end > split) kernel.row<Scalar>(i / pieces, split, end);
    });
}

/// x^i as (x^block)^(i / block) x^(i mod block): two short chains and one multiplication an output.
inline void powers(const Input& x, const Output& out) {
    constexpr int64_t block = 512;
    const int64_t n = count(out), blocks = (n + block - 1) / block;
    std::vector<Scalar> low(block), high(blocks);
    Scalar power = Scalar::one();
    for (Scalar& value : low) {
        value = power;
        power *= *elements(x);
    }
    Scalar start = Scalar::one();
    for (Scalar& value : high) {
        value = start;
        start *= power;
    }
    for_jobs(blocks, n, [&](int64_t i) {
        const int64_t length = std::min(block, n - i * block), whole = length - length % lane_width<Lane>;
        const ElementWise<Operation::multiply> kernel{low.data(), &high[i], elements(out) + i * block, 0};
        for (int64_t j = 0; j < whole; j += lane_width<Lane>) kernel.at<Lane>(j);
        for (int64_t j = whole; j < length; ++j) kernel.at<Scalar>(j);
    });
}

/// Each worker adds into its own part of the output, so the indexes are read once by every worker.
inline void scatter_add(const Input& values, const Indexes& index, const Output& out) {
    const int64_t n = count(values), size = count(out);
    std::fill(elements(out), elements(out) + size, Scalar::zero());
    const int64_t parts = std::min<int64_t>(thread_count(), size);
    for_jobs(parts, n, [&](int64_t w) {
        scatter_add_part(elements(values), index.data(), n, size * w / parts, size * (w + 1) / parts, elements(out));
    });
}

/// Prefix sums of each row of n elements: totals of the chunks, their prefix sums, then the chunks again from there.
inline void exclusive_cumsum(const Input& a, const Output& out, int64_t n) {
    const int64_t rows = n == 0 ? 0 : count(a) / n, chunks = (n + chunk - 1) / chunk;
    std::vector<Scalar> starts(rows * chunks);
    for_jobs(rows * chunks, rows * n, [&](int64_t i) {
        const Scalar* row = elements(a) + (i / chunks) * n;
        Scalar sum = Scalar::zero();
        for (int64_t j = (i % chunks) * chunk; j < std::min(n, (i % chunks + 1) * chunk); ++j) sum += row[j];
        starts[i] = sum;
    });
    for (int64_t k = 0; k < rows; ++k) exclusive_scan(&starts[k * chunks], &starts[k * chunks], 0, chunks, Scalar::zero());
    for_jobs(rows * chunks, rows * n, [&](int64_t i) {
        const int64_t row = (i / chunks) * n, begin = (i % chunks) * chunk;
        exclusive_scan(elements(a) + row, elements(out) + row, begin, std::min(n, begin + chunk), starts[i]);
    });
}

inline void eq_table(const Input& point, const Output& out) {
    Scalar* table = elements(out);
    table[0] = Scalar::one();
    for (int64_t k = 0; k < count(point); ++k) for_each(int64_t{1} << k, EqLevel{table, int64_t{1} << k, elements(point)[k]});
}

inline void fold(const Input& table, const Input& r, const Output& out) {
    for_each(count(out), Fold{elements(table), elements(out), *elements(r)});
}

inline void blocked_dot(const Input& table, const Input& low, const Input& high, const Output& out) {
    const BlockedDot kernel{elements(table), elements(low), elements(high), count(low)};
    reduce_jobs<1>(count(high), count(table), elements(out), [&](int64_t h, Scalar* sums) { kernel.job<Lane>(h, sums); });
}

inline void bind_vector(nb::module_& m) {
    m.def("add", element_wise<Operation::add>, Release());
    m.def("sub", element_wise<Operation::subtract>, Release());
    m.def("mul", element_wise<Operation::multiply>, Release());
    m.def("neg", map<Negate>, Release());
    m.def("inverse", inverse, Release());
    m.def("total", total, Release());
    m.def("dot", dot, Release());
    m.def("to_montgomery", map<ToMontgomery>, Release());
    m.def("from_montgomery", map<FromMontgomery>, Release());
    m.def("from_wide", map<FromWide>, Release());
    m.def("outer_sum", outer_sum, Release());
    m.def("powers", powers, Release());
    m.def("scatter_add", scatter_add, Release());
    m.def("exclusive_cumsum", exclusive_cumsum, Release());
    m.def("eq_table", eq_table, Release());
    m.def("blocked_dot", blocked_dot, Release());
    m.def("fold", fold, Release());
}

}  // namespace zkaudit
