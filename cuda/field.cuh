// Prime fields of BLS12-381 in Montgomery form, one 64-bit-limb lane.
//
// `Field<P>` is one element. Another lane (eight 52-bit-limb elements, say) is another class with the same members, and
// every kernel is a template over the element class. Both moduli leave the top bit of their top limb free, which lets
// multiplication drop one carry word a row. Compiles under g++ and NVRTC (with -device-int128).
#pragma once

#include "machine.cuh"

#if defined(__CUDA_ARCH__) || defined(ZK_EMULATE_CARRY)
#include "gpu/montgomery.cuh"
#endif

namespace zkaudit {

/// The same arithmetic in chains of carries (gpu/montgomery.cuh); complete only where `carry_chains`.
template <class P>
struct Chains;

/// The scalar field, of the order r of the groups.
struct ScalarParams {
    static constexpr int limbs = 4;
    static constexpr int bits = 255;
    ZK_HD static constexpr uint64_t modulus(int i) {
        constexpr uint64_t value[limbs] = {0xffffffff00000001, 0x53bda402fffe5bfe, 0x3339d80809a1d805, 0x73eda753299d7d48};
        return value[i];
    }
    ZK_HD static constexpr uint64_t one(int i) {  // 2^256 mod modulus
        constexpr uint64_t value[limbs] = {0x00000001fffffffe, 0x5884b7fa00034802, 0x998c4fefecbc4ff5, 0x1824b159acc5056f};
        return value[i];
    }
    ZK_HD static constexpr uint64_t square(int i) {  // 2^512 mod modulus
        constexpr uint64_t value[limbs] = {0xc999e990f3f29c6d, 0x2b6cedcb87925c23, 0x05d314967254398f, 0x0748d9d99f59ff11};
        return value[i];
    }
    static constexpr uint64_t inverse = 0xfffffffeffffffff;  // -modulus^-1 mod 2^64
};

/// The base field, over which G1's coordinates live.
struct BaseParams {
    static constexpr int limbs = 6;
    static constexpr int bits = 381;
    ZK_HD static constexpr uint64_t modulus(int i) {
        constexpr uint64_t value[limbs] = {0xb9feffffffffaaab, 0x1eabfffeb153ffff, 0x6730d2a0f6b0f624, 0x64774b84f38512bf, 0x4b1ba7b6434bacd7, 0x1a0111ea397fe69a};
        return value[i];
    }
    ZK_HD static constexpr uint64_t one(int i) {  // 2^384 mod modulus
        constexpr uint64_t value[limbs] = {0x760900000002fffd, 0xebf4000bc40c0002, 0x5f48985753c758ba, 0x77ce585370525745, 0x5c071a97a256ec6d, 0x15f65ec3fa80e493};
        return value[i];
    }
    ZK_HD static constexpr uint64_t square(int i) {  // 2^768 mod modulus
        constexpr uint64_t value[limbs] = {0xf4df1f341c341746, 0x0a76e6a609d104f1, 0x8de5476c4c95b6d5, 0x67eb88a9939d83c0, 0x9a793e85b519952d, 0x11988fe592cae3aa};
        return value[i];
    }
    static constexpr uint64_t inverse = 0x89f3fffcfffcfffd;  // -modulus^-1 mod 2^64
};

template <class P>
struct Field {
    static constexpr int limbs = P::limbs;
    static constexpr int bits = P::bits;
    using Params = P;

    uint64_t v[limbs];

    ZK_HD static Field zero() {
        Field out;
        for (int i = 0; i < limbs; ++i) out.v[i] = 0;
        return out;
    }

    ZK_HD static Field one() {
        Field out;
        for (int i = 0; i < limbs; ++i) out.v[i] = P::one(i);
        return out;
    }

    ZK_HD static Field modulus() {
        Field out;
        for (int i = 0; i < limbs; ++i) out.v[i] = P::modulus(i);
        return out;
    }

    ZK_DEVICE_CALLED static Field from_u64(uint64_t x) {
        Field out = zero();
        out.v[0] = x;
        return out.to_montgomery();
    }

    ZK_HD static Field from_i64(int64_t x) {
        return x < 0 ? -from_u64(0 - static_cast<uint64_t>(x)) : from_u64(static_cast<uint64_t>(x));
    }

    ZK_HD bool is_zero() const {
        uint64_t any = 0;
        for (int i = 0; i < limbs; ++i) any |= v[i];
        return any == 0;
    }

    ZK_HD friend bool operator==(const Field& a, const Field& b) {
        uint64_t difference = 0;
        for (int i = 0; i < limbs; ++i) difference |= a.v[i] ^ b.v[i];
        return difference == 0;
    }

    /// Whether the limbs are below the modulus: what a parser must check.
    ZK_HD bool is_reduced() const {
        uint64_t borrow = 0;
        for (int i = 0; i < limbs; ++i) subtract_limb(v[i], P::modulus(i), borrow);
        return borrow != 0;
    }

    ZK_HD friend Field operator+(const Field& a, const Field& b) {
        Field out;
        if constexpr (carry_chains) {
            Chains<P>::add(out.v, a.v, b.v);
            return out;
        }
        uint64_t carry = 0;
        for (int i = 0; i < limbs; ++i) out.v[i] = add_limb(a.v[i], b.v[i], carry);
        return out.reduced_once();
    }

