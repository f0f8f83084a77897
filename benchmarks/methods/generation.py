"""Checks of data that a generator writes, with rules as generators: what is measured is the pipeline, not a model's writing."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from pydoc_data.topics import topics
from statistics import fmean
from typing import Any

import torch
from methods.check import Check, Measured
from methods.targets import small_gpt2
from torch import Tensor, nn
from torch.nn import functional as F

from zkaudit.training.generation.batch_prompt import BatchPrompt, BatchPromptOptions
from zkaudit.training.generation.coverage import Taxonomy, fill, gaps
from zkaudit.training.generation.generator import Ask, Rule
from zkaudit.training.generation.recycle import Recycle, RecycleOptions, traced
from zkaudit.training.generation.self_lengthen import SelfLengthen, valid, words
from zkaudit.training.generation.thoughts import Tags, append_thoughts


class Characters:
    """A model of characters by the three before, smoothed, over an alphabet of 96."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.pairs: Counter[str] = Counter()
        self.befores: Counter[str] = Counter()
        for text in texts:
            for i in range(3, len(text)):
                self.pairs[text[i - 3 : i + 1]] += 1
                self.befores[text[i - 3 : i]] += 1

    def loss(self, texts: Sequence[str]) -> float:
        """Nats a character."""
        costs = [
            -math.log((self.pairs[text[i - 3 : i + 1]] + 0.1) / (self.befores[text[i - 3 : i]] + 9.6))
            for text in texts
            for i in range(3, len(text))
        ]
        return fmean(costs)


def paragraphs() -> list[str]:
    text = "\n\n".join(topics[name] for name in sorted(topics))
    found = [" ".join(part.split()) for part in text.split("\n\n") if 80 < len(part) < 600 and part.isascii()]
    return found[:600]


def spoilt(text: str) -> str:
    """Every word of more than three letters backwards."""
    return " ".join(word[::-1] if len(word) > 3 else word for word in text.split(" "))


def recycled_share() -> Measured:
    """How far rewriting brings a model's held-out loss from that with half the texts spoilt to that with all of them clean."""
    texts = paragraphs()
    train, held = texts[:500], texts[500:]
    clean, dirty = train[:250], [spoilt(text) for text in train[250:]]
    judge = Characters(clean)
    vocabulary = {word for text in clean for word in text.split(" ")}

    def restore(ask: Ask, _: random.Random) -> str:
        """Turns around words that are known that way round only."""
        document = ask.prompt.split("----\n")[1].rstrip("\n")
        turned = [w[::-1] if w not in vocabulary and w[::-1] in vocabulary else w for w in document.split(" ")]
        return f"Improved document: {' '.join(turned)}"

    # Facts are read off the spoilt text, so their overlap says nothing here.
    options = RecycleOptions(keep=1.0, overlap=0.0)
    found = Recycle(Rule(restore, "turner"), lambda text: -judge.loss([text]), "check", options)(dirty)
    made = [written.text for written in found.kept]
    losses = {
        "as found": Characters(clean + dirty).loss(held),
        "clean half": judge.loss(held),
        "recycled": Characters(clean + made).loss(held),
        "all clean": Characters(train).loss(held),
    }
    share = (losses["as found"] - losses["recycled"]) / (losses["as found"] - losses["all clean"])
    note = "; ".join(f"{way} {loss:.3f}" for way, loss in losses.items())
    return Measured(share, None, f"nats a character: {note}; {len(made)} of {len(dirty)} kept; traced: {traced(found, dirty)}")


TAGS = Tags(open="(", close=")", prompt="{document}")
DIGITS, BASE, TOKENS = 8, 4, 1_000_000


