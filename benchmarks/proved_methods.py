"""Accuracy of the exact trainer under each proved method, beside the same method in float.

    python benchmarks/proved_methods.py --json benchmarks/results/proved-methods.json

Data sets, widths and four seeds each; batches, start weights and learning rates are the same for both. "tuned" means that the
frozen weights are of a network trained on the lower half of the classes before; otherwise they are as drawn."""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from zkaudit.training import config
from zkaudit.training.data import Dataset, load
from zkaudit.training.fixedpoint import initial_network, prepare
from zkaudit.zk.sampling import batch_rows

SEEDS = range(4)
STEPS, BATCH = 400, 64
NETWORKS = (("digits", (32,)), ("digits", (128, 64)), ("breast_cancer", (32,)), ("breast_cancer", (64, 32)))
METHODS: dict[str, tuple[str, str, float, dict[str, dict[str, Any]]]] = {
    "sgd": ("sgd", "fixed", 0.1, {}),
    "fp8 e4m3": ("sgd", "fp8", 0.1, {}),
    "fp8 e5m2 gradients": ("sgd", "fp8", 0.1, {"fp8": {"gradient_format": "e5m2", "gradient_exponents": -14}}),
    "galore adam, r = 4": ("galore", "fixed", 0.01, {"galore": {"rank": 4}}),
    "galore adam, r = 16": ("galore", "fixed", 0.01, {"galore": {"rank": 16}}),
    "galore adam, random, r = 16": ("galore", "fixed", 0.02, {"galore": {"rank": 16, "basis": "random"}}),
    "galore sgd, r = 16": ("galore", "fixed", 0.2, {"galore": {"rank": 16, "optimizer": "sgd"}}),
    "galore adam, fp8 states, r = 4": ("galore", "fixed", 0.01, {"galore": {"rank": 4, "states": "fp8"}}),
    "galore adam, fp8 states, r = 16": ("galore", "fixed", 0.01, {"galore": {"rank": 16, "states": "fp8"}}),
    "lora, r = 8": ("lora", "fixed", 0.2, {"lora": {"rank": 8}}),
    "lora, r = 8, tuned": ("lora", "fixed", 0.1, {"lora": {"rank": 8}}),
    "fp8, galore adam, r = 8": ("galore", "fp8", 0.01, {"galore": {"rank": 8}}),
    "fp8, galore adam, fp8 states, r = 8": ("galore", "fp8", 0.01, {"galore": {"rank": 8, "states": "fp8"}}),
    "fp8, lora, r = 8": ("lora", "fp8", 0.2, {"lora": {"rank": 8}}),
    "fp8, lora, r = 8, tuned": ("lora", "fp8", 0.1, {"lora": {"rank": 8}}),
}
COMMON = {"galore": {"scale": 1.0, "projection_bits": 13}}


def accuracies(source: str, hidden: tuple[int, ...], name: str, seed: int) -> tuple[float, float]:
    """On the test rows: in fixed point, and in float."""
    method, precision, rate, sections = METHODS[name]
    made = {key: {**COMMON.get(key, {}), **section} for key, section in sections.items()}
    run_config = config.RunConfig(
        config.DataConfig(source),
        config.ModelConfig(hidden, init_seed=seed),
        config.TrainingConfig("cross_entropy", BATCH, STEPS, (rate,) * STEPS, f"seed {seed}", method, precision),
        config.FixedPoint(),
        config.GaLoreConfig(**made["galore"]) if "galore" in made else None,
        config.LoRAConfig(**made["lora"]) if "lora" in made else None,
        config.FP8Config(**made["fp8"]) if "fp8" in made else None,
    )
    with tempfile.TemporaryDirectory() as folder:
        dataset = load(run_config.data)
        model = trained_before(hidden, dataset, seed) if name.endswith("tuned") else None
        run = prepare(run_config, Path(folder) / "run", dataset, model)
        drawn = bytes([seed]) * 32
        result = run.train(batch_rows(drawn, run.rows, BATCH, 0, STEPS), seed=drawn)
    return result.test_accuracy, result.float_test_accuracy


def trained_before(hidden: tuple[int, ...], dataset: Dataset, seed: int) -> torch.nn.Sequential:
    """A network that knows the lower half of the classes, from 300 steps of SGD in float."""
    torch.manual_seed(seed)
    network = initial_network((dataset.x_train.shape[1], *hidden, dataset.classes), seed)
    x, y = torch.from_numpy(dataset.x_train), torch.from_numpy(dataset.y_train)
    known = torch.nonzero(y < max(1, dataset.classes // 2))[:, 0]
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    for _ in range(300):
        chosen = known[torch.randint(len(known), (BATCH,))]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(x[chosen]), y[chosen]).backward()
        optimizer.step()
    return network


def kept(path: Path | None, chosen: list[str]) -> list[dict[str, Any]]:
    """The rows that are there of methods that are not measured now."""
    if path is None or not path.exists():
        return []
    return [row for row in json.loads(path.read_text())["runs"] if row["method"] not in chosen]


def place(row: dict[str, Any]) -> tuple[int, int]:
    """Where a row stands: by network, then by method."""
    return NETWORKS.index((row["data"], tuple(row["hidden"]))), list(METHODS).index(row["method"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", metavar="METHOD", nargs="*", help=f"only these of: {', '.join(METHODS)}")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the results there, beside those of other methods")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    chosen = arguments.methods or list(METHODS)
    rows = kept(arguments.json, chosen)
    for source, hidden in NETWORKS:
        for name in chosen:
            found = [accuracies(source, hidden, name, seed) for seed in SEEDS]
            exact, wanted = (statistics.mean(x) for x in zip(*found, strict=True))
            row = {"data": source, "hidden": list(hidden), "method": name, "fixed": exact, "float": wanted, "seeds": found}
            rows.append({**row, "points": 100 * (exact - wanted)})
            rows.sort(key=place)
            print(f"{source:16}{'-'.join(map(str, hidden)):10}{name:37}{exact:8.2%}{wanted:8.2%}{100 * (exact - wanted):+7.2f}")
            if arguments.json:
                arguments.json.write_text(json.dumps({"steps": STEPS, "batch": BATCH, "runs": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
