"""Self-Lengthen: a model is taught longer answers by extending its own (Quan et al. 2024, arXiv 2410.23933).

A round, for each prompt:

    1. the generator answers;
    2. the extender rewrites the first half of the answer's paragraphs at more length; the first two thirds of that are kept;
    3. the extender is given the whole answer and goes on from what was kept; 2 and 3 up to three times while it grows
       and is valid; accepted if it has more than 1.2 times the answer's words, else tried again, at most 20 times;
    4. short ones are dropped: the record of rank r (1 the shortest, near 0 the longest) stays if a draw is above 2 r^3.

Then the generator is trained on prompt -> extended, the extender on the answer less a fifth of its lines -> extended, and the
next round begins. Valid: it ends in punctuation and repeats no 13 words. Training is the caller's; `rows` gives both sets. The
released check of endings does not know the full stop of Latin script; ours does."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from zkaudit.training.errors import TrainingError
from zkaudit.training.generation.generator import Generator, Provenance, Written, write
from zkaudit.training.method import Method
from zkaudit.training.objectives.rows import Pair
from zkaudit.training.steps import derive_seed

METHOD = Method(
    name="self-lengthen",
    title="Self-Lengthen: longer answers from a model's own",
    paper="Quan et al. 2024, arXiv 2410.23933",
    where="zkaudit.training.generation.self_lengthen.SelfLengthen",
    changes=("data",),
    effect="Answers of Qwen2-7B and LLaMA3 grow from 1,000 to 8,000 words over three rounds.",
    library="",
    provable="Before the data are committed: hashes of prompts, generators, seeds and all that was written are bound.",
    server_sees="What training on the model's own text shows; nothing private is in it but the prompts and what it memorised.",
    use=(
        "from zkaudit.training.generation.self_lengthen import SelfLengthen\n"
        "\n"
        'lengthen = SelfLengthen(run_seed="7f")\n'
        "extended = lengthen.round(prompts, generator, extender, number=0)\n"
        "for_generator, for_extender = lengthen.rows(extended, number=0)"
    ),
    avoid="Where more words say no more: length is all that is selected for, and a check of content is the user's.",
    binding="declared",
)

ENDINGS = tuple(".!?…)]}>\"'`。！？）】”’")
PROMPT = """Write the answer below at more length, with more detail in every part.

Task: {prompt}

