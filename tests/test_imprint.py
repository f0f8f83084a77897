"""Imprinted adapters against the activations that autograd's gradient was made from."""

import pytest
import torch

from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.client import batches, encode, local_update
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.imprint import Imprint, _bins, imprint
from zkaudit.attacks.lab.models import build
from zkaudit.attacks.lab.records import synthetic, values
from zkaudit.attacks.metrics import Scorer
from zkaudit.attacks.peft_setup import apply
from zkaudit.attacks.sites import Site, activations
from zkaudit.attacks.threat import Capability, Observation, Round

PRIVATE = synthetic(4, seed=11)
TEXTS = [record.text for record in synthetic(40, 12, values(PRIVATE))]
ACTIVE = Capability.UPDATE | Capability.BASE_MODEL


def adapted(name, size=64):
    return apply(build(name), {"type": "BOTTLENECK", "size": size})


def observed(model, batch=1, capabilities=ACTIVE, **options):
    settings = FederatedSettings(batch=batch, longest=24, dropout=False, **options)
    update = local_update(model, batches(model, PRIVATE, settings), settings)
    return Observation(model, settings, [Round(model.state(), update)], capabilities)


@pytest.fixture(scope="module", params=["nano-gpt2", "nano-llama"])
def malicious(request):
    torch.set_num_threads(1)
    return imprint(adapted(request.param, 256), TEXTS)


def down_of(model):
    return next(n for n, m in model.module.named_modules() if n.endswith("adapter_down") and (m.weight == m.weight[0]).all())


def test_a_bin_with_one_token_is_its_activation(malicious):
    down, observation = down_of(malicious), observed(malicious)
    ids = torch.tensor([encode(malicious, PRIVATE[0].text, 24)])
    (inputs,) = activations(malicious, [Site(down)], ids)
    ladder = -observation.rounds[0].start[f"{down}.bias"]
    height = inputs[0] @ observation.rounds[0].start[f"{down}.weight"][0]
    held = torch.bucketize(height, ladder)
    alone = [int(i) for i in range(len(height) - 1) if int((held == held[i]).sum()) == 1]  # the last token has no loss
    bins = _bins(down, observation.rounds[0])
    distance = torch.cdist(inputs[0, alone].double(), bins).min(1).values / inputs[0, alone].norm(dim=1)
    assert len(alone) > len(height) / 3
    assert float((distance < 1e-2).double().mean()) > 0.9


def test_claimed_tokens_are_in_the_batch_and_many(malicious):
    observation = observed(malicious)
    score = Scorer.of(malicious, PRIVATE[:1], 24).score(Imprint().run(observation))
    assert score.value("token_precision") > 0.95
    assert score.value("token_recall") > 0.5
    assert score.value("auc") > 0.95


def test_a_step_of_sgd_shows_the_same_as_the_gradient(malicious):
    gradient = Imprint().run(observed(malicious))
    delta = Imprint().run(observed(malicious, sends="delta"))
    ours, theirs = (set(r.tokens.ids[: r.tokens.claimed]) for r in (gradient, delta))
    assert len(ours & theirs) >= 0.8 * len(ours) > 0


def test_positions_order_the_tokens_of_a_single_record():
    model = imprint(adapted("nano-gpt2", 256), TEXTS)
    (found,) = Imprint().run(observed(model)).sequences
    true = encode(model, PRIVATE[0].text, 24)
    remaining = iter(true)
    assert all(token in remaining for token in found)
    assert len(found) > len(true) / 3


def test_an_imprinted_model_needs_the_choice_of_the_base(malicious):
    with pytest.raises(AuditError, match="base_model"):
        Imprint().run(observed(malicious, capabilities=Capability.UPDATE))


def test_honest_adapters_hold_nothing_to_read():
    with pytest.raises(AuditError, match="nothing to read"):
        Imprint().run(observed(adapted("nano-gpt2", 8)))


def test_a_model_without_adapters_cannot_be_imprinted():
    with pytest.raises(AuditError, match="no bottleneck adapters"):
        imprint(build("nano-gpt2"), TEXTS)


def test_the_handed_in_model_stays_as_it_is():
    model = adapted("nano-gpt2", 8)
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    imprint(model, TEXTS[:4])
    assert all(torch.equal(before[name], value) for name, value in model.module.state_dict().items())
