"""The joint audit: only the very update that a valid proof speaks about is attacked; its records come back where they must."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from scipy import stats
from tiny_runs import assert_refused, command, succeed, tiny
from torch import Tensor, nn
from torch.nn import functional
from zkaudit_process import Proved

from zkaudit.attacks.defences import parse
from zkaudit.attacks.digests import of_tensors
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.joint import controls, joint_audit
from zkaudit.attacks.joint.client import Client, layers, named
from zkaudit.attacks.joint.defending import adaptive, measured_defences, trial
from zkaudit.attacks.joint.factors import SparseFactors
from zkaudit.attacks.joint.labels import label_slots
from zkaudit.attacks.joint.ratios import Ratios, on_grid, regression
from zkaudit.attacks.joint.scoring import Scorer
from zkaudit.attacks.joint.unrolled import UnrolledMatching, distance
from zkaudit.attacks.report import SCHEMA
from zkaudit.training.fixedpoint.float_step import mean_loss, trained

torch.set_num_threads(1)
GRID = 2.0**-8


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Proved:
    return tiny(tmp_path_factory.mktemp("one"), 1, 1)


@pytest.fixture(scope="module")
def audited(one: Proved) -> dict[str, Any]:
    """The result of auditing one record's step."""
    return audit(one)


def audit(run: Proved) -> dict[str, Any]:
    out = run.run.parent / "audit"
    succeed("audit", run.run, "--proof", run.proof, "--out", out)
    result: dict[str, Any] = json.loads((out / "result.json").read_text())
    return result


def metric(result: dict[str, Any], attack: str, name: str) -> float:
    return float(next(part for part in result["attacks"] if part["name"] == attack)["metrics"][name]["value"])


def client(
    batch: int,
    steps: int,
    widths: tuple[int, ...] = (12, 24, 4),
    seed: int = 0,
    loss: str = "cross_entropy",
    scale: float = 1.0,
) -> Client:
    """A client with random records on the grid and start weights of this scale, trained in floating point."""
    generator = torch.Generator().manual_seed(seed)
    data = (torch.randn(64, widths[0], generator=generator, dtype=torch.float64) / GRID).round() * GRID
    targets = functional.one_hot(torch.randint(widths[-1], (64,), generator=generator), widths[-1]).double()
    start = [
        (torch.rand(d + 1, units, generator=generator, dtype=torch.float64) * 2 - 1) * scale / d**0.5
        for d, units in itertools.pairwise(widths)
    ]
    batches = torch.stack([torch.randperm(64, generator=generator)[:batch] for _ in range(steps)])
    rates = [0.1] * steps
    return Client(start, trained(start, data, targets, batches, rates, loss), data, targets, batches, rates, loss, GRID)


def test_one_record_is_recovered_with_an_error_far_below_the_control_s(audited: dict[str, Any]) -> None:
    error = metric(audited, "ratios", "record_error")
    assert error < 1e-6
    assert min(metric(audited, name, "record_error") for name in ("marginal", "mean_record")) > 0.1
    assert metric(audited, "ratios", "records_recovered") == 1
    assert metric(audited, "ratios", "labels_right") == 1
    assert audited["verdict"]["level"] == "exposed"


def test_the_audited_update_is_that_of_the_model_file(audited: dict[str, Any], one: Proved) -> None:
    tensors = {name: torch.from_numpy(value) for name, value in load_file(one.run / "model.safetensors").items()}
    names = [name.removeprefix("end.") for name in tensors if name.startswith("end.")]
    update = {name: tensors[f"end.{name}"] - tensors[f"start.{name}"] for name in names}
    assert audited["hashes"]["update"] == audited["proof"]["update"] == of_tensors(update)


