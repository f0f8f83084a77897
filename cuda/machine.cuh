// What differs between the compilers: integer types, where functions run, and how arithmetic is written there.
#pragma once

#if defined(__CUDACC_RTC__)
using uint64_t = unsigned long long;
using uint32_t = unsigned int;
using uint16_t = unsigned short;
using uint8_t = unsigned char;
using int64_t = long long;
using int32_t = int;
using int16_t = short;
#else
#include <cstdint>
#endif

#if defined(__CUDACC__)
#pragma nv_diag_suppress 161, 1675, 128  // hints for g++ to unroll; loops behind a constant condition
#define ZK_HD __host__ __device__ __forceinline__
#define ZK_CALLED __host__ __device__
#define ZK_NEVER_INLINE __host__ __device__ __noinline__
#define ZK_DEVICE_CALLED __host__ __device__ __noinline__
#define ZK_UNROLL _Pragma("unroll")
#else
#if defined(ZK_SANITIZE)
#define ZK_HD inline  // inlined with all its checks, the code takes the compiler ten times as long
#else
#define ZK_HD inline __attribute__((always_inline))
#endif
#define ZK_CALLED __attribute__((noinline))
#define ZK_NEVER_INLINE __attribute__((noinline))
#define ZK_DEVICE_CALLED ZK_HD
#define ZK_UNROLL _Pragma("GCC unroll 32")
#endif

namespace zkaudit {

using uint128_t = unsigned __int128;

#if defined(__CUDA_ARCH__)
inline constexpr bool on_device = true;
#else
inline constexpr bool on_device = false;
#endif

/// Whether elements are computed with in 32-bit words and chains of carries (gpu/montgomery.cuh): on the device, and on a CPU
/// that is asked to do as the device does.
#if defined(ZK_EMULATE_CARRY)
inline constexpr bool carry_chains = true;
#else
inline constexpr bool carry_chains = on_device;
#endif

/// How a function that is not inlined takes an element: on the device in registers, where a reference would mean memory.
#if defined(__CUDA_ARCH__)
template <class T>
using Passed = T;
#else
template <class T>
using Passed = const T&;
#endif

/// What the device reads and writes at once. Arrays begin at multiples of 16 bytes; elements and points fill whole pieces.
struct alignas(16) Piece {
    uint64_t low, high;
};

template <class T>
ZK_HD T load_pieces(const T* from) {
#if defined(__CUDA_ARCH__)
    static_assert(sizeof(T) % sizeof(Piece) == 0);
    T out;
    uint64_t* to = reinterpret_cast<uint64_t*>(&out);
    ZK_UNROLL
    for (int i = 0; i < static_cast<int>(sizeof(T) / sizeof(Piece)); ++i) {
        const Piece piece = reinterpret_cast<const Piece*>(from)[i];
        to[2 * i] = piece.low;
        to[2 * i + 1] = piece.high;
    }
    return out;
#else
    return *from;
#endif
}

template <class T>
ZK_HD void store_pieces(const T& value, T* to) {
#if defined(__CUDA_ARCH__)
    static_assert(sizeof(T) % sizeof(Piece) == 0);
    const uint64_t* from = reinterpret_cast<const uint64_t*>(&value);
    ZK_UNROLL
    for (int i = 0; i < static_cast<int>(sizeof(T) / sizeof(Piece)); ++i) {
        reinterpret_cast<Piece*>(to)[i] = {from[2 * i], from[2 * i + 1]};
    }
#else
    *to = value;
#endif
}

/// Zero bits above the highest set bit; x is not zero.
ZK_HD int leading_zeros(uint64_t x) {
#if defined(__CUDA_ARCH__)
    return __clzll(static_cast<long long>(x));
#else
    return __builtin_clzll(x);
#endif
}

}  // namespace zkaudit
