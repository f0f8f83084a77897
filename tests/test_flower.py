"""Captures from real training stacks, Flower and transformers' Trainer, against what the simulation and autograd compute."""

import copy
import dataclasses
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.client import batches, local_update, private_seed
from zkaudit.attacks.federated.flower import CapturingStrategy, capture_mod
from zkaudit.attacks.federated.flower_simulation import InlineGrid, client_app, fine_tune
from zkaudit.attacks.federated.rounds import simulate
from zkaudit.attacks.federated.saved import load_for, load_round
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.federated.trainer_callback import UpdateCapture
from zkaudit.attacks.lab.models import build
from zkaudit.attacks.lab.records import synthetic
from zkaudit.attacks.model import IGNORED, Batch, PublicModel

# isort: split
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import fixedclipping_mod
from flwr.serverapp.strategy import DifferentialPrivacyClientSideFixedClipping, FedAvg
from flwr.supercore.task_identity import TaskIdentity

RECORDS = synthetic(16, 6)
RULE = FederatedSettings(sends="delta", optimizer="adamw", learning_rate=1e-2, local_steps=2, batch=2, cohort=2, rounds=2)
CLIENTS = [RECORDS[:8], RECORDS[8:16]]


def adapted() -> PublicModel:
    base = build("nano-gpt2", 3)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        module = get_peft_model(base.module, LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True)).eval()
        for name, value in module.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(value, std=0.05)
    return PublicModel(module, base.tokenizer)


@pytest.fixture(scope="module")
def model() -> PublicModel:
    return adapted()


def close(left: dict, right: dict, tolerance: float = 1e-5) -> bool:
    return left.keys() == right.keys() and all(
        torch.allclose(left[name], right[name], rtol=1e-3, atol=tolerance * float(left[name].abs().max())) for name in left
    )


def agrees(rounds: list, expected: list) -> bool:
    return len(rounds) == len(expected) and all(
        seen.update.kind == wanted.update.kind
        and close(dict(wanted.start), dict(seen.start))
        and close(dict(wanted.update.tensors), dict(seen.update.tensors), 1e-3)
        for seen, wanted in zip(rounds, expected, strict=True)
    )


def test_telemetry_is_off() -> None:
    from flwr.supercore import telemetry

    assert os.environ["FLWR_TELEMETRY_ENABLED"] == "0"
    assert telemetry.FLWR_TELEMETRY_ENABLED == "0"


def test_a_flower_federation_shows_its_server_what_the_simulation_does(model: PublicModel, tmp_path: Path) -> None:
    before = model.state()
    done: list[float] = []
    rounds = fine_tune(model, CLIENTS, RULE, tmp_path, seed=5, progress=lambda _what, fraction: done.append(fraction))
    assert agrees(rounds, list(simulate(model, CLIENTS, RULE, seed=5).rounds))
    assert done == [0.0, 0.5, 1.0]
    assert all(torch.equal(value, before[name]) for name, value in model.state().items())
    assert not list(tmp_path.glob("*node*"))  # a cohort's single updates do not reach its server


def test_mod_captures_what_leaves_a_client(model: PublicModel, tmp_path: Path) -> None:
    fine_tune(model, CLIENTS, RULE, tmp_path / "server", seed=5, mods=[capture_mod(tmp_path / "clients")])
    seen = load_round(model, *(tmp_path / "server" / f"round-1-{part}.safetensors" for part in ("start", "mean")))
    sent = [load_for(model, path) for path in sorted((tmp_path / "clients").glob("round-1-node-*.safetensors"))]
    assert len(sent) == 2
    assert all(update.kind == "delta" for update in sent)
    mean = {name: (sent[0].tensors[name] + sent[1].tensors[name]) / 2 for name in seen.update.tensors}
    assert close(mean, dict(seen.update.tensors), 1e-4)
    own = load_round(model, *(tmp_path / "clients" / f"round-2-{part}.safetensors" for part in ("start", "node-2")))
    with model.holding(own.start):
        data = batches(model, CLIENTS[0][4:], RULE, private_seed(5, 1, 0))
        assert close(dict(local_update(model, data, RULE, seed=private_seed(5, 1, 0)).tensors), dict(own.update.tensors), 1e-3)


