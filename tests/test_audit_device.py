"""Where an audit computes: the choice, and that all tensors of a computation are on one device, emulated or a real GPU."""

from __future__ import annotations

import copy
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from device_cases import SETTINGS_BY_NAME, attacked, defended, llama, observed

from zkaudit.attacks import config, device
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.saved import load_for
from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.update import save
from zkaudit.cli import main

HERE = Path(__file__).parent
METER = ("--model", "{model}", "--peft", "{peft}", "--tokens", "5")
EXACT = ("token_set", "span_test", "pursuit", "dager", "imprint")  # where n <= K rounding decides nothing
SEEN = torch.cuda.is_available()
spare = pytest.mark.skipif(
    importlib.util.find_spec("torch.utils.backend_registration") is None
    or not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch has no back end to emulate a device with",
)


def gpu(test: Callable[..., None]) -> Callable[..., None]:
    """A test for a machine with a GPU."""
    skip = pytest.mark.skipif(not SEEN, reason="torch.cuda sees no GPU")
    return pytest.mark.gpu(skip(test))  # type: ignore[no-any-return]


def on_gpu(model: PublicModel) -> PublicModel:
    return model.to(torch.device("cuda"))


@cache
def emulated(part: str) -> Mapping[str, Any]:
    """{name: [on the host, on the second device]}, by second_device_run.py in a process of its own."""
    command = [sys.executable, "-W", "ignore", str(HERE / "second_device_run.py"), part]
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=alone, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: Mapping[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def assert_same(name: str, here: Mapping[str, Any], there: Mapping[str, Any]) -> None:
    """An attack that applies here does there, and claims the same where rounding has no say; results hold no tensors."""
    assert here.get("refused") == there.get("refused"), name
    assert there.get("tensors", []) == [], name
    assert here.get("ranked") == there.get("ranked") or name not in EXACT, name
    if name in EXACT and "refused" not in here:
        assert here["claimed"] == there["claimed"], name
        assert here["sequences"] == there["sequences"], name


# --- the choice


def test_auto_is_a_gpu_where_torch_sees_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for seen, name in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda seen=seen: seen)
        assert device.chosen("auto").type == name
        assert device.chosen("cpu").type == "cpu"


def test_a_gpu_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(AuditError, match="torch sees no GPU"):
        device.chosen("cuda")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["audit", "{toml}", "--out", "{out}"], "torch sees no GPU"),
        (["audit", "meter", *METER, "--device", "cuda"], "torch sees no GPU"),
        (["audit", "{toml}", "--out", "{out}", "--device", "cpu"], "[model] device"),
    ],
)
def test_the_command_refuses_a_device_in_one_sentence(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    places = {"toml": "audit.toml", "out": "out", "model": "config.json", "peft": "adapter_config.json"}
    llama().config.save_pretrained(tmp_path)
    (tmp_path / places["toml"]).write_text('[model]\ndevice = "cuda"\n')
    (tmp_path / places["peft"]).write_text('{"type": "LORA", "target_modules": ["q_proj"]}')
    assert main([part.format(**{name: tmp_path / file for name, file in places.items()}) for part in arguments]) == 2
    sentence = capsys.readouterr().err
    assert words in sentence
    assert sentence.count("\n") == 1


def test_an_unknown_device_names_its_key() -> None:
    with pytest.raises(AuditError, match=r"\[model\] device is 'tpu'"):
        config.ModelSection(device="tpu")


def test_torchs_own_generator_is_as_before_a_seeded_stretch() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with device.seeded(7, torch.device("cpu")):
        inside = torch.rand(2)
    torch.manual_seed(7)
    assert torch.equal(inside, torch.rand(2))
    torch.manual_seed(3)
    with device.seeded(7, torch.device("cpu")):
        torch.rand(5)
    assert torch.equal(torch.rand(2), expected)


def test_a_model_without_weights_is_refused_by_audits_and_left_to_the_meter(tmp_path: Path) -> None:
    from zkaudit.attacks.saved_audit import SavedUpdate, audit_saved, model_with_adapters

    large = llama().config
    large.hidden_size, large.intermediate_size, large.num_hidden_layers, large.head_dim = 4096, 16384, 8, 2048
    large.architectures = ["LlamaForCausalLM"]
    large.save_pretrained(tmp_path)
    llama().tokenizer.save_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"type": "LORA", "target_modules": ["q_proj"]}')
    model = model_with_adapters(tmp_path, None, "cpu")
    assert model.is_plan
    save_update = tmp_path / "gradient.safetensors"
    with pytest.raises(AuditError, match="only the meter can do without"):
        audit_saved(SavedUpdate(save_update, tmp_path, device="cpu"), tmp_path / "out")


# --- all on one device, emulated


@pytest.mark.slow
@spare
@pytest.mark.parametrize("name", SETTINGS_BY_NAME)
def test_attacks_stay_on_their_models_device(name: str) -> None:
    here, there = emulated("attacks")[name]
    assert here
    for attack, told in here.items():
        assert_same(attack, told, there[attack])


