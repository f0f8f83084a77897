// What multi-exponentiations are made of: signed digits, and the weighted sum of buckets.
//
// A scalar is a sum of digits d_k 2^(width k) with |d_k| <= 2^(width - 1). Pippenger's method adds each point to the bucket of
// its digit's magnitude, then weighs bucket m by m with two sums a bucket.
#pragma once

#include "curve.cuh"

namespace zkaudit {

/// Windows that hold every integer of magnitude below 2^bits as signed digits.
ZK_HD constexpr int digit_windows(int bits, int width) { return bits / width + 1; }

/// digits[k * stride] = digit k of the `words` little-endian words, negated if asked; width at most 15.
ZK_HD void signed_digits(const uint64_t* value, int words, bool negative, int width, int windows, int16_t* digits, int64_t stride) {
    const int half = 1 << (width - 1);
    int carry = 0;
    for (int k = 0; k < windows; ++k) {
        const int bit = k * width, word = bit / 64, shift = bit % 64;
        uint64_t bits = word < words ? value[word] >> shift : 0;
        if (shift + width > 64 && word + 1 < words) bits |= value[word + 1] << (64 - shift);
        int digit = static_cast<int>(bits & ((uint64_t{1} << width) - 1)) + carry;
        carry = digit > half;
        if (carry) digit -= 2 * half;
        digits[k * stride] = static_cast<int16_t>(negative ? -digit : digit);
    }
}

/// The sum over m < count of (m + 1) bucket[m], a lane of bucket lists at a time: element i of the lane weighs lists[i].
/// Lists are packed affine points, the identity all zeros; lists[i] has counts[i] of them.
template <class F>
ZK_HD Projective<F> weighted_sum(const Affine<Packed<F>>* const* lists, const int64_t* counts, const Affine<Packed<F>>* identity) {
    constexpr int width = base_width<F>;
    int64_t longest = 0;
    for (int i = 0; i < width; ++i) longest = counts[i] > longest ? counts[i] : longest;
    Projective<F> running = Projective<F>::identity(), sum = running;
    for (int64_t m = longest - 1; m >= 0; --m) {
        const Packed<F>* from[width];
        for (int i = 0; i < width; ++i) from[i] = m < counts[i] ? &lists[i][m].x : &identity->x;
        running = running.plus(gather<F>(from, 0), gather<F>(from, 1));
        sum = sum + running;
    }
    return sum;
}

}  // namespace zkaudit
