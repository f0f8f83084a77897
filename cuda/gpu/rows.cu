// Many rows of small integers against the same points, on a GPU: what zk/gpu/rows.py launches. The method is that of
// cpu/row_sums.hpp: points are cut into groups of g, a table holds a group's 2^g subset sums, and a plane of bits of a row picks
// one entry a group. A thread adds up the entries of one plane (or of a slice of its groups) in XYZZ coordinates: 10 products an
// entry and no inversion, against 6 and a share of an inversion in batches, which would need the threads to wait for each other.
// Cost: 10 products and 96 bytes, most of them from the second-level cache, for each g integers and plane.
#include "kernel.cuh"
#include "small.cuh"
#include "xyzz.cuh"

namespace zkaudit {

using Point = Affine<Base>;

/// One doubling of the tables of subset sums: table[j][2^k + s] = table[j][s] + points[j group + k] for s < 2^k, `batch` of them
/// a thread with one inversion. Products of divisors wait in the x of the sums to come.
struct SubsetLevel {
    const Point* points;
    Point* tables;
    int64_t columns, group, k, batch;

    ZK_HD void operator()(int64_t i) const {
        const int64_t batches = (int64_t{1} << k) / batch, j = i / batches, column = j * group + k;
        if (column >= columns) return;
        const Point* from = tables + (j << group) + i % batches * batch;
        Point* to = tables + (j << group) + (int64_t{1} << k) + i % batches * batch;
        const Point b = points[column];
        Base running = Base::one();
        for (int64_t s = 0; s < batch; ++s) {
            to[s].x = running;
            running = running * divisor(from[s], b);
        }
        Base inverse = inverted(running);
        for (int64_t s = batch - 1; s >= 0; --s) {
            const Point a = from[s];
            const Base own = inverse * to[s].x;
            inverse = inverse * divisor(a, b);
            to[s] = sum(a, b, own);
        }
    }

    ZK_HD static bool none(const Point& a) { return a.x.is_zero() && a.y.is_zero(); }

    /// What the slope of a + b is divided by; 1 where the sum needs no slope.
    ZK_HD static Base divisor(const Point& a, const Point& b) {
        if (none(a) || none(b)) return Base::one();
        const Base run = b.x - a.x;
        if (!run.is_zero()) return run;
        return a.y == b.y ? a.y.doubled() : Base::one();
    }

    ZK_HD static Point sum(const Point& a, const Point& b, const Base& inverse) {
        if (none(a)) return b;
        if (none(b)) return a;
        Base rise = b.y - a.y;
        if (a.x == b.x) {
            if (!rise.is_zero()) return {Base::zero(), Base::zero()};
            const Base square = a.x.squared();
            rise = square.doubled() + square;
        }
        const Base slope = rise * inverse, x = slope.squared() - a.x - b.x;
        return {x, slope * (a.x - x) - a.y};
    }
};

/// What the integers of part i mod parts of row i / parts have in common, three words at out + 3 i: their bits or'd after taking
/// the sign off, or'd in two's complement, and or'd where neighbouring bits differ.
template <class T>
struct RowBits {
    const T* matrix;
    uint64_t* out;
    int64_t columns, parts;

    ZK_HD void operator()(int64_t i) const {
        const int64_t part = i % parts;
        const T* row = matrix + i / parts * columns;
        uint64_t size = 0, any = 0, differ = 0;
        for (int64_t c = columns * part / parts; c < columns * (part + 1) / parts; ++c) {
            const int64_t x = static_cast<int64_t>(row[c]);
            const uint64_t bits = static_cast<uint64_t>(x);
            size |= x < 0 ? ~bits : bits;
            any |= bits;
            differ |= static_cast<uint64_t>(x ^ (x >> 1));
        }
        out[3 * i] = size;
        out[3 * i + 1] = any;
        out[3 * i + 2] = differ;
    }
};

/// The same for whole rows.
struct JoinBits {
    const uint64_t* parts_of;
    uint64_t* out;
    int64_t parts;

