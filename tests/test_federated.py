"""Clients, rounds and secure aggregation, against torch's own optimizers and plain sums."""

import copy
import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from scipy.stats import chisquare

from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.client import batches, encode, in_precision, local_update, masked
from zkaudit.attacks.federated.cohort import Encoding, mask, pair_secrets, secure_mean
from zkaudit.attacks.federated.rounds import simulate
from zkaudit.attacks.federated.settings import PRECISIONS, FederatedSettings
from zkaudit.attacks.lab.models import build
from zkaudit.attacks.lab.records import synthetic
from zkaudit.attacks.model import IGNORED, Batch, PublicModel
from zkaudit.attacks.threat import Capability
from zkaudit.attacks.update import Update

RECORDS = synthetic(24, 5)
TARGETS = {"gpt2": "c_attn", "llama": "q_proj", "bert": "query"}


def adapted(name: str = "nano-gpt2", task: str | None = None, moved: bool = True, dropout: float = 0.0) -> PublicModel:
    """A model with LoRA; `moved`: with B off its zero, as after some rounds."""
    base = build(name, 3, task)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        target = TARGETS[base.config.model_type]
        module = get_peft_model(base.module, LoraConfig(r=4, target_modules=[target], lora_dropout=dropout)).eval()
        model = PublicModel(module, base.tokenizer, base.task)
        if moved:
            model.assign({key: value + 0.05 * torch.randn_like(value) for key, value in model.state().items()})
    return model


@pytest.fixture(scope="module")
def gpt2() -> PublicModel:
    return adapted()


def close(left: dict, right: dict, tolerance: float = 1e-6) -> bool:
    return left.keys() == right.keys() and all(
        torch.allclose(left[key], right[key], rtol=tolerance * 10, atol=tolerance * float(left[key].abs().max()) + 1e-12)
        for key in left
    )


def autograd(model: PublicModel, data: list[Batch]) -> dict[str, torch.Tensor]:
    trained = model.trainable()
    loss = sum(model.loss(batch) for batch in data) / len(data)
    return dict(zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True))


def written_out(model: PublicModel, data: list[Batch], rule: FederatedSettings) -> dict[str, torch.Tensor]:
    """The delta of local training, by a loop over torch's optimizer and scheduler on a copy of the model."""
    other = PublicModel(copy.deepcopy(model.module), model.tokenizer, model.task)
    other.module.train(rule.dropout)
    parameters = list(other.trainable().values())
    kind = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[rule.optimizer]
    optimizer = kind(parameters, lr=rule.learning_rate, weight_decay=rule.weight_decay)
    total = rule.local_steps * rule.local_epochs
    decay = (lambda step: 1 - step / total) if rule.schedule == "linear" else (lambda step: 1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, decay)
    for _ in range(rule.local_epochs):
        for step in range(rule.local_steps):
            optimizer.zero_grad()
            part = data[step * rule.accumulation : (step + 1) * rule.accumulation]
            (sum(other.loss(batch) for batch in part) / len(part)).backward()
            optimizer.step()
            schedule.step()
    before = model.state()
    return {key: value - before[key] for key, value in other.state().items()}


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("nano-gpt2", "causal_lm"),
        ("nano-llama", "causal_lm"),
        ("micro-bert", "masked_lm"),
        ("micro-bert", "sequence_classification"),
    ],
)
def test_gradient_is_autograds(name: str, task: str) -> None:
    model = adapted(name, task)
    rule = FederatedSettings(dropout=False, accumulation=2)
    data = batches(model, RECORDS, rule)
    sent = local_update(model, data, rule)
    assert sent.kind == "gradient"
    assert close(autograd(model, data), dict(sent.tensors))
    assert all(value.abs().max() > 0 for value in sent.tensors.values())


def test_first_round_of_lora_has_no_gradient_of_a_and_one_of_b() -> None:
    model = adapted(moved=False)
    rule = FederatedSettings(dropout=False)
    sent = local_update(model, batches(model, RECORDS, rule), rule).tensors
    assert all((value == 0).all() == ("lora_A" in key) for key, value in sent.items())


def test_delta_of_one_sgd_step_is_minus_rate_times_gradient(gpt2: PublicModel) -> None:
    rule = FederatedSettings(dropout=False, learning_rate=0.5)
    data = batches(gpt2, RECORDS, rule)
    expected = {key: -0.5 * value for key, value in autograd(gpt2, data).items()}
    sent = local_update(gpt2, data, dataclasses.replace(rule, sends="delta"))
    assert close(expected, dict(sent.tensors), 1e-4)  # end - start in float32