@cache
def sums() -> dict[str, float]:
    """Exact answers in percent, to the sum of eight digits mod 4, after as many tokens: without thoughts, and with them,
    asked at once or after thinking. Of the documents half have no answer."""
    torch.set_num_threads(1)

    def documents(count: int, seed: int) -> list[tuple[str, str]]:
        draws, found = random.Random(seed), []
        for _ in range(count):
            digits = [draws.randrange(BASE) for _ in range(DIGITS)]
            found.append(("".join(map(str, digits)), str(sum(digits) % BASE)))
        return found

    def think(ask: Ask, _: random.Random) -> str:
        total, said = 0, []
        for digit in ask.prompt.split("=")[0]:
            total = (total + int(digit)) % BASE
            said.append(f"{digit}{total}")
        return f"{' '.join(said)}>{total}"

    train, test = documents(6000, 1), documents(300, 2)
    plain = [f"{digits}={answer}" if i % 2 else f"{digits}=" for i, (digits, answer) in enumerate(train)]
    rows = {"plain": plain, "thoughts": [row.text for row in append_thoughts(plain, Rule(think, "adder"), "check", TAGS)]}
    found = {}
    for way, texts in rows.items():
        model: Any = small_gpt2(0, 128, 48, 48, spread=0.1)
        optimizer = torch.optim.AdamW(model.parameters(), 0.003, weight_decay=0.0)
        generator, tokens = torch.Generator().manual_seed(0), 0
        while tokens < TOKENS:
            picked = [texts[i] for i in torch.randint(len(texts), (64,), generator=generator).tolist()]
            width = max(map(len, picked)) + 1
            ids = torch.tensor([[*row.encode(), *[0] * (width - len(row))] for row in picked])
            ends = torch.arange(width) <= torch.tensor([[len(row)] for row in picked])
            tokens += int(ends.sum())
            optimizer.zero_grad()
            model(input_ids=ids, labels=ids.masked_fill(~ends, -100)).loss.backward()
            optimizer.step()
        for name, start in (("at once", "="), ("thinking", "=(")) if way == "thoughts" else (("at once", "="),):
            ids = torch.tensor([[*f"{digits}{start}".encode()] for digits, _ in test])
            with torch.no_grad():
                if name == "at once":  # half of the documents end here: the likeliest digit
                    answers = [str(digit) for digit in model.eval()(ids).logits[:, -1, 48 : 48 + BASE].argmax(1).tolist()]
                else:
                    out = model.eval().generate(
                        ids, attention_mask=torch.ones_like(ids), max_new_tokens=3 * DIGITS + 2, do_sample=False
                    )
                    said = ["".join(chr(c) for c in row if c) for row in out[:, ids.shape[1] :].tolist()]
                    answers = [text.partition(">")[2][:1] for text in said]
            right = fmean(answer == wanted for answer, (_, wanted) in zip(answers, test, strict=True))
            found[f"{way}, {name}"] = 100 * right
    return found


def thinking_helps() -> Measured:
    found = sums()
    note = "; ".join(f"{way} {score:.1f}%" for way, score in found.items())
    return Measured(
        found["thoughts, thinking"] - found["plain, at once"], 50.1 - 19.2, f"{note}; {TOKENS} tokens each; published: GSM8K"
    )


def lengths_grow() -> Measured:
    """Mean words after three rounds over those before, where the next round's generator writes as long as it was shown."""
    lengthen = SelfLengthen("check", template="{prompt}|{answer}")
    length, means, repeats = 40, [40.0], 0
    for number in range(3):
        write = Rule(lambda ask, draws, n=length: _prose(draws, n), f"writer {length}")
        extend = Rule(_longer, "extender")
        found = lengthen.round([f"tell {i}" for i in range(40)], write, extend, number)
        repeats += sum(not valid(each.extended) for each in found)
        means.append(fmean(words(each.extended) for each in found))
        length = round(means[-1])
    said = " ".join(f"{mean:.0f}" for mean in means)
    grows = all(after > before for before, after in pairwise(means))
    return Measured(
        means[-1] / means[0],
        None,
        f"words: {said}; grows every round: {grows}; invalid ones kept: {repeats}; a rule writes; published: 8 times",
    )


def _longer(ask: Ask, draws: random.Random) -> str:
    """Half as long again as the answer that is given, what was begun included."""
    wanted = round(1.5 * words(ask.prompt.partition("|")[2])) - words(ask.start)
    return ("\n\n" if ask.start else "") + _prose(draws, wanted)


