"""Checks of objectives that change what a model of text reads or is to write: UL2, distilling step-by-step, BASH and RAC.
Models are small transformers from their configurations; texts are drawn from small languages."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from statistics import fmean
from typing import Any

import torch
from methods.check import Check, Measured
from torch import Tensor, nn
from torch.nn import functional as F

from zkaudit.training.generation.generator import Ask
from zkaudit.training.objectives.bash import Bash, BashOptions, beta_at
from zkaudit.training.objectives.rac import Rac
from zkaudit.training.objectives.rows import Pair, batch_of
from zkaudit.training.objectives.step_by_step import TwoTasks
from zkaudit.training.objectives.ul2 import TABLE, UL2, UL2Options, collate

# Tokens of the templated language: 0 pad, 1 end, 2 to 4 modes, 5 to 36 words, 40 to 59 sentinels.
OPTIONS = {"sentinels": range(40, 60), "eos": 1, "modes": {"R": 2, "X": 3, "S": 4}}
LENGTH = 32
TABLES = {"mixture": TABLE, "R alone": TABLE[:1], "S alone": TABLE[-1:]}


def sentences(count: int, seed: int) -> list[list[int]]:
    """Four clauses of eight words: a subject, which decides its verb and object, between words that follow from the clause
    before."""
    draws, rows = random.Random(seed), []
    for _ in range(count):
        row, topic = [], draws.randrange(4)
        for clause in range(4):
            subject = draws.randrange(8)
            row += [5 + topic, 9 + subject, 17 + subject, 25 + (subject + topic) % 4, 29 + subject % 4, 33 + clause]
            row += [29 + draws.randrange(4), 25 + topic]
            topic = (topic + subject) % 4
        rows.append(row)
    return rows


@cache
def denoising_losses() -> dict[str, tuple[float, float]]:
    """Loss in nats a token when filling in spans, and when continuing a text, after equal steps with each table."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.set_num_threads(1)
    train, test = sentences(2000, 1), sentences(200, 2)
    found = {}
    for name, table in TABLES.items():
        torch.manual_seed(0)
        sizes = {"d_model": 48, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 3, "dropout_rate": 0.0}
        model = T5ForConditionalGeneration(T5Config(vocab_size=60, decoder_start_token_id=0, **sizes))
        ul2 = UL2(UL2Options(**OPTIONS, denoisers=table), "check")
        optimizer = torch.optim.AdamW(model.parameters(), 0.003, weight_decay=0.0)
        for step in range(500):
            rows = [ul2(train[i % 2000], i) for i in range(32 * step, 32 * (step + 1))]
            optimizer.zero_grad()
            model(**collate(rows, pad=0)).loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        losses = []
        for wanted in (TABLE[0], TABLE[-1]):
            # A model that knows one mode is asked in that one: it has never seen the other's token.
            mode = OPTIONS["modes"][wanted.mode if len(table) > 1 else table[0].mode]
            judge = UL2(UL2Options(**OPTIONS | {"modes": {wanted.mode: mode}}, denoisers=(wanted,)), "test")
            with torch.no_grad():
                losses.append(float(model(**collate([judge(row, i) for i, row in enumerate(test)], pad=0)).loss))
        found[name] = (losses[0], losses[1])
    return found


def mixture_serves_both() -> Measured:
    found = denoising_losses()
    worst = max(found["mixture"][i] / min(each[i] for each in found.values()) - 1 for i in range(2))
    note = "; ".join(f"{name} {fill:.3f} filling, {go_on:.3f} continuing" for name, (fill, go_on) in found.items())
    return Measured(100 * worst, None, f"{note}; nats a token, 500 steps of 32 each")


def singles_lose_one() -> Measured:
    """The better of the two single denoisers on its worse side, over the mixture there."""
    found = denoising_losses()
    worst = [max(found[name][i] / found["mixture"][i] for i in range(2)) for name in ("R alone", "S alone")]
    return Measured(
        min(worst),
        None,
        "; ".join(f"{name} {ratio:.2f} times" for name, ratio in zip(TABLES, ["", *worst], strict=True) if ratio),
    )


BITS, USED = 12, 4


