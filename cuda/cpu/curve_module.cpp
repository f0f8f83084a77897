// The compiled curve core: kernels on numpy arrays of points of G1. It is built twice: for every machine, and with
// ZK_MODULE=_curve_ifma and the flags that make its lanes eight points wide (point_lanes.hpp). Shapes are checked by zk/curve.py.

#include "arrays.hpp"
#include "comb.hpp"
#include "fixed_base.hpp"
#include "hash_to_curve.cuh"
#include "point_codec.hpp"
#include "row_sums.hpp"

#include <nanobind/stl/vector.h>

#if !defined(ZK_MODULE)
#define ZK_MODULE _curve
#endif

namespace zkaudit {

using Bytes = nb::ndarray<const uint8_t, nb::c_contig, nb::device::cpu>;
using BytesOut = nb::ndarray<uint8_t, nb::c_contig, nb::device::cpu>;

static const Point* points(const Input& a) { return reinterpret_cast<const Point*>(a.data()); }
static Point* points(const Output& a) { return reinterpret_cast<Point*>(a.data()); }
template <class Array>
static int64_t point_count(const Array& a) {
    return static_cast<int64_t>(a.shape(0));
}

static LanePoint load_points(const Point* first, int count) { return LanePoint::from(load_x(first, count), load_y(first, count)); }

/// out[i] = element i of test(first, count).
template <class Test>
static void for_masks(int64_t n, uint8_t* out, const Test& test) {
    for_lanes(n, [&](int64_t first, int count) {
        const Mask mask = test(first, count);
        for (int i = 0; i < count; ++i) out[first + i] = (mask >> i) & 1;
    });
}

static Mask is_on_curve(const Point* first, int count) {
    Mask reduced = 0;
    for (int i = 0; i < count; ++i) reduced |= Mask{first[i].x.is_reduced() && first[i].y.is_reduced()} << i;
    return reduced & on_curve(load_x(first, count), load_y(first, count));
}

static void add(const Input& a, const Input& b, const Output& out) {
    for_points(point_count(a), points(out), [&](int64_t i, int count) {
        return load_points(points(a) + i, count).plus(load_x(points(b) + i, count), load_y(points(b) + i, count));
    });
}

static void neg(const Input& a, const Output& out) {
    for (int64_t i = 0; i < point_count(a); ++i) points(out)[i] = {points(a)[i].x, -points(a)[i].y};
}

static void mul(const Input& a, const Input& scalars, const Output& out) {
    for_points(point_count(a), points(out), [&](int64_t i, int count) {
        Scalar plain[lane_points];
        for (int k = 0; k < count; ++k) plain[k] = elements(scalars)[i + k].from_montgomery();
        return WindowedProduct<BaseLane>::of(load_points(points(a) + i, count), plain, count);
    });
}

static void fold(const Input& low, const Input& high, const Input& x, const Output& out) {
    const Scalar plain = elements(x)->from_montgomery();
    for_points(point_count(low), points(out), [&](int64_t i, int count) {
        const LanePoint scaled = WindowedProduct<BaseLane>::of(load_points(points(high) + i, count), &plain, 1);
        return scaled.plus(load_x(points(low) + i, count), load_y(points(low) + i, count));
    });
}

static void fixed_base(const Input& point, const Input& scalars, const Output& out) {
    FixedBase(*points(point), count(scalars)).multiply(elements(scalars), count(scalars), points(out));
}

static void msm_rows(const std::vector<Small>& matrices, const Input& bases, const Output& out) {
    std::vector<SmallRow> rows;
    for (const Small& matrix : matrices) {
        const SmallKind kind = kind_of(matrix);
        const int64_t columns = static_cast<int64_t>(matrix.shape(1)), stride = columns * static_cast<int64_t>(matrix.itemsize());
        for (int64_t r = 0; r < static_cast<int64_t>(matrix.shape(0)); ++r) rows.push_back({static_cast<const char*>(matrix.data()) + r * stride, kind, columns});
    }
    RowSums(rows, points(bases), points(out)).run();
}

template <class Table, class Array>
static Table* comb_rows(const Array& a) {
    if (reinterpret_cast<uintptr_t>(a.data()) % alignof(CombTable) != 0) throw nb::value_error("tables: they are not at an address that the lanes can load from");
    return reinterpret_cast<Table*>(a.data());
}

static void comb_tables(const Input& a, const Output& out) { comb_tables(points(a), point_count(a), comb_rows<CombTable>(out)); }

/// Arrays of tables that comb_tables has written, together one for each scalar.
static void comb_msm(const Input& scalars, const std::vector<Input>& arrays, const Output& out) {
    std::vector<const CombTable*> tables;
    for (const Input& a : arrays) {
        for (int64_t i = 0; i < point_count(a); ++i) tables.push_back(comb_rows<const CombTable>(a) + i);
    }
    comb_msm(elements(scalars), tables, points(out));
}

/// Points of n messages; message(i, put) passes bytes [begin, end) of message i. `maps` is 1 (encoding) or 2 (hashing).
template <class WithMessage>
static void hash_points(int64_t n, const Bytes& tag, int maps, Point* out, const WithMessage& with_message) {
    static const IsogenyLanes<BaseLane> isogeny;
    const Domain domain(tag.data(), tag.size());
    for_points(n, out, [&](int64_t first, int count) {
        Base u[2][lane_points];
        for (int i = 0; i < count; ++i) {
            uint8_t uniform[2 * element_bytes];
            with_message(first + i, [&](const uint8_t* message, uint64_t size) { expand_message(message, size, domain, maps, uniform); });
            for (int m = 0; m < maps; ++m) u[m][i] = element_from_bytes(uniform + m * element_bytes);
        }
        LanePoint sum = LanePoint::identity();
        for (int m = 0; m < maps; ++m) sum = sum + isogeny.image(SimplifiedSwu<BaseLane>(load_base<BaseLane>(u[m], 1, count)));
        return cofactor_cleared(sum);
    });
}

static void hash_messages(const Bytes& messages, const Indexes& ends, const Bytes& tag, int maps, const Output& out) {
    hash_points(static_cast<int64_t>(ends.size()), tag, maps, points(out), [&](int64_t i, const auto& body) {
        const int64_t begin = i == 0 ? 0 : ends.data()[i - 1];
        body(messages.data() + begin, static_cast<uint64_t>(ends.data()[i] - begin));
    });
}

static void generators(const Bytes& tag, uint64_t start, const Output& out) {
    hash_points(point_count(out), tag, 1, points(out), [&](int64_t i, const auto& body) {
        uint8_t index[8];
        for (int b = 0; b < 8; ++b) index[b] = static_cast<uint8_t>((start + static_cast<uint64_t>(i)) >> (8 * b));
        body(index, 8);
    });
}

static void sha256(const Bytes& data, const BytesOut& out) {
    Sha256 hash;
    hash.update(data.data(), data.size());
    hash.finish(out.data());
}

static void bind(nb::module_& m) {
    m.def("set_threads", [](int count) { thread_count() = count; });
    m.def("threads", [] { return thread_count(); });
    m.def("generator", [](const Output& out) { *points(out) = generator(); });
    m.def("add", add, Release());
    m.def("neg", neg, Release());
    m.def("mul", mul, Release());
    m.def("fold", fold, Release());
    m.def("fixed_base", fixed_base, Release());
    m.def("msm", [](const Input& scalars, const Input& bases, const Output& out) { msm(elements(scalars), points(bases), count(scalars), points(out)); }, Release());
    m.def("msm_rows", msm_rows, Release());
    m.def("comb_words", [] { return sizeof(CombTable) / sizeof(uint64_t); });
    m.def("comb_tables", nb::overload_cast<const Input&, const Output&>(comb_tables), Release());
    m.def("comb_msm", nb::overload_cast<const Input&, const std::vector<Input>&, const Output&>(comb_msm), Release());
    m.def("on_curve", [](const Input& a, const BytesOut& out) {
        for_masks(point_count(a), out.data(), [&](int64_t i, int count) { return is_on_curve(points(a) + i, count); });
    }, Release());
    m.def("in_subgroup", [](const Input& a, const BytesOut& out) {
        for_masks(point_count(a), out.data(), [&](int64_t i, int count) { return is_on_curve(points(a) + i, count) & load_points(points(a) + i, count).in_subgroup(); });
    }, Release());
    m.def("compress", [](const Input& a, const BytesOut& out) { compress(points(a), point_count(a), out.data()); }, Release());
    m.def("decompress", [](const Bytes& data, bool subgroup, const Output& out, const BytesOut& found) {
        decompress(data.data(), point_count(out), subgroup, points(out), reinterpret_cast<Decoding*>(found.data()));
    }, Release());
    m.def("hash_messages", hash_messages, Release());
    m.def("generators", generators, Release());
    m.def("sha256", sha256, Release());
}

}  // namespace zkaudit

/// Whether this CPU can run _curve_ifma.
static bool has_ifma() {
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512ifma") && __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("bmi2");
#else
    return false;
#endif
}

NB_MODULE(ZK_MODULE, m) {
    m.doc() = "Kernels on arrays of points of BLS12-381's G1.";
    m.def("has_ifma", has_ifma);
    zkaudit::bind(m);
}
