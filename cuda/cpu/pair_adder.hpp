// Collects sums of pairs of packed points and works them off in batches (batch_affine.cuh).
#pragma once

#include "batch_affine.cuh"
#include "point_lanes.hpp"

namespace zkaudit {

/// Sums pushed since the last flush may be written at any time until the next: none may read or write what another writes.
class PairAdder {
public:
    /// An inversion costs as much as about 80 sums.
    static constexpr int64_t capacity = 2048;

    PairAdder() : divisors(capacity / lane_points), prefixes(capacity / lane_points) { pairs.reserve(capacity); }

    /// out = a + b; out may be a or b.
    void push(PackedPoint* out, const PackedPoint* a, const PackedPoint* b) {
        if (is_identity(*b)) {
            *out = *a;
        } else {
            push_present(out, a, b);
        }
    }

    /// The same where b is known not to be the identity, and need not be in the cache yet: it is asked for.
    void push_present(PackedPoint* out, const PackedPoint* a, const PackedPoint* b) {
        __builtin_prefetch(&b->x);
        __builtin_prefetch(&b->y);
        if (is_identity(*a)) {
            *out = *b;
        } else {
            pairs.push_back({a, b, out});
            if (pairs.size() == capacity) flush();
        }
    }

    void flush() {
        if (!pairs.empty() && !run<false>()) run<true>();
        pairs.clear();
    }

private:
    std::vector<PairSum<BaseLane>> pairs;
    std::vector<BaseLane> divisors, prefixes;
    PackedPoint unused;

    PairLane<BaseLane> lane(int64_t i) {
        const int64_t first = i * lane_points;
        return PairLane<BaseLane>(&pairs[first], static_cast<int>(std::min<int64_t>(lane_points, static_cast<int64_t>(pairs.size()) - first)), &unused);
    }

    /// False, with nothing written, where a divisor is zero.
    template <bool careful>
    bool run() {
        const int64_t lanes = (static_cast<int64_t>(pairs.size()) + lane_points - 1) / lane_points;
        BaseLane running = BaseLane::one();
        for (int64_t i = 0; i < lanes; ++i) {
            divisors[i] = lane(i).template divisor<careful>();
            prefixes[i] = running;
            running = running * divisors[i];
        }
        if (zeros(running) != 0) return false;
        BaseLane inverse = inverted(running);
        for (int64_t i = lanes - 1; i >= 0; --i) {
            lane(i).template finish<careful>(inverse * prefixes[i]);
            inverse = inverse * divisors[i];
        }
        return true;
    }
};

}  // namespace zkaudit
