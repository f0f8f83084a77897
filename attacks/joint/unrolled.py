"""Gradient matching over the whole update: records whose simulated training moves the weights as observed.

    minimise over x (n, d):   mean over layers of |U(x, y) - U|^2 / |U|^2

with U(x, y) the update of the stated steps from the known start weights (`network.py`), not of one step with a mean gradient:
which places hold which of the n records is public. Labels y are read off the last layer first (`labels.py`). DLG's objective
(Zhu et al. 2019, "Deep leakage from gradients", eq. 4) with labels known as in iDLG (Zhao et al. 2020), taken through local
steps as in Dimitrov et al. 2022, "Data leakage in federated averaging". Adam descends from what the first layer's ratios
suggest and from small random records; the start that matches best is the answer: that is seen without the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zkaudit.attacks.attack import Progress, silent
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.joint.client import Found, Seen
from zkaudit.attacks.joint.labels import assigned, label_slots
from zkaudit.attacks.joint.network import trained
from zkaudit.attacks.joint.ratios import guesses

SMALL = 0.3  # size of random records to start from
FINAL = 0.02  # of the learning rate, at the end
LABELS = 15  # iterations in which labels are fitted to a guess


@dataclass(frozen=True)
class UnrolledMatching:
    """Runs up to `most_records` records, `most_steps` steps and `most_numbers` unknowns: beyond, time and chances run out."""

    restarts: int = 4  # at random
    iterations: int = 600
    learning_rate: float = 0.05
    most_records: int = 8
    most_steps: int = 16
    most_numbers: int = 2048
    seed: int = 0
    name: str = "unrolled_matching"

    def run(self, seen: Seen, progress: Progress = silent, near: Sequence[Tensor] = ()) -> Found:
        """`near` are guesses (n, d) to start from too. AuditError for an update of more than it is run for, or of none."""
        self.require(seen)
        slots = label_slots(seen)
        starts = [(guess, self._labels_of(seen, guess, slots)) for guess in (guesses(seen), *near)]
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.restarts):
            drawn = SMALL * torch.randn(seen.records, seen.inputs, generator=generator, dtype=seen.start[0].dtype)
            starts.append((drawn, slots[torch.randperm(seen.records, generator=generator)]))
        best, matched = starts[0], torch.inf
        for number, (start, labels) in enumerate(starts):
            records, left = self._descend(seen, start, labels)
            progress("matching the update", (number + 1) / len(starts))
            if left < matched:
                best, matched = (records, labels), left
        stages = {"records": seen.records, "steps": len(seen.places), "starts": len(starts), "distance left": matched}
        return Found(best[0], 0, best[1], stages)

    def require(self, seen: Seen) -> None:
        """AuditError names what of the update is too large."""
        n, steps = seen.records, len(seen.places)
        for what, count, most in (
            ("different records", n, self.most_records),
            ("steps", steps, self.most_steps),
            ("unknown numbers", n * seen.inputs, self.most_numbers),
        ):
            if count > most:
                raise AuditError(f"{count} {what} are behind the update; matching is run up to {most}")
        if not all(bool(layer.any()) for layer in seen.update):
            raise AuditError("a layer did not move, so there is nothing to match")

    def _descend(self, seen: Seen, start: Tensor, labels: Tensor) -> tuple[Tensor, float]:
        """The best records on the way, and how much is left to match there."""
        targets = torch.nn.functional.one_hot(labels, seen.start[-1].shape[1]).to(start)
        records = start.clone(memory_format=torch.contiguous_format).requires_grad_()
        optimizer = torch.optim.Adam([records], lr=self.learning_rate)
        best, least = start, torch.inf
        for step in range(self.iterations):
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate * FINAL ** (step / self.iterations)
            optimizer.zero_grad()
            loss = distance(seen, records, targets)
            if float(loss.detach()) < least:
                best, least = records.detach().clone(), float(loss.detach())
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return best, least

    def _labels_of(self, seen: Seen, records: Tensor, slots: Tensor) -> Tensor:
        """Which of the labels each of these records has, by what matches best."""
        logits = records.new_zeros(len(records), seen.start[-1].shape[1]).requires_grad_()
        optimizer = torch.optim.LBFGS([logits], max_iter=LABELS, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = distance(seen, records, logits.softmax(1))
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        return assigned(slots, logits.detach().softmax(1).nan_to_num(0.0))


def distance(seen: Seen, records: Tensor, targets: Tensor) -> Tensor:
    """What is minimised, a differentiable scalar; 0 for the truth.

    Where only the largest entries were sent, one that was not sent differs by how far it is above the smallest one that was.
    """
    after = trained(seen.start, records, targets, seen.places, seen.rates, seen.loss)
    parts = []
    for end, start, moved in zip(after, seen.start, seen.update, strict=True):
        apart = end - start - moved
        if seen.partial:
            sent = moved != 0
            smallest = moved.abs().where(sent, torch.inf)
            least = torch.cat([smallest[:-1].amin().expand(len(moved) - 1, 1), smallest[-1:].amin().expand(1, 1)])
            apart = apart.where(sent, (apart.abs() - least).relu())
        parts.append(apart.square().sum() / moved.square().sum())
    return torch.stack(parts).mean()
