// numpy arrays as kernels see them. Shapes are checked by the Python wrappers (zk/field.py), which alone call this module.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "small.cuh"

namespace zkaudit {

namespace nb = nanobind;

using Input = nb::ndarray<const uint64_t, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<uint64_t, nb::c_contig, nb::device::cpu>;
using Small = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;
using Indexes = nb::ndarray<const int64_t, nb::c_contig, nb::device::cpu>;
using Release = nb::call_guard<nb::gil_scoped_release>;

inline const Scalar* elements(const Input& a) { return reinterpret_cast<const Scalar*>(a.data()); }
inline Scalar* elements(const Output& a) { return reinterpret_cast<Scalar*>(a.data()); }

template <class Array>
int64_t count(const Array& a) {
    return static_cast<int64_t>(a.size()) / Scalar::limbs;
}

inline SmallKind kind_of(const Small& a) {
    if (a.dtype() == nb::dtype<uint8_t>()) return SmallKind::u8;
    if (a.dtype() == nb::dtype<uint16_t>()) return SmallKind::u16;
    if (a.dtype() == nb::dtype<int32_t>()) return SmallKind::i32;
    if (a.dtype() == nb::dtype<uint32_t>()) return SmallKind::u32;
    if (a.dtype() == nb::dtype<int64_t>()) return SmallKind::i64;
    throw nb::value_error("small integers must be uint8, uint16, int32, uint32 or int64");
}

/// body(pointer) with the array's data as a pointer of its own type.
template <class Body>
void with_small(const void* data, SmallKind kind, const Body& body) {
    switch (kind) {
        case SmallKind::u8: body(static_cast<const uint8_t*>(data)); break;
        case SmallKind::u16: body(static_cast<const uint16_t*>(data)); break;
        case SmallKind::i32: body(static_cast<const int32_t*>(data)); break;
        case SmallKind::u32: body(static_cast<const uint32_t*>(data)); break;
        case SmallKind::i64: body(static_cast<const int64_t*>(data)); break;
    }
}

/// The bias of a kind as an element (lane.cuh).
inline Scalar bias_of(SmallKind kind) {
    if (kind == SmallKind::i32) return Scalar::from_u64(SmallInteger<int32_t>::bias);
    if (kind == SmallKind::i64) return Scalar::from_u64(SmallInteger<int64_t>::bias);
    return Scalar::zero();
}

}  // namespace zkaudit