def test_the_report_shows_proof_statement_attacks_and_defences_of_one_update(audited: dict[str, Any], one: Proved) -> None:
    jsonschema.Draft202012Validator(dict(SCHEMA)).validate(audited)
    found = json.loads(succeed("verify", one.proof, "--json"))
    assert audited["proof"]["statements"] == found["statements"]
    assert audited["proof"]["valid"] is True
    page = (one.run.parent / "audit" / "report.html").read_text()
    (statement,) = found["statements"]
    for digest in (statement["digest"], statement["end_commitment"], audited["proof"]["update"]):
        assert digest in page
    for heading in ("Proof of the update", "Leakage meter", "Attacks", "Defences", "2^-117", "4-3-2"):
        assert heading in page
    first, *others = (row["name"] for row in audited["defences"])
    assert first == "none"
    assert {name.partition(":")[0] for name in others} >= {"noise", "top_k", "batch", "local_steps"}


def test_an_attestation_takes_the_bound_audit_and_no_other_proof(one: Proved, audited: dict[str, Any], tmp_path: Path) -> None:
    assert audited["schema"] == 1
    result = one.run.parent / "audit" / "result.json"
    succeed("attest", one.proof, "--audit", result, "--out", tmp_path / "s.json")
    assert json.loads((tmp_path / "s.json").read_text())["predicate"]["audit"]["boundToProof"] is True


def test_batches_of_many_are_not_recovered(tmp_path: Path) -> None:
    result = audit(tiny(tmp_path / "many", 20, 2, loss="square"))
    assert result["meter"]["records"] > 20
    assert result["verdict"]["level"] == "no leak found"
    assert metric(result, "ratios", "records_recovered") == 0
    failures = {part["name"]: part.get("error", "") for part in result["attacks"]}
    assert "directions" in failures["sparse_factors"]
    assert "different records" in failures["unrolled_matching"]
    told = " ".join(result["verdict"]["sentences"])
    assert failures["unrolled_matching"] in told
    assert "were not recovered" in told


def test_a_proof_of_another_run_is_refused(one: Proved, tmp_path: Path) -> None:
    other = tiny(tmp_path / "other", 1, 1, "another seed")
    done = command("audit", one.run, "--proof", other.proof, "--out", tmp_path / "audit")
    assert_refused(done, 1, str(one.run), "not what the proof is about")
    assert not (tmp_path / "audit").exists()


def test_an_invalid_proof_is_refused(one: Proved, tmp_path: Path) -> None:
    altered = bytearray(one.proof.read_bytes())
    altered[-20] ^= 1
    (tmp_path / "altered.zkp").write_bytes(altered)
    done = command("audit", one.run, "--proof", tmp_path / "altered.zkp", "--out", tmp_path / "audit")
    assert_refused(done, 1, "the proof is invalid")
    assert not (tmp_path / "audit").exists()


@pytest.mark.parametrize("which", ["start", "end"])
def test_a_changed_model_file_is_refused(which: str, one: Proved, tmp_path: Path) -> None:
    shutil.copytree(one.run, tmp_path / "run")
    model = tmp_path / "run" / "model.safetensors"
    tensors = load_file(model)
    tensors[f"{which}.0.weight"][1, 2] += 2.0**-32
    save_file(tensors, model)
    done = command("audit", tmp_path / "run", "--proof", one.proof, "--out", tmp_path / "audit")
    assert_refused(done, 1, "not what the proof is about", f"{which} weights")
    assert not (tmp_path / "audit").exists()


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("data.x.bin", "data"),
        ("data.y.bin", "data"),
        ("start.w1.bin", "start weights"),
        ("chunk-00000/weights0.bin", "end weights"),
        ("chunk-00000/batch.bin", "batches"),
    ],
)
def test_a_changed_trace_is_refused(name: str, word: str, one: Proved, tmp_path: Path) -> None:
    shutil.copytree(one.run, tmp_path / "run")
    path = tmp_path / "run" / "trace" / name
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    done = command("audit", tmp_path / "run", "--proof", one.proof, "--out", tmp_path / "audit")
    assert_refused(done, 1, "not what the proof is about", word)
    assert not (tmp_path / "audit").exists()