    ZK_HD void operator()(int64_t row) const {
        for (int64_t k = 0; k < 3; ++k) {
            uint64_t word = 0;
            for (int64_t p = row * parts; p < (row + 1) * parts; ++p) word |= parts_of[3 * p + k];
            out[3 * row + k] = word;
        }
    }
};

/// A row of small integers; `kind` is a SmallKind.
struct PlaneRow {
    const void* data;
    int64_t kind, columns;
};

/// Adds up the table entries of a plane over some groups: thread i has plane i mod planes, slice i / planes of the groups.
/// tasks[t] = row * 64 + bit.
struct PlaneSums {
    const PlaneRow* rows;
    const int64_t* tasks;
    const Point* tables;  // of the groups from `first` on
    Xyzz<Base>* sums;
    int64_t planes, slices, group, first, groups;

    ZK_HD void operator()(int64_t i) const {
        const int64_t task = tasks[i % planes], slice = i / planes;
        const PlaneRow row = rows[task / 64];
        const int64_t begin = groups * slice / slices, end = groups * (slice + 1) / slices;
        const int bit = static_cast<int>(task % 64);
        Xyzz<Base> sum = load_pieces(sums + i);
        for (int64_t j = begin; j < end; ++j) {
            const int64_t column = (first + j) * group, count = smaller(group, row.columns - column);
            const int64_t entry = picked(row, column, count, bit);
            if (entry != 0) sum.add(load_pieces(tables + (j << group) + entry));
        }
        store_pieces(sum, sums + i);
    }

    /// Bit `bit` of `count` integers from `column` on.
    ZK_HD static int64_t picked(const PlaneRow& row, int64_t column, int64_t count, int bit) {
        switch (static_cast<SmallKind>(row.kind)) {
            case SmallKind::u8: return bits(static_cast<const uint8_t*>(row.data) + column, count, bit);
            case SmallKind::u16: return bits(static_cast<const uint16_t*>(row.data) + column, count, bit);
            case SmallKind::i32: return bits(static_cast<const int32_t*>(row.data) + column, count, bit);
            case SmallKind::u32: return bits(static_cast<const uint32_t*>(row.data) + column, count, bit);
            case SmallKind::i64: return bits(static_cast<const int64_t*>(row.data) + column, count, bit);
        }
        return 0;
    }

    template <class T>
    ZK_HD static int64_t bits(const T* x, int64_t count, int bit) {
        int64_t entry = 0;
        for (int64_t t = 0; t < count; ++t) entry |= ((static_cast<int64_t>(x[t]) >> bit) & 1) << t;
        return entry;
    }
};

/// Each row's sum from its planes, highest first. Plane `bits` of a row with negative integers weighs -2^bits. Where a plane is
/// not kept, it equals the one above it.
struct JoinPlanes {
    const int64_t *begins, *planes_of, *signs;  // a row's first task, its planes, the plane that is negative or -1
    const uint64_t* kept;
    const Xyzz<Base>* sums;
    Point* out;
    int64_t planes, slices;

    ZK_HD void operator()(int64_t row) const {
        Xyzz<Base> total = Xyzz<Base>::identity(), plane = Xyzz<Base>::identity();
        int64_t task = begins[row + 1];
        for (int64_t k = planes_of[row] - 1; k >= 0; --k) {
            if ((kept[row] >> k) & 1) {
                --task;
                plane = sums[task];
                for (int64_t s = 1; s < slices; ++s) plane.add(sums[s * planes + task]);
            }
            total = total.doubled();
            total.add(k == signs[row] ? plane.negated() : plane);
        }
        out[row] = total.to_affine();
    }
};

}  // namespace zkaudit

ZK_KERNEL(subset_level, zkaudit::SubsetLevel)
ZK_SMALL_KERNELS(row_bits, zkaudit::RowBits)
ZK_KERNEL(join_bits, zkaudit::JoinBits)
ZK_KERNEL(plane_sums, zkaudit::PlaneSums)
ZK_KERNEL(join_planes, zkaudit::JoinPlanes)
