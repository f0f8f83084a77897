"""`zkaudit bench` measures what it says: keys and sums of its JSON, the rule for widths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from zkaudit_process import assert_refused, succeed, zkaudit

from zkaudit.cli.bench import contestants, msm, stages, trusted_setup
from zkaudit.cli.bench.process import Worker, peak_bytes
from zkaudit.cli.bench.shape import Shape, parameters_of, widths_of
from zkaudit.zk.errors import BadInput
from zkaudit.zk.segments import ENTRY_BYTES

PROMISED = {
    *("parameters", "layers", "batch", "steps", "threads", "lanes", "train_seconds", "prove_seconds", "seconds_per_update"),
    *("phases", "verify_seconds", "proof_bytes", "peak_bytes", "field_mul_per_second", "limit_seconds_per_update"),
    *("machine", "widths", "row_length", "segments", "committed_entries", "lookups"),
    *("peak_bytes_before_proving", "warmed_bytes"),
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("bench") / "result.json"
    shape = ("--widths", "5,6,4,3", "--batch", "3", "--steps", "3", "--segment-steps", "2", "--threads", "1")
    printed = succeed("bench", "prove", *shape, "--json", path)
    assert "5-6-4-3" in printed
    result: dict[str, Any] = json.loads(path.read_text())
    return result


def test_proof_benchmark_has_the_promised_keys(measured: dict[str, Any]) -> None:
    assert set(measured) >= PROMISED


def test_figures_of_the_shape_are_those_asked_for(measured: dict[str, Any]) -> None:
    assert measured["parameters"] == (5 + 1) * 6 + (6 + 1) * 4 + (4 + 1) * 3
    assert (measured["layers"], measured["batch"], measured["steps"]) == (3, 3, 3)
    assert (measured["segments"], measured["threads"], measured["loss"]) == (2, 1, "cross_entropy")
    assert measured["row_length"] & (measured["row_length"] - 1) == 0


def test_phases_and_segments_add_up(measured: dict[str, Any]) -> None:
    assert 0 < sum(measured["phases"].values()) <= measured["prove_seconds"]
    assert len(measured["segment_seconds"]) == 2
    assert 0 < sum(measured["segment_seconds"]) <= measured["prove_seconds"]
    assert measured["seconds_per_update"] == pytest.approx(measured["prove_seconds"] / 3)


def test_limit_is_counts_times_rates(measured: dict[str, Any]) -> None:
    seconds = measured["multiplications"] / measured["field_mul_per_second"]
    seconds += measured["additions"] / measured["point_add_per_second"]
    assert measured["limit_seconds_per_update"] == pytest.approx(seconds / 3, rel=1e-3)
    assert set(measured["limit_phases"]) == set(measured["phases"])
    assert measured["peak_bytes"] > measured["peak_bytes_before_proving"] > 0


def test_warmed_memory_is_that_of_the_larger_segment_and_no_part_of_the_peak(measured: dict[str, Any]) -> None:
    # Two segments hold fewer than twice the entries of the first one, whose tables the estimate is for.
    assert measured["committed_entries"] / 2 < measured["warmed_bytes"] / ENTRY_BYTES <= measured["committed_entries"]


def test_memory_that_a_process_touched_before_does_not_count() -> None:
    size = 1 << 28
    with Worker() as worker:
        worker(stages.touch, size)
        assert worker(peak_bytes) > size
    with Worker() as worker:
        assert worker(peak_bytes) < size


def test_square_loss_on_a_network_by_parameters(tmp_path: Path) -> None:
    shape = ("--parameters", "3000", "--layers", "2", "--batch", "2", "--steps", "1", "--loss", "square")
    succeed("bench", "prove", *shape, "--json", tmp_path / "result.json")
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["widths"] == list(widths_of(3000, 2))
    assert result["parameters"] == parameters_of(widths_of(3000, 2))


@pytest.mark.slow
def test_a_method_is_measured_beside_plain_sgd(tmp_path: Path) -> None:
    """GaLore with moments in 8 bits: four numbers more an entry than with exact ones."""
    shape = ("--widths", "5,6,4,3", "--batch", "3", "--steps", "3", "--threads", "1", "--method", "galore", "--rank", "2")
    found = {}
    for states in ("exact", "fp8"):
        printed = succeed("bench", "prove", *shape, "--states", states, "--json", tmp_path / "result.json")
        assert ("moments in 8 bits" in printed) == (states == "fp8")
        found[states] = json.loads((tmp_path / "result.json").read_text())
        assert found[states]["states"] == states
        assert found[states]["ratios"]["lookups"] > 1
    assert found["exact"]["galore"]["committed_bits"] < found["fp8"]["galore"]["committed_bits"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--states", "fp8"), "--method galore"),
        (("--states", "fp8", "--method", "lora"), "--method galore"),
        (("--widths", "5,3", "--layers", "2"), "--widths"),
        (("--layers", "2"), "--parameters"),
        (("--parameters", "50", "--layers", "9"), "too few"),
        (("--parameters", "50000000", "--layers", "1"), "inputs"),
        (("--json", "missing/result.json"), "missing"),
        (("--json", "."), "folder"),
        (("--widths", "5,3", "--batch", "9", "--rows", "4"), "batch"),
    ],
)
def test_bad_shape_is_one_sentence(arguments: tuple[str, ...], word: str, tmp_path: Path) -> None:
    assert_refused(zkaudit("bench", "prove", *arguments, cwd=tmp_path), word)


@pytest.mark.parametrize("options", [("--steps", "0"), ("--loss", "hinge"), ("--widths", "5"), ("--batch", "few")])
def test_bad_option_names_itself(options: tuple[str, ...]) -> None:
    done = zkaudit("bench", "prove", *options)
    assert done.returncode == 2
    assert options[0] in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("benchmark", ["prove", "msm", "peers"])
def test_each_benchmark_has_help_with_examples(benchmark: str) -> None:
    assert f"zkaudit bench {benchmark} " in succeed("bench", benchmark, "--help").partition("examples:")[2]


def test_widths_of_ten_million_parameters() -> None:
    assert widths_of(10_000_000, 8) == (3584, *(1024,) * 7, 10)


@pytest.mark.parametrize("parameters", [4_000, 70_000, 1_000_000, 10_000_000, 50_000_000])
@pytest.mark.parametrize("layers", [2, 3, 8])
def test_widths_follow_their_rule(parameters: int, layers: int) -> None:
    inputs, *hidden, outputs = widths_of(parameters, layers)
    assert outputs == 10
    assert inputs % 64 == 0
    assert len(set(hidden)) == 1
    assert hidden[0] & (hidden[0] - 1) == 0
    assert abs(parameters_of((inputs, *hidden, outputs)) - parameters) <= 64 * hidden[0]
    with pytest.raises(BadInput):
        widths_of(10, layers)


def test_learning_rate_can_be_expressed() -> None:
    for batch in (1, 3, 64, 1000, 5000):
        rate = Shape((20, 8, 3), batch, 1, "square").learning_rate
        assert (rate * 4096 / batch) % 1 == 0
        assert rate > 0


def test_missing_peers_are_reported_with_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(msm, "_MODULES", {"blst": "no_such_module", "arkworks": "no_such_module"})
    result = msm.measure([16], 1, rows=2, repeats=1)
    assert [peer["name"] for peer in result["missing"]] == ["blst", "arkworks"]
    assert all("zkaudit[bench]" in peer["install"] for peer in result["missing"])
    for entry in result["entries"]:
        assert set(entry) == {"name", "lanes", "points", "threads", "points_per_second", "ratio_to_blst"}
        assert entry["points_per_second"] > 0
        assert entry["ratio_to_blst"] is None
    assert {one["lanes"] for one in result["field_multiplications"]} == {entry["lanes"] for entry in result["entries"]}


def test_sums_of_the_peers_are_ours(tmp_path: Path) -> None:
    assert contestants.results_agree(trusted_setup.write(tmp_path / "trusted_setup.txt"), True, 4096)