def test_without_a_cohort_the_server_sees_the_client(model: PublicModel, tmp_path: Path) -> None:
    rule = FederatedSettings(sends="delta", learning_rate=0.5, dropout=False)
    (seen,) = fine_tune(model, [RECORDS[:4]], rule, tmp_path)
    expected = local_update(model, batches(model, RECORDS, rule), rule)
    assert close(dict(expected.tensors), dict(seen.update.tensors), 1e-3)
    assert load_for(model, tmp_path / "round-1-node-2.safetensors").kind == "delta"


def test_mod_that_comes_first_sees_what_a_clipping_mod_leaves(model: PublicModel, tmp_path: Path) -> None:
    clipped = 0.01
    strategy = DifferentialPrivacyClientSideFixedClipping(
        FedAvg(fraction_evaluate=0.0), noise_multiplier=0.0, clipping_norm=clipped, num_sampled_clients=2
    )
    mods = [capture_mod(tmp_path / "outside"), fixedclipping_mod, capture_mod(tmp_path / "inside")]
    app = client_app(model, CLIENTS, RULE, mods=mods)
    run(app, strategy, model)
    norms = {}
    for place in ("outside", "inside"):
        tensors = load_for(model, tmp_path / place / "round-1-node-2.safetensors").tensors
        norms[place] = float(torch.cat([value.flatten() for value in tensors.values()]).norm())
    assert norms["inside"] > 2 * clipped
    assert norms["outside"] == pytest.approx(clipped, rel=1e-3)


