"""What the update of one client leaks under each method that training can be proved with.

    cd benchmarks && python -m leakage.methods       # two minutes on one core; results/leakage-methods.json

A 64-32-10 network on the digits, the exact trainer, the same start weights and the same rows for every method: one step on one
record, one step on four, and four steps on one record each. Each figure is of the best attack, told by the truth, over 3 draws
of rows and start weights. The static attacker takes the update for one of plain SGD; the adaptive one knows the method and what
the statement makes public, and runs the static one's attacks too. No proof is made: the update is the one that would be proved,
to the last bit.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.joint import controls
from zkaudit.attacks.joint.client import Client, Found, Seen
from zkaudit.attacks.joint.defending import suggested
from zkaudit.attacks.joint.factors import SparseFactors
from zkaudit.attacks.joint.ratios import Ratios
from zkaudit.attacks.joint.scoring import NEAR, Scorer
from zkaudit.attacks.joint.sparse_records import SparseRecords
from zkaudit.attacks.joint.unrolled import UnrolledMatching
from zkaudit.training.config import DataConfig, FixedPoint, ModelConfig, RunConfig, TrainingConfig
from zkaudit.training.data import Dataset, load
from zkaudit.training.fixedpoint.adapters import initial_adapters
from zkaudit.training.fixedpoint.network import initial_network, quantise
from zkaudit.training.fixedpoint.run import quantise_inputs, targets
from zkaudit.training.fixedpoint.trainer import train
from zkaudit.training.method_config import GaLoreConfig, LoRAConfig
from zkaudit.training.provable import as_manifest

RESULTS = Path(__file__).parents[1] / "results/leakage-methods.json"
WIDTHS = (64, 32, 10)
SEEDS = (0, 1, 2)
SETTINGS = ((1, 1), (4, 1), (1, 4))  # records of a batch, steps
SGD_RATE, ADAM_RATE = 0.1, 0.01
MATCHING = UnrolledMatching(restarts=1, iterations=150)
FACTORS = SparseFactors(draws=8192, orders=32)


@dataclass(frozen=True)
class Training:
    """A method, as a configuration has it."""

    name: str
    galore: GaLoreConfig | None = None
    lora: LoRAConfig | None = None
    is_fp8: bool = False

    @property
    def rate(self) -> float:
        """Adam's steps do not shrink with the gradient."""
        return ADAM_RATE if self.galore is not None and self.galore.optimizer == "adam" else SGD_RATE


def galore(rank: int, **options: Any) -> GaLoreConfig:
    """As configured by default, at scale one."""
    return GaLoreConfig(rank, scale=1.0, **options)


TRAININGS = (
    Training("plain SGD"),
    Training("FP8", is_fp8=True),
    Training("GaLore, rank 2, Adam, SVD", galore(2)),
    Training("GaLore, rank 8, Adam, SVD", galore(8)),
    Training("GaLore, rank 8, Adam in 8 bits, SVD", galore(8, states="fp8")),
    Training("GaLore, rank 2, SGD, SVD", galore(2, optimizer="sgd")),
    Training("GaLore, rank 8, SGD, SVD", galore(8, optimizer="sgd")),
    Training("GaLore, rank 8, SGD, public signs", galore(8, optimizer="sgd", basis="random")),
    Training("LoRA, rank 2", lora=LoRAConfig(2)),
    Training("LoRA, rank 8", lora=LoRAConfig(8)),
    Training("FP8, GaLore, rank 8, Adam, SVD", galore(8), is_fp8=True),
    Training("FP8, GaLore, rank 8, Adam in 8 bits, SVD", galore(8, states="fp8"), is_fp8=True),
    Training("FP8, LoRA, rank 8", lora=LoRAConfig(8), is_fp8=True),
)


def main() -> int:
    """Run everything, print the table, write the results."""
    torch.set_num_threads(1)
    data, started, rows = load(DataConfig("digits")), time.process_time(), []
    for training in TRAININGS:
        for batch, steps in SETTINGS:
            rows.append(measured(training, batch, steps, data))
        print(f"{training.name}: {time.process_time() - started:.0f} s of processor time", file=sys.stderr, flush=True)
    content = {
        "widths": WIDTHS,
        "seeds": SEEDS,
        "recovered up to": NEAR,
        "cpu_seconds": time.process_time() - started,
        "rows": rows,
    }
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")
    for line in table(rows):
        print(line)
    return 0