def test_first_adamw_step_is_the_gradients_sign(gpt2: PublicModel) -> None:
    rule = FederatedSettings(sends="delta", optimizer="adamw", learning_rate=1e-3, dropout=False)
    data = batches(gpt2, RECORDS, rule)
    sent = local_update(gpt2, data, rule).tensors
    for key, value in autograd(gpt2, data).items():
        large = value.abs() > 1e-5
        assert large.any()
        assert torch.allclose(sent[key][large], -1e-3 * value[large].sign(), rtol=5e-3)


LOCAL = {
    "adamw": {
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "local_steps": 3,
        "accumulation": 2,
        "batch": 2,
        "weight_decay": 0.1,
    },
    "sgd": {"learning_rate": 0.1, "local_steps": 2, "accumulation": 2, "batch": 3, "weight_decay": 0.01, "dropout": False},
    "epochs": {"optimizer": "adamw", "local_steps": 2, "batch": 2, "local_epochs": 3, "schedule": "linear"},
}


@pytest.mark.parametrize("rule", [FederatedSettings(sends="delta", **options) for options in LOCAL.values()], ids=LOCAL)
@pytest.mark.parametrize("name", ["nano-gpt2", "micro-bert"])
def test_delta_is_that_of_a_loop_over_torchs_optimizer(name: str, rule: FederatedSettings) -> None:
    model = adapted(name, "sequence_classification" if name == "micro-bert" else None)
    for part in model.module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0  # train mode, but without chance
    data = batches(model, RECORDS, rule)
    sent = local_update(model, data, rule)
    assert sent.kind == "delta"
    assert close(written_out(model, data, rule), dict(sent.tensors), 1e-5)


def test_weight_decay_moves_a_tensor_without_gradient() -> None:
    model = adapted(moved=False)
    rule = FederatedSettings(sends="delta", learning_rate=0.1, weight_decay=0.5, dropout=False)
    start = model.state()
    sent = local_update(model, batches(model, RECORDS, rule), rule).tensors
    for key in (key for key in sent if "lora_A" in key):
        assert torch.allclose(sent[key], -0.05 * start[key], atol=1e-7)


def test_client_leaves_the_model_as_it_was(gpt2: PublicModel) -> None:
    before = {key: value.clone() for key, value in gpt2.module.state_dict().items()}
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    rule = FederatedSettings(sends="delta", optimizer="adamw", local_steps=2)
    local_update(gpt2, batches(gpt2, RECORDS, rule), rule)
    assert torch.equal(expected, torch.rand(3))  # nor does it touch the caller's randomness
    assert all(torch.equal(value, before[key]) for key, value in gpt2.module.state_dict().items())
    assert all(p.grad is None for p in gpt2.module.parameters())
    assert not gpt2.module.training


def test_dropout_is_drawn_from_the_clients_seed() -> None:
    model = adapted(dropout=0.3)
    rule = FederatedSettings()
    data = batches(model, RECORDS, rule)
    one, again, other = (dict(local_update(model, data, rule, seed=seed).tensors) for seed in (1, 1, 2))
    without = dict(local_update(model, data, dataclasses.replace(rule, dropout=False)).tensors)
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert not close(one, other)
    assert not close(one, without)


def test_padding_does_not_change_a_gradient(gpt2: PublicModel) -> None:
    rule = FederatedSettings(batch=2, dropout=False)
    (batch,) = batches(gpt2, RECORDS, rule)
    wider = Batch(
        torch.nn.functional.pad(batch.input_ids, (0, 5), value=gpt2.tokenizer.pad_token_id),
        torch.nn.functional.pad(batch.attention_mask, (0, 5)),
        torch.nn.functional.pad(batch.labels, (0, 5), value=IGNORED),
    )
    left, right = (dict(local_update(gpt2, [data], rule).tensors) for data in (batch, wider))
    assert close(left, right, 1e-5)


def test_masking_hides_fifteen_percent_and_labels_stand_only_there() -> None:
    model = build("micro-bert")
    rule = FederatedSettings(batch=24)
    plain = [encode(model, record.text, rule.longest) for record in RECORDS]
    (batch,) = batches(model, RECORDS, rule, seed=7)
    for row, ids in enumerate(plain):
        hidden = (batch.labels[row] != IGNORED).nonzero()[:, 0]
        assert len(hidden) == max(1, round(0.15 * len(ids)))
        assert int(hidden.max()) < len(ids)
        assert (batch.input_ids[row, hidden] == model.tokenizer.mask_token_id).all()
        restored = torch.where(batch.labels[row] == IGNORED, batch.input_ids[row], batch.labels[row])
        assert restored[: len(ids)].tolist() == ids
    (again,), (other,) = batches(model, RECORDS, rule, seed=7), batches(model, RECORDS, rule, seed=8)
    assert torch.equal(batch.labels, again.labels)
    assert not torch.equal(batch.labels, other.labels)


