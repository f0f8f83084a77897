// Python bindings of the first rounds over products of small integers.
#pragma once

#include "bind_small.hpp"
#include "ternary.cuh"

namespace zkaudit {

/// The forms are scale x + offset, scale 1 or -1 and offset below 2^16 in size; left has 8 or 16 bits, right 16.
template <class T>
void ternary_sums_of(const Small& left, int64_t left_scale, int64_t left_offset, const Small& right, int64_t right_scale,
                         int64_t right_offset, const Input& weights, int64_t weight_count, const Output& out) {
    const int64_t highs = count(weights) / weight_count, lows = static_cast<int64_t>(left.size()) / highs, groups = lows / 8;
    std::vector<Scalar> corrections(weight_count);
    using Kernel = TernarySums<T, uint16_t>;
    const std::vector<Scalar> lifted_weights = all_lifted<Kernel::digits>(elements(weights), count(weights));
    for (int64_t k = 0; k < weight_count; ++k) {
        corrections[k] = Scalar::from_u64(Kernel::bias) * total_of(elements(weights) + k * highs, highs);
    }
    const Kernel kernel{static_cast<const T*>(left.data()), static_cast<const uint16_t*>(right.data()),
                        static_cast<uint64_t>(left_scale), static_cast<uint64_t>(left_offset), static_cast<uint64_t>(right_scale),
                        static_cast<uint64_t>(right_offset), lifted_weights.data(), corrections.data(), elements(out), weight_count, highs, lows};
    for_jobs(groups / lane_width<Lane>, highs * lows, [&](int64_t i) {
        std::vector<typename Kernel::template Sum<Lane>> sums(ternary_points * weight_count);
        kernel.template lane<Lane>(i * lane_width<Lane>, sums.data());
    });
}

inline void ternary_sums(const Small& left, int64_t left_scale, int64_t left_offset, const Small& right, int64_t right_scale,
                         int64_t right_offset, const Input& weights, int64_t weight_count, const Output& out) {
    const auto sums = kind_of(left) == SmallKind::u8 ? ternary_sums_of<uint8_t> : ternary_sums_of<uint16_t>;
    sums(left, left_scale, left_offset, right, right_scale, right_offset, weights, weight_count, out);
}

/// The form scale x + offset with its first three variables bound; chi: their eight weights.
inline void fold_small(const Small& small, const Input& scale, const Input& offset, const Input& chi, const Output& out) {
    std::vector<Scalar> weights(8);
    for (int j = 0; j < 8; ++j) weights[j] = lifted<1>(*elements(scale) * elements(chi)[j]);
    const auto fold = [&](const auto* values) { for_ranges(count(out), FoldSmall{values, weights.data(), *elements(offset), elements(out)}); };
    if (kind_of(small) == SmallKind::u8) {
        fold(static_cast<const uint8_t*>(small.data()));
    } else {
        fold(static_cast<const uint16_t*>(small.data()));
    }
}

inline void bind_ternary(nb::module_& m) {
    m.def("ternary_sums", ternary_sums, Release());
    m.def("fold_small", fold_small, Release());
}

}  // namespace zkaudit
