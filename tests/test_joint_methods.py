"""The joint audit of proved GaLore, LoRA and FP8: what opens, what the simulation moves, and what comes back of records."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from tiny_runs import assert_refused, command, succeed, tiny
from torch import Tensor
from torch.nn import functional
from zkaudit_process import Proved

from zkaudit.attacks.defences import parse
from zkaudit.attacks.digests import of_tensors
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.joint import joint_audit
from zkaudit.attacks.joint.client import Client
from zkaudit.attacks.joint.defending import adaptive, trial
from zkaudit.attacks.joint.factors import SparseFactors
from zkaudit.attacks.joint.labels import sole_label
from zkaudit.attacks.joint.meter import measured
from zkaudit.attacks.joint.method import Method, as_gradients
from zkaudit.attacks.joint.mixtures import smallest_record
from zkaudit.attacks.joint.ratios import Ratios
from zkaudit.attacks.joint.reading import first_layer, shown_bases, unrolled_adam
from zkaudit.attacks.joint.scoring import Scorer
from zkaudit.attacks.joint.sparse_records import SparseRecords, _whole
from zkaudit.attacks.joint.unrolled import UnrolledMatching, distance
from zkaudit.attacks.report import SCHEMA
from zkaudit.cli.joint import handed_over
from zkaudit.training.config import DataConfig, FixedPoint, ModelConfig, RunConfig, TrainingConfig
from zkaudit.training.fixedpoint.adapters import initial_adapters
from zkaudit.training.fixedpoint.float_step import Updates, trained
from zkaudit.training.fixedpoint.network import initial_network, quantise
from zkaudit.training.fixedpoint.run import targets
from zkaudit.training.fixedpoint.trainer import train
from zkaudit.training.method_config import GaLoreConfig, LoRAConfig
from zkaudit.training.provable import as_manifest

torch.set_num_threads(1)
GALORE = '\nmethod = "galore"\n[galore]\nrank = 2\nscale = 1.0\n'
LORA = '\nmethod = "lora"\n[lora]\nrank = 2\n'
TOLD = {"galore": GALORE, "lora": LORA, "fp8": '\nprecision = "fp8"\n'}
WIDTHS = (24, 20, 4)


@cache
def client(
    batch: int,
    steps: int,
    galore: GaLoreConfig | None = None,
    lora: LoRAConfig | None = None,
    fp8: bool = False,
    seed: int = 0,
) -> Client:
    """A client of the exact trainer on records of whole numbers, 60 % of which are zero."""
    random = np.random.default_rng(seed)
    x = torch.from_numpy(random.integers(1, 500, (40, WIDTHS[0])) * (random.random((40, WIDTHS[0])) < 0.4)).long()
    rate = 0.01 if galore and galore.optimizer == "adam" else 0.1
    method, bits = "galore" if galore else "lora" if lora else "sgd", FixedPoint()
    options = TrainingConfig("cross_entropy", batch, steps, (rate,) * steps, "s", method, "fp8" if fp8 else "fixed")
    settings = RunConfig(DataConfig("x.npz"), ModelConfig(WIDTHS[1:-1]), options, bits, galore, lora).settings_for(WIDTHS)
    y = targets(random.integers(0, WIDTHS[-1], 40), WIDTHS[-1], settings)
    layers = quantise(initial_network(WIDTHS, seed), bits)
    start, frozen = (initial_adapters(settings.lora, WIDTHS, bits, seed), layers) if settings.lora else (layers, [])
    rows = random.permutation(40)[: batch * steps].reshape(steps, batch)
    end = train(start, x, y, rows, settings, frozen=frozen, seed=b"seed")
    statement: dict[str, Any] = {
        **{name: getattr(bits, name) for name in ("activation_bits", "gradient_bits", "weight_bits")},
        **{"batch": batch, "batch_seed": b"seed".hex(), "loss": "cross_entropy"},
        "learning_rates": list(settings.learning_rates),
        **{name: as_manifest(spec) for name in ("galore", "lora", "fp8") if (spec := getattr(settings, name)) is not None},
    }
    weights = {name: [m.numpy() for m in some] for name, some in (("start", start), ("end", end), ("frozen", frozen))}
    view = {"inputs": x.numpy(), "targets": y.numpy(), "batches": rows}
    return Client.of_bound({"statements": [statement], **weights, **view})


def errors(ours: Client, records: Tensor) -> Tensor:
    return Scorer(*ours.truth, ours.data).errors(records)[0]


@pytest.fixture(scope="module", params=TOLD)
def audited(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Proved, dict[str, Any]]:
    """A method, a proved run of it, and its joint audit without defences."""
    run = tiny(tmp_path_factory.mktemp(request.param), 1, 1, method=TOLD[request.param])
    out = run.run.parent / "audit"
    joint_audit(handed_over(run.run, run.proof), out, defences=())
    return request.param, run, json.loads((out / "result.json").read_text())


def test_the_audited_update_is_what_a_client_of_the_method_sends(audited: tuple[str, Proved, dict[str, Any]]) -> None:
    name, run, result = audited
    jsonschema.Draft202012Validator(dict(SCHEMA)).validate(result)
    tensors = {key: torch.from_numpy(value) for key, value in load_file(run.run / "model.safetensors").items()}
    names = [key.removeprefix("end.") for key in tensors if key.startswith("end.")]
    assert any("adapter" in key for key in names) == (name == "lora")
    update = {key: tensors[f"end.{key}"] - tensors[f"start.{key}"] for key in names}
    assert result["proof"]["update"] == of_tensors(update)
    for part in result["attacks"]:  # each ran, or says in a sentence why not
        assert part.get("metrics") or " " in part["error"]


@pytest.mark.slow
def test_the_command_audits_methods_together_with_defences(tmp_path: Path) -> None:
    run = tiny(tmp_path / "made", 1, 2, method='\nprecision = "fp8"' + GALORE)
    told = succeed("audit", run.run, "--proof", run.proof, "--out", tmp_path / "audit")
    assert "trained with FP8 and GaLore" in told
    assert "defence noise:0.1" in told


def test_one_record_of_fp8_is_exposed_and_the_method_is_told(audited: tuple[str, Proved, dict[str, Any]]) -> None:
    name, _, result = audited
    told = " ".join(result["verdict"]["sentences"])
    assert ("trained with FP8" in told) == name.startswith("fp8")
    assert ("GaLore" in told) == ("galore" in name)
    if name == "fp8":
        assert result["verdict"]["level"] == "exposed"


@pytest.mark.parametrize(
    ("method", "name", "word"),
    [
        ("galore", "chunk-00000/first0.bin", "end weights"),
        ("galore", "chunk-00000/second1.bin", "end weights"),
        ("lora", "chunk-00000/weights1.bin", "end weights"),
        ("lora", "frozen.w0.bin", "data"),
    ],
)
def test_a_changed_trace_of_a_method_is_refused(method: str, name: str, word: str, tmp_path: Path) -> None:
    run = tiny(tmp_path / "made", 1, 1, method=TOLD[method])
    path = run.run / "trace" / name
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    done = command("audit", run.run, "--proof", run.proof, "--out", tmp_path / "audit")
    assert_refused(done, 1, "not what the proof is about", word)


def test_a_changed_adapter_and_another_method_are_refused(tmp_path: Path) -> None:
    run, plain = tiny(tmp_path / "made", 1, 1, method=LORA), tiny(tmp_path / "plain", 1, 1)
    done = command("audit", plain.run, "--proof", run.proof, "--out", tmp_path / "audit")
    assert_refused(done, 1, "not what the proof is about", "lora")
    shutil.copytree(run.run, tmp_path / "run")
    model = tmp_path / "run" / "model.safetensors"
    tensors = load_file(model)
    tensors["end.adapter0.second"][0, 0] += 2.0**-32
    save_file(tensors, model)
    done = command("audit", tmp_path / "run", "--proof", run.proof, "--out", tmp_path / "audit")
    assert_refused(done, 1, "not what the proof is about", "end weights")


METHODS: list[dict[str, Any]] = [
    {"fp8": True},
    {"galore": GaLoreConfig(3, scale=1.0, optimizer="sgd")},
    {"galore": GaLoreConfig(3, scale=1.0, optimizer="sgd", side="right")},
    {"galore": GaLoreConfig(3, scale=1.0, basis="random")},
    {"galore": GaLoreConfig(3, scale=1.0, basis="random", optimizer="sgd", side="right")},
    {"galore": GaLoreConfig(3, scale=1.0, basis="random", optimizer="sgd", gap=1)},
    {"galore": GaLoreConfig(3, scale=1.0, basis="random", states="fp8", first_exponents=((12, 11), 12), second_exponents=12)},
    {"lora": LoRAConfig(3, alpha=6.0)},
    {"lora": LoRAConfig(2, layers=(2,)), "fp8": True},
    {"galore": GaLoreConfig(3, scale=1.0, basis="random"), "fp8": True},
]


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_the_simulated_steps_are_those_of_the_exact_trainer(method: dict[str, Any]) -> None:
    ours = client(2, 2, **method)
    seen = shown_bases(ours.seen)  # of two records a basis by SVD of rank three has a vector that is the trainer's own
    left = float(distance(seen, ours.truth[0], ours.targets[ours.rows]))
    assert left < 0.01
    shuffled = ours.truth[0].flip(0)
    assert left < 0.2 * float(distance(seen, shuffled, ours.targets[ours.rows]))


def test_an_adapter_s_gradients_are_those_of_autograd() -> None:
    ours = client(3, 1, lora=LoRAConfig(2, alpha=2.0))
    generator = torch.Generator().manual_seed(0)
    start = [m + 0.1 * torch.randn(m.shape, generator=generator, dtype=m.dtype) for m in ours.start]
    x, y = ours.data[ours.batches[0]], ours.targets[ours.batches[0]]
    leaves = [m.clone().requires_grad_() for m in start]
    hidden = (x @ (ours.frozen[0][:-1] + leaves[0] @ leaves[1]) + ours.frozen[0][-1]).relu()
    outputs = hidden @ (ours.frozen[1][:-1] + leaves[2] @ leaves[3]) + ours.frozen[1][-1]
    expected = torch.autograd.grad(functional.cross_entropy(outputs, y.argmax(1)), leaves)
    after = trained(start, ours.data, ours.targets, ours.batches, ours.rates, ours.loss, ours.method, ours.frozen)
    for before, moved, gradient in zip(start, after, expected, strict=True):
        torch.testing.assert_close(before - moved, ours.rates[0] * gradient)


def test_adam_s_first_step_in_a_public_basis_can_be_undone() -> None:
    ours = client(2, 1, galore=GaLoreConfig(3, scale=1.0, basis="random"))
    method, moved = as_gradients(ours.method, ours.update, 0.1)
    assert method.galore is not None
    assert method.galore.optimizer == "sgd"
    generator = torch.Generator().manual_seed(0)
    gradients = [0.1 * torch.randn(m.shape, generator=generator, dtype=m.dtype) for m in ours.start]
    start = [torch.zeros_like(g) for g in gradients]
    by_adam = Updates(ours.method).after(0, start, gradients, 0.1)
    by_sgd = Updates(method).after(0, start, gradients, 0.1)
    _, undone = as_gradients(ours.method, by_adam, 0.1)
    for found, expected in zip(undone, by_sgd, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    assert all(torch.isfinite(m).all() for m in moved)


def test_fp8_leaves_the_ratios_exact() -> None:
    for seed in range(3):
        ours = client(1, 1, fp8=True, seed=seed)
        found = Ratios().run(ours.seen)
        assert found.claimed == 1
        assert float(errors(ours, found.records).max()) == 0


def test_under_fp8_two_units_must_show_a_claim() -> None:
    for seed in range(4):
        ours = client(5, 1, fp8=True, seed=seed)
        found = Ratios().run(ours.seen)
        near = torch.cdist(found.records, ours.truth[0]).amin(1) if found.claimed else torch.zeros(0)
        assert float(near.sum()) == 0


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_basis_by_svd_gives_one_record_away_though_not_on_the_grid(side: str) -> None:
    ours = client(1, 1, galore=GaLoreConfig(3, scale=1.0, optimizer="sgd", side=side))
    assert Ratios().run(ours.seen).claimed == 0
    assert float(errors(ours, Ratios().run(ours.seen).records).max()) < 0.05
    assert sole_label(ours.seen) == ours.truth[1]


def test_several_records_are_found_by_their_zeros_under_galore() -> None:
    ours = client(3, 1, galore=GaLoreConfig(6, scale=1.0, optimizer="sgd"))
    assert float(errors(ours, SparseRecords().run(ours.seen).records).max()) < 0.1


def test_a_public_basis_over_the_inputs_shows_no_record() -> None:
    ours = client(1, 1, galore=GaLoreConfig(3, scale=1.0, basis="random", optimizer="sgd"))
    for attack in (Ratios(), SparseFactors(), SparseRecords()):
        with pytest.raises(AuditError, match="3 mixtures of a record's 24 inputs"):
            attack.run(ours.seen)
    assert measured(ours.seen)["verdict"] == "weakly exposed"
    found = UnrolledMatching(restarts=1, iterations=60).run(ours.seen).records
    assert float(errors(ours, found).min()) > 0.5


def test_a_guess_from_mixtures_has_the_mixtures_of_the_record() -> None:
    for seed in range(3):
        ours = client(1, 1, lora=LoRAConfig(4), seed=seed)
        guess = smallest_record(ours.seen)
        mixing = ours.start[0]
        assert float(functional.cosine_similarity(guess @ mixing, ours.truth[0] @ mixing)) > 0.95
        assert float(guess.norm()) < 4 * float(ours.truth[0].norm())
    for several in (client(2, 1, lora=LoRAConfig(3)), client(1, 2, lora=LoRAConfig(3)), client(1, 1)):
        with pytest.raises(AuditError, match="mixtures"):
            smallest_record(several.seen)


def test_a_first_step_of_lora_does_not_move_the_first_matrix() -> None:
    ours = client(2, 1, lora=LoRAConfig(3))
    assert not bool(ours.update[0].any())
    with pytest.raises(AuditError, match="did not move"):
        first_layer(ours.seen)
    assert measured(ours.seen)["verdict"] == "weakly exposed"


def test_records_after_lora_s_first_step_are_shown_up_to_scale() -> None:
    for seed in range(2):
        ours = client(1, 3, lora=LoRAConfig(4), seed=seed)
        found = SparseRecords().run(ours.seen).records
        alike = functional.cosine_similarity(ours.truth[0][1:, None], found[None], dim=-1).amax(1)
        assert float(alike.min()) > 1 - 1e-9


def test_an_adapter_on_a_deeper_layer_shows_no_input() -> None:
    ours = client(1, 2, lora=LoRAConfig(2, layers=(2,)))
    with pytest.raises(AuditError, match="no adapter"):
        first_layer(ours.seen)
    assert [group["site"] for group in measured(ours.seen)["groups"]] == ["layer 2"]


def test_records_without_zeros_are_not_found_by_them() -> None:
    ours = client(3, 1)
    generator = torch.Generator().manual_seed(0)
    dense = torch.rand(ours.data.shape, generator=generator, dtype=torch.float64) + 0.5
    end = trained(ours.start, dense, ours.targets, ours.batches, ours.rates, ours.loss)
    with pytest.raises(AuditError, match="zeros of its own"):
        SparseRecords().run(replace(ours, data=dense, end=end).seen)


@given(st.lists(st.integers(0, 300), min_size=4, max_size=10).filter(lambda x: max(x) > 0), st.floats(0.01, 100))
def test_a_shape_tells_whole_numbers_up_to_a_factor(numbers: list[int], scale: float) -> None:
    whole = torch.tensor(numbers, dtype=torch.float64)
    shape = whole * scale / (whole * scale).max()
    expected = whole / np.gcd.reduce(numbers)
    torch.testing.assert_close(_whole(shape), expected)


def test_who_ignores_the_method_sees_an_update_of_the_layers() -> None:
    ours = client(2, 2, lora=LoRAConfig(3))
    plain = ours.seen.as_plain
    assert plain.method == Method()
    after = [a + m for a, m in zip(plain.start, plain.update, strict=True)]
    x = ours.data[:3]
    first = x @ (ours.frozen[0][:-1] + ours.end[0] @ ours.end[1]) + ours.frozen[0][-1]
    torch.testing.assert_close(torch.cat([x, torch.ones(3, 1, dtype=x.dtype)], 1) @ after[0], first)
    with pytest.raises(AuditError, match="did not move"):
        Ratios().run(plain)


def test_defences_keep_the_tensors_of_the_method() -> None:
    ours = client(1, 2, lora=LoRAConfig(3))
    sent = trial(ours, parse("top_k:0.5"), 0).seen
    assert [m.shape for m in sent.update] == [m.shape for m in ours.update]
    assert len(adaptive(sent).records) <= 1 + ours.seen.records
    anew = trial(ours, parse("batch:4"), 0)
    assert anew.trained_anew
    assert anew.client.method == ours.method


def test_bases_that_an_update_shows_hold_its_columns() -> None:
    ours = client(2, 2, galore=GaLoreConfig(3, scale=1.0, optimizer="sgd"))
    seen = shown_bases(unrolled_adam(ours.seen))
    for basis, moved in zip(seen.method.seen, ours.update, strict=True):
        torch.testing.assert_close(basis @ (basis.T @ moved), moved)
