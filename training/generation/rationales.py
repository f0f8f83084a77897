"""A teacher's reasons for labelled records, for the two tasks of objectives/step_by_step.py (Hsieh et al. 2023).

The teacher gets a few worked examples and a record's input, and answers with reasons that end in its label:

    input, reasons, "So the answer is LABEL."

The reasons are what comes before. Where the teacher's label is not the record's, the reasons argue for something else: they are
dropped (`agree`), and the record keeps its label and no rationale."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from zkaudit.training.errors import TrainingError
from zkaudit.training.generation.generator import Generator, Provenance, write
from zkaudit.training.objectives.step_by_step import Explained


@dataclass(frozen=True)
class Teacher:
    """How reasons are asked for. `ending` is a regular expression whose first group is the label."""

    examples: Sequence[Explained]
    question: str = "Question: {input}\nAnswer: "
    ending: str = r"So the answer is\s+(.+?)\.?\s*$"
    agree: bool = True

    def __post_init__(self) -> None:
        if "{input}" not in self.question:
            raise TrainingError(f"question {self.question!r} must have the place {{input}}")
        if re.compile(self.ending).groups < 1:
            raise TrainingError(f"ending {self.ending!r} must have a group for the label")
        if any(example.rationale is None for example in self.examples):
            raise TrainingError("a worked example has no rationale")

    def prompt(self, text: str) -> str:
        """The worked examples, then the question."""
        worked = [
            f"{self._asked(example.text)}{example.rationale} So the answer is {example.label}.\n\n" for example in self.examples
        ]
        return "".join(worked) + self._asked(text)

    def parsed(self, answer: str) -> tuple[str, str] | None:
        """Reasons and label; None for an answer without an ending or without reasons."""
        found = re.search(self.ending, answer.strip(), re.DOTALL)
        reasons = answer.strip()[: found.start()].strip() if found else ""
        return (reasons, found[1].strip()) if found and reasons else None

    def _asked(self, text: str) -> str:
        return self.question.replace("{input}", text)


def explained(
    teacher: Teacher, generator: Generator, run_seed: str, records: Sequence[tuple[str, str]]
) -> tuple[list[Explained], list[Provenance]]:
    """Records of input and label with the teacher's reasons, or None where they could not be used; one provenance each."""
    written = write(generator, "rationale", run_seed, [text for text, _ in records], teacher.prompt)
    found, provenance = [], []
    for (text, label), answer in zip(records, written, strict=True):
        parts = teacher.parsed(answer.text)
        agrees = parts is not None and parts[1] == label
        used = parts is not None and (agrees or not teacher.agree)
        found.append(Explained(text, label, parts[0] if parts and used else None))
        provenance.append(answer.provenance.judged(float(agrees), used))
    return found, provenance
