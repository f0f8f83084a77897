// A lane of base-field elements: what one step of a curve kernel works on, and how it comes from memory and goes back.
//
// Curve kernels are templates over the lane class F. `Base` is a lane of one element; `Base8` holds eight in vector
// registers (cpu/base_ifma.hpp). Arrays from Python hold `Base`; between kernels a lane class may pack elements its own way,
// which spares conversions where each element is used many times.
#pragma once

#include "inverse.cuh"

namespace zkaudit {

/// One bit for each element of a lane.
using Mask = uint32_t;

/// How many elements a lane holds.
template <class F>
inline constexpr int base_width = 1;

/// An element as lanes of class F keep it in memory.
template <class F>
struct PackedType {
    using type = Base;
};

template <class F>
using Packed = typename PackedType<F>::type;

template <class F>
ZK_HD F broadcast(const Base& x);

/// Elements first[0], first[stride], ...; a lane with fewer than its width repeats the first.
template <class F>
ZK_HD F load_base(const Base* first, int64_t stride, int count);

/// The packed elements `from[i][offset]`.
template <class F>
ZK_HD F gather(const Packed<F>* const* from, int offset);

/// Element i of the lane is that of table[index[i]].
template <class F>
ZK_HD F pick(const F* table, const uint32_t* index);

template <>
ZK_HD Base broadcast<Base>(const Base& x) {
    return x;
}

template <>
ZK_HD Base load_base<Base>(const Base* first, int64_t, int) {
    return load_pieces(first);
}

ZK_HD void store_base(const Base& value, Base* first, int64_t, int) { store_pieces(value, first); }

template <>
ZK_HD Base gather<Base>(const Base* const* from, int offset) {
    return from[0][offset];
}

ZK_HD void scatter(const Base& value, Base* const* to, int offset) { to[0][offset] = value; }

template <>
ZK_HD Base pick<Base>(const Base* table, const uint32_t* index) {
    return table[*index];
}

ZK_HD bool is_packed_zero(const Base& x) { return x.is_zero(); }

/// Which elements are zero; which are odd as integers below the modulus.
ZK_HD Mask zeros(const Base& x) { return x.is_zero(); }
ZK_HD Mask odds(const Base& x) { return x.from_montgomery().v[0] & 1; }

/// a where the mask is set, b elsewhere.
ZK_HD Base select(Mask mask, const Base& a, const Base& b) { return mask ? a : b; }

ZK_HD Base inverted(const Base& x) { return BinaryInverse<BaseParams>::of(x); }

/// All elements of a lane.
template <class F>
inline constexpr Mask every = (Mask{1} << base_width<F>) - 1;

/// x^exponent for a public exponent of `bits` bits, by sliding windows of five: bits squarings, about bits / 6 + 16 products.
template <class F>
ZK_HD F public_power(const F& x, const uint64_t* exponent, int bits) {
    constexpr int window = 5;
    F odd[1 << (window - 1)];
    const F square = x.squared();
    odd[0] = x;
    for (int i = 1; i < 1 << (window - 1); ++i) odd[i] = odd[i - 1] * square;
    F out = broadcast<F>(Base::one());
    for (int i = bits - 1; i >= 0;) {
        if (((exponent[i / 64] >> (i % 64)) & 1) == 0) {
            out = out.squared();
            --i;
            continue;
        }
        int low = i - window + 1 < 0 ? 0 : i - window + 1;
        while (((exponent[low / 64] >> (low % 64)) & 1) == 0) ++low;
        int value = 0;
        for (; i >= low; --i) {
            out = out.squared();
            value = 2 * value + static_cast<int>((exponent[i / 64] >> (i % 64)) & 1);
        }
        out = out * odd[value / 2];
    }
    return out;
}

}  // namespace zkaudit