def run(app: ClientApp, strategy: object, model: PublicModel, nodes: int = 2) -> object:
    """One round of a strategy over an own grid."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 7, 1
    logging.getLogger("flwr").setLevel(logging.ERROR)
    return strategy.start(InlineGrid(app, nodes, 7), ArrayRecord(model.state()), num_rounds=1)


def test_strategy_around_another_changes_nothing(model: PublicModel, tmp_path: Path) -> None:
    app = client_app(model, CLIENTS, RULE)
    bare = run(app, FedAvg(fraction_evaluate=0.0), model).arrays
    around = run(app, CapturingStrategy(FedAvg(fraction_evaluate=0.0), tmp_path), model).arrays
    assert all(np.array_equal(bare[name].numpy(), around[name].numpy()) for name in bare)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"round-1-{part}.safetensors" for part in ("mean", "node-2", "node-3", "start")
    ]


def test_mean_is_weighted_as_fedavg_weighs(model: PublicModel, tmp_path: Path) -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: object) -> Message:
        arrays = {name: Array(value.numpy() + context.node_id) for name, value in message.content["arrays"].items()}
        metrics = MetricRecord({"num-examples": {2: 30, 3: 10}[context.node_id]})
        return Message(RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics}), reply_to=message)

    result = run(app, CapturingStrategy(FedAvg(fraction_evaluate=0.0), tmp_path), model)
    mean = load_for(model, tmp_path / "round-1-mean.safetensors").tensors
    for name, value in model.state().items():
        assert torch.allclose(torch.full_like(value, 2.25), mean[name], atol=1e-5)
        assert np.allclose(result.arrays[name].numpy(), value + mean[name], atol=1e-5)


def test_arrays_without_names_get_those_they_are_given(model: PublicModel, tmp_path: Path) -> None:
    names = list(model.state())
    app = ClientApp(mods=[capture_mod(tmp_path, names)])

    @app.train()
    def train(message: Message, context: object) -> Message:
        arrays = ArrayRecord([value + 1 for value in message.content["arrays"].to_numpy_ndarrays()])
        return Message(RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})}), reply_to=message)

    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 7, 1
    plain = ArrayRecord([value.numpy() for value in model.state().values()])
    FedAvg(fraction_evaluate=0.0).start(InlineGrid(app, 2, 7), plain, num_rounds=1)
    sent = load_for(model, tmp_path / "round-1-node-2.safetensors").tensors
    assert all(torch.allclose(value, torch.ones_like(value), atol=1e-5) for value in sent.values())
    short = ClientApp(mods=[capture_mod(tmp_path, names[:1])])
    short.train()(train)
    with pytest.raises(AuditError, match="carries 4 arrays; there are 1 names"):
        FedAvg(fraction_evaluate=0.0).start(InlineGrid(short, 2, 7), plain, num_rounds=1)


def test_gradients_are_taken_as_they_are(model: PublicModel, tmp_path: Path) -> None:
    app = ClientApp(mods=[capture_mod(tmp_path, kind="gradient")])

    @app.train()
    def train(message: Message, context: object) -> Message:
        arrays = {name: Array(np.full_like(value.numpy(), 0.5)) for name, value in message.content["arrays"].items()}
        return Message(RecordDict({"arrays": ArrayRecord(arrays), "m": MetricRecord({"num-examples": 1})}), reply_to=message)

    run(app, FedAvg(fraction_evaluate=0.0), model)
    sent = load_for(model, tmp_path / "round-1-node-2.safetensors")
    assert sent.kind == "gradient"
    assert all((value == 0.5).all() for value in sent.tensors.values())


def test_failed_replies_and_evaluation_are_not_captured(model: PublicModel, tmp_path: Path) -> None:
    app = ClientApp(mods=[capture_mod(tmp_path / "clients")])

    @app.train()
    def train(message: Message, context: object) -> Message:
        return Message(Error(code=1, reason="out of memory"), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: object) -> Message:
        return Message(RecordDict({"m": MetricRecord({"num-examples": 1, "loss": 0.5})}), reply_to=message)

    result = run(app, CapturingStrategy(FedAvg(), tmp_path / "server"), model)
    assert result.evaluate_metrics_clientapp[1]["loss"] == 0.5
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_reply_that_does_not_answer_its_message_is_an_error(model: PublicModel, tmp_path: Path) -> None:
    app = ClientApp(mods=[capture_mod(tmp_path)])

    @app.train()
    def train(message: Message, context: object) -> Message:
        return Message(RecordDict({"arrays": ArrayRecord({"w": Array(np.zeros(2))})}), reply_to=message)

    with pytest.raises(AuditError, match="other arrays than the message"):
        run(app, FedAvg(fraction_evaluate=0.0), model)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rule": FederatedSettings()}, "send weights, not gradients"),
        ({"rule": FederatedSettings(sends="delta", cohort=3)}, "takes 3 clients; there are 2"),
        ({"rule": FederatedSettings(sends="delta", rounds=3)}, "client 0 needs 12 records for 3 rounds; it has 8"),
        ({"rule": FederatedSettings(sends="delta", warm_up_steps=1)}, "no warm-up"),
        ({"engine": "spark"}, "must be inline or ray"),
    ],
)
def test_flower_names_what_it_cannot_run(model: PublicModel, tmp_path: Path, wrong: dict, message: str) -> None:
    with pytest.raises(AuditError, match=message):
        fine_tune(model, CLIENTS, wrong.get("rule", RULE), tmp_path, engine=wrong.get("engine", "inline"))


@pytest.mark.slow
def test_flowers_own_simulation_agrees(model: PublicModel, tmp_path: Path) -> None:
    import ray

    rule = dataclasses.replace(RULE, rounds=1)
    try:
        rounds = fine_tune(model, CLIENTS, rule, tmp_path, seed=5, engine="ray", mods=[capture_mod(tmp_path / "clients")])
    finally:
        ray.shutdown()
    assert agrees(rounds, list(simulate(model, CLIENTS, rule, seed=5).rounds))
    assert len(list((tmp_path / "clients").glob("round-1-node-*"))) == 2


def trained_by_transformers(
    model: PublicModel, data: list[Batch], capture: UpdateCapture, folder: Path, **options: object
) -> None:
    """A real Trainer on a copy of the model, fed with rows of the batches in their order."""
    from transformers import Trainer, TrainingArguments

    rows = [
        {"input_ids": batch.input_ids[i], "attention_mask": batch.attention_mask[i], "labels": batch.labels[i]}
        for batch in data
        for i in range(len(batch.input_ids))
    ]

    class InOrder(Trainer):
        def _get_train_sampler(self, *_args: object) -> torch.utils.data.Sampler:
            return torch.utils.data.SequentialSampler(rows)

    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=len(data[0].input_ids),
        num_train_epochs=1,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        logging_strategy="no",
        lr_scheduler_type="constant",
        use_cpu=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        **options,
    )
    module = copy.deepcopy(model.module)
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    InOrder(model=module, args=arguments, train_dataset=rows, callbacks=[capture]).train()


def equally_long(model: PublicModel, count: int, batch: int) -> list[Batch]:
    """Batches without padding, and without a label that nothing predicts: all weightings of their tokens are the same."""
    rule = FederatedSettings(sends="delta", local_steps=count, batch=batch, longest=12)
    data = batches(model, RECORDS, rule)
    for part in data:
        assert bool(part.attention_mask.all())
        part.labels[:, 0] = IGNORED
    return data


def test_trainers_gradient_is_autograds(model: PublicModel, tmp_path: Path) -> None:
    data = equally_long(model, 2, 3)
    capture = UpdateCapture(tmp_path / "captured")
    trained_by_transformers(
        model, data, capture, tmp_path, gradient_accumulation_steps=2, max_grad_norm=0.0, learning_rate=1e-3
    )
    assert [path.name for path in capture.updates] == ["gradient-0.safetensors"]
    seen = load_round(model, tmp_path / "captured" / "gradient-0-start.safetensors", capture.updates[0])
    assert close(model.state(), dict(seen.start), 0.0)
    rule = FederatedSettings(batch=3, accumulation=2, dropout=False)
    expected = local_update(model, data, rule)
    assert seen.update.kind == "gradient"
    assert close(dict(expected.tensors), dict(seen.update.tensors))


def test_trainer_divides_by_labels_that_nothing_predicts(model: PublicModel, tmp_path: Path) -> None:
    data = equally_long(model, 1, 3)
    data[0].labels[:, 0] = data[0].input_ids[:, 0]
    capture = UpdateCapture(tmp_path / "captured")
    trained_by_transformers(model, data, capture, tmp_path, max_grad_norm=0.0, learning_rate=1e-3)
    expected = local_update(model, data, FederatedSettings(batch=3, dropout=False)).tensors
    sent = load_for(model, capture.updates[0]).tensors
    assert close({name: 11 / 12 * value for name, value in expected.items()}, dict(sent))


def test_trainer_hands_over_its_gradient_clipped(model: PublicModel, tmp_path: Path) -> None:
    data = equally_long(model, 1, 3)
    capture = UpdateCapture(tmp_path / "captured")
    trained_by_transformers(model, data, capture, tmp_path, max_grad_norm=1e-3, learning_rate=1e-3)
    sent = load_for(model, capture.updates[0]).tensors
    assert float(torch.cat([value.flatten() for value in sent.values()]).norm()) == pytest.approx(1e-3, rel=1e-2)


def test_trainers_delta_is_that_of_a_client(model: PublicModel, tmp_path: Path) -> None:
    data = equally_long(model, 4, 2)
    capture = UpdateCapture(tmp_path / "captured", "delta")
    options = {"optim": "adamw_torch", "weight_decay": 0.1, "gradient_accumulation_steps": 2, "max_grad_norm": 0.0}
    trained_by_transformers(model, data, capture, tmp_path, learning_rate=1e-3, **options)
    (path,) = capture.updates
    seen = load_round(model, path.with_name("delta-start.safetensors"), path)
    assert close(model.state(), dict(seen.start), 0.0)
    rule = FederatedSettings("delta", "adamw", 1e-3, 0.1, local_steps=2, accumulation=2, batch=2, dropout=False)
    assert close(dict(local_update(model, data, rule).tensors), dict(seen.update.tensors), 1e-3)


def test_trainers_first_steps_are_captured_each_from_its_start(model: PublicModel, tmp_path: Path) -> None:
    data = equally_long(model, 3, 2)
    capture = UpdateCapture(tmp_path / "captured", steps=2)
    trained_by_transformers(model, data, capture, tmp_path, max_grad_norm=0.0, learning_rate=1e-2, optim="sgd")
    assert [path.name for path in capture.updates] == ["gradient-0.safetensors", "gradient-1.safetensors"]
    rule = FederatedSettings(batch=2, dropout=False)
    for number, path in enumerate(capture.updates):
        seen = load_round(model, path.with_name(f"gradient-{number}-start.safetensors"), path)
        with model.holding(seen.start):
            assert close(dict(local_update(model, [data[number]], rule).tensors), dict(seen.update.tensors))


def test_capture_names_wrong_options(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="gradient or a delta"):
        UpdateCapture(tmp_path, "weights")
    with pytest.raises(AuditError, match="at least 1"):
        UpdateCapture(tmp_path, steps=0)
