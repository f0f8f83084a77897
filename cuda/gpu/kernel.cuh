// One body, two machines. A kernel is a plain struct with operator()(int64_t i), called for every i < n in any order and at any
// time: a grid of threads on a GPU, a loop over threads on the CPU (cpu/twin_module.cpp), which is how kernels are tested where
// there is no GPU. Bodies share nothing but memory that no other i writes, so there are no barriers.
//
// A struct's fields are pointers, int64_t, Scalar and Base alone: multiples of eight bytes, which Python packs one after the other.
#pragma once

#include "wide.cuh"

#if defined(__CUDACC__)

#define ZK_KERNEL(name, ...)                                                                        \
    extern "C" __global__ void __launch_bounds__(128) name(const __VA_ARGS__ body, const int64_t n) { \
        const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;                            \
        if (i < n) body(i);                                                                          \
    }

#else

namespace zkaudit {

/// A kernel as the CPU runs it.
struct TwinKernel {
    const char* name;
    int64_t bytes;
    void (*run)(const void* body, int64_t begin, int64_t end);

    template <class Body>
    static TwinKernel of(const char* name) {
        return {name, sizeof(Body), [](const void* body, int64_t begin, int64_t end) {
                    for (int64_t i = begin; i < end; ++i) (*static_cast<const Body*>(body))(i);
                }};
    }
};

/// Every kernel of the program.
inline std::vector<TwinKernel>& twin_kernels() {
    static std::vector<TwinKernel> all;
    return all;
}

struct TwinEntry {
    explicit TwinEntry(const TwinKernel& kernel) { twin_kernels().push_back(kernel); }
};

}  // namespace zkaudit

#define ZK_KERNEL(name, ...) static const zkaudit::TwinEntry twin_##name(zkaudit::TwinKernel::of<__VA_ARGS__>(#name));

#endif

/// The same kernel for every type of small integers.
#define ZK_SMALL_KERNELS(name, Body)     \
    ZK_KERNEL(name##_uint8, Body<uint8_t>)   \
    ZK_KERNEL(name##_uint16, Body<uint16_t>) \
    ZK_KERNEL(name##_int32, Body<int32_t>)   \
    ZK_KERNEL(name##_uint32, Body<uint32_t>) \
    ZK_KERNEL(name##_int64, Body<int64_t>)

namespace zkaudit {

ZK_HD int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/// kernel.at(i)
template <class Kernel>
struct Each {
    Kernel kernel;

    ZK_HD void operator()(int64_t i) const { kernel.template at<Scalar>(i); }
};

/// kernel.range over piece i of [0, n).
template <class Kernel>
struct Ranges {
    Kernel kernel;
    int64_t n, piece;

    ZK_HD void operator()(int64_t i) const { kernel.template range<Scalar>(i * piece, smaller(n, (i + 1) * piece)); }
};

/// partial[k * workers + i] = what kernel.range adds to sum k over worker i's part of [0, n).
template <int outputs, class Kernel>
struct Reduce {
    Kernel kernel;
    Scalar* partial;
    int64_t n, workers;

    ZK_HD void operator()(int64_t i) const {
        Scalar sums[outputs];
        for (int k = 0; k < outputs; ++k) sums[k] = Scalar::zero();
        kernel.template range<Scalar>(n * i / workers, n * (i + 1) / workers, sums);
        for (int k = 0; k < outputs; ++k) store(sums[k], partial + k * workers + i);
    }
};

}  // namespace zkaudit
