// Level 1 of the leaves, with its first variables bound.
#include "leaf_blocks.cuh"

ZK_LEAF_WRITE(1, 0)
ZK_LEAF_WRITE(1, 1)
ZK_LEAF_WRITE(1, 2)
ZK_LEAF_ROUND(1, 0)
ZK_LEAF_ROUND(1, 1)
