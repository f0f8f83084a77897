"""BatchPrompt: many items in one prompt, asked again in other orders, and voted on (Lin, Diesendruck, Du and Abraham 2024,
arXiv 2309.00384).

B items share one prompt and get one label each. An item's place in the prompt matters, so in rounds 2 to V the order is drawn
anew, and the labels of an item are votes, a confident one counting `weight` times; of equal labels the one that was given
first wins. Self-reflection lets items leave early: those whose last two answers agree, and are both confident, are not asked
again, and later prompts are shorter. B of 16 to 160, V = 9, temperature 0 and a weight of 5 are the paper's.

Answers must name the item, "[3] yes (confident)": a line that cannot be read is no vote and shifts no other. Orders come from
derive_seed(run_seed, "generation.batch-prompt.ROUND", batch); the first is the order of the data."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from zkaudit.training.errors import TrainingError
from zkaudit.training.generation.generator import Generator, Provenance, write
from zkaudit.training.method import Method
from zkaudit.training.steps import derive_seed

METHOD = Method(
    name="batch-prompt",
    title="BatchPrompt: labels for many items a prompt, by vote",
    paper="Lin, Diesendruck, Du, Abraham 2024, arXiv 2309.00384",
    where="zkaudit.training.generation.batch_prompt.BatchPrompt",
    changes=("data", "speed"),
    effect="At 32 items a prompt BoolQ goes from 90.6 to 90.9 with 27.4% of the tokens, QQP from 87.2 to 88.4 with 18.6%.",
    library="",
    provable="Before the data are committed: orders follow from the seed, raw answers are bound by their hashes.",
    server_sees="Whoever runs the generator sees several people's items in one prompt: use it in one trust domain.",
    use=(
        "from zkaudit.training.generation.batch_prompt import BatchPrompt, BatchPromptOptions\n"
        "\n"
        'label = BatchPrompt(generator, ("yes", "no"), run_seed="7f", options=BatchPromptOptions(batch=32, votes=9))\n'
        'answers = label("Does the passage answer the question?", items)'
    ),
    avoid="Items of people who may not see each other's, items that may hold instructions, and weak models.",
    binding="declared",
)


@dataclass(frozen=True)
class BatchPromptOptions:
    """`early_stop` lets items leave; with `confident_stop` only where both answers are confident (the released code asks for
    agreement alone)."""

    batch: int = 32
    votes: int = 9
    weight: float = 5.0
    early_stop: bool = True
    confident_stop: bool = True

    def __post_init__(self) -> None:
        if self.batch < 1 or self.votes < 1 or not self.weight > 0:
            raise TrainingError(f"batch = {self.batch}, votes = {self.votes} and weight = {self.weight} must be above 0")


@dataclass(frozen=True)
class Vote:
    """One answer to one item."""

    label: str
    confident: bool


@dataclass
class Answers:
    """Labels in the items' order, None for an item that was never answered; votes, prompts and what the generator wrote."""

    labels: list[str | None] = field(default_factory=list)
    votes: list[list[Vote]] = field(default_factory=list)
    prompts: int = 0
    asked: int = 0  # items in all prompts together
    provenance: list[Provenance] = field(default_factory=list)
    raw: list[str] = field(default_factory=list)


class BatchPrompt:
    """Called with the question that all items are asked and the items, gives the Answers."""

    def __init__(
        self, generator: Generator, labels: Sequence[str], run_seed: str, options: BatchPromptOptions | None = None
    ) -> None:
        if len({label.lower() for label in labels}) != len(labels) or not labels:
            raise TrainingError("labels must be different words, whatever their case")
        self.generator, self.labels, self.run_seed = generator, tuple(labels), run_seed
        self.options = options or BatchPromptOptions()

    def __call__(self, question: str, items: Sequence[str]) -> Answers:
        found = Answers(votes=[[] for _ in items])
        size = self.options.batch
        batches = [list(range(start, min(start + size, len(items)))) for start in range(0, len(items), size)]
        for turn in range(self.options.votes):
            for number, batch in enumerate(batches):
                if batch:
                    order = self._order(batch, turn, number)
                    self._ask(question, items, order, turn, number, found)
            if self.options.early_stop:
                batches = [[item for item in batch if not self._settled(found.votes[item])] for batch in batches]
        found.labels = [self.majority(votes) for votes in found.votes]
        return found

    def prompt(self, question: str, items: Sequence[str]) -> str:
        """One prompt; items are numbered from 0 in the order given."""
        listed = "\n\n".join(f"[{number}] {item}" for number, item in enumerate(items))
        choices = " or ".join(self.labels)
        form = f'Answer every item on a line of its own: its number, {choices}, and whether you are sure, as in "[0] '
        return f'{question}\n\n{form}{self.labels[0]} (confident)" or "[0] {self.labels[0]} (not confident)".\n\n{listed}\n'

    def read(self, text: str, count: int) -> dict[int, Vote]:
        """Votes by an item's number; what is no item, no label, or said twice with different labels is no vote."""
        found: dict[int, Vote | None] = {}
        known = {label.lower(): label for label in self.labels}
        for line in re.finditer(
            r"^\s*\[(\d{1,6})\]\s*(.+?)\s*(?:\((not )?confident\))?\s*\.?\s*$", text, re.MULTILINE | re.IGNORECASE
        ):
            number, label = int(line[1]), known.get(line[2].lower())
            if number < count and label is not None:
                sure = line[0].rstrip(" .").lower().endswith("(confident)")
                vote = Vote(label, sure)
                again = number in found and found[number] != vote
                found[number] = None if again else vote
        return {number: vote for number, vote in found.items() if vote is not None}

    def majority(self, votes: Sequence[Vote]) -> str | None:
        """The label of most weight, the first given of equal ones; None without votes."""
        weights: dict[str, float] = {}
        for vote in votes:
            weights[vote.label] = weights.get(vote.label, 0.0) + (self.options.weight if vote.confident else 1.0)
        return max(weights, key=lambda label: weights[label]) if weights else None

    def _ask(self, question: str, items: Sequence[str], order: Sequence[int], turn: int, number: int, found: Answers) -> None:
        prompt = self.prompt(question, [items[item] for item in order])
        written = write(self.generator, f"batch-prompt.{turn}", self.run_seed, [prompt], str, [number])[0]
        found.prompts += 1
        found.asked += len(order)
        found.provenance.append(written.provenance)
        found.raw.append(written.text)
        for place, vote in self.read(written.text, len(order)).items():
            found.votes[order[place]].append(vote)

    def _order(self, batch: Sequence[int], turn: int, number: int) -> list[int]:
        """The items of a batch in a round's order."""
        if turn == 0:
            return list(batch)
        draws = random.Random(derive_seed(self.run_seed, f"generation.batch-prompt.order.{turn}", number))
        keys = {item: draws.random() for item in batch}
        return sorted(batch, key=lambda item: (keys[item], item))

    def _settled(self, votes: Sequence[Vote]) -> bool:
        last = votes[-2:]
        agree = len(last) == 2 and last[0].label == last[1].label
        return agree and (not self.options.confident_stop or all(vote.confident for vote in last))
