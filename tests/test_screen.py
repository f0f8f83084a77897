"""The screen of base models: what raises which signal, and how well it tells prepared models from clean ones."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.imprint import imprint
from zkaudit.attacks.lab.models import build
from zkaudit.attacks.lab.records import synthetic
from zkaudit.attacks.peft_setup import apply
from zkaudit.attacks.screen import roc, screen, screen_study, weights
from zkaudit.attacks.screen.report import SIGNALS

PEFT = [{"type": "LORA", "r": 8}, {"type": "BOTTLENECK", "size": 32}, {"type": "DORA"}, {"type": "PREFIX_TUNING"}]
scores = st.lists(st.integers(0, 5).map(float), min_size=1, max_size=9)
pytestmark = pytest.mark.usefixtures("one_thread")


def raised(model):
    return {name for name, value in weights.measure(model).items() if value > SIGNALS[name][0]}


def linear(model, end):
    return next(module for name, module in model.module.named_modules() if name.endswith(end))


@given(scores, scores)
def test_auc_is_sklearns(benign, malicious):
    labels = [0] * len(benign) + [1] * len(malicious)
    assert roc_auc_score(labels, benign + malicious) == pytest.approx(roc(benign, malicious)["auc"])


@given(scores, scores)
def test_the_area_under_the_curve_is_the_auc(benign, malicious):
    curve = roc(benign, malicious)
    assert np.trapezoid(curve["true_positive"], curve["false_positive"]) == pytest.approx(curve["auc"])
    assert (curve["true_positive"][-1], curve["false_positive"][-1]) == (1, 1)


def test_an_roc_needs_both_kinds():
    with pytest.raises(AuditError, match="clean and of malicious"):
        roc([], [1.0])


@pytest.mark.parametrize("name", ["nano-gpt2", "nano-llama", "micro-bert"])
def test_honest_starts_raise_no_weight_signal(name):
    assert raised(build(name)) == set()
    for options in PEFT[: 2 if name == "micro-bert" else None]:
        assert raised(apply(build(name, 1), options)) == set(), options


@pytest.mark.parametrize("name", ["nano-gpt2", "nano-llama", "micro-bert"])
def test_an_imprint_raises_its_signals(name):
    model = imprint(apply(build(name), {"type": "BOTTLENECK", "size": 32}), [r.text for r in synthetic(20, 1)])
    assert {"equal_rows", "bias_ladder", "outlier", "low_rank"} <= raised(model)


def test_shuffled_rows_do_not_hide_an_imprint():
    model = imprint(apply(build("nano-gpt2"), {"type": "BOTTLENECK", "size": 32}), [r.text for r in synthetic(20, 1)])
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name, module in model.module.named_modules():
            if name.endswith("adapter_down"):
                module.weight.copy_(module.weight[order].clone())
                module.bias.copy_(module.bias[order].clone())
    assert {"equal_rows", "low_rank"} <= raised(model)


def test_a_pass_through_attention_raises_its_signal():
    model = build("nano-llama")
    with torch.no_grad():
        linear(model, "v_proj").weight.copy_(torch.eye(128))
    assert "pass_through" in raised(model)
    with torch.no_grad():
        linear(model, "v_proj").weight.zero_()
    assert "pass_through" in raised(model)


def test_extreme_weights_raise_their_signal():
    model = build("nano-llama")
    with torch.no_grad():
        linear(model, "q_proj").weight.mul_(1e5)
    assert raised(model) == {"outlier"}


def test_a_second_matrix_of_low_rank_is_honest():
    model = apply(build("nano-llama"), {"type": "LORA", "r": 8})
    with torch.no_grad():
        for name, p in model.trainable().items():
            if "lora_B" in name:
                p.copy_(torch.outer(torch.randn(p.shape[0]), torch.randn(p.shape[1])))
    assert raised(model) == set()


def test_a_clean_model_passes_and_the_report_is_json():
    report = screen(build("nano-gpt2"))
    assert not report.suspicious
    assert report.score < 1
    content = json.loads(json.dumps(report.to_dict()))
    assert content["verdict"] == "no sign that the model was prepared to leak"
    assert {"name", "value", "threshold", "explanation"} == set(content["signals"][0])


def test_a_model_does_not_exceed_itself_as_a_reference():
    model = build("nano-gpt2", 3)
    signals = {signal.name: signal.value for signal in screen(model, model).signals}
    assert signals["note_words"] == signals["spontaneous_notes"] == 0


def test_a_reference_of_another_task_is_an_error():
    with pytest.raises(AuditError, match="masked_lm"):
        screen(build("nano-gpt2"), build("micro-bert"))


def test_screening_changes_no_weight():
    model = apply(build("nano-gpt2"), {"type": "LORA"})
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    screen(model)
    assert all(torch.equal(before[name], value) for name, value in model.module.state_dict().items())


@pytest.mark.slow
def test_prepared_models_score_above_clean_ones():
    study = screen_study([0], steps=120, batch=8)
    clean = max(one["score"] for one in study["models"] if not one["malicious"])
    assert clean < min(one["score"] for one in study["models"] if one["malicious"])
    assert study["roc"]["auc"] == 1
    assert (study["false_alarms"], study["missed"]) == (0, 0)
