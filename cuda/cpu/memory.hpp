// Memory for large arrays that is used again instead of returned to the system.
//
// A prover makes and drops arrays of the same sizes over and over. The system hands out fresh pages cleared, which costs
// about as much as an addition an element; pages kept here cost nothing.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <new>
#include <vector>

#include "arrays.hpp"

namespace zkaudit {

struct Block {
    void* data;
    size_t bytes;
};

/// Blocks nobody uses, oldest first. Python's lock is held whenever one comes or goes.
class SpareBlocks {
public:
    static constexpr size_t least = size_t{1} << 29;  // bytes that may always be kept
    static constexpr size_t page = size_t{1} << 21;   // blocks are whole huge pages

    Block take(size_t wanted) {
        const size_t bytes = (wanted + page - 1) / page * page;
        for (size_t i = spare_.size(); i-- > 0;) {
            const Block block = spare_[i];
            if (block.bytes < bytes || block.bytes > bytes + bytes / 4) continue;
            remove(i);
            use(block.bytes);
            return block;
        }
        use(bytes);
        void* data = std::aligned_alloc(page, bytes);
        if (data == nullptr) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
        madvise(data, bytes, MADV_HUGEPAGE);
#endif
        return {data, bytes};
    }

    void give(const Block& block) {
        spare_.push_back(block);
        held_ += block.bytes;
        used_ -= block.bytes;
        shrink();
    }

private:
    void use(size_t bytes) {
        used_ += bytes;
        most_ = std::max(most_, used_);
        shrink();
    }

    /// Spare blocks never make for more than has been in use at one time: the oldest go back to the system.
    void shrink() {
        while (!spare_.empty() && held_ + used_ > std::max(most_, least)) {
            std::free(spare_.front().data);
            remove(0);
        }
    }

    void remove(size_t i) {
        held_ -= spare_[i].bytes;
        spare_.erase(spare_.begin() + static_cast<std::ptrdiff_t>(i));
    }

    std::vector<Block> spare_;
    size_t held_ = 0, used_ = 0, most_ = 0;  // bytes: spare, in use, most in use so far
};

/// Lives as long as the process: arrays may outlast the module.
inline SpareBlocks& spare_blocks() {
    static SpareBlocks* const blocks = new SpareBlocks;
    return *blocks;
}

using NewArray = nb::ndarray<nb::numpy, uint64_t, nb::ndim<2>>;

/// An array of n elements with any contents.
inline NewArray empty(size_t n) {
    Block* const block = new Block(spare_blocks().take(n * sizeof(Scalar)));
    const nb::capsule owner(block, [](void* p) noexcept {
        Block* const finished = static_cast<Block*>(p);
        spare_blocks().give(*finished);
        delete finished;
    });
    return NewArray(static_cast<uint64_t*>(block->data), {n, size_t{Scalar::limbs}}, owner);
}

}  // namespace zkaudit
