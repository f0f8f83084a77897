"""Taps: what the update of each trainable tensor shows of the inputs of a module.

Let x_i be the input that a site sees at token position i, and d_i the error that comes back there. Then

    full weight W (o x d)        sum d_i x_i^T                       rows in span{x_i}
    LoRA A (r x d)               s B^T sum d_i x_i^T                 rows in span{x_i}, none while B = 0
    LoRA B (o x r)               s sum d_i (A x_i)^T                 rows in span{A x_i}
    AdaLoRA P (r x d)            s E B^T sum d_i x_i^T + c P         rows in span{x_i} once the rows of P are projected out
    adapter's down (m x d)       sum s'(h_i) U^T d_i h_i^T           rows in span{h_i}
    prefix keys, one head        sum c_ij q_i                        in span{q_i}, the head's queries

A tap says which matrix to read and through which linear view it shows the inputs. Taps with the same view of the same input may
be stacked. `tokens` finds tensors that name tokens outright, `quiet` says why the others show neither.
"""

from zkaudit.attacks.taps.find import FINDERS, find, groups
from zkaudit.attacks.taps.quiet import quiet
from zkaudit.attacks.taps.tap import Group, State, Tap
from zkaudit.attacks.taps.tokens import TokenLeak, token_leaks

__all__ = ["FINDERS", "Group", "State", "Tap", "TokenLeak", "find", "groups", "quiet", "token_leaks"]