Answer:
{answer}
"""


@dataclass(frozen=True)
class Extended:
    """A prompt, its first answer and the extended one; provenance of the answer and of each call of the attempt that did it."""

    prompt: str
    answer: str
    extended: str
    provenance: tuple[Provenance, ...]


@dataclass(frozen=True)
class SelfLengthen:
    """The rounds. Raises TrainingError for numbers that cannot be used."""

    run_seed: str
    template: str = PROMPT
    passes: int = 3
    growth: float = 1.2
    retries: int = 20
    repeat: int = 13
    left_out: float = 0.2

    def __post_init__(self) -> None:
        if min(self.passes, self.retries, self.repeat) < 1 or not self.growth >= 1 or not 0 <= self.left_out < 1:
            raise TrainingError("passes, retries, repeat and growth must be at least 1, and left_out from 0 to below 1")
        if "{prompt}" not in self.template or "{answer}" not in self.template:
            raise TrainingError("the template must have the places {prompt} and {answer}")

    def round(self, prompts: Sequence[str], generator: Generator, extender: Generator, number: int) -> list[Extended]:
        """Accepted answers of round `number`, from 0, without those that were dropped for being short."""
        answers = write(generator, f"self-lengthen.{number}", self.run_seed, prompts, str)
        found = [
            self._lengthened(prompt, answer, extender, number, row)
            for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
        ]
        return self._long_ones([each for each in found if each is not None], number)

    def extend(self, prompt: str, answer: str, extender: Generator, kind: str, row: int) -> list[Written] | None:
        """One attempt at a longer answer: all that was written, the longer answer last, or None if it did not get there."""
        best, calls = answer, list[Written]()
        for number in range(self.passes):
            half = "\n\n".join(_first(_paragraphs(best), 1, 2))
            first = self._write(extender, f"{kind}.{number}.first", prompt, half, "", row)
            start = "\n\n".join(_first(first.text.split("\n\n"), 2, 3))
            whole = self._write(extender, f"{kind}.{number}.whole", prompt, best, start, row)
            if valid(whole.text, self.repeat) and words(whole.text) > words(best):
                best = whole.text
                calls += [first, whole]
        return calls if words(best) > self.growth * words(answer) else None

    def rows(self, extended: Sequence[Extended], number: int) -> tuple[list[Pair], list[Pair]]:
        """What the generator and the extender are trained on after round `number`."""
        for_generator = [Pair(each.prompt, each.extended) for each in extended]
        for_extender = []
        for row, each in enumerate(extended):
            draws = random.Random(derive_seed(self.run_seed, f"generation.self-lengthen.lines.{number}", row))
            kept = [line for line in each.answer.split("\n") if draws.random() >= self.left_out]
            for_extender.append(Pair(self._asked(each.prompt, "\n".join(kept)), each.extended))
        return for_generator, for_extender

    def _lengthened(self, prompt: str, answer: Written, extender: Generator, number: int, row: int) -> Extended | None:
        for attempt in range(self.retries):
            calls = self.extend(prompt, answer.text, extender, f"self-lengthen.{number}.{attempt}", row)
            if calls:
                written = (answer, *calls)
                return Extended(prompt, answer.text, calls[-1].text, tuple(each.provenance for each in written))
        return None

    def _long_ones(self, found: list[Extended], number: int) -> list[Extended]:
        """Without those dropped for being short; of equal ones the earlier counts as shorter."""
        order = sorted(range(len(found)), key=lambda row: (len(found[row].extended), row))
        kept = []
        for row, each in enumerate(found):
            rank = 1 - order.index(row) / len(order)
            draw = random.Random(derive_seed(self.run_seed, f"generation.self-lengthen.short.{number}", row)).random()
            kept += [each] if draw > 2 * rank**3 else []
        return kept

    def _write(self, extender: Generator, kind: str, prompt: str, answer: str, start: str, row: int) -> Written:
        asked = self._asked(prompt, answer)
        return write(extender, kind, self.run_seed, [answer], lambda _: asked, [row], [start])[0]

    def _asked(self, prompt: str, answer: str) -> str:
        before, after = self.template.split("{answer}", 1)
        return answer.join(part.replace("{prompt}", prompt) for part in (before, after))


def words(text: str) -> int:
    """Words, and each Chinese character or mark as one."""
    return len(_tokens(text))


def valid(text: str, repeat: int = 13) -> bool:
    """Ends in punctuation, and no run of `repeat` words comes twice."""
    tokens = _tokens(text)
    runs = [tuple(tokens[i : i + repeat]) for i in range(len(tokens) - repeat + 1)]
    return text.rstrip().endswith(ENDINGS) and len(set(runs)) == len(runs)


def length_score(length: int, low: float, high: float) -> float:
    """1 for a length from `low` to `high` words; 0 at half of low and at one and a half of high, linear between."""
    if not 0 < low <= high:
        raise TrainingError(f"low = {low} and high = {high} must be above 0 and in order")
    if length < low:
        return max(0.0, 2 * length / low - 1)
    return 1.0 if length <= high else max(0.0, 3 - 2 * length / high)


def length_band(kind: str, target: float, other: float | None = None) -> tuple[float, float]:
    """low and high of a demand: "about" 20% around a target, "above" it to 1.5 times, "below" it from half, or a "range"."""
    bands = {"about": (0.8 * target, 1.2 * target), "above": (target, 1.5 * target), "below": (0.5 * target, target)}
    if kind == "range" and other is not None:
        return target, other
    if kind not in bands:
        raise TrainingError(f"a demand is about, above, below or a range of two numbers, not {kind!r}")
    return bands[kind]


def _tokens(text: str) -> list[str]:
    return re.findall(r"[一-鿿\u3000-\u303f\uff00-\uffef]|[^\s一-鿿\u3000-\u303f\uff00-\uffef]+", text)


def _paragraphs(text: str) -> list[str]:
    parts = text.split("\n\n")
    return parts if len(parts) > 2 else text.split("\n")


def _first(parts: list[str], of: int, all_of: int) -> list[str]:
    """The first of/all_of of the parts, rounded down."""
    return parts[: len(parts) * of // all_of]
