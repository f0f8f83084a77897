// Runs kernels on the CPU's cores. Field arithmetic is exact, so results do not depend on the number of threads or on the
// order in which they finish.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>

#if defined(__AVX512IFMA__) && defined(__AVX512VBMI2__)
#include "lane_ifma.hpp"
#else
#include "lane.cuh"
#endif

namespace zkaudit {

/// The widest lane this file is compiled for.
#if defined(__AVX512IFMA__) && defined(__AVX512VBMI2__)
using Lane = Scalar8;
#else
using Lane = Scalar;
#endif

/// Below this many elements a team of threads costs more than it saves.
constexpr int64_t serial_limit = 1 << 14;
constexpr int64_t chunk = 1024;

inline int& thread_count() {
    static int count = omp_get_max_threads();
    return count;
}

/// body(i) for every i < jobs; `work` is the number of elements behind all jobs together.
template <class Body>
void for_jobs(int64_t jobs, int64_t work, const Body& body) {
    const int threads = work < serial_limit ? 1 : static_cast<int>(std::min<int64_t>(thread_count(), jobs));
    if (threads <= 1) {
        for (int64_t i = 0; i < jobs; ++i) body(i);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t i = 0; i < jobs; ++i) body(i);
}

/// kernel.at(i) for every i < n, a lane at a time.
template <class Kernel>
void for_each(int64_t n, const Kernel& kernel) {
    for_jobs((n + chunk - 1) / chunk, n, [&](int64_t c) {
        const int64_t end = std::min(n, (c + 1) * chunk);
        int64_t i = c * chunk;
        for (; i + lane_width<Lane> <= end; i += lane_width<Lane>) kernel.template at<Lane>(i);
        for (; i < end; ++i) kernel.template at<Scalar>(i);
    });
}

/// kernel.range(begin, end): whole lanes first, then what is left.
template <class Kernel>
void in_lanes(const Kernel& kernel, int64_t begin, int64_t end) {
    const int64_t split = end - (end - begin) % lane_width<Lane>;
    if (split > begin) kernel.template range<Lane>(begin, split);
    if (end > split) kernel.template range<Scalar>(split, end);
}

/// kernel.range(begin, end) over [0, n), chunk by chunk.
template <class Kernel>
void for_ranges(int64_t n, const Kernel& kernel) {
    for_jobs((n + chunk - 1) / chunk, n, [&](int64_t c) { in_lanes(kernel, c * chunk, std::min(n, (c + 1) * chunk)); });
}

/// sums[0..outputs) = what body(i, sums) adds up to over i < jobs.
template <int outputs, class Body>
void reduce_jobs(int64_t jobs, int64_t work, Scalar* sums, const Body& body) {
    for (int k = 0; k < outputs; ++k) sums[k] = Scalar::zero();
    const int threads = work < serial_limit ? 1 : static_cast<int>(std::min<int64_t>(thread_count(), jobs));
    if (threads <= 1) {
        for (int64_t i = 0; i < jobs; ++i) body(i, sums);
        return;
    }
#pragma omp parallel num_threads(threads)
    {
        Scalar local[outputs];
        for (int k = 0; k < outputs; ++k) local[k] = Scalar::zero();
#pragma omp for schedule(dynamic, 1) nowait
        for (int64_t i = 0; i < jobs; ++i) body(i, local);
#pragma omp critical
        for (int k = 0; k < outputs; ++k) sums[k] += local[k];
    }
}

/// The sum over [0, n) of what kernel.range(begin, end, sums) adds, chunk by chunk.
template <int outputs, class Kernel>
void reduce(int64_t n, Scalar* sums, const Kernel& kernel) {
    reduce_jobs<outputs>((n + chunk - 1) / chunk, n, sums, [&](int64_t c, Scalar* local) {
        const int64_t begin = c * chunk, end = std::min(n, begin + chunk);
        const int64_t split = end - (end - begin) % lane_width<Lane>;
        if (split > begin) kernel.template range<Lane>(begin, split, local);
        if (end > split) kernel.template range<Scalar>(split, end, local);
    });
}

}  // namespace zkaudit
