"""Gradient matching over the whole update: records whose simulated training moves the weights as observed.

    minimise over x (n, d):   mean over layers of |U(x, y) - U|^2 / |U|^2

with U(x, y) the update of the stated steps from the known start weights (`network.py`), not of one step with a mean gradient:
which places hold which of the n records is public. Labels y are read off the last layer first (`labels.py`). DLG's objective
(Zhu et al. 2019, "Deep leakage from gradients", eq. 4) with labels known as in iDLG (Zhao et al. 2020), taken through local
steps as in Dimitrov et al. 2022, "Data leakage in federated averaging". Adam descends from what the first layer's ratios
suggest and from small random records; the start that matches best is the answer: that is seen without the truth.

The steps are those of the method (`method.py`): FP8's casts, GaLore in the bases that the seed draws or the update shows, LoRA
through its adapters. Where no bias counts the labels, they are unknowns as the records are (Zhu et al.'s way).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zkaudit.attacks.attack import Progress, silent
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.joint.client import Found, Seen
from zkaudit.attacks.joint.labels import assigned, label_slots, sole_label
from zkaudit.attacks.joint.ratios import guesses
from zkaudit.attacks.joint.reading import shown_bases, unrolled_adam
from zkaudit.training.fixedpoint.float_step import trained

SMALL = 0.3  # size of random records to start from
UNSEEN = 0.01  # the same where some directions of a record are not seen: there they stay as they are
FINAL = 0.02  # of the learning rate, at the end
LABELS = 15  # iterations in which labels are fitted to a guess
ORDERED = 3  # of so many records all orders are tried
SCALES = (2.0, 16.0)  # at which the search for a common size of records begins
FITTED = 60  # iterations of it


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
        seen = shown_bases(unrolled_adam(seen))
        generator = torch.Generator().manual_seed(self.seed)
        starts = list(self._starts(seen, near, generator))
        best, matched = starts[0], torch.inf
        for number, (start, labels) in enumerate(starts):
            records, found, left = self._descend(seen, start, labels)
            progress("matching the update", (number + 1) / len(starts))
            if left < matched:
                best, matched = (records, found), left
        stages = {"records": seen.records, "steps": len(seen.places), "starts": len(starts), "distance left": matched}
        return Found(best[0], 0, best[1], stages)

    def _starts(self, seen: Seen, near: Sequence[Tensor], generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Records and their labels, or None for labels to be found with them."""
        suggested = [*([guesses(seen)] if seen.method.is_plain else []), *near]
        slots = label_slots(seen) if seen.method.is_plain else sole_label(seen)
        for guess in (_completed(guess, seen.records) for guess in suggested):
            yield guess, None if slots is None else self._labels_of(seen, guess, slots)
        size = SMALL if seen.method.is_plain else UNSEEN
        for _ in range(self.restarts):
            drawn = size * torch.randn(seen.records, seen.inputs, generator=generator, dtype=seen.start[0].dtype)
            yield drawn, None if slots is None else slots[torch.randperm(seen.records, generator=generator)]

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
        still = [not bool(matrix.any()) for matrix in seen.update]
        if any(still[1::2] if seen.method.lora is not None else still):  # A' rests while B is zero
            raise AuditError("a layer did not move, so there is nothing to match")

    def _descend(self, seen: Seen, start: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor, float]:
        """The best records on the way, their labels, and how much is left to match there."""
        records = start.clone(memory_format=torch.contiguous_format).requires_grad_()
        logits = (self._logits_of(seen, start) if labels is None else records.new_zeros(1)).detach().requires_grad_()
        known = None if labels is None else torch.nn.functional.one_hot(labels, seen.outputs).to(start)
        optimizer = torch.optim.Adam([records] if known is not None else [records, logits], lr=self.learning_rate)
        best, told, least = start, logits.detach().clone(), torch.inf
        for step in range(self.iterations):
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate * FINAL ** (step / self.iterations)
            optimizer.zero_grad()
            loss = distance(seen, records, logits.softmax(1) if known is None else known)
            if float(loss.detach()) < least:
                best, told, least = records.detach().clone(), logits.detach().clone(), float(loss.detach())
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return best, told.argmax(1) if labels is None else labels, least

    def _labels_of(self, seen: Seen, records: Tensor, slots: Tensor) -> Tensor:
        """Which of the labels each of these records has, by what matches best."""
        return assigned(slots, self._logits_of(seen, records).softmax(1).nan_to_num(0.0))

    def _logits_of(self, seen: Seen, records: Tensor) -> Tensor:
        """What labels match best, softly, (n, outputs)."""
        logits = records.new_zeros(len(records), seen.outputs).requires_grad_()
        optimizer = torch.optim.LBFGS([logits], max_iter=LABELS, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = distance(seen, records, logits.softmax(1))
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        return logits.detach().nan_to_num(0.0)


def distance(seen: Seen, records: Tensor, targets: Tensor) -> Tensor:
    """What is minimised, a differentiable scalar; 0 for the truth.

    Where only the largest entries were sent, one that was not sent differs by how far it is above the smallest one that was.
    """
    after = trained(
        seen.start, records, targets, seen.places, seen.rates, seen.loss, seen.method, seen.frozen
    )  # fmt: skip
    parts = []
    for end, start, moved in zip(after, seen.start, seen.update, strict=True):
        if not bool(moved.any()):  # LoRA's A' in its first step: whatever the records are
            continue
        apart = end - start - moved
        if seen.partial:
            sent = moved != 0
            smallest = moved.abs().where(sent, torch.inf)
            least = smallest.amin().expand(len(moved), 1)
            if seen.method.lora is None:  # weights and bias are tensors of their own
                least = torch.cat([smallest[:-1].amin().expand(len(moved) - 1, 1), smallest[-1:].amin().expand(1, 1)])
            apart = apart.where(sent, (apart.abs() - least).relu())
        parts.append(apart.square().sum() / moved.square().sum())
    return torch.stack(parts).mean()


def _completed(guess: Tensor, n: int) -> Tensor:
    """As many records as are behind the update, nearly zero where there is no guess."""
    more = torch.linspace(0, UNSEEN, max(0, n - len(guess)), dtype=guess.dtype)
    return torch.cat([guess[:n], more[:, None].expand(-1, guess.shape[1])])


def fitted_scale(seen: Seen, shapes: Tensor) -> Tensor:
    """Records (m, d) of these shapes, whole numbers times the grid, at a common power of two: the one that matches best.

    Numbers that were not rounded to the grid are on a coarser one, of twice, four times, ... its width. The other n - m
    records, which the first step saw while adapters were zero, are fitted with it; so are labels, and which record came when,
    of up to 3.
    """
    others = shapes.mean(0).expand(max(0, seen.records - len(shapes)), -1)
    orders = list(itertools.permutations(range(len(shapes)))) if len(shapes) <= ORDERED else [tuple(range(len(shapes)))]
    fits = [_fitted(seen, others, shapes[list(order)], size) for order in orders for size in SCALES]
    _, log = min(fits)
    return shapes * 2.0 ** max(0, round(log / math.log(2)))


def _fitted(seen: Seen, others: Tensor, shapes: Tensor, size: float) -> tuple[float, float]:
    """How much is left to match, and the logarithm of the size."""
    log = shapes.new_full((1,), size).log().requires_grad_()
    logits = shapes.new_zeros(seen.records, seen.outputs).requires_grad_()
    unseen = others.clone().requires_grad_()
    unknown = [log, logits, unseen]
    optimizer = torch.optim.LBFGS(unknown, max_iter=FITTED, line_search_fn="strong_wolfe")

    def left() -> Tensor:
        return distance(seen, torch.cat([unseen, shapes]) * log.exp(), logits.softmax(1))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = left()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return float(left().detach().nan_to_num(torch.inf)), float(log.detach())
