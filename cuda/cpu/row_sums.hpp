// Many rows of small integers against the same points: each row's multi-exponentiation, by the cheaper of two methods.
//
// Dense rows share tables. The points are cut into groups of g; a table holds all 2^g subset sums of a group. Bit k of a
// group's integers is one entry, added to plane k of the row; planes are then joined by doubling. A row of b-bit integers costs
// b / g sums an integer, and a whole table is paid for once. The sums of one group are all independent, so batches are long.
// Sparse rows and few rows go through buckets (pippenger.hpp).
// Integers are read in two's complement: plane `bits` holds the signs and weighs -2^bits. Where all integers of a row have two
// neighbouring bits equal, or all have them opposite, as the upper bits of small signed numbers are, one plane serves for both.
#pragma once

#include <map>

#include "arrays.hpp"
#include "bit_planes.hpp"
#include "pippenger.hpp"

namespace zkaudit {

/// A row of small integers of some type.
struct SmallRow {
    const void* data;
    SmallKind kind;
    int64_t columns;
};

/// What a row needs.
struct RowShape {
    int bits = 0;            // -2^bits <= x < 2^bits for all of its integers
    bool negative = false;   // some are
    int64_t nonzeros = 0;
    int64_t ones = 0;        // bits set in the kept planes
    uint64_t same = 0, opposite = 0;  // planes that equal the one above, or are its complement; above the top one all is zero

    int planes() const { return bits + negative; }
    uint64_t mask() const { return planes() == 64 ? ~uint64_t{0} : (uint64_t{1} << planes()) - 1; }

    /// Planes that do not follow from others.
    uint64_t kept() const { return mask() & ~(same | opposite); }

    /// Sums that the table method does, at most.
    int64_t table_cost(int64_t groups) const { return std::min<int64_t>(ones, groups * __builtin_popcountll(kept())); }

    int64_t bucket_cost() const {
        const int width = best_width(nonzeros, bits);
        return digit_windows(bits, width) * (nonzeros + 3 * (int64_t{1} << (width - 1)));
    }
};

class RowSums {
public:
    RowSums(const std::vector<SmallRow>& matrix, const Point* points, Point* out)
        : matrix(matrix), rows(static_cast<int64_t>(matrix.size())), points(points), out(out) {
        for (const SmallRow& row : matrix) columns = std::max(columns, row.columns);
    }

    void run() {
        shapes.resize(rows);
        for_jobs((rows + 15) / 16, rows * columns, [&](int64_t job) {
            for (int64_t r = job * 16; r < std::min(rows, job * 16 + 16); ++r) {
                with_small(matrix[r].data, matrix[r].kind, [&](const auto* row) { shapes[r] = shape_of(row, matrix[r].columns); });
            }
        });
        sums.assign(rows, Projective<Base>::identity());
        split();
        sum_by_buckets();
        for (size_t first = 0; first < dense.size();) first = sum_by_tables(first);
        for_jobs((rows + point_chunk - 1) / point_chunk, rows * point_work, [&](int64_t c) {
            const int64_t first = c * point_chunk;
            make_affine(&sums[first], std::min(point_chunk, rows - first), out + first);
        });
    }

private:
    static constexpr int largest_group = 13;
    static constexpr int64_t most_planes = 1 << 20;     // packed planes held at a time: 128 MiB
    static constexpr int64_t table_points = 1 << 15;    // packed table entries held at a time: 4 MiB
    static constexpr int64_t block_planes = PairAdder::capacity;

    const std::vector<SmallRow>& matrix;
    int64_t rows, columns = 0;  // columns: of the longest row
    const Point* points;
    Point* out;
    std::vector<RowShape> shapes;
    std::vector<Projective<Base>> sums;
    std::vector<int64_t> dense, sparse;  // rows of either method
    std::map<int64_t, PackedPoint> wholes;  // number of points -> their sum
    int group = 1;

