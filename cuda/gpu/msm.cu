// Sums of points with scalars of full width, and folding of points, on a GPU: what zk/gpu/points.py launches.
//
// A sum goes by buckets: signed digits are made, sorted by window and magnitude, and a thread adds up a piece of what is sorted,
// whatever buckets that lies in, so that one full bucket keeps nobody waiting. The weighing of buckets is cut into pieces of a window: a piece's own weighted sum, and its plain sum times where it begins.
// Cost: 10 products a digit and about 28 a bucket.
#include "kernel.cuh"
#include "xyzz.cuh"

namespace zkaudit {

using Point = Affine<Base>;
using Sum = Xyzz<Base>;

/// keys[k n + i] = the bucket of scalar i's digit k, window by window, past the last for a zero; a negative digit's item is ~i.
/// Window k begins at bit 256 k / windows: all are about equally wide, or the few buckets of a narrow last one would be full.
struct BucketKeys {
    const Scalar* scalars;
    uint32_t* keys;
    int32_t* items;
    int64_t n, half, windows;  // half: buckets of a window, enough for the widest

    ZK_HD void operator()(int64_t i) const {
        const Scalar plain = scalars[i].from_montgomery();
        int64_t carry = 0;
        for (int64_t k = 0; k < windows; ++k) {
            const int64_t begin = 256 * k / windows, width = 256 * (k + 1) / windows - begin, shift = begin % 64;
            uint64_t bits = plain.v[begin / 64] >> shift;
            if (shift + width > 64) bits |= plain.v[begin / 64 + 1] << (64 - shift);
            int64_t digit = static_cast<int64_t>(bits & ((uint64_t{1} << width) - 1)) + carry;
            carry = digit > int64_t{1} << (width - 1);
            if (carry != 0) digit -= int64_t{1} << width;
            const int64_t size = digit < 0 ? -digit : digit;
            keys[k * n + i] = static_cast<uint32_t>(size == 0 ? windows * half : k * half + size - 1);
            items[k * n + i] = static_cast<int32_t>(digit < 0 ? ~i : i);
        }
    }
};

/// Piece t of the items in order, `piece` of them: the sum of its part of bucket b goes to sums[b + t], a place of its own, since
/// from one part to the next either b or t grows.
struct BucketPieces {
    const Point* points;
    const int32_t* items;
    const uint32_t* keys;
    const int64_t* order;
    Sum* sums;
    int64_t count, piece;  // count: of items that are in a bucket

    ZK_HD void operator()(int64_t t) const {
        const int64_t begin = t * piece, end = smaller(count, begin + piece);
        uint32_t bucket = keys[order[begin]];
        Sum sum = Sum::identity();
        for (int64_t k = begin; k < end; ++k) {
            const uint32_t key = keys[order[k]];
            if (key != bucket) {
                store_pieces(sum, sums + bucket + t);
                sum = Sum::identity();
                bucket = key;
            }
            const int32_t item = items[order[k]];
            Point point = load_pieces(points + (item < 0 ? ~item : item));
            if (item < 0) point.y = -point.y;
            sum.add(point);
        }
        store_pieces(sum, sums + bucket + t);
    }
};

/// out[b] = the sum of bucket b's parts; its items are those from starts[b] to starts[b + 1] in order.
struct JoinPieces {
    const Sum* sums;
    const int64_t* starts;
    Sum* out;
    int64_t piece;

    ZK_HD void operator()(int64_t b) const {
        Sum sum = Sum::identity();
        if (starts[b] < starts[b + 1]) {
            for (int64_t t = starts[b] / piece; t <= (starts[b + 1] - 1) / piece; ++t) sum.add(load_pieces(sums + b + t));
        }
        store_pieces(sum, out + b);
    }
};

/// out[i] = the sum of in[i count .. (i + 1) count).
struct JoinSums {
    const Sum* in;
    Sum* out;
    int64_t count;

    ZK_HD void operator()(int64_t i) const {
        Sum sum = in[i * count];
        for (int64_t k = 1; k < count; ++k) sum.add(in[i * count + k]);
        out[i] = sum;
    }
};

/// out[i] = the sum over the buckets m of piece i of its window of (m + 1) times the bucket.
struct WeighBuckets {
    const Sum* buckets;
    Sum* out;
    int64_t piece, pieces;  // buckets in a piece, pieces in a window

    ZK_HD void operator()(int64_t i) const {
        Sum running = Sum::identity(), weighed = running;
        for (int64_t m = piece - 1; m >= 0; --m) {
            running.add(buckets[i * piece + m]);
            weighed.add(running);
        }
        Sum shifted = Sum::identity();  // where the piece begins, times all of it
        const int64_t begin = i % pieces * piece;
        for (int bit = 14; bit >= 0; --bit) {
            shifted = shifted.doubled();
            if ((begin >> bit) & 1) shifted.add(running);
        }
        weighed.add(shifted);
        out[i] = weighed;
    }
};

struct ToAffine {
    const Sum* in;
    Point* out;

    ZK_HD void operator()(int64_t i) const { out[i] = in[i].to_affine(); }
};

/// out[i] = low[i] + x high[i]; x as digits in [-7, 7], the lowest first, nonzero ones odd and at least four places apart.
struct FoldPoints {
    const Point *low, *high;
    Point* out;
    const int64_t* digits;
    int64_t count;

    ZK_HD void operator()(int64_t i) const {
        Sum odd[4];  // 1, 3, 5 and 7 times the point
        odd[0] = Sum::from(high[i]);
        const Sum twice = odd[0].doubled();
        for (int k = 1; k < 4; ++k) {
            odd[k] = odd[k - 1];
            odd[k].add(twice);
        }
        Sum sum = Sum::identity();
        for (int64_t k = count - 1; k >= 0; --k) {
            sum = sum.doubled();
            const int64_t digit = digits[k];
            if (digit > 0) sum.add(odd[digit / 2]);
            if (digit < 0) sum.add(odd[-digit / 2].negated());
        }
        sum.add(low[i]);
        out[i] = sum.to_affine();
    }
};

}  // namespace zkaudit

ZK_KERNEL(bucket_keys, zkaudit::BucketKeys)
ZK_KERNEL(bucket_pieces, zkaudit::BucketPieces)
ZK_KERNEL(join_pieces, zkaudit::JoinPieces)
ZK_KERNEL(join_sums, zkaudit::JoinSums)
ZK_KERNEL(weigh_buckets, zkaudit::WeighBuckets)
ZK_KERNEL(to_affine, zkaudit::ToAffine)
ZK_KERNEL(fold_points, zkaudit::FoldPoints)
