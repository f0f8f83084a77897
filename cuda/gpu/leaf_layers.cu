// Levels 3 and 4 of the leaves, the lowest that are written.
#include "leaf_blocks.cuh"

ZK_KERNEL(leaf_layer_3, zkaudit::LeafLayerBlock<3>)
ZK_KERNEL(leaf_layer_4, zkaudit::LeafLayerBlock<4>)