@pytest.mark.slow
@spare
def test_defences_stay_on_their_models_device() -> None:
    for name, (here, there) in emulated("defences").items():
        assert here["adaptive"] == there["adaptive"], name
        assert here["note"] == there["note"], name
        assert here["utility"]["defended"]["loss"] == pytest.approx(there["utility"]["defended"]["loss"], abs=1e-3), name


@pytest.mark.slow
@spare
def test_whole_audits_stay_on_their_device_and_say_which_it_was() -> None:
    found = emulated("audits")
    assert found["device"] == [["cpu"] * 2, ["second"] * 2]
    for name, (here, there) in found.items():
        if name == "phase":
            assert [x for row in there for x in row] == pytest.approx([x for row in here for x in row], abs=0.1)
        elif name != "device":
            assert here == there, name


@pytest.mark.slow
@spare
@pytest.mark.parametrize(
    ("code", "refused"),
    [
        ("torch.zeros(2, device=SECOND) + torch.zeros(2)", True),
        ("torch.zeros(2)[torch.zeros(1, dtype=int, device=SECOND)]", True),
        ("torch.zeros(2, device=SECOND).numpy()", True),
        ("torch.zeros(2) * torch.ones((), device=SECOND)", True),
        ("torch.stack([torch.ones(()), torch.ones((), device=SECOND)])", True),
        ("torch.cat([torch.zeros(2), torch.zeros(2, device=SECOND)])", True),
        ("torch.zeros(2, device=SECOND)[torch.zeros(1, dtype=int)] + torch.tensor(1.0)", False),
    ],
)
def test_the_emulated_device_is_as_apart_as_a_gpu(code: str, refused: bool) -> None:
    whole = f"import torch\nfrom second_device import SECOND, second_device\nwith second_device():\n    {code}"
    done = subprocess.run([sys.executable, "-c", whole], cwd=HERE, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == refused, done.stderr


# --- on a GPU


@gpu
@pytest.mark.parametrize("name", SETTINGS_BY_NAME)
def test_attacks_on_a_gpu_claim_what_they_claim_on_the_cpu(name: str) -> None:
    here, there = attacked(name, copy.deepcopy), attacked(name, on_gpu)
    for attack, told in here.items():
        assert_same(attack, told, there[attack])


@gpu
def test_a_sweep_of_defences_on_a_gpu_scores_as_on_the_cpu() -> None:
    here, there = defended(copy.deepcopy), defended(on_gpu)
    for name, told in here.items():
        assert told["adaptive"] == pytest.approx(there[name]["adaptive"], abs=0.15), name  # dropout is drawn by the device
        assert told["utility"]["defended"]["loss"] == pytest.approx(there[name]["utility"]["defended"]["loss"], abs=0.05), name


@gpu
def test_the_clients_update_is_the_same_up_to_rounding() -> None:
    setting = SETTINGS_BY_NAME["llama, LoRA"]
    here, there = (observed(setting, put).rounds[0].update.tensors for put in (copy.deepcopy, on_gpu))
    for name, value in here.items():
        assert there[name].device.type == "cuda"
        assert (there[name].cpu() - value).norm() <= 1e-4 * value.norm(), name


@gpu
def test_a_saved_update_is_read_onto_the_models_gpu(tmp_path: Path) -> None:
    run = observed(SETTINGS_BY_NAME["llama, LoRA"], on_gpu)
    save(run.rounds[0].update, tmp_path / "gradient.safetensors")
    read = load_for(run.model, tmp_path / "gradient.safetensors")
    for name, value in run.rounds[0].update.tensors.items():
        assert torch.equal(read.tensors[name], value), name


@gpu
def test_the_quick_audit_finds_the_same_on_both(tmp_path: Path) -> None:
    for package in ("faker", "rouge_score"):
        pytest.importorskip(package)
    try:
        importlib.metadata.version("zkaudit")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("zkaudit is not installed, and a result names its version")
    from zkaudit.attacks.audit import audit
    from zkaudit.attacks.template import TEMPLATE

    (tmp_path / "template.toml").write_text(TEMPLATE)
    whole = config.load(tmp_path / "template.toml")
    figures = {}
    for name in ("cpu", "cuda"):
        settings = config.AuditConfig(
            config.ModelSection("nano-llama", device=name),
            whole.peft,
            federated=whole.federated,
            attacks=config.AttackSection(("span_test", "pursuit", "dager"), 1),
            report=config.ReportSection(phase=False, curves=False, screen=False),
        )
        result = audit(settings, tmp_path / name)
        assert result["device"].startswith(name)
        run = {attack["name"]: attack for attack in result["attacks"]}
        figures[name] = [run[attack]["metrics"] for attack in settings.attacks.run]
    for here, there in zip(figures["cpu"], figures["cuda"], strict=True):
        for metric in ("token_recall", "token_precision", "exact_match"):
            assert here[metric] == there[metric]
