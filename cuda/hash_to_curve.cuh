// Hashing to G1: RFC 9380, suites BLS12381G1_XMD:SHA-256_SSWU_RO_ (two maps, indifferentiable from a random oracle) and
// ..._SSWU_NU_ (one map). bytes -> field elements -> points of an isogenous curve -> points of G1's curve -> the subgroup.
#pragma once

#include "curve.cuh"
#include "isogeny.cuh"
#include "sha256.cuh"

namespace zkaudit {

/// A domain separation tag with its length appended; tags above 255 bytes are hashed first (section 5.3.3).
struct Domain {
    uint8_t bytes[256];
    int length = 0;

    ZK_HD Domain(const uint8_t* tag, uint64_t count) {
        if (count > 255) {
            const char prefix[] = "H2C-OVERSIZE-DST-";
            Sha256 hash;
            for (int i = 0; prefix[i] != 0; ++i) hash.put(static_cast<uint8_t>(prefix[i]));
            hash.update(tag, count);
            hash.finish(bytes);
            length = Sha256::digest_bytes;
        } else {
            for (uint64_t i = 0; i < count; ++i) bytes[i] = tag[i];
            length = static_cast<int>(count);
        }
        bytes[length] = static_cast<uint8_t>(length);
        ++length;
    }
};

/// One field element takes 64 bytes, so that its distance from uniform is negligible.
constexpr int element_bytes = 64;

/// expand_message_xmd with SHA-256 (section 5.3.1): elements * 64 bytes, elements at most 2.
ZK_HD void expand_message(const uint8_t* message, uint64_t count, const Domain& domain, int elements, uint8_t* out) {
    constexpr int digest = Sha256::digest_bytes;
    uint8_t first[digest], mixed[digest] = {};
    const int length = elements * element_bytes;
    Sha256 hash;
    for (int i = 0; i < Sha256::block_bytes; ++i) hash.put(0);
    hash.update(message, count);
    hash.put(static_cast<uint8_t>(length >> 8));
    hash.put(static_cast<uint8_t>(length));
    hash.put(0);
    hash.update(domain.bytes, static_cast<uint64_t>(domain.length));
    hash.finish(first);
    for (int block = 0; block < length / digest; ++block) {
        for (int i = 0; i < digest; ++i) mixed[i] ^= first[i];
        Sha256 next;
        next.update(mixed, digest);
        next.put(static_cast<uint8_t>(block + 1));
        next.update(domain.bytes, static_cast<uint64_t>(domain.length));
        next.finish(out + block * digest);
        for (int i = 0; i < digest; ++i) mixed[i] = out[block * digest + i];
    }
}

/// 64 big-endian bytes modulo p: their upper half times 2^256 plus their lower half.
ZK_HD Base element_from_bytes(const uint8_t* bytes) {
    Base half[2] = {Base::zero(), Base::zero()}, shift = Base::zero();
    for (int i = 0; i < element_bytes; ++i) half[i / 32].v[3 - i % 32 / 8] |= static_cast<uint64_t>(bytes[i]) << (56 - 8 * (i % 8));
    shift.v[4] = 1;
    return half[0].to_montgomery() * shift.to_montgomery() + half[1].to_montgomery();
}

/// The simplified SWU map onto the isogenous curve (appendix F.2), Z = 11; x is x_numerator / x_denominator.
template <class F>
struct SimplifiedSwu {
    F x_numerator, x_denominator, y;

