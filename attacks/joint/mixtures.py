"""The one record behind an update that shows mixtures of its inputs alone: the smallest record with these mixtures.

A public basis P over inputs and bias shows P^T [x, 1], and B of a LoRA in its first step A'^T x, of one record both up to a
factor s: the direction that all units share. For a given s the records with these mixtures are a plane; guesses are its point
nearest to zero and the record without negative inputs nearest to it. The guess and the s are taken whose simulated training
moves the weights most alike. What lies beside the mixtures is not seen, so this is where matching begins (`unrolled.py`).
"""

from __future__ import annotations

import torch
from scipy.optimize import nnls
from torch import Tensor

from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.joint.client import Seen
from zkaudit.attacks.joint.labels import sole_label
from zkaudit.attacks.joint.reading import unrolled_adam
from zkaudit.attacks.joint.unrolled import distance

SIZES = torch.logspace(-1.5, 1.5, 31, dtype=torch.float64)  # of s, in lengths of the mixtures


def smallest_record(seen: Seen) -> Tensor:
    """The guess, (1, d); AuditError for an update that shows no mixtures, or of more records or steps than one."""
    seen = unrolled_adam(seen)
    label = sole_label(seen)
    if label is None or len(seen.places) > 1:
        raise AuditError("mixtures are told from the update of one step on one record with a label that shows")
    mixing, bias, shown = _mixed(seen)
    shared = torch.linalg.svd(shown, full_matrices=False)[0][:, 0]
    inverse = torch.linalg.pinv(mixing.T)
    sizes = torch.cat([SIZES, -SIZES])
    wanted = sizes[:, None] * shared - bias
    positive = [torch.from_numpy(nnls(mixing.T.numpy(), one.numpy())[0]) for one in wanted]
    records = torch.cat([wanted @ inverse.T, torch.stack(positive)])
    target = torch.nn.functional.one_hot(label, seen.outputs).to(records)
    apart = torch.tensor([float(distance(seen, record[None], target)) for record in records]).nan_to_num(torch.inf)
    return records[int(apart.argmin())][None]


def _mixed(seen: Seen) -> tuple[Tensor, Tensor, Tensor]:
    """What mixes inputs (d, r), what it makes of the bias (r,), and the mixtures times errors (r, units)."""
    method = seen.method
    if method.lora is not None and method.lora.ranks[0]:
        return seen.start[0], torch.zeros(method.lora.ranks[0], dtype=torch.float64), seen.update[1]
    if method.galore is not None and method.is_public and method.galore.sides[0] == "left":
        basis = method.basis(0, 0, seen.update[0])
        return basis[:-1], basis[-1], torch.linalg.lstsq(basis, seen.update[0]).solution
    raise AuditError("the update shows no mixtures of the inputs")