@cache
def parities() -> dict[tuple[int, str], float]:
    """Accuracy on 1000 inputs of the parity of 4 of 12 bits, learned from n labels, with partial parities as reasons."""
    torch.set_num_threads(1)
    found: dict[tuple[int, str], list[float]] = {}
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        bits = torch.randint(2, (2000, BITS), generator=generator)
        partial = bits[:, :USED].cumsum(1)[:, 1:] % 2
        noise = torch.randint(2, partial.shape, generator=generator)
        for n in (100, 200, 400, 800):
            for way, reasons in (("label", None), ("reasons", partial), ("random reasons", noise)):
                torch.manual_seed(seed)
                body = nn.Sequential(nn.Linear(BITS, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU())
                label, explain = nn.Linear(128, 1), nn.Linear(128, USED - 1)
                x, y = 2.0 * bits[:n] - 1, partial[:n, -1].float()
                parameters = [*body.parameters(), *label.parameters(), *explain.parameters()]
                optimizer = torch.optim.AdamW(parameters, 0.002, weight_decay=0.01)
                for _ in range(400):
                    hidden = body(x)
                    first = F.binary_cross_entropy_with_logits(label(hidden)[:, 0], y)
                    second = None
                    if reasons is not None:
                        second = F.binary_cross_entropy_with_logits(explain(hidden), reasons[:n].float())
                    optimizer.zero_grad()
                    TwoTasks(alpha=0.5).combined(first, second).backward()
                    optimizer.step()
                with torch.no_grad():
                    answer = label(body(2.0 * bits[1000:] - 1))[:, 0] > 0
                accuracy = float((answer == partial[1000:, -1]).float().mean())
                found.setdefault((n, way), []).append(100 * accuracy)
    return {key: fmean(values) for key, values in found.items()}


def reasons_help() -> Measured:
    found = parities()
    gains = {n: found[n, "reasons"] - found[n, "label"] for n in (100, 200, 400, 800)}
    note = "; ".join(
        f"n = {n}: {found[n, 'label']:.1f}, {found[n, 'reasons']:.1f}, {found[n, 'random reasons']:.1f}" for n in gains
    )
    return Measured(max(gains.values()), None, f"label alone, with reasons, with random ones, in percent: {note}; 4 seeds")


def random_reasons_do_not() -> Measured:
    found = parities()
    gains = [found[n, "random reasons"] - found[n, "label"] for n in (100, 200, 400, 800)]
    return Measured(max(gains), 0.0, "the largest gain over the four sizes; none is wanted")


COUNT = 20  # terms of a counting sequence
LARGEST_STEPS = (6, 9)  # of two languages: with more, 5 epochs teach nothing


def counting(rows: int, largest: int, seed: int) -> dict[str, Tensor]:
    """A mark, a step from 1 to `largest`, and the terms start + i step mod 16; loss from the second term on."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randint(16, (rows, 1), generator=generator)
    step = 1 + torch.randint(largest, (rows, 1), generator=generator)
    ids = torch.cat([torch.full((rows, 1), 16), step, (start + torch.arange(COUNT) * step) % 16], 1)
    labels = ids.clone()
    labels[:, :3] = -100
    return {"input_ids": ids, "labels": labels}


def small_gpt2(seed: int, vocabulary: int, length: int, width: int = 32, layers: int = 2, spread: float = 0.02) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    sizes = {"n_embd": width, "n_layer": layers, "n_head": 2, "n_positions": length, "vocab_size": vocabulary}
    no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(**sizes, **no_dropout, initializer_range=spread, bos_token_id=0, eos_token_id=0))


@cache
def exposure(beta: float, largest: int) -> tuple[float, float, float]:
    """Error of terms in percent, when the truth is read and when own terms are, and the loss in nats; mean of 3 seeds. Two
    plain epochs and three with contexts, too few to learn the language whole: without errors there is no gap."""
    torch.set_num_threads(1)
    found = []
    for seed in range(3):
        model: Any = small_gpt2(seed, 17, COUNT + 2)
        optimizer = torch.optim.AdamW(model.parameters(), 0.003, weight_decay=0.0)
        bash, data = Bash(BashOptions(0.0), f"check {seed}"), counting(1024, largest, seed)
        for number in range(5):
            made = bash.contexts(model, data, range(1024), number, beta_at(max(number - 2, 0), 3, beta))
            for rows in torch.randperm(1024, generator=torch.Generator().manual_seed(number)).split(32):
                optimizer.zero_grad()
                model(**{name: value[rows] for name, value in made.items()}).loss.backward()
                optimizer.step()
        test = counting(200, largest, 1000 + seed)
        own = Bash(BashOptions(1.0, allow_all_own=True), "test").contexts(model, test, range(200), 0)["input_ids"]
        with torch.no_grad():
            out = model.eval()(**test)
        wrong = out.logits[:, 2:-1].argmax(-1) != test["input_ids"][:, 3:]
        free = own[:, 3:] != test["input_ids"][:, 3:]
        found.append((100 * float(wrong.float().mean()), 100 * float(free.float().mean()), float(out.loss)))
    forced, free_running, loss = (fmean(column) for column in zip(*found, strict=True))
    return forced, free_running, loss


def gap_closes() -> Measured:
    closed, notes = [], []
    for largest in LARGEST_STEPS:
        found = {beta: exposure(beta, largest) for beta in (0.0, 0.2)}
        gaps = {beta: free - forced for beta, (forced, free, _) in found.items()}
        closed.append(gaps[0.0] - gaps[0.2])
        notes += [
            f"steps to {largest}, beta {beta}: {forced:.2f}% and {free:.2f}%, loss {loss:.3f}"
            for beta, (forced, free, loss) in found.items()
        ]
    return Measured(fmean(closed), None, f"error after the truth and after own terms, {'; '.join(notes)}; counting, 3 seeds")


class Batched:
    """A Generator: the likeliest characters after every prompt at once."""

    digest = "of the check"

    def __init__(self, model: Any, new: int) -> None:
        self.model, self.new = model, new

    def __call__(self, asks: Sequence[Ask]) -> list[str]:
        found = [""] * len(asks)
        lengths: dict[int, list[int]] = {}
        for number, ask in enumerate(asks):
            lengths.setdefault(len(ask.prompt), []).append(number)
        for rows in lengths.values():
            ids = torch.tensor([[ord(c) for c in asks[row].prompt] for row in rows])
            with torch.no_grad():
                out = self.model.eval().generate(
                    ids, attention_mask=torch.ones_like(ids), max_new_tokens=self.new, min_new_tokens=self.new, do_sample=False
                )
            for row, answer in zip(rows, out[:, ids.shape[1] :].tolist(), strict=True):
                found[row] = "".join(map(chr, answer))
        return found


@cache
def sorting() -> dict[str, float]:
    """Right answers in percent when six letters are sorted, after as many rows: plain, and with RAC once and corrected."""
    torch.set_num_threads(1)

    def records(count: int, seed: int) -> list[Pair]:
        draws = random.Random(seed)
        words = ["".join(draws.choice("abcdefgh") for _ in range(6)) for _ in range(count)]
        return [Pair(f"{word}=", "".join(sorted(word))) for word in words]

    train, test = records(1000, 1), records(300, 2)
    rac = Rac("check", template="{input}{answer}>")
    found = {}
    for way in ("plain", "rac"):
        model: Any = small_gpt2(0, 128, 24, 48, 2)
        optimizer = torch.optim.AdamW(model.parameters(), 0.003, weight_decay=0.0)
        generator = torch.Generator().manual_seed(0)
        for number in range(6):
            rows = train + train if way == "plain" or number == 0 else rac.examples(Batched(model, 6), train, number).rows
            model.train()
            for chosen in torch.randperm(len(rows), generator=generator).split(64):
                picked = [rows[i] for i in chosen.tolist()]
                batch = batch_of(
                    [list(r.source.encode()) for r in picked], [list(r.target.encode()) for r in picked], 0, causal=True
                )
                optimizer.zero_grad()
                model(**batch).loss.backward()
                optimizer.step()
        questions = [record.source for record in test]
        for passes in (0, 1) if way == "rac" else (0,):
            answers = rac.corrected(Batched(model, 6), questions, passes)
            right = [answer == record.target for answer, record in zip(answers, test, strict=True)]
            found[f"{way}, {passes} corrections"] = 100 * fmean(right)
    return found


def correction_helps() -> Measured:
    found = sorting()
    note = "; ".join(f"{way} {score:.1f}%" for way, score in found.items())
    return Measured(found["rac, 1 corrections"] - found["plain, 0 corrections"], None, f"{note}; 1000 words, equal rows")


CHECKS = [
    Check("ul2", "loss over the best on its worse side, filling in or continuing", "percent", "lower", mixture_serves_both),
    Check("ul2", "the better single denoiser's loss on its worse side over the mixture's", "x", "higher", singles_lose_one),
    Check("distilling-step-by-step", "accuracy over labels alone, best of four sizes", "points", "higher", reasons_help),
    Check(
        "distilling-step-by-step", "accuracy over labels alone with random reasons", "points", "equal", random_reasons_do_not
    ),
    Check("bash", "gap between free-running and teacher-forced error, closed", "points", "higher", gap_closes),
    Check("rac", "right answers over plain training, with a correction", "points", "higher", correction_helps),
]
