// Cutting the trainer's integers into words of a committed table.
#pragma once

#include "arrays.hpp"
#include "parallel.hpp"

namespace zkaudit {

/// out[u, s] = the lowest bits of (values[s, u] + offset) >> shift, as many as `Out` has; rows of out are `stride` long.
template <class In, class Out>
void write_words(const In* values, int64_t samples, int64_t units, int64_t offset, int shift, Out* out, int64_t stride) {
    constexpr int64_t tile = 64;  // squares of samples and units that stay in the first cache while they are transposed
    const int64_t across = (units + tile - 1) / tile, down = (samples + tile - 1) / tile;
    for_jobs(across, samples * units, [&](int64_t column) {
        const int64_t first = column * tile, last = std::min(units, first + tile);
        for (int64_t row = 0; row < down; ++row) {
            const int64_t begin = row * tile, end = std::min(samples, begin + tile);
            for (int64_t u = first; u < last; ++u) {
                for (int64_t s = begin; s < end; ++s) {
                    const uint64_t shifted = static_cast<uint64_t>(static_cast<int64_t>(values[s * units + u]) + offset);
                    out[u * stride + s] = static_cast<Out>(shifted >> shift);
                }
            }
        }
    });
}

using Words8 = nb::ndarray<uint8_t, nb::c_contig, nb::device::cpu>;
using Words16 = nb::ndarray<uint16_t, nb::c_contig, nb::device::cpu>;

template <class Table>
void words(const Small& values, int64_t offset, int shift, const Table& out) {
    const int64_t samples = static_cast<int64_t>(values.shape(0)), units = static_cast<int64_t>(values.shape(1));
    with_small(values.data(), kind_of(values), [&](const auto* data) {
        write_words(data, samples, units, offset, shift, out.data(), static_cast<int64_t>(out.shape(1)));
    });
}

inline void bind_words(nb::module_& m) {
    m.def("words8", words<Words8>, Release());
    m.def("words16", words<Words16>, Release());
}

}  // namespace zkaudit