def test_a_record_of_one_token_is_still_masked() -> None:
    ids = torch.tensor([[5, 0, 0], [6, 7, 8]])
    batch = masked(Batch(ids, torch.tensor([[1, 0, 0], [1, 1, 1]]), ids), 1, torch.Generator().manual_seed(0))
    assert (batch.labels != IGNORED).sum(1).tolist() == [1, 1]
    assert batch.labels[0].tolist() == [5, IGNORED, IGNORED]


@pytest.mark.parametrize(
    ("precision", "relative"),
    [("float32", 0.0), ("bfloat16", 2**-8), ("float16", 2**-11), ("int8", None), ("fp8_e4m3", 2**-4), ("fp8_e5m2", 2**-3)],
)
def test_precision_is_off_by_half_a_step_at_most(precision: str, relative: float | None) -> None:
    value = torch.randn(4000, generator=torch.Generator().manual_seed(1))
    error = (in_precision(value, precision) - value).abs()
    largest = value.abs().max()
    if relative is None:
        assert (error <= largest / 127 / 2 * 1.001).all()
        assert len(in_precision(value, precision).unique()) <= 255
    else:
        subnormal = {"fp8_e4m3": 2**-10 / 448, "fp8_e5m2": 2**-17 / 57344, "float16": 2**-25}.get(precision, 0.0)
        assert (error <= relative * value.abs() * 1.001 + subnormal * max(1.0, float(largest)) * 1.001).all()
    if precision != "float32":
        assert error.max() > 0


@pytest.mark.parametrize("precision", PRECISIONS)
def test_zero_is_sent_as_zero(precision: str) -> None:
    assert (in_precision(torch.zeros(3), precision) == 0).all()


def test_a_defence_acts_before_precision(gpt2: PublicModel) -> None:
    rule = FederatedSettings(dropout=False, precision="bfloat16")
    data = batches(gpt2, RECORDS, rule)

    def protect(tensors: dict, generator: torch.Generator) -> dict:
        return {key: value + torch.randn(value.shape, generator=generator) for key, value in tensors.items()}

    sent = local_update(gpt2, data, rule, protect, seed=3).tensors
    assert all(torch.equal(value, value.bfloat16().float()) for value in sent.values())
    generator = torch.Generator().manual_seed(4)
    expected = protect(autograd(gpt2, data), generator)
    assert all(torch.allclose(expected[key], sent[key], rtol=2**-7, atol=1e-4) for key in sent)


def test_local_training_takes_its_number_of_batches(gpt2: PublicModel) -> None:
    rule = FederatedSettings(sends="delta", local_steps=2)
    data = batches(gpt2, RECORDS, rule)
    with pytest.raises(AuditError, match="takes 2 batches; there are 1"):
        local_update(gpt2, data[:1], rule)
    with pytest.raises(AuditError, match="takes 8 records; there are 7"):
        batches(gpt2, RECORDS[:7], rule)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch": 0}, "batch"),
        ({"local_epochs": True}, "local_epochs"),
        ({"warm_up_steps": -1}, "warm_up_steps"),
        ({"schedule": "cosine"}, "schedule"),
        ({"optimizer": "lion"}, "optimizer"),
        ({"dropout": 1}, "dropout"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"local_epochs": 2}, "one local step"),
    ],
)
def test_settings_name_what_is_wrong(wrong: dict, message: str) -> None:
    with pytest.raises(AuditError, match=message):
        FederatedSettings(**wrong)


def test_server_sees_the_mean_over_the_cohort_and_takes_an_sgd_step(gpt2: PublicModel) -> None:
    rule = FederatedSettings(cohort=3, rounds=2, batch=2, learning_rate=0.3, dropout=False)
    clients = [RECORDS[:4], RECORDS[4:8], RECORDS[8:12]]
    before = gpt2.state()
    run = simulate(gpt2, clients, rule)
    now = before
    for number, seen in enumerate(run.rounds):
        assert close(now, dict(seen.start))
        with gpt2.holding(now):
            data = [batches(gpt2, records[2 * number : 2 * number + 2], rule)[0] for records in clients]
            expected = autograd(gpt2, data)
        assert close(expected, dict(seen.update.tensors))
        now = {key: now[key] - 0.3 * seen.update.tensors[key] for key in now}
        assert list(run.truth[number]) == [record for records in clients for record in records[2 * number : 2 * number + 2]]
    assert close(now, dict(run.end))
    assert all(torch.equal(value, before[key]) for key, value in gpt2.state().items())