def test_a_number_that_no_commitment_holds_is_refused(one: Proved, tmp_path: Path) -> None:
    shutil.copytree(one.run, tmp_path / "run")
    path = tmp_path / "run" / "trace" / "data.x.bin"
    values = np.fromfile(path, "<i4")
    values[0] = 1 << 20
    values.tofile(path)
    done = command("audit", tmp_path / "run", "--proof", one.proof, "--out", tmp_path / "audit")
    assert_refused(done, 1, "not what the proof is about", "inputs")


def test_a_chain_binds_its_run_and_a_part_of_it_does_not(chain: Proved, tmp_path: Path) -> None:
    from zkaudit.zk.binding import bind
    from zkaudit.zk.errors import NotBound

    bound = bind(chain.run, [chain.proof])
    tensors = load_file(chain.run / "model.safetensors")
    scaled = np.concatenate([tensors["end.0.weight"].T, tensors["end.0.bias"][None]]) * 2.0**32
    np.testing.assert_array_equal(bound.end[0], scaled)
    with pytest.raises(NotBound, match="begins at segment 1"):
        bind(chain.run, sorted(chain.proof.glob("*.zkp"))[1:])
    with pytest.raises(NotBound, match="steps is 5, the statement's 4"):
        bind(chain.run, sorted(chain.proof.glob("*.zkp"))[:2])


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["none", "--proof", "p.zkp", "--out", "o"], "none"),
        (["run", "--out", "o"], "--proof"),
        (["run", "--proof", "p.zkp"], "--out"),
        (["--proof", "p.zkp", "--out", "o"], "RUN"),
        (["run", "--proof", "p.zkp", "--out", "o", "--model", "m"], "--model"),
        (["run", "--proof", "none.zkp", "--out", "o"], "none.zkp"),
    ],
)
def test_wrong_usage_is_one_line(
    arguments: list[str], word: str, one: Proved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(one.run, tmp_path / "run")
    shutil.copy(one.proof, tmp_path / "p.zkp")
    monkeypatch.chdir(tmp_path)
    assert_refused(command("audit", *arguments), 2, word)


def handed(ours: Client) -> dict[str, Any]:
    """What the command hands over of a bound run, of a client in floating point."""
    statement = {
        "widths": [len(matrix) - 1 for matrix in ours.start] + [ours.start[-1].shape[1]],
        "loss": ours.loss,
        "weight_bits": 32,
        "activation_bits": 8,
        "learning_rates": list(ours.rates),
        "steps": len(ours.batches),
        "batch": ours.batches.shape[1],
    }
    return {
        "name": "handed",
        "proof": {"valid": True, "files": [], "checks": []},
        "statements": [statement],
        "hashes": {},
        "start": [(matrix * 2**32).round().long().numpy() for matrix in ours.start],
        "end": [(matrix * 2**32).round().long().numpy() for matrix in ours.end],
        "inputs": (ours.data / GRID).long().numpy(),
        "targets": ours.targets.long().numpy(),
        "batches": ours.batches.numpy(),
    }


@pytest.mark.parametrize("batch", [1, 2, 20])
def test_a_network_whose_units_never_fire_gives_nothing_away(batch: int, tmp_path: Path) -> None:
    ours = client(batch, 1)
    start = [torch.cat([ours.start[0][:-1], ours.start[0][-1:] - 100]), ours.start[1]]
    end = trained(start, ours.data, ours.targets, ours.batches, ours.rates, ours.loss)
    result = joint_audit(handed(replace(ours, start=start, end=end)), tmp_path, defences=("noise:1", "sign"))
    assert result["verdict"]["level"] == "no leak found"
    assert all(part.get("error") for part in result["attacks"] if part["role"] == "attack")


def test_training_that_no_attack_knows_is_refused() -> None:
    statement = {"weight_bits": 32, "activation_bits": 8, "loss": "square", "learning_rates": [0.1], "momentum": {"beta": 0.9}}
    with pytest.raises(AuditError, match="momentum"):
        Client.of_bound({"statements": [statement]})


@pytest.mark.parametrize("loss", ["cross_entropy", "square"])
def test_training_is_sgd_as_torch_does_it(loss: str) -> None:
    ours = client(5, 3, loss=loss)
    tensors = {name: value.clone() for name, value in named(ours.start).items()}
    model = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 4)).double()
    model.load_state_dict(tensors)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def torch_loss(x: Tensor, y: Tensor) -> Tensor:
        outputs = model(x)
        if loss == "cross_entropy":
            return functional.cross_entropy(outputs, y.argmax(1))
        return 0.5 * (outputs - y).square().sum(1).mean()

    for rows in ours.batches:
        optimizer.zero_grad()
        torch_loss(ours.data[rows], ours.targets[rows]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    for theirs, own in zip(layers(model.state_dict()), ours.end, strict=True):
        torch.testing.assert_close(theirs, own)
    assert mean_loss(ours.end, ours.data, ours.targets, loss) == pytest.approx(torch_loss(ours.data, ours.targets).item())


@settings(max_examples=50)
@given(
    record=st.lists(st.integers(-2000, 2000), min_size=3, max_size=6).filter(any),
    errors=st.lists(st.floats(-1, 1).filter(lambda x: abs(x) > 1e-3), min_size=1, max_size=8),
)
def test_one_record_is_read_off_whatever_its_errors(record: list[int], errors: list[float]) -> None:
    x = torch.tensor(record, dtype=torch.float64) * GRID
    update = -torch.outer(torch.cat([x, torch.ones(1, dtype=torch.float64)]), torch.tensor(errors, dtype=torch.float64))
    seen = client(1, 1, (len(record), len(errors), 2)).seen
    seen = replace(seen, update=[update, seen.update[1]])
    torch.testing.assert_close(regression(seen), x)
    found = Ratios().run(seen).records
    torch.testing.assert_close(found, x[None])


def test_mixtures_are_not_claimed() -> None:
    for seed in range(5):
        seen = client(40, 2, seed=seed).seen
        assert Ratios().run(seen).claimed == 0


def test_distances_from_the_grid_are_calibrated() -> None:
    random = np.random.default_rng(0)
    values = torch.from_numpy(random.uniform(5, 50, (4000, 3)))
    assert stats.kstest(on_grid(values, GRID).numpy(), "uniform").pvalue > 0.01


@pytest.mark.parametrize(("batch", "steps"), [(4, 1), (1, 4), (2, 3)])
def test_a_few_records_are_recovered_exactly_however_they_are_spread_over_steps(batch: int, steps: int) -> None:
    ours = client(batch, steps, seed=1)
    found = SparseFactors().run(ours.seen)
    assert found.claimed == ours.seen.records
    assert float(Scorer(*ours.truth, ours.data).errors(found.records)[0].max()) < 1e-9


def test_more_records_than_directions_are_said_to_be_out_of_reach() -> None:
    with pytest.raises(AuditError, match="13 directions only"):
        SparseFactors().run(client(20, 1).seen)


@pytest.mark.parametrize("loss", ["cross_entropy", "square"])
def test_labels_are_counted_in_the_last_layer_s_bias(loss: str) -> None:
    for seed in range(4):
        ours = client(6, 1, seed=seed, loss=loss, scale=0.2)
        assert label_slots(ours.seen).tolist() == ours.truth[1].sort().values.tolist()


def test_the_truth_matches_the_update_whole() -> None:
    ours = client(2, 3)
    assert float(distance(ours.seen, ours.data[ours.rows], ours.targets[ours.rows])) < 1e-20


def test_matching_recovers_records_from_a_disturbed_update() -> None:
    ours = client(2, 1)
    blurred = trial(ours, parse("noise:0.05"), 0).seen
    assert Ratios().run(blurred).claimed == 0
    scorer = Scorer(*ours.truth, ours.data)
    found = UnrolledMatching(restarts=2, iterations=300).run(blurred)
    control = controls.marginal(ours.data, 2)
    assert float(scorer.errors(found.records)[0].mean()) < 0.2 * float(scorer.errors(control.records)[0].mean())


def test_guesses_are_assigned_with_the_least_error_in_sum() -> None:
    ours = client(3, 1)
    records, labels = ours.truth
    generator = torch.Generator().manual_seed(1)
    guesses = records + torch.randn(records.shape, generator=generator, dtype=torch.float64)
    scorer = Scorer(records, labels, ours.data)
    error, of = scorer.errors(guesses)
    best = min(
        sum(float((records[i] - guesses[j]).norm()) for i, j in enumerate(order)) for order in itertools.permutations(range(3))
    )
    assert float(error.sum()) * scorer.unit == pytest.approx(best)
    assert sorted(of.tolist()) == [0, 1, 2]


def test_a_record_without_a_guess_is_not_recovered() -> None:
    ours = client(3, 1)
    error, of = Scorer(*ours.truth, ours.data).errors(ours.truth[0][:1])
    assert error.isinf().sum() == 2
    assert of.tolist().count(-1) == 2


def test_guessing_the_mean_makes_an_error_near_one() -> None:
    ours = client(32, 2)
    guess = controls.mean_record(ours.data, ours.seen.records)
    error = Scorer(*ours.truth, ours.data).errors(guess.records)[0]
    assert 0.9 < float(error.mean()) < 1.1


def test_a_little_noise_stops_only_who_does_not_know_of_it() -> None:
    rows = {row["name"]: row for row in measured_defences(client(1, 1), ["noise:0.05", "noise:2", "batch:40"])}
    assert rows["noise:0.05"]["static_only"] is True
    assert rows["noise:0.05"]["adaptive"]["value"] > 0.9
    assert rows["none"]["static"]["value"] == 1
    assert rows["noise:2"]["adaptive"]["value"] < rows["noise:0.05"]["adaptive"]["value"]
    assert rows["batch:40"]["adaptive"]["value"] < 0.5
    assert "does not speak" in rows["batch:40"]["note"]
    assert "very update" in rows["noise:2"]["note"]


def test_a_defence_of_what_is_sent_is_tried_on_the_very_update() -> None:
    ours = client(2, 2)
    sent = trial(ours, parse("top_k:0.25"), 0).seen
    for kept, moved in zip(sent.update, ours.update, strict=True):
        assert torch.equal(kept[kept != 0], moved[kept != 0])
    assert int((sent.update[0][:-1] != 0).sum()) == 12 * 24 // 4


@pytest.mark.parametrize("text", ["dp_sgd:1", "adamw", "secure_aggregation:4", "galore:2:right:random", "batch:65"])
def test_a_defence_for_other_models_is_refused(text: str) -> None:
    with pytest.raises(AuditError):
        trial(client(1, 1), parse(text), 0)


@pytest.mark.parametrize("change", [lambda x: x * 3.0, lambda x: -x], ids=["scaled", "negated"])
def test_the_ratio_does_not_depend_on_what_multiplies_the_update(change: Callable[[Tensor], Tensor]) -> None:
    seen = client(1, 1).seen
    torch.testing.assert_close(adaptive(replace(seen, update=[change(u) for u in seen.update])).records, adaptive(seen).records)


def test_one_whole_record_of_many_is_a_leak(tmp_path: Path) -> None:
    ours = client(60, 1)
    start = [
        torch.cat([ours.start[0], _alone(ours)], 1),
        torch.cat([ours.start[1][:-1], ours.start[1][:1], ours.start[1][-1:]]),
    ]
    end = trained(start, ours.data, ours.targets, ours.batches, ours.rates, ours.loss)
    result = joint_audit(handed(replace(ours, start=start, end=end)), tmp_path, defences=())
    assert metric(result, "ratios", "records_recovered") == pytest.approx(1 / 60)
    assert result["verdict"]["level"] == "partly exposed"


def _alone(ours: Client) -> Tensor:
    """Weights and bias (d + 1, 1) of a unit that fires for the first record behind the update and for no other one."""
    records = ours.truth[0]
    direction = records[0] / records[0].norm()
    along = records @ direction
    assert along.argmax() == 0
    threshold = (along[0] + along[1:].max()) / 2
    return torch.cat([direction, -threshold[None]])[:, None]
