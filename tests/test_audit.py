"""An audit as a user runs it: from a configuration, from a saved update, stopped and gone on with, and with bad input."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from zkaudit_process import succeed

from zkaudit.attacks import config, update
from zkaudit.attacks.audit import PARTS, REPORT, RESULT, audit
from zkaudit.attacks.config import AuditConfig
from zkaudit.attacks.federated.client import batches, local_update
from zkaudit.attacks.federated.saved import save_weights
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.lab import models
from zkaudit.attacks.lab.records import Record, synthetic, values
from zkaudit.attacks.ledger import Ledger
from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.report import check
from zkaudit.attacks.template import TEMPLATE
from zkaudit.cli import main

QUICK = """
[model]
source = "nano-llama"
[peft]
type = "LORA"
r = 8
target_modules = ["q_proj", "k_proj", "v_proj"]
[federated]
batch = 1
longest = 32
warm_up_steps = 1
dropout = false
learning_rate = 0.1
[attacks]
run = ["span_test", "pursuit"]
batches = 2
[report]
phase = false
curves = false
screen = false
"""


@pytest.fixture
def quick(tmp_path: Path) -> Path:
    path = tmp_path / "audit.toml"
    path.write_text(QUICK)
    return path


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: str | Path) -> str:
        """The one sentence with which the command refuses."""
        assert main([str(argument) for argument in arguments]) == 2
        sentence = capsys.readouterr().err
        assert sentence.startswith("zkaudit: ")
        assert sentence.count("\n") == 1
        assert "internal error" not in sentence
        return sentence

    return run


def attack_named(result: dict[str, Any], name: str) -> dict[str, Any]:
    return next(attack for attack in result["attacks"] if attack["name"] == name)


def test_an_audit_writes_a_result_and_a_report(quick: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", str(quick), "--out", str(tmp_path / "out")]) == 0
    assert "pursuit" in capsys.readouterr().out
    result = json.loads((tmp_path / "out" / RESULT).read_text())
    check(result)
    assert attack_named(result, "pursuit")["metrics"]["token_recall"]["value"] > 0.9
    assert {attack["name"] for attack in result["attacks"] if attack["role"] == "control"} == {"lm_only", "random"}
    assert (tmp_path / "out" / REPORT).read_text().startswith("<!DOCTYPE html>")
    assert not (tmp_path / "out" / PARTS).exists()


def test_results_hold_no_personal_data_unless_asked_to(quick: Path, tmp_path: Path) -> None:
    settings = replace(config.load(quick), attacks=config.AttackSection(("record_pursuit",), 1))
    own = [value for value in values(synthetic(1, 0)) if not value.isalpha()]
    audit(settings, tmp_path / "hidden")
    for name in (RESULT, REPORT):
        text = (tmp_path / "hidden" / name).read_text()
        assert not any(value in text for value in own)
    audit(replace(settings, report=replace(settings.report, show_values=True)), tmp_path / "shown")
    assert any(value in (tmp_path / "shown" / RESULT).read_text() for value in own)


def test_the_same_configuration_gives_the_same_figures(quick: Path) -> None:
    def figures() -> Any:
        result = audit(config.load(quick))
        return [(attack["name"], attack.get("metrics")) for attack in result["attacks"]], result["hashes"]

    assert figures() == figures()


def test_a_stopped_audit_goes_on_where_it_was(quick: Path, tmp_path: Path) -> None:
    settings, out = config.load(quick), tmp_path / "out"

    def stop(what: str, fraction: float) -> None:
        if what.startswith("batch 2") and "pursuit" in what:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audit(settings, out, stop)
    kept = sorted(path.name for path in (out / PARTS).rglob("*.json"))
    assert "attack-pursuit-0.json" in kept
    assert "attack-pursuit-1.json" not in kept
    part = next((out / PARTS).rglob("attack-pursuit-0.json"))
    content = json.loads(part.read_text())
    part.write_text(json.dumps({**content, "seconds": 12345.0}))  # shows whether the part is taken as it is
    result = audit(settings, out)
    assert attack_named(result, "pursuit")["seconds"] > 6000
    assert attack_named(result, "pursuit")["metrics"] == attack_named(audit(settings), "pursuit")["metrics"]


def test_a_ledger_keeps_parts_of_one_configuration_apart_from_those_of_another(tmp_path: Path) -> None:
    assert Ledger(tmp_path, {"a": 1}).do("x", lambda: 1) == 1
    assert Ledger(tmp_path, {"a": 1}).do("x", lambda: 2) == 1
    assert Ledger(tmp_path, {"a": 2}).do("x", lambda: 2) == 2


def test_a_damaged_part_is_made_again(tmp_path: Path) -> None:
    Ledger(tmp_path, {}).put("x", 1)
    next(tmp_path.rglob("x.json")).write_text("{")
    assert Ledger(tmp_path, {}).do("x", lambda: 3) == 3


@pytest.mark.slow
def test_the_template_runs_as_it_is_and_finds_the_record(tmp_path: Path) -> None:
    (tmp_path / "audit.toml").write_text(succeed("audit", "--template"))
    succeed("audit", tmp_path / "audit.toml", "--out", tmp_path / "out")
    result = json.loads((tmp_path / "out" / RESULT).read_text())
    assert result["verdict"]["level"] == "exposed"
    assert {"phase", "exposure_curves", "defences", "screen", "meter", "funnel"} <= set(result)
    assert len(result["defences"]) == 6
    assert (tmp_path / "out" / REPORT).stat().st_size > 100_000


@pytest.mark.slow
def test_an_active_attacker_poisons_the_base(quick: Path, tmp_path: Path) -> None:
    settings = replace(
        config.load(quick),
        threat=config.ThreatSection("active", 60, poison_steps=20),
        attacks=config.AttackSection(("recit", "extraction"), 1),
    )
    result = audit(settings, tmp_path)
    assert attack_named(result, "recit")["error"] is None
    assert result["threat"]["capabilities"] == ["update", "auxiliary", "base model"]
    assert result["hashes"]["base model"] != audit(replace(settings, threat=config.ThreatSection()))["hashes"]["base model"]


SHORT = FederatedSettings(batch=1, longest=12, warm_up_steps=1, dropout=False, learning_rate=0.1)
LOCAL = replace(SHORT, warm_up_steps=0, sends="delta", local_steps=2, optimizer="adamw")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "task", "peft", "federated", "least"),  # the least recall of the tokens by pursuit's ranking
    [
        ("micro-bert", "sequence_classification", {"type": "LORA", "r": 16}, SHORT, 0.9),
        ("micro-bert", None, {"type": "LORA", "r": 16}, SHORT, 0.7),
        ("nano-gpt2", "sequence_classification", {"type": "LORA", "r": 16}, SHORT, 0.9),
        ("nano-llama", None, {"type": "DORA", "r": 8}, replace(SHORT, cohort=3), 0.8),
        ("nano-llama", None, {"type": "PREFIX_TUNING"}, replace(SHORT, warm_up_steps=0), 0.8),
        ("nano-gpt2", None, {"type": "FULL"}, LOCAL, 0.2),
    ],
)
def test_other_models_methods_and_federations_are_audited(
    name: str, task: str | None, peft: dict[str, Any], federated: FederatedSettings, least: float, tmp_path: Path
) -> None:
    run = config.AttackSection(("token_set", "span_test", "pursuit", "record_pursuit", "dager"), 1)
    settings = AuditConfig(config.ModelSection(name, task), peft, federated=federated, attacks=run)
    result = audit(replace(settings, report=config.ReportSection(phase=False, curves=False, screen=False)), tmp_path)
    assert attack_named(result, "pursuit")["metrics"]["recall_at_n"]["value"] >= least


def test_an_imprinting_attacker_reads_single_tokens(quick: Path) -> None:
    loaded = config.load(quick)
    settings = replace(
        loaded,
        federated=replace(loaded.federated, warm_up_steps=0),
        peft={"type": "BOTTLENECK", "size": 128},
        threat=config.ThreatSection("active", 60, "imprint"),
        attacks=config.AttackSection(("random",), 1),
    )
    assert attack_named(audit(settings), "imprint")["metrics"]["token_precision"]["value"] > 0.9


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("[model]", "[mode]"), ("mode", "sections are")),
        (('source = "nano-llama"', 'source = "no-such-model"'), ("no-such-model",)),
        (("r = 8", "r = 0"), ("r is 0",)),
        (("batch = 1", "batch = 0"), ("batch", "positive integer")),
        (("batch = 1", "batch = true"), ("batch", "positive integer")),
        (("dropout = false", 'dropout = "no"'), ("dropout",)),
        (("longest = 32", "longst = 32"), ("longst", "known are")),
        (('"pursuit"', '"persuit"'), ("persuit", "pursuit")),
        (("[report]", '[defences]\nrun = ["noize:1"]\n[report]'), ("noize", "noise")),
        (("[report]", '[threat]\nmodel = "omniscient"\n[report]'), ("omniscient", "passive")),
        (("[report]", '[data]\nsource = "nowhere.jsonl"\n[report]'), ("nowhere.jsonl",)),
        (("[report]", "[report"), ("not TOML",)),
        (("warm_up_steps = 1", "local_steps = 3"), ("delta",)),
        (("[report]", '[threat]\nmodel = "active"\npoison = "imprint"\n[report]'), ("warm_up_steps",)),
    ],
)
def test_a_bad_configuration_is_one_sentence(
    change: tuple[str, str], words: tuple[str, ...], tmp_path: Path, refused: Callable[..., str]
) -> None:
    assert change[0] in QUICK
    (tmp_path / "bad.toml").write_text(QUICK.replace(*change))
    sentence = refused("audit", tmp_path / "bad.toml", "--out", tmp_path / "out")
    for word in words:
        assert word in sentence


def test_too_few_records_say_how_many_are_needed(quick: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "one.jsonl").write_text('{"text": "Ada Lovelace wrote to ada@example.org on Monday."}\n')
    quick.write_text(QUICK + '[data]\nsource = "one.jsonl"\n')
    assert "needs 2 records" in refused("audit", quick, "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not JSON"),
        ('{"txt": "x"}', 'no "text"'),
        ('{"text": "call 123", "pii": {"phone": "456"}}', "stand in the text"),
        ('{"text": "x", "note": 1}', "unknown key 'note'"),
    ],
)
def test_a_bad_record_names_its_line(line: str, words: str, quick: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "records.jsonl").write_text('{"text": "all is well"}\n' + line + "\n")
    quick.write_text(QUICK + '[data]\nsource = "records.jsonl"\n')
    sentence = refused("audit", quick, "--out", tmp_path / "out")
    assert "line 2" in sentence
    assert words in sentence


def test_missing_options_are_named(refused: Callable[..., str], quick: Path) -> None:
    assert "--template" in refused("audit")
    assert "--out" in refused("audit", quick)
    assert "--model" in refused("audit", "--update", "u.safetensors")
    assert "--tokens" in refused("audit", "meter")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base model, an adapter whose B has moved, one client's gradient and its records."""
    folder = tmp_path_factory.mktemp("saved")
    base = models.build("nano-llama")
    base.module.save_pretrained(folder / "base")
    base.tokenizer.save_pretrained(folder / "base")
    lora = peft.LoraConfig(r=8, target_modules=["q_proj", "k_proj", "v_proj"], task_type="CAUSAL_LM")
    model = PublicModel(peft.get_peft_model(base.module, lora), base.tokenizer)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.trainable().items():
            if "lora_B" in name:
                parameter.normal_(0, 0.02, generator=generator)
    model.module.save_pretrained(folder / "adapter")
    records = synthetic(1, 3)
    (folder / "records.jsonl").write_text(line(records[0]))
    settings = FederatedSettings(batch=1, longest=64, dropout=False)
    update.save(local_update(model, batches(model, records, settings), settings), folder / "gradient.safetensors")
    return folder


