"""What a defence costs: the test loss after fine-tuning under it, beside that without any defence and that without training.

The adapters are trained by the federation's own rounds, so all that a defence changes takes part: noise, precision, cohorts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from zkaudit.attacks.attack import Progress, silent
from zkaudit.attacks.defences.defence import NONE, Defence
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.client import batches
from zkaudit.attacks.federated.rounds import simulate
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.lab.records import Record
from zkaudit.attacks.model import IGNORED, PublicModel

BATCH = 16  # of test records


@dataclass(frozen=True)
class Measure:
    """On test records: the mean `loss` of a token (of a record, for classifiers) and the share of right predictions.

    The loss is infinite where training diverged.
    """

    loss: float
    accuracy: float

    @property
    def perplexity(self) -> float:
        """exp(loss), infinite beyond floats."""
        return math.exp(self.loss) if self.loss < 700 else math.inf


@dataclass(frozen=True)
class Utility:
    """Test results without training, after training without a defence, and after training with it."""

    untrained: Measure
    undefended: Measure
    defended: Measure

    @property
    def retained(self) -> float:
        """Of the loss that training takes away without a defence, the share that it still takes away with it.

        Below 0 it is worse than no training (minus infinity: it diverged); NaN if training without a defence takes none away.
        """
        gain = self.untrained.loss - self.undefended.loss
        return (self.untrained.loss - self.defended.loss) / gain if gain > 0 else math.nan

    def to_dict(self) -> dict[str, dict[str, float | None]]:
        """For JSON; an infinite loss is None."""
        return {
            name: {"loss": each.loss if math.isfinite(each.loss) else None, "accuracy": each.accuracy}
            for name, each in vars(self).items()
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Mapping[str, float | None]]) -> Utility:
        """From `to_dict`'s."""

        def part(name: str) -> Measure:
            loss, accuracy = content[name]["loss"], content[name]["accuracy"]
            return Measure(math.inf if loss is None else loss, accuracy or 0.0)

        return cls(part("untrained"), part("undefended"), part("defended"))


def utility(
    model: PublicModel,
    records_train: Sequence[Record],
    records_test: Sequence[Record],
    settings: FederatedSettings,
    defence: Defence,
    steps: int,
    seed: int = 0,
    undefended: Measure | None = None,
    progress: Progress = silent,
) -> Utility:
    """Train for `steps` rounds with and without the defence. `settings` are those without it; the model's values are restored.

    `model` has the adapters that the defence wants. Where these are others than without it, pass `undefended`, measured on
    the adapters without it.
    """
    untrained = measure(model, records_test, settings)
    if undefended is None:
        undefended = trained(model, records_train, records_test, settings, NONE, steps, seed, progress)
    defended = trained(model, records_train, records_test, settings, defence, steps, seed, progress)
    return Utility(untrained, undefended, defended)


def trained(
    model: PublicModel,
    records_train: Sequence[Record],
    records_test: Sequence[Record],
    settings: FederatedSettings,
    defence: Defence,
    steps: int,
    seed: int = 0,
    progress: Progress = silent,
) -> Measure:
    """The measure after `steps` rounds under a defence; each client goes through its share of the records again and again."""
    rules = replace(defence.settings(settings), rounds=steps, same_batch=False, warm_up_steps=0)
    run = simulate(model, _clients(records_train, rules), rules, seed=seed, progress=progress, train=defence.update)
    return measure(model, records_test, settings, run.end)


def _clients(records: Sequence[Record], settings: FederatedSettings) -> list[list[Record]]:
    """A cohort's clients, each with every cohort-th record, repeated for all rounds."""
    shares = [list(records[client :: settings.cohort]) for client in range(settings.cohort)]
    if not all(shares):
        raise AuditError(f"{settings.cohort} clients need at least as many training records; there are {len(records)}")
    needed = settings.records * settings.rounds
    return [(share * (needed // len(share) + 1))[:needed] for share in shares]


@torch.no_grad()
def measure(
    model: PublicModel, records: Sequence[Record], settings: FederatedSettings, state: Mapping[str, Tensor] | None = None
) -> Measure:
    """Loss and accuracy on records, without dropout, with these values of the trainable tensors."""
    if not records:
        raise AuditError("utility is measured on test records; there are none")
    loss = right = count = 0.0
    training = model.module.training
    model.module.eval()
    try:
        with model.holding(state or {}):
            for start in range(0, len(records), BATCH):
                part = records[start : start + BATCH]
                rules = FederatedSettings(batch=len(part), longest=settings.longest)
                (batch,) = batches(model, part, rules, seed=start)
                output = model.module(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels)
                logits, labels = output.logits, batch.labels
                if labels.ndim > 1:
                    logits = logits[:, -labels.shape[1] :]  # without a prompt's virtual tokens
                if model.task == "causal_lm":
                    logits, labels = logits[:, :-1], labels[:, 1:]
                scored = labels != IGNORED
                weight = float(scored.sum())
                loss += float(output.loss) * weight
                right += float((logits.argmax(-1) == labels)[scored].sum())
                count += weight
    finally:
        model.module.train(training)
    return Measure(loss / count if math.isfinite(loss) else math.inf, right / count)