    ZK_HD friend Field operator-(const Field& a, const Field& b) {
        Field out;
        if constexpr (carry_chains) {
            Chains<P>::subtract(out.v, a.v, b.v);
            return out;
        }
        uint64_t borrow = 0, carry = 0;
        for (int i = 0; i < limbs; ++i) out.v[i] = subtract_limb(a.v[i], b.v[i], borrow);
        const uint64_t mask = 0 - borrow;
        for (int i = 0; i < limbs; ++i) out.v[i] = add_limb(out.v[i], P::modulus(i) & mask, carry);
        return out;
    }

    ZK_HD friend Field operator-(const Field& a) { return zero() - a; }

    ZK_HD Field doubled() const { return *this + *this; }

    /// Montgomery product. Called, not inlined, where it is long: that costs little and spares the compiler minutes.
    ZK_HD friend Field operator*(const Field& a, const Field& b) {
        if constexpr (limbs > 4) return called_product(a, b);
        return product(a, b);
    }

    ZK_NEVER_INLINE static Field called_product(Passed<Field> a, Passed<Field> b) { return product(a, b); }

    /// Coarsely integrated: 2 limbs^2 + limbs word multiplications. a is reduced; b may be any limbs.
    ZK_HD static Field product(const Field& a, const Field& b) {
        Field out;
        if constexpr (carry_chains) {
            Chains<P>::product(out.v, a.v, b.v);
            return out;
        }
        uint64_t t[limbs] = {};
#pragma GCC unroll 6
        for (int i = 0; i < limbs; ++i) {
            uint128_t sum = static_cast<uint128_t>(a.v[0]) * b.v[i] + t[0];
            uint64_t high = static_cast<uint64_t>(sum >> 64);
            const uint64_t m = static_cast<uint64_t>(sum) * P::inverse;
            uint128_t reduction = static_cast<uint128_t>(m) * P::modulus(0) + static_cast<uint64_t>(sum);
            uint64_t carry = static_cast<uint64_t>(reduction >> 64);
#pragma GCC unroll 6
            for (int j = 1; j < limbs; ++j) {
                sum = static_cast<uint128_t>(a.v[j]) * b.v[i] + t[j] + high;
                high = static_cast<uint64_t>(sum >> 64);
                reduction = static_cast<uint128_t>(m) * P::modulus(j) + static_cast<uint64_t>(sum) + carry;
                carry = static_cast<uint64_t>(reduction >> 64);
                t[j - 1] = static_cast<uint64_t>(reduction);
            }
            t[limbs - 1] = high + carry;
        }
        for (int i = 0; i < limbs; ++i) out.v[i] = t[i];
        return out.reduced_once();
    }

    ZK_HD Field squared() const {
        if constexpr (carry_chains && limbs > 4) return called_square(*this);
        return *this * *this;
    }

    ZK_NEVER_INLINE static Field called_square(Passed<Field> a) {
        Field out;
        Chains<P>::square(out.v, a.v);
        return out;
    }

    ZK_HD Field& operator+=(const Field& b) { return *this = *this + b; }
    ZK_HD Field& operator-=(const Field& b) { return *this = *this - b; }
    ZK_HD Field& operator*=(const Field& b) { return *this = *this * b; }

    /// Plain limbs to Montgomery form and back.
    ZK_HD Field to_montgomery() const {
        Field square;
        for (int i = 0; i < limbs; ++i) square.v[i] = P::square(i);
        return *this * square;
    }

    ZK_HD Field from_montgomery() const {
        Field unit = zero();
        unit.v[0] = 1;
        return *this * unit;
    }

    /// this^exponent, `words` little-endian 64-bit words, most significant bit first.
    ZK_HD Field power(const uint64_t* exponent, int words) const {
        Field out = one();
        for (int i = 64 * words - 1; i >= 0; --i) {
            out = out.squared();
            if ((exponent[i / 64] >> (i % 64)) & 1) out *= *this;
        }
        return out;
    }

    /// Inverse by Fermat; the inverse of zero is zero.
    ZK_HD Field inverted() const {
        uint64_t exponent[limbs];
        uint64_t borrow = 0;
        for (int i = 0; i < limbs; ++i) exponent[i] = subtract_limb(P::modulus(i), i == 0 ? 2 : 0, borrow);
        return power(exponent, limbs);
    }

    ZK_HD static uint64_t add_limb(uint64_t a, uint64_t b, uint64_t& carry) {
        if constexpr (carry_chains) {
            const uint64_t part = a + b, sum = part + carry;
            carry = (part < a) | (sum < part);
            return sum;
        }
        const uint128_t sum = static_cast<uint128_t>(a) + b + carry;
        carry = static_cast<uint64_t>(sum >> 64);
        return static_cast<uint64_t>(sum);
    }

    ZK_HD static uint64_t subtract_limb(uint64_t a, uint64_t b, uint64_t& borrow) {
        if constexpr (carry_chains) {
            const uint64_t part = a - b, difference = part - borrow;
            borrow = (a < b) | (part < borrow);
            return difference;
        }
        const uint128_t difference = static_cast<uint128_t>(a) - b - borrow;
        borrow = static_cast<uint64_t>(difference >> 64) & 1;
        return static_cast<uint64_t>(difference);
    }

private:
    ZK_HD Field reduced_once() const {
        Field out;
        uint64_t borrow = 0;
        for (int i = 0; i < limbs; ++i) out.v[i] = subtract_limb(v[i], P::modulus(i), borrow);
        const uint64_t keep = 0 - borrow;
        for (int i = 0; i < limbs; ++i) out.v[i] = (v[i] & keep) | (out.v[i] & ~keep);
        return out;
    }
};

using Scalar = Field<ScalarParams>;
using Base = Field<BaseParams>;

}  // namespace zkaudit