def line(record: Record) -> str:
    return json.dumps({"text": record.text, "owner": record.owner, "pii": dict(record.pii)}) + "\n"


def of(saved: Path, out: Path, *more: str | Path) -> list[str | Path]:
    return [
        "audit",
        "--update",
        saved / "gradient.safetensors",
        "--model",
        saved / "base",
        "--peft",
        saved / "adapter",
        "--out",
        out,
        *more,
    ]


def test_a_saved_update_is_audited_with_its_records(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*map(str, of(saved, tmp_path, "--records", saved / "records.jsonl", "--batch", "1"))]) == 0
    assert "exposed" in capsys.readouterr().out
    result = json.loads((tmp_path / RESULT).read_text())
    assert attack_named(result, "pursuit")["metrics"]["token_recall"]["value"] > 0.9


def test_a_saved_update_is_audited_without_its_records(saved: Path, tmp_path: Path) -> None:
    assert main([*map(str, of(saved, tmp_path, "--batch", "1"))]) == 0
    result = json.loads((tmp_path / RESULT).read_text())
    assert attack_named(result, "pursuit")["claimed"] > 10
    assert "truth was not given" in result["verdict"]["sentences"][0]


def test_a_captured_start_stands_in_for_saved_weights(saved: Path, tmp_path: Path) -> None:
    weights = load_file(saved / "adapter" / "adapter_model.safetensors")
    save_weights(weights, tmp_path / "start.safetensors")
    arguments = of(saved, tmp_path / "out", "--start", tmp_path / "start.safetensors", "--batch", "1")
    arguments[6] = saved / "adapter" / "adapter_config.json"  # the configuration alone: B would be zero
    assert main([*map(str, arguments)]) == 0
    assert attack_named(json.loads((tmp_path / "out" / RESULT).read_text()), "pursuit")["claimed"] > 10


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda t: {name: value for name, value in t.items() if "lora_A" not in name}, "lora_A"),
        (lambda t: {**t, "surplus": torch.ones(1)}, "surplus"),
        (lambda t: {name: value[..., :-1].contiguous() for name, value in t.items()}, "shape"),
        (lambda t: {name: torch.full_like(value, torch.nan) for name, value in t.items()}, "NaN"),
    ],
)
def test_an_update_that_does_not_fit_is_one_sentence(
    spoil: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
    words: str,
    saved: Path,
    tmp_path: Path,
    refused: Callable[..., str],
) -> None:
    bad = tmp_path / "bad.safetensors"
    save_file(spoil(load_file(saved / "gradient.safetensors")), bad, {"kind": "gradient"})
    arguments = of(saved, tmp_path / "out")
    arguments[2] = bad
    assert words in refused(*arguments)