    template <class T>
    static RowShape shape_of(const T* row, int64_t columns) {
        RowShape shape;
        uint64_t any = 0;
        for (int64_t i = 0; i < columns; ++i) {
            const uint64_t x = two_complement(row[i]);
            const uint64_t sign = is_negative(row[i]) ? ~uint64_t{0} : 0;
            any |= x ^ sign;
            shape.negative |= sign != 0;
            shape.nonzeros += x != 0;
        }
        shape.bits = any == 0 ? 0 : 64 - __builtin_clzll(any);
        uint64_t differ = 0, all_differ = ~uint64_t{0};
        for (int64_t i = 0; i < columns; ++i) {
            const uint64_t bits = two_complement(row[i]) & shape.mask();
            differ |= bits ^ (bits >> 1);
            all_differ &= bits ^ (bits >> 1);
        }
        shape.same = ~differ;
        shape.opposite = all_differ;
        for (int64_t i = 0; i < columns; ++i) shape.ones += __builtin_popcountll(two_complement(row[i]) & shape.kept());
        return shape;
    }

    template <class T>
    static bool is_negative(T x) {
        return x < static_cast<T>(0);
    }

    /// The group size that costs least for these rows, tables included, then each row to its cheaper method.
    void split() {
        int64_t best = INT64_MAX;
        for (int g = 1; g <= largest_group; ++g) {
            int64_t cost = ((columns + g - 1) / g) << g, buckets = 0;
            std::vector<int64_t> by_table, by_buckets;
            for (int64_t r = 0; r < rows; ++r) {
                const RowShape& shape = shapes[r];
                if (shape.nonzeros == 0) continue;
                const int64_t by_entries = shape.table_cost((matrix[r].columns + g - 1) / g);
                const bool table = by_entries < shape.bucket_cost();
                cost += table ? by_entries : shape.bucket_cost();
                buckets += shape.bucket_cost();
                (table ? by_table : by_buckets).push_back(r);
            }
            if (cost < best) best = cost, group = g, dense = by_table, sparse = by_buckets;
            if (buckets <= best) best = buckets, dense.clear(), sparse = nonzero_rows();
        }
    }

    std::vector<int64_t> nonzero_rows() const {
        std::vector<int64_t> out;
        for (int64_t r = 0; r < rows; ++r) {
            if (shapes[r].nonzeros != 0) out.push_back(r);
        }
        return out;
    }

    void sum_by_buckets() {
        if (sparse.empty()) return;
        constexpr size_t at_once = 256;
        const SignedPoints both(points, columns);
        for (size_t first = 0; first < sparse.size(); first += at_once) {
            const size_t count = std::min(at_once, sparse.size() - first);
            std::vector<std::vector<int16_t>> digits(count);
            std::vector<int> widths(count), windows(count);
            for_jobs(static_cast<int64_t>(count), static_cast<int64_t>(count) * columns, [&](int64_t i) {
                const RowShape& shape = shapes[sparse[first + i]];
                const int bits = shape.bits + 1;  // the magnitude of -2^bits has one bit more
                widths[i] = best_width(shape.nonzeros, bits);
                windows[i] = digit_windows(bits, widths[i]);
                const SmallRow& row = matrix[sparse[first + i]];
                digits[i].resize(windows[i] * row.columns);
                with_small(row.data, row.kind, [&](const auto* x) {
                    for (int64_t j = 0; j < row.columns; ++j) {
                        const uint64_t magnitude = is_negative(x[j]) ? 0 - two_complement(x[j]) : two_complement(x[j]);
                        signed_digits(&magnitude, 1, is_negative(x[j]), widths[i], windows[i], &digits[i][j], row.columns);
                    }
                });
            });
            std::vector<DigitColumn> all;
            std::vector<size_t> begins;
            for (size_t i = 0; i < count; ++i) {
                begins.push_back(all.size());
                const int64_t length = matrix[sparse[first + i]].columns;
                for (int k = 0; k < windows[i]; ++k) all.push_back({&digits[i][k * length], length, widths[i]});
            }
            std::vector<Projective<Base>> parts;
            sum_columns(both, all, parts);
            for_jobs(static_cast<int64_t>(count), static_cast<int64_t>(count) * point_work, [&](int64_t i) {
                sums[sparse[first + i]] = joined_windows(&parts[begins[i]], windows[i], widths[i]);
            });
        }
    }

