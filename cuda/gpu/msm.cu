// Sums of points with scalars of full width, and folding of points, on a GPU: what zk/gpu/points.py launches.
//
// A sum goes by buckets (msm.cuh): digits are made, sorted by window and magnitude, and a thread adds up a slice of a bucket. The
// weighing of buckets is cut into pieces of a window: a piece's own weighted sum, and its plain sum times where it begins.
// Cost: 10 products a digit and about 28 a bucket.
#include "kernel.cuh"
#include "msm.cuh"
#include "xyzz.cuh"

namespace zkaudit {

using Point = Affine<Base>;
using Sum = Xyzz<Base>;

/// keys[k n + i] = the bucket of scalar i's digit k, window by window, `none` for a zero; a negative digit's item is ~i.
struct BucketKeys {
    const Scalar* scalars;
    uint32_t* keys;
    int32_t* items;
    int64_t n, width, windows;

    ZK_HD void operator()(int64_t i) const {
        const int64_t half = int64_t{1} << (width - 1);
        const Scalar plain = scalars[i].from_montgomery();
        int16_t digits[64];
        signed_digits(plain.v, Scalar::limbs, false, static_cast<int>(width), static_cast<int>(windows), digits, 1);
        for (int64_t k = 0; k < windows; ++k) {
            const int64_t size = digits[k] < 0 ? -digits[k] : digits[k];
            keys[k * n + i] = static_cast<uint32_t>(size == 0 ? windows * half : k * half + size - 1);
            items[k * n + i] = static_cast<int32_t>(digits[k] < 0 ? ~i : i);
        }
    }
};

/// sums[b slices + s] = the sum over slice s of bucket b, whose items are order[starts[b] .. starts[b + 1]).
struct BucketSlices {
    const Point* points;
    const int32_t* items;
    const int64_t *order, *starts;
    Sum* sums;
    int64_t slices;

    ZK_HD void operator()(int64_t i) const {
        const int64_t b = i / slices, s = i % slices, begin = starts[b], length = starts[b + 1] - begin;
        Sum sum = Sum::identity();
        for (int64_t k = begin + length * s / slices; k < begin + length * (s + 1) / slices; ++k) {
            const int32_t item = items[order[k]];
            Point point = points[item < 0 ? ~item : item];
            if (item < 0) point.y = -point.y;
            sum.add(point);
        }
        sums[i] = sum;
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
ZK_KERNEL(bucket_slices, zkaudit::BucketSlices)
ZK_KERNEL(join_sums, zkaudit::JoinSums)
ZK_KERNEL(weigh_buckets, zkaudit::WeighBuckets)
ZK_KERNEL(to_affine, zkaudit::ToAffine)
ZK_KERNEL(fold_points, zkaudit::FoldPoints)
