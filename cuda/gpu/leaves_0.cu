// Level 0 of the leaves, with its first variables bound.
#include "leaf_blocks.cuh"

ZK_LEAF_WRITE(0, 0)
ZK_LEAF_WRITE(0, 1)
ZK_LEAF_WRITE(0, 2)
ZK_LEAF_WRITE(0, 3)
ZK_LEAF_ROUND(0, 0)
ZK_LEAF_ROUND(0, 1)
ZK_LEAF_ROUND(0, 2)