    /// dense[first..] as far as their planes fit in memory; returns where it stopped.
    size_t sum_by_tables(size_t first) {
        std::vector<int64_t> begins{0};  // of each row's planes
        size_t end = first;
        for (; end < dense.size() && (end == first || begins.back() + kept_planes(dense[end]) <= most_planes); ++end) {
            begins.push_back(begins.back() + kept_planes(dense[end]));
        }
        const int64_t planes = begins.back();
        std::vector<size_t> blocks{first};  // rows whose planes one batch takes
        for (size_t i = first; i < end; ++i) {
            if (begins[i + 1 - first] - begins[blocks.back() - first] > block_planes) blocks.push_back(i);
        }
        blocks.push_back(end);

        std::vector<PackedPoint> accumulators(planes);
        const std::vector<PackedPoint> bases = packed(points, columns);
        const int64_t groups = (columns + group - 1) / group, held = std::max<int64_t>(1, table_points >> group);
        std::vector<PackedPoint> tables(held << group);
        std::vector<char> whole(held);  // whether no sum of the table but the empty one is the identity
        for (int64_t g = 0; g < groups; g += held) {
            const int64_t here = std::min(held, groups - g);
            for_jobs(here, planes * point_work, [&](int64_t t) { whole[t] = subset_sums(bases, (g + t) * group, &tables[t << group]); });
            for_jobs(static_cast<int64_t>(blocks.size()) - 1, planes * point_work, [&](int64_t b) {
                PairAdder adder;
                for (int64_t t = 0; t < here; ++t) {
                    for (size_t i = blocks[b]; i < blocks[b + 1]; ++i) {
                        with_small(matrix[dense[i]].data, matrix[dense[i]].kind, [&](const auto* row) {
                            add_entries(adder, row, dense[i], (g + t) * group, &tables[t << group], whole[t], accumulators.data() + begins[i - first]);
                        });
                    }
                    adder.flush();
                }
            });
        }
        for (size_t i = first; i < end; ++i) {
            const int64_t length = matrix[dense[i]].columns;
            if (shapes[dense[i]].opposite != 0 && wholes.count(length) == 0) wholes[length] = sum_of_points(length);
        }
        const int64_t count = static_cast<int64_t>(end - first);
        for_jobs((count + lane_points - 1) / lane_points, count * point_work, [&](int64_t lane) {
            join_planes(&dense[first + lane * lane_points], &begins[lane * lane_points], static_cast<int>(std::min<int64_t>(lane_points, count - lane * lane_points)), accumulators);
        });
        return end;
    }

    /// table[s] = the sum of the group's points whose bit is set in s. Both halves' sums first, then all pairs of them. Whether
    /// none of them is the identity but table[0].
    bool subset_sums(const std::vector<PackedPoint>& bases, int64_t begin, PackedPoint* table) const {
        const int count = static_cast<int>(std::min<int64_t>(group, columns - begin)), low = (count + 1) / 2;
        PairAdder adder;
        table[0] = PackedPoint{};
        for (int k = 0; k < low; ++k) {
            for (int64_t s = 0; s < int64_t{1} << k; ++s) {
                adder.push(&table[(int64_t{1} << k) + s], &table[s], &bases[begin + k]);
                if (low + k < count) adder.push(&table[((int64_t{1} << k) + s) << low], &table[s << low], &bases[begin + low + k]);
            }
            adder.flush();
        }
        for (int64_t high = 1; high < int64_t{1} << (count - low); ++high) {
            for (int64_t s = 1; s < int64_t{1} << low; ++s) adder.push(&table[(high << low) + s], &table[high << low], &table[s]);
        }
        adder.flush();
        return std::none_of(table + 1, table + (int64_t{1} << count), [](const PackedPoint& sum) { return is_identity(sum); });
    }

    int64_t kept_planes(int64_t row) const { return __builtin_popcountll(shapes[row].kept()); }