    ZK_HD explicit SimplifiedSwu(const F& u) {
        const F a = broadcast<F>(Base{{0x2f65aa0e9af5aa51, 0x86464c2d1e8416c3, 0xb85ce591b7bd31e2, 0x27e11c91b5f24e7c, 0x28376eda6bfc1835, 0x155455c3e5071d85}});
        const F b = broadcast<F>(Base{{0xfb996971fe22a1e0, 0x9aa93eb35b742d6f, 0x8c476013de99c5c4, 0x873e27c3a221e571, 0xca72b5e45a52d888, 0x06824061418a386b}});
        const F zuu = times_eleven(u.squared());
        const F both = zuu.squared() + zuu;
        const F first = b * (both + F::one());
        x_denominator = a * select(zeros(both), broadcast<F>(Base::from_u64(11)), -both);
        const F dd = x_denominator.squared();
        const F ratio_numerator = (first.squared() + a * dd) * first + b * dd * x_denominator, ratio_denominator = dd * x_denominator;
        F root;
        const Mask is_square = root_of_ratio(ratio_numerator, ratio_denominator, root);
        x_numerator = select(is_square, first, zuu * first);
        y = select(is_square, root, zuu * u * root);
        y = select(odds(u) ^ odds(y), -y, y);
    }

private:
    ZK_HD static F times_eleven(const F& x) { return times_four(x.doubled()) + x.doubled() + x; }

    /// sqrt(u / v) where that is a square, sqrt(11 u / v) elsewhere (appendix F.2.1.2); says where.
    ZK_HD static Mask root_of_ratio(const F& u, const F& v, F& root) {
        const uint64_t exponent[6] = {0xee7fbfffffffeaaa, 0x07aaffffac54ffff, 0xd9cc34a83dac3d89, 0xd91dd2e13ce144af, 0x92c6e9ed90d2eb35, 0x0680447a8e5ff9a6};
        const F root_of_minus_z = broadcast<F>(Base{{0xf37b0ced8fb71e24, 0xf02dc8a4535a8779, 0x732ed835f7eb14ea, 0x524ca41ecb2bce0d, 0x095e3801e90b5fc1, 0x0252ad055472a90e}});
        const F uv = u * v;
        const F candidate = public_power(v.squared() * uv, exponent, 379) * uv;
        const Mask is_square = zeros(candidate.squared() * v - u);
        root = select(is_square, candidate, candidate * root_of_minus_z);
        return is_square;
    }
};

/// The isogeny's coefficients as lanes.
template <class F>
struct IsogenyLanes {
    F x_numerator[12], x_denominator[11], y_numerator[16], y_denominator[16];

    ZK_HD IsogenyLanes() {
        const Isogeny base{};
        for (int i = 0; i < 12; ++i) x_numerator[i] = broadcast<F>(base.x_numerator[i]);
        for (int i = 0; i < 11; ++i) x_denominator[i] = broadcast<F>(base.x_denominator[i]);
        for (int i = 0; i < 16; ++i) y_numerator[i] = broadcast<F>(base.y_numerator[i]);
        for (int i = 0; i < 16; ++i) y_denominator[i] = broadcast<F>(base.y_denominator[i]);
    }

    /// The image of a point; the isogeny's poles go to the identity.
    ZK_HD Projective<F> image(const SimplifiedSwu<F>& point) const {
        F powers[16];  // of the x-denominator
        powers[0] = F::one();
        for (int i = 1; i < 16; ++i) powers[i] = powers[i - 1] * point.x_denominator;
        const F& x = point.x_numerator;
        const F xn = homogeneous(x_numerator, 12, x, powers), xd = homogeneous(x_denominator, 11, x, powers) * point.x_denominator;
        const F yn = homogeneous(y_numerator, 16, x, powers) * point.y, yd = homogeneous(y_denominator, 16, x, powers);
        const F z = xd * yd;
        return Projective<F>::chosen(zeros(z), Projective<F>::identity(), {xn * yd, yn * xd, z});
    }

private:
    /// sum of coefficient[i] x^i d^(count - 1 - i).
    ZK_HD static F homogeneous(const F* coefficient, int count, const F& x, const F* powers) {
        F out = coefficient[count - 1];
        for (int i = count - 2; i >= 0; --i) out = out * x + coefficient[i] * powers[count - 1 - i];
        return out;
    }
};

/// Into the subgroup: times h_eff = 1 - z (section 8.8.1).
template <class F>
ZK_HD Projective<F> cofactor_cleared(const Projective<F>& point) {
    return point.times(curve_parameter + 1);
}

}  // namespace zkaudit