def test_a_tokenizer_that_does_not_fit_the_model_is_refused(saved: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    small = models.build("nano-llama").module.config
    small.vocab_size = 100
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps({**small.to_dict(), "architectures": ["LlamaForCausalLM"]}))
    models.build("nano-llama").tokenizer.save_pretrained(tmp_path / "base")
    arguments = of(saved, tmp_path / "out")
    arguments[4] = tmp_path / "base"
    assert "tokens" in refused(*arguments)


def test_a_tokenizer_that_cannot_pad_is_refused(saved: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    shutil.copytree(saved / "base", tmp_path / "base")
    path = tmp_path / "base" / "tokenizer_config.json"
    kept = {key: value for key, value in json.loads(path.read_text()).items() if key not in ("pad_token", "eos_token")}
    path.write_text(json.dumps(kept))
    (tmp_path / "base" / "special_tokens_map.json").unlink(missing_ok=True)
    arguments = of(saved, tmp_path / "out")
    arguments[4] = tmp_path / "base"
    assert "pad" in refused(*arguments)


def test_the_meter_measures_a_folder_and_a_bare_configuration(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for model in (saved / "base", saved / "base" / "config.json"):
        arguments = ["audit", "meter", "--model", model, "--peft", saved / "adapter" / "adapter_config.json", "--tokens", "20"]
        assert main([str(argument) for argument in [*arguments, "--json"]]) == 0
        said.append(json.loads(capsys.readouterr().out))
    assert said[0] == said[1]
    assert said[0]["verdict"] == "exposed"


def test_every_section_of_the_template_is_read(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text(TEMPLATE)
    loaded = config.load(tmp_path / "t.toml")
    assert loaded != AuditConfig()
    assert loaded.peft["r"] == 8