    /// planes[i] += the entry that the row's integers in [begin, begin + group) pick by their bits in its kept plane i.
    template <class T>
    void add_entries(PairAdder& adder, const T* data, int64_t row, int64_t begin, const PackedPoint* table, bool whole, PackedPoint* planes) const {
        const int count = static_cast<int>(std::min<int64_t>(group, matrix[row].columns - begin));
        if (count <= 0) return;
        uint8_t kept[most_planes_of_a_row];
        uint16_t entry[most_planes_of_a_row];
        int used = 0;
        for (uint64_t left = shapes[row].kept(); left != 0; left &= left - 1) kept[used++] = static_cast<uint8_t>(__builtin_ctzll(left));
        bit_planes(data + begin, count, kept, used, entry);
        for (int i = 0; i < used; ++i) {
            if (entry[i] == 0) continue;
            if (whole) {
                adder.push_present(&planes[i], &planes[i], &table[entry[i]]);
            } else {
                adder.push(&planes[i], &planes[i], &table[entry[i]]);
            }
        }
    }

    /// The sum of the first points: what a plane and its complement add up to.
    PackedPoint sum_of_points(int64_t count) const {
        LanePoint total = LanePoint::identity();
        for (int64_t i = 0; i < count; i += lane_points) {
            Point lane[lane_points] = {};
            std::copy(points + i, points + std::min(count, i + lane_points), lane);
            total = total.plus(load_x(lane, lane_points), load_y(lane, lane_points));
        }
        Projective<Base> sum = Projective<Base>::identity();
        for (int i = 0; i < lane_points; ++i) sum = sum + element(total, i);
        Point out;
        make_affine(&sum, 1, &out);
        return packed(&out, 1)[0];
    }

    static BaseLane signed_y(const Packed<BaseLane>* const* from, Mask negative) {
        const BaseLane y = gather<BaseLane>(from, 1);
        return select(negative & ~zeros(y), -y, y);
    }

    /// The rows' sums from their planes, a lane of rows at a time.
    void join_planes(const int64_t* row, const int64_t* begins, int count, const std::vector<PackedPoint>& accumulators) {
        const PackedPoint identity{};
        int most = 0;
        for (int i = 0; i < count; ++i) most = std::max(most, shapes[row[i]].planes());
        const PackedPoint *plane[lane_points], *all[lane_points];  // the plane that stands for the current one; all points' sum
        int64_t next[lane_points];
        Mask complement = 0;
        for (int i = 0; i < lane_points; ++i) {
            plane[i] = &identity;
            const auto found = i < count ? wholes.find(matrix[row[i]].columns) : wholes.end();
            all[i] = found == wholes.end() ? &identity : &found->second;
            next[i] = i < count ? begins[i + 1] : 0;
        }
        LanePoint total = LanePoint::identity();
        for (int k = most - 1; k >= 0; --k) {
            const Packed<BaseLane> *from[lane_points], *rest[lane_points];
            Mask signs = 0, rest_signs = 0, complemented = 0;
            for (int i = 0; i < lane_points; ++i) {
                from[i] = rest[i] = &identity.x;
                if (i >= count || k >= shapes[row[i]].planes()) continue;
                const RowShape& shape = shapes[row[i]];
                const Mask bit = Mask{1} << i;
                if ((shape.kept() >> k) & 1) {
                    plane[i] = &accumulators[--next[i]];
                    complement &= ~bit;
                } else if ((shape.opposite >> k) & 1) {
                    complement ^= bit;
                }
                from[i] = &plane[i]->x;
                const bool sign = shape.negative && k == shape.bits;
                if (sign != ((complement & bit) != 0)) signs |= bit;
                if ((complement & bit) == 0) continue;
                complemented |= bit;
                rest[i] = &all[i]->x;
                if (sign) rest_signs |= bit;
            }
            total = total.doubled().plus(gather<BaseLane>(from, 0), signed_y(from, signs));
            if (complemented != 0) total = total.plus(gather<BaseLane>(rest, 0), signed_y(rest, rest_signs));
        }
        for (int i = 0; i < count; ++i) sums[row[i]] = element(total, i);
    }
};

}  // namespace zkaudit
