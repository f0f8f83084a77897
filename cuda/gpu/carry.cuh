// 32-bit instructions that take and leave a carry, under their PTX names: `_cc` leaves it, `c` after the verb takes it.
//
// A chain of them must not be broken by other arithmetic on carries, which the compiler might place in between: no 128-bit
// integers beside them. With ZK_EMULATE_CARRY a CPU runs the same chains, and the ends of sums check that no carry is lost.
#pragma once

#include "machine.cuh"

#if !defined(__CUDA_ARCH__)
#include <cstdlib>
#endif

namespace zkaudit::carry {

#if defined(__CUDA_ARCH__)

#define ZK_TWO_OPERANDS(name, instruction)                                                  \
    ZK_HD uint32_t name(uint32_t a, uint32_t b) {                                           \
        uint32_t out;                                                                       \
        asm volatile(instruction " %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));              \
        return out;                                                                         \
    }
#define ZK_THREE_OPERANDS(name, instruction)                                                \
    ZK_HD uint32_t name(uint32_t a, uint32_t b, uint32_t c) {                               \
        uint32_t out;                                                                       \
        asm volatile(instruction " %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(c));  \
        return out;                                                                         \
    }

ZK_TWO_OPERANDS(add_cc, "add.cc.u32")
ZK_TWO_OPERANDS(addc_cc, "addc.cc.u32")
ZK_TWO_OPERANDS(addc, "addc.u32")
ZK_TWO_OPERANDS(sub_cc, "sub.cc.u32")
ZK_TWO_OPERANDS(subc_cc, "subc.cc.u32")
ZK_TWO_OPERANDS(subc, "subc.u32")
ZK_TWO_OPERANDS(mul_lo, "mul.lo.u32")
ZK_TWO_OPERANDS(mul_hi, "mul.hi.u32")
ZK_THREE_OPERANDS(mad_lo_cc, "mad.lo.cc.u32")
ZK_THREE_OPERANDS(madc_lo_cc, "madc.lo.cc.u32")
ZK_THREE_OPERANDS(madc_hi_cc, "madc.hi.cc.u32")
ZK_THREE_OPERANDS(madc_hi, "madc.hi.u32")

#undef ZK_TWO_OPERANDS
#undef ZK_THREE_OPERANDS

#else

inline thread_local uint32_t flag = 0;  // the carry, or the borrow

/// The lower word of a 64-bit result that may be negative; what is above goes to the flag.
inline uint32_t leave(uint64_t result) {
    flag = static_cast<uint32_t>(result >> 32) & 1;
    return static_cast<uint32_t>(result);
}

/// The end of a sum, which must fit.
inline uint32_t last(uint64_t result) {
    if (result >> 32) std::abort();
    return static_cast<uint32_t>(result);
}

inline uint32_t mul_lo(uint32_t a, uint32_t b) { return a * b; }
inline uint32_t mul_hi(uint32_t a, uint32_t b) { return static_cast<uint32_t>((uint64_t{a} * b) >> 32); }

inline uint32_t add_cc(uint32_t a, uint32_t b) { return leave(uint64_t{a} + b); }
inline uint32_t addc_cc(uint32_t a, uint32_t b) { return leave(uint64_t{a} + b + flag); }
inline uint32_t addc(uint32_t a, uint32_t b) { return last(uint64_t{a} + b + flag); }
inline uint32_t sub_cc(uint32_t a, uint32_t b) { return leave(uint64_t{a} - b); }
inline uint32_t subc_cc(uint32_t a, uint32_t b) { return leave(uint64_t{a} - b - flag); }
inline uint32_t subc(uint32_t a, uint32_t b) { return a - b - flag; }
inline uint32_t mad_lo_cc(uint32_t a, uint32_t b, uint32_t c) { return leave(uint64_t{mul_lo(a, b)} + c); }
inline uint32_t madc_lo_cc(uint32_t a, uint32_t b, uint32_t c) { return leave(uint64_t{mul_lo(a, b)} + c + flag); }
inline uint32_t madc_hi_cc(uint32_t a, uint32_t b, uint32_t c) { return leave(uint64_t{mul_hi(a, b)} + c + flag); }
inline uint32_t madc_hi(uint32_t a, uint32_t b, uint32_t c) { return last(uint64_t{mul_hi(a, b)} + c + flag); }

#endif

}  // namespace zkaudit::carry

namespace zkaudit {

ZK_HD uint32_t word_of(const uint64_t* limbs, int j) { return static_cast<uint32_t>(limbs[j / 2] >> (32 * (j % 2))); }

template <int n>
ZK_HD void split(uint32_t* words, const uint64_t* limbs) {
    ZK_UNROLL
    for (int j = 0; j < n; ++j) words[j] = word_of(limbs, j);
}

template <int n>
ZK_HD void join(uint64_t* limbs, const uint32_t* words) {
    ZK_UNROLL
    for (int j = 0; j < n; j += 2) limbs[j / 2] = words[j] | static_cast<uint64_t>(words[j + 1]) << 32;
}

/// sum += a; the carry stays in the flag. `carried`: the flag counts at the lowest word.
template <int n, bool carried = false>
ZK_HD void add_row(uint32_t* sum, const uint32_t* a) {
    ZK_UNROLL
    for (int j = 0; j < n; ++j) sum[j] = carried || j > 0 ? carry::addc_cc(sum[j], a[j]) : carry::add_cc(sum[j], a[j]);
}

/// sum -= a; the borrow stays in the flag.
template <int n>
ZK_HD void subtract_row(uint32_t* sum, const uint32_t* a) {
    ZK_UNROLL
    for (int j = 0; j < n; ++j) sum[j] = j > 0 ? carry::subc_cc(sum[j], a[j]) : carry::sub_cc(sum[j], a[j]);
}

/// out = a where the mask is set, b elsewhere.
template <int n>
ZK_HD void choose_row(uint32_t* out, bool mask, const uint32_t* a, const uint32_t* b) {
    ZK_UNROLL
    for (int j = 0; j < n; ++j) out[j] = mask ? a[j] : b[j];
}

/// The flag goes up `count` words, of which the last takes it.
template <int count>
ZK_HD void ripple(uint32_t* sum) {
    ZK_UNROLL
    for (int j = 0; j < count; ++j) sum[j] = j + 1 < count ? carry::addc_cc(sum[j], 0) : carry::addc(sum[j], 0);
}

/// out[j], out[j + 1] = a[j] b for even j below n.
template <int n>
ZK_HD void multiply_row(uint32_t* out, const uint32_t* a, uint32_t b) {
    ZK_UNROLL
    for (int j = 0; j < n; j += 2) {
        out[j] = carry::mul_lo(a[j], b);
        out[j + 1] = carry::mul_hi(a[j], b);
    }
}

/// sum[j], sum[j + 1] += a[j] b for even j below n. `ends`: no carry is left; otherwise it stays in the flag.
template <int n, bool carried, bool ends>
ZK_HD void multiply_add_row(uint32_t* sum, const uint32_t* a, uint32_t b) {
    ZK_UNROLL
    for (int j = 0; j < n; j += 2) {
        sum[j] = carried || j > 0 ? carry::madc_lo_cc(a[j], b, sum[j]) : carry::mad_lo_cc(a[j], b, sum[j]);
        sum[j + 1] = ends && j + 2 == n ? carry::madc_hi(a[j], b, sum[j + 1]) : carry::madc_hi_cc(a[j], b, sum[j + 1]);
    }
}

}  // namespace zkaudit
