// Level 2 of the leaves, with its first variables bound.
#include "leaf_blocks.cuh"

ZK_LEAF_WRITE(2, 0)
ZK_LEAF_WRITE(2, 1)
ZK_LEAF_ROUND(2, 0)