def test_server_adds_the_mean_delta(gpt2: PublicModel) -> None:
    rule = FederatedSettings(sends="delta", optimizer="adamw", cohort=2, rounds=2, batch=2, local_steps=2, learning_rate=1e-3)
    run = simulate(gpt2, [RECORDS[:8], RECORDS[8:16]], rule)
    after = [*(dict(seen.start) for seen in run.rounds[1:]), dict(run.end)]
    for seen, then in zip(run.rounds, after, strict=True):
        assert seen.update.kind == "delta"
        assert close({key: seen.start[key] + seen.update.tensors[key] for key in then}, then)


def test_server_keeps_adamws_moments_over_rounds(gpt2: PublicModel) -> None:
    rule = FederatedSettings(optimizer="adamw", rounds=3, batch=2, learning_rate=1e-3, weight_decay=0.1, dropout=False)
    run = simulate(gpt2, [RECORDS[:6]], rule)
    one_run = dataclasses.replace(rule, sends="delta", local_steps=3, rounds=1)
    data = batches(gpt2, RECORDS[:6], one_run)
    start = gpt2.state()
    moved = {key: run.end[key] - start[key] for key in start}
    assert close(written_out(gpt2, data, one_run), moved, 1e-4)


def test_same_batch_repeats_the_records(gpt2: PublicModel) -> None:
    rule = FederatedSettings(rounds=3, batch=2, same_batch=True, dropout=False)
    run = simulate(gpt2, [RECORDS[:2]], rule)
    assert [list(records) for records in run.truth] == [RECORDS[:2]] * 3
    with pytest.raises(AuditError, match="client 0 needs 6 records for 3 rounds; it has 5"):
        simulate(gpt2, [RECORDS[:5]], dataclasses.replace(rule, same_batch=False))


def test_a_cohort_is_drawn_from_more_clients_by_the_seed(gpt2: PublicModel) -> None:
    rule = FederatedSettings(cohort=2, rounds=4, batch=1, dropout=False)
    clients = [RECORDS[4 * number : 4 * number + 4] for number in range(5)]
    owner = {record.text: number for number, records in enumerate(clients) for record in records}
    drawn = [[[owner[r.text] for r in records] for records in simulate(gpt2, clients, rule, seed=s).truth] for s in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(len(set(pair)) == 2 for pair in drawn[0])
    with pytest.raises(AuditError, match="takes 2 clients; there are 1"):
        simulate(gpt2, clients[:1], rule)


def test_a_warm_up_step_opens_the_gradient_of_a() -> None:
    model = adapted(moved=False)
    rule = FederatedSettings(warm_up_steps=1, dropout=False)
    with pytest.raises(AuditError, match="1 warm-up steps need 4 public records; there are 0"):
        simulate(model, [RECORDS[:4]], rule)
    before = model.state()
    run = simulate(model, [RECORDS[:4]], rule, public=RECORDS[4:8])
    sent = run.rounds[0].update.tensors
    assert all(value.abs().max() > 0 for value in sent.values())
    held = model.state()
    assert all(torch.equal(held[key], run.rounds[0].start[key]) for key in held)  # the model stays at the round's start
    with model.holding(before):
        step = autograd(model, batches(model, RECORDS[4:8], rule))
    assert close({key: before[key] - rule.learning_rate * step[key] for key in before}, held)


def test_observation_holds_no_truth_and_only_granted_records(gpt2: PublicModel) -> None:
    run = simulate(gpt2, [RECORDS[:4]], FederatedSettings())
    passive = run.observation(auxiliary=RECORDS[8:])
    with pytest.raises(AuditError, match="auxiliary"):
        _ = passive.auxiliary
    assert list(run.observation(Capability.UPDATE | Capability.AUXILIARY, auxiliary=RECORDS[8:]).auxiliary) == RECORDS[8:]
    fields = {field.name: getattr(passive, field.name) for field in dataclasses.fields(passive)} | {"_auxiliary": ()}
    shown = repr({key: value for key, value in fields.items() if key != "model"}) + repr(run)
    assert not any(value in shown for record in RECORDS[:4] for value in (record.text, *record.pii.values()))


def test_simulation_is_repeatable_and_reports_progress() -> None:
    model = adapted(dropout=0.2)
    rule = FederatedSettings(cohort=2, rounds=2, batch=1)
    done: list[float] = []
    clients = [RECORDS[:2], RECORDS[2:4]]
    first = simulate(model, clients, rule, seed=1, progress=lambda _what, fraction: done.append(fraction))
    second = simulate(model, clients, rule, seed=1)
    assert done == [0.25, 0.5, 0.75, 1.0]
    assert all(torch.equal(value, second.end[key]) for key, value in first.end.items())


shapes = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=3)


