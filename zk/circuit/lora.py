"""LoRA (Hu et al. 2021) on frozen layers: what is committed for the two products that an adapter adds.

    A_j A'_j    = 2^w H_j + HR_j - 2^(w-1)          H_j  in [-2^15, 2^15), scale f, no activation function
    G_j B_j^T   = 2^w GH_j + GHR_j - 2^(w-1)        GH_j in [-2^15, 2^15), scale g
    Z_j         = [A_j, 2^f] W_j + H_j B_j          W_j frozen
    A'_j[t+1]   = A'_j[t] - c_t A_j^T GH_j,         B_j[t+1] = B_j[t] - c_t factor / divisor H_j^T G_j

B_j holds the scale lora_alpha / rank, so that the products need none: a step on B with rate lr is a step on scale * B with
rate scale^2 lr. All four products are among FAC4DNN's (step.py), and both adapters have update histories."""

from __future__ import annotations

from zkaudit.zk.block import LIMB, Block, limbs, padded
from zkaudit.zk.statement import Statement

NUMBERS = ("h", "gh")


def ranges(s: Statement, samples: int) -> list[tuple[Block, int]]:
    """The blocks of all adapters with the bits of their ranges."""
    found: list[tuple[Block, int]] = []
    for j, rank in s.lora.adapters if s.lora else ():
        units = padded(rank)
        for name in NUMBERS:
            found.append((Block(f"{name}{j}", units, samples), LIMB))
            found += limbs(f"{name}{j}.r", units, samples, s.weight_bits)
    return found
