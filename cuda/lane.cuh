// A lane: what one step of a kernel works on, and how it comes from memory and goes back.
//
// Kernels are templates over the lane class. A single `Scalar` is a lane of one element; eight elements in vector
// registers are another (cpu/lane_ifma.hpp). Memory holds elements as `Scalar`, whatever the lane.
#pragma once

#include "field.cuh"

namespace zkaudit {

/// How many elements a lane holds.
template <class L>
inline constexpr int lane_width = 1;

/// Elements base[0], base[stride], ... of a lane; stride 0 repeats one element, which need not lie in an array.
template <class L>
ZK_HD L load(const Scalar* base, int64_t stride = 1);

template <>
ZK_HD Scalar load<Scalar>(const Scalar* base, int64_t stride) {
    if (on_device && stride != 0) return load_pieces(base);
    return *base;
}

ZK_HD void store(const Scalar& value, Scalar* base, int64_t = 1) { store_pieces(value, base); }

/// `zero` where x is zero, `other` elsewhere.
ZK_HD Scalar where_zero(const Scalar& x, const Scalar& zero, const Scalar& other) { return x.is_zero() ? zero : other; }

/// The sum of a lane's elements.
ZK_HD Scalar across(const Scalar& value) { return value; }

/// 2^512 modulo the modulus in every element: the factor that takes plain limbs to Montgomery form.
template <class L>
ZK_HD L montgomery_square() {
    Scalar square;
    for (int i = 0; i < Scalar::limbs; ++i) square.v[i] = ScalarParams::square(i);
    return load<L>(&square, 0);
}

/// Small integers of type T are read as unsigned words x + bias<T>: a sum of products then needs no signs, and
/// bias * (sum of the other factors) comes off once at the end.
template <class T>
struct SmallInteger {
    static constexpr bool is_signed = static_cast<T>(-1) < static_cast<T>(0);
    static constexpr int bits = 8 * sizeof(T);
    static constexpr uint64_t bias = is_signed ? uint64_t{1} << (bits - 1) : 0;

    ZK_HD static uint64_t biased(T x) { return static_cast<uint64_t>(x) + bias; }
};

/// A lane's words: one small integer for each element.
template <class L>
struct LaneWord {
    using type = uint64_t;
};

template <class L>
using Word = typename LaneWord<L>::type;

/// Arithmetic on a lane's words: low and high 52-bit digits of a product of words below 2^52; the product of two numbers of at
/// most 32 bits and either sign, modulo 2^64; one word for all elements.
template <class L>
struct Words {
    ZK_HD static uint64_t product(uint64_t a, uint64_t b) { return (a * b) & ((uint64_t{1} << 52) - 1); }
    ZK_HD static uint64_t product_high(uint64_t a, uint64_t b) {
        return static_cast<uint64_t>((static_cast<uint128_t>(a) * b) >> 52);
    }
    ZK_HD static uint64_t signed_product(uint64_t a, uint64_t b) { return a * b; }
    ZK_HD static uint64_t all(uint64_t x) { return x; }
};

/// 2^log integers of type T for each element of a lane, those of one element adjoining.
template <class L, class T, int log>
struct Window {
    const T* base;

    ZK_HD explicit Window(const T* base) : base(base) {}
    ZK_HD uint64_t at(int k) const { return base[k]; }
};

/// Biased words of base[0], base[1], ...
template <class L, class T>
struct LoadWords {
    ZK_HD static uint64_t at(const T* base) { return SmallInteger<T>::biased(*base); }
};

}  // namespace zkaudit
