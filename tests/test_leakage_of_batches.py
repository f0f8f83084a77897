"""The comparison of ways to choose batches: its runs are what their records say, and its attacks see what was trained on."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from leakage import runs, selectors

    torch.set_num_threads(1)
    return runs, selectors


def test_packed_records_have_the_gradient_of_the_same_records_one_a_row(modules: tuple[Any, Any]) -> None:
    runs, _ = modules
    model = runs.adapted(runs.SETTING, 0)
    texts = [model.tokenizer(record.text)["input_ids"] for record in runs.synthetic(runs.RECORDS, 80_000)]
    found = [runs.gradient_of(runs.WAYS[name](texts, "a").step(model, 0), model) for name in ("packing", "packing, one a row")]
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-5)
    for name, value in found[0][0].items():
        torch.testing.assert_close(value, found[1][0][name], rtol=1e-3, atol=1e-6 * float(value.abs().max()) + 1e-9)


def test_a_coreset_has_the_gradient_of_its_examples_by_their_weights(modules: tuple[Any, Any]) -> None:
    runs, _ = modules
    model = runs.adapted(runs.SETTING, 0)
    texts = [model.tokenizer(record.text)["input_ids"] for record in runs.synthetic(runs.RECORDS, 80_000)]
    step = runs.CoLM(texts, "a").step(model, 0)
    together, _ = runs.gradient_of(step, model)
    each = [runs.gradient_of(runs.Step({"ids": (row,)}, [text]), model)[0] for row, text in enumerate(step.rows)]
    weights = step.fields["weights"]
    assert sum(weights) == runs.BATCH
    for name, value in together.items():
        wanted = sum(weight * part[name] for weight, part in zip(weights, each, strict=True)) / sum(weights)
        torch.testing.assert_close(value, wanted, rtol=1e-3, atol=1e-5 * float(value.abs().max()) + 1e-9)


@pytest.mark.slow
def test_the_table_has_every_way_and_its_runs_replay(modules: tuple[Any, Any], tmp_path: Path) -> None:
    runs, selectors = modules
    results = tmp_path / "results.json"
    assert selectors.main(["--draws", "1", "--json", str(results)]) == 0
    found = json.loads(results.read_text())
    assert list(found["runs"]) == list(runs.WAYS)
    rows = {row["name"]: row for row in found["rows"]}
    assert set(rows) == {"uniform", *selectors.EXPECTED}
    assert rows["uds"]["distinct_records"] == rows["view-batch"]["distinct_records"] == 2
    assert rows["colm"]["effective_n_worst"] < rows["colm"]["distinct_records"] == 4
    assert all(row["on"]["pursuit"] > row["on"]["random"] for row in rows.values())
