"""RAC, reference-answer-based correction: the model learns to correct its own answers (Cen et al. 2024, arXiv 2410.14655).

For a record (x, y) the model first answers x with a; it is then trained on

    source = template(x, a)     target = y          loss on the target alone

beside plain rows x -> y, as many. In use a second pass corrects the first. Whether the answer was right does not matter: the
model learns to repeat it then (`keep_correct` leaves those rows out). The paper's template was not found; ours is an option.
Answers are made before an epoch, not in a step, by a Generator of this model (generation/generator.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zkaudit.training.errors import TrainingError
from zkaudit.training.generation.generator import Ask, Generator, Provenance, write
from zkaudit.training.method import Method
from zkaudit.training.objectives.rows import Pair
from zkaudit.training.steps import derive_seed

METHOD = Method(
    name="rac",
    title="Reference-answer-based correction",
    paper="Cen et al. 2024, arXiv 2410.14655",
    where="zkaudit.training.objectives.rac.Rac",
    changes=("objective",),
    effect="Better summaries and answers to general and mathematical questions, and a model that corrects itself.",
    library="",
    provable="A step is an ordinary one on committed rows; answers are bound by the hashes of prompt, generator and output.",
    server_sees="Gradients of each record twice, once after the model's own answer, in which memorised text may be.",
    use=(
        "from zkaudit.training.generation.generator import LanguageModel\n"
        "from zkaudit.training.objectives.rac import Rac\n"
        "\n"
        'rac = Rac(run_seed="7f")\n'
        "made = rac.examples(LanguageModel(model, tokenizer), records, round=epoch)  # made.rows: pairs to train on\n"
        "answers = rac.corrected(LanguageModel(model, tokenizer), questions)"
    ),
    avoid="Models that must answer in one pass: the gain is in the second one, which doubles the cost of an answer.",
    binding="declared",
)


@dataclass(frozen=True)
class Examples:
    """Rows to train on, plain ones first, and one provenance for each record's own answer."""

    rows: list[Pair]
    provenance: list[Provenance]


@dataclass(frozen=True)
class Rac:
    """`template` has the places {input} and {answer}. Raises TrainingError if it has not."""

    run_seed: str
    template: str = "{input}\n{answer}\nCorrected: "
    keep_correct: bool = True

    def __post_init__(self) -> None:
        if "{input}" not in self.template or "{answer}" not in self.template:
            raise TrainingError(f"template {self.template!r} must have the places {{input}} and {{answer}}")

    def examples(self, generator: Generator, records: Sequence[Pair], round: int) -> Examples:
        """Plain rows and corrections of `records`, which are the whole data in a fixed order; `round` counts generations."""
        numbers = range(round * len(records), (round + 1) * len(records))
        written = write(generator, "rac", self.run_seed, [record.source for record in records], str, numbers)
        corrections, provenance = [], []
        for record, own in zip(records, written, strict=True):
            correct = own.text.strip() == record.target.strip()
            kept = self.keep_correct or not correct
            provenance.append(own.provenance.judged(float(correct), kept))
            if kept:
                corrections.append(Pair(self.asked_again(record.source, own.text), record.target))
        return Examples([*records, *corrections], provenance)

    def corrected(self, generator: Generator, questions: Sequence[str], passes: int = 1) -> list[str]:
        """Answers after `passes` corrections; 0 is the first answer."""
        answers: list[str] = []
        for number in range(passes + 1):
            prompts = [self.asked_again(*pair) for pair in zip(questions, answers, strict=True)] if number else questions
            seeds = [derive_seed(self.run_seed, f"use.rac.{number}", row) for row in range(len(questions))]
            answers = generator([Ask(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)])
        return answers

    def asked_again(self, question: str, answer: str) -> str:
        """The template filled in; braces in a question or an answer are text."""
        before, after = self.template.split("{input}", 1)
        parts = [part.replace("{answer}", answer) for part in (before, after)]
        return question.join(parts)
