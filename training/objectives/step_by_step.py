"""Distilling step-by-step: a small model learns the label and, as a second task, the reasons a large one gave (Hsieh et al.
2023, arXiv 2305.02301).

The same input stands before two targets, told apart by a prefix:

    "predict: " + input -> label             "explain: " + input -> rationale

    loss = alpha * CE(label) + (1 - alpha) * CE(rationale)           each a mean over its own target tokens, alpha = 0.5

which is the paper's L_label + lambda L_rationale with alpha = 1 / (1 + lambda), times alpha. The rationale is a target and
never an input: at test time only "predict: " is asked. A record without a rationale counts in the first term alone. Rationales
come from a teacher; generation/rationales.py asks one and keeps the record of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method
from zkaudit.training.objectives.rows import Pair, batch_of

METHOD = Method(
    name="distilling-step-by-step",
    title="Distilling step-by-step: label and rationale as two tasks",
    paper="Hsieh et al. 2023, arXiv 2305.02301",
    where="zkaudit.training.objectives.step_by_step.TwoTasks",
    changes=("objective",),
    effect="T5 of 770M does better than PaLM of 540B on ANLI, with 80% of the labelled data.",
    library="",
    provable="Two passes a step with a public alpha: cross entropy is in the relations, a transformer's layers are not.",
    server_sees="Gradients of each record twice, the second time in the teacher's words: more to read a private input from.",
    use=(
        "from zkaudit.training.objectives.step_by_step import TwoTasks, collate\n"
        "\n"
        "tasks = TwoTasks(alpha=0.5)\n"
        "label, rationale = tasks.batches(records, lambda rows: collate(rows, tokenizer.encode, pad=0, eos=1))\n"
        "loss = tasks.loss(model, label, rationale)"
    ),
    avoid="Where a remote teacher may not see the inputs, and where labels are plenty: the gain is in a window of few labels.",
    binding="declared",
)


class Explained(NamedTuple):
    """A record: its input, its label and a teacher's rationale, or None."""

    text: str
    label: str
    rationale: str | None = None


class Losing(Protocol):
    """A model whose output has the mean cross entropy of its `labels`, as transformers' have."""

    def __call__(self, **batch: Any) -> Any: ...


@dataclass(frozen=True)
class TwoTasks:
    """The objective. Raises TrainingError for an alpha outside [0, 1]."""

    alpha: float = 0.5
    predict: str = "predict: "
    explain: str = "explain: "

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise TrainingError(f"alpha = {self.alpha} must be from 0 to 1")
        if self.predict == self.explain:
            raise TrainingError(f"both tasks have the prefix {self.predict!r}: the model could not tell them apart")

    def rows(self, records: Sequence[Explained]) -> tuple[list[Pair], list[Pair]]:
        """Pairs of the label task, one a record, and of the rationale task, one a record that has a rationale."""
        labels = [Pair(self.predict + record.text, record.label) for record in records]
        reasons = [Pair(self.explain + record.text, record.rationale) for record in records if record.rationale is not None]
        return labels, reasons

    def batches(
        self, records: Sequence[Explained], collate: Callable[[Sequence[Pair]], Mapping[str, Tensor]]
    ) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor] | None]:
        """Both tasks' batches; None for the second where no record has a rationale."""
        labels, reasons = self.rows(records)
        return collate(labels), collate(reasons) if reasons else None

    def loss(self, model: Losing, label: Mapping[str, Tensor], rationale: Mapping[str, Tensor] | None) -> Tensor:
        """Two passes, one for each task, so that long rationales do not outweigh short labels."""
        first: Tensor = model(**label).loss
        return self.combined(first, None if rationale is None or self.alpha == 1 else model(**rationale).loss)

    def combined(self, label: Tensor, rationale: Tensor | None) -> Tensor:
        """The loss from the two terms."""
        return self.alpha * label if rationale is None else self.alpha * label + (1 - self.alpha) * rationale


def collate(
    rows: Sequence[Pair],
    encode: Callable[[str], Sequence[int]],
    pad: int,
    eos: int,
    longest: tuple[int, int] = (1024, 64),
    causal: bool = False,
) -> dict[str, Tensor]:
    """A batch of pairs (rows.py). Sources and targets are cut to `longest` tokens (1024 and 64 as released), the end included;
    `causal` is for a decoder alone."""

    def ended(text: str, most: int) -> list[int]:
        return [*encode(text)[: most - 1], eos]

    sources = [ended(row.source, longest[0]) for row in rows]
    return batch_of(sources, [ended(row.target, longest[1]) for row in rows], pad, causal)