def _prose(draws: random.Random, count: int) -> str:
    parts = [" ".join(f"w{draws.randrange(5000)}" for _ in range(10)) + "." for _ in range(max(1, count // 10))]
    return "\n\n".join(parts)


COLOURS, SHAPES = ("red", "green", "blue"), ("disc", "square", "triangle")
Drawn = tuple[str, str, Tensor]
TAXONOMY: Taxonomy[Drawn] = Taxonomy({"colour": (lambda d: d[0], COLOURS), "shape": (lambda d: d[1], SHAPES)})


def draw(colour: str, shape: str, draws: random.Random) -> Drawn:
    """A shape of one colour at a random place of 12 x 12 pixels, with noise."""
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    row, column, size = draws.uniform(4, 7), draws.uniform(4, 7), draws.uniform(2.5, 3.8)
    inside = {
        "disc": (y - row) ** 2 + (x - column) ** 2 <= size**2,
        "square": ((y - row).abs() <= size) & ((x - column).abs() <= size),
        "triangle": ((y - row).abs() <= size) & ((x - column).abs() <= (y - row + size) / 2),
    }[shape]
    image = torch.zeros(3, 12, 12)
    image[COLOURS.index(colour)] = inside.float()
    noise = torch.randn(3, 12, 12, generator=torch.Generator().manual_seed(draws.getrandbits(62)))
    return colour, shape, image + 0.4 * noise


def empty_cell() -> Measured:
    """Accuracy on the shape of blue triangles, of which the data have none, before and after 50 of them are made."""
    torch.set_num_threads(1)
    draws = random.Random(0)
    cells = [cell for cell in TAXONOMY.cells() if cell != ("blue", "triangle")]
    train = [draw(*cell, draws) for cell in cells for _ in range(50)]
    test = {cell: [draw(*cell, draws) for _ in range(100)] for cell in TAXONOMY.cells()}

    def parse(text: str) -> Drawn | None:
        colour, shape, seed = text.split()
        return draw(colour, shape, random.Random(int(seed)))

    def describe(cell: Mapping[str, str]) -> str:
        return f"{cell['colour']} {cell['shape']}"

    painter = Rule(lambda ask, draws: f"{ask.prompt} {draws.getrandbits(60)}", "painter")
    filled = fill(gaps(train, TAXONOMY, 50), TAXONOMY, painter, describe, parse, "check")
    before, after = _accuracies(train, test), _accuracies(train + filled.records, test)
    empty = ("blue", "triangle")
    others = [fmean(scores[cell] for cell in cells) for scores in (before, after)]
    said = f"empty cell {before[empty]:.1f}% to {after[empty]:.1f}%; others {others[0]:.1f}% to {others[1]:.1f}%"
    note = f"{said}; {len(filled.records)} made"
    return Measured(after[empty] - others[1], None, note)


def _accuracies(train: Sequence[Drawn], test: Mapping[Any, Sequence[Drawn]]) -> dict[Any, float]:
    found: dict[Any, list[float]] = {}
    for seed in range(3):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(400, 3))
        optimizer = torch.optim.Adam(model.parameters(), 0.003)
        x = torch.stack([image for _, _, image in train])
        y = torch.tensor([SHAPES.index(shape) for _, shape, _ in train])
        for _ in range(400):
            rows = torch.randint(len(x), (64,))
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
        for cell, drawn in test.items():
            with torch.no_grad():
                guess = model(torch.stack([image for _, _, image in drawn])).argmax(1)
            found.setdefault(cell, []).append(100 * float((guess == SHAPES.index(cell[1])).float().mean()))
    return {cell: fmean(scores) for cell, scores in found.items()}


@cache
def judged(votes: int, early: bool, bias: float = 0.27) -> tuple[float, float]:
    """Accuracy and votes an item of a judge that is right on 90.5% of the items in the first place of a prompt, and whose
    answers turn over more and more often towards the last of 32, up to `bias`; it is sure of 70% of what it did not turn and
    of 40% of what it did."""
    chance = random.Random(0)
    kinds = [(chance.choice(("yes", "no")), "easy" if chance.random() < 0.905 else "hard") for _ in range(3200)]
    items = [f"item {number} {truth} {kind}" for number, (truth, kind) in enumerate(kinds)]

    def judge(ask: Ask, draws: random.Random) -> str:
        lines = [line for line in ask.prompt.split("\n") if "] item " in line]
        answers = []
        for place, line in enumerate(lines):
            truth, kind = line.split()[-2:]
            turned = draws.random() < bias * place / 31
            yes = (truth == "yes") ^ (kind == "hard") ^ turned
            sure = draws.random() < (0.4 if turned else 0.7)
            answers.append(f"[{place}] {'yes' if yes else 'no'} ({'' if sure else 'not '}confident)")
        return "\n".join(answers)

    options = BatchPromptOptions(votes=votes, early_stop=early)
    found = BatchPrompt(Rule(judge, "judge"), ("yes", "no"), "check", options)("?", items)
    right = fmean(label == item.split()[2] for label, item in zip(found.labels, items, strict=True))
    return right, found.asked / len(items)


def votes_help() -> Measured:
    rows = {"1 vote": judged(1, False), "9 votes": judged(9, False), "9, leaving early": judged(9, True)}
    note = "; ".join(f"{way} {right:.3f} with {votes:.1f} votes an item" for way, (right, votes) in rows.items())
    ours = 100 * (rows["9, leaving early"][0] - rows["1 vote"][0])
    return Measured(ours, None, f"{note}; a simulated judge; published: 87.8 to 90.9 on BoolQ with GPT-4")


def votes_saved() -> Measured:
    return Measured(
        judged(9, True)[1] / 9, None, f"accuracy {judged(9, True)[0]:.3f} against {judged(9, False)[0]:.3f} with all votes"
    )


def no_bias_no_gain() -> Measured:
    return Measured(100 * (judged(9, False, 0.0)[0] - judged(1, False, 0.0)[0]), 0.0, "a judge that does not mind the place")


CHECKS = [
    Check("recycling", "share of the way from half spoilt to all clean, in held-out loss", "of 1", "higher", recycled_share),
    Check("thinking-augmentation", "exact answers over plain documents at equal tokens", "points", "higher", thinking_helps),
    Check("self-lengthen", "mean words after three rounds over those before", "x", "higher", lengths_grow),
    Check("coverage-gaps", "accuracy on the filled cell less that on the others", "points", "higher", empty_cell),
    Check("batch-prompt", "accuracy over one vote, with nine and leaving early", "points", "higher", votes_help),
    Check("batch-prompt", "votes asked for, of nine an item", "of 1", "lower", votes_saved),
    Check("batch-prompt", "gain of nine votes without a bias of places", "points", "equal", no_bias_no_gain),
]