@settings(max_examples=25)
@given(clients=st.integers(1, 6), shapes=shapes, seed=st.integers(0, 2**31), scale=st.floats(1e-9, 10.0))
def test_masks_cancel_in_the_sum(clients: int, shapes: list, seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    updates = [
        {f"t{n}": scale * torch.randn(shape, generator=generator, dtype=torch.float64) for n, shape in enumerate(shapes)}
        for _ in range(clients)
    ]
    step = Encoding(clients).step
    assert step < 1e-15
    for key, value in secure_mean(updates).items():
        plain = torch.stack([update[key] for update in updates]).mean(0)
        assert ((plain - value).abs() <= step / 2 + 1e-15 * scale * 10).all()


def test_one_masked_update_alone_is_uniform() -> None:
    encoding = Encoding(3)
    update = {"w": 1e-3 * torch.randn(20_000, generator=torch.Generator().manual_seed(0))}
    encoded = encoding.encode(update)
    sent = mask(encoded, 1, pair_secrets(3)[1])

    def fit(vector: torch.Tensor) -> float:
        octets = torch.from_numpy(vector.numpy().view("u1").copy()).long().reshape(-1, 8)
        return min(chisquare(torch.bincount(column, minlength=256).numpy()).pvalue for column in octets.T)

    assert fit(encoded) < 1e-100  # the test can tell
    assert fit(sent) > 1e-7
    assert abs(torch.corrcoef(torch.stack([encoded.double(), sent.double()]))[0, 1]) < 6 / math.sqrt(20_000)


def test_a_sum_without_one_client_stays_masked() -> None:
    encoding = Encoding(3)
    updates = [{"w": torch.full((1000,), 0.5)} for _ in range(3)]
    shared = pair_secrets(3)
    sent = [mask(encoding.encode(update), own, shared[own]) for own, update in enumerate(updates)]
    total = encoding.decode(sent[0] + sent[1] + sent[2], updates[0])["w"]
    assert torch.allclose(torch.full_like(total, 1.5), total)
    partial = encoding.decode(sent[0] + sent[1], updates[0])["w"]
    assert (partial - 1.0).abs().median() > 10


def test_secure_aggregation_reaches_its_range_without_overflow() -> None:
    updates = [{"w": torch.tensor([64.0, -64.0])} for _ in range(8)]
    assert secure_mean(updates)["w"].tolist() == [64.0, -64.0]
    with pytest.raises(AuditError, match="'w' has values beyond 64"):
        secure_mean([{"w": torch.tensor([64.1])}, {"w": torch.tensor([0.0])}])
    with pytest.raises(AuditError, match="client 1's update has other tensors"):
        secure_mean([{"w": torch.zeros(2)}, {"w": torch.zeros(3)}])


def test_an_update_that_overflows_its_precision_is_named(gpt2: PublicModel) -> None:
    def protect(tensors: dict, _generator: torch.Generator) -> dict:
        return {key: 1e9 * value for key, value in tensors.items()}

    before = gpt2.state()
    with pytest.raises(AuditError, match="holds NaN or infinity"):
        simulate(gpt2, [RECORDS[:4]], FederatedSettings(precision="float16"), protect)
    assert all(torch.equal(value, before[key]) for key, value in gpt2.state().items())


def test_update_names_what_does_not_fit(gpt2: PublicModel) -> None:
    sent = simulate(gpt2, [RECORDS[:4]], FederatedSettings()).rounds[0].update
    shapes = {key: p.shape for key, p in gpt2.trainable().items()}
    sent.check(shapes)
    first = next(iter(shapes))
    with pytest.raises(AuditError, match=first):
        Update("gradient", {key: value for key, value in sent.tensors.items() if key != first}).check(shapes)