def measured(training: Training, batch: int, steps: int, data: Dataset) -> dict[str, Any]:
    """Recovered records and error of the best attack, for both attackers, and of the best control."""
    draws = []
    for seed in SEEDS:
        client = made(training, batch, steps, seed, data)
        scorer, n = Scorer(*client.truth, client.data), client.seen.records
        guesses = {"marginal": controls.marginal(client.data, n, seed), "mean_record": controls.mean_record(client.data, n)}
        static = attacked(client.seen.as_plain)
        adapted = {f"{name}, adapted": found for name, found in attacked(client.seen).items()}
        tried = {"control": guesses, "static": static, "adaptive": static | adapted}
        draws.append({who: best(found, scorer) for who, found in tried.items()})
    return {"method": training.name, "batch": batch, "steps": steps, "draws": draws}


def attacked(seen: Seen) -> dict[str, Found]:
    """What each attack that applies makes of the update; matching begins where the records' zeros point, too."""
    found: dict[str, Found] = {}
    runs: tuple[tuple[str, Callable[[], Found]], ...] = (
        ("ratios", lambda: Ratios().run(seen)),
        ("sparse_factors", lambda: FACTORS.run(seen)),
        ("sparse_records", lambda: SparseRecords().run(seen)),
        ("unrolled_matching", lambda: MATCHING.run(seen, near=suggested(seen))),
    )
    for name, run in runs:
        try:
            found[name] = run()
        except AuditError:  # the attack does not apply: the joint report says why
            continue
    return found


def best(found: dict[str, Found], scorer: Scorer) -> dict[str, Any]:
    """Of the attacks the one that recovers most records, then the nearest; an error is at most 1, which no guess has too."""
    scores = []
    for name, one in found.items():
        errors = scorer.errors(one.records)[0]
        scores.append((int((errors <= NEAR).sum()), -float(errors.clamp_max(1.0).mean()), name))
    recovered, error, name = max(scores, default=(0, -1.0, "none"))
    return {"attack": name, "recovered": recovered, "of": len(scorer.records), "error": -error}


def made(training: Training, batch: int, steps: int, seed: int, data: Dataset) -> Client:
    """The client: start weights and rows by the seed, whatever the method."""
    method = "galore" if training.galore else "lora" if training.lora else "sgd"
    precision = "fp8" if training.is_fp8 else "fixed"
    options = TrainingConfig("cross_entropy", batch, steps, (training.rate,) * steps, "leakage", method, precision)
    bits, hidden = FixedPoint(), WIDTHS[1:-1]
    config = RunConfig(DataConfig("digits"), ModelConfig(hidden, seed), options, bits, training.galore, training.lora)
    settings = config.settings_for(WIDTHS)
    x, y = quantise_inputs(data.x_train, bits), targets(data.y_train, data.classes, settings)
    layers = quantise(initial_network(WIDTHS, seed), bits)
    start, frozen = layers, []
    if settings.lora is not None:
        start, frozen = initial_adapters(settings.lora, WIDTHS, bits, seed), layers
    rows = np.random.default_rng(seed).permutation(len(x))[: batch * steps].reshape(steps, batch)
    batch_seed = bytes([seed]) * 32
    end = train(start, x, y, rows, settings, frozen=frozen, seed=batch_seed)
    statement = {
        **{name: getattr(bits, name) for name in ("activation_bits", "gradient_bits", "weight_bits")},
        "batch": batch,
        "batch_seed": batch_seed.hex(),
        "loss": settings.loss,
        "learning_rates": list(settings.learning_rates),
        **{name: as_manifest(spec) for name in ("galore", "lora", "fp8") if (spec := getattr(settings, name)) is not None},
    }
    weights = {name: [x.numpy() for x in some] for name, some in (("start", start), ("end", end), ("frozen", frozen))}
    data_view = {"inputs": x.numpy(), "targets": y.numpy(), "batches": rows}
    return Client.of_bound({"statements": [statement], **weights, **data_view})


def table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Markdown: each cell has records recovered in all draws of how many, and the mean error."""
    heads = [f"{steps} {'step' if steps == 1 else 'steps'}, batch {batch}" for batch, steps in SETTINGS]
    yield f"| method | {' | '.join(f'{head}: static | adaptive' for head in heads)} |"
    yield "|---" * (1 + 2 * len(heads)) + "|"
    for name in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == name]
        yield "| " + " | ".join([name, *(cell(row, who) for row in mine for who in ("static", "adaptive"))]) + " |"
    mine = [row for row in rows if row["method"] == rows[0]["method"]]
    yield "| " + " | ".join(["best control", *(text for row in mine for text in (cell(row, "control"), ""))]) + " |"


def cell(row: dict[str, Any], who: str) -> str:
    """Of all draws."""
    scores = [draw[who] for draw in row["draws"]]
    recovered, of = (sum(score[name] for score in scores) for name in ("recovered", "of"))
    return f"{recovered} of {of}, {sum(score['error'] for score in scores) / len(scores):.2f}"


if __name__ == "__main__":
    sys.exit(main())
