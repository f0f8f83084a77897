"""DAGER: exact where the algebra says so, best effort and labelled beyond, and never told the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import peft
import pytest
import torch
from scipy import stats
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from zkaudit.attacks.attack import Recovery
from zkaudit.attacks.dager import Dager, DagerOptions
from zkaudit.attacks.dager.decoder import extensions
from zkaudit.attacks.dager.nulls import discoveries, fit_beta, log_p_values
from zkaudit.attacks.dager.observed import gradient, rounding_error
from zkaudit.attacks.dager.search import Found, Result, best
from zkaudit.attacks.dager.stages import calibrated_stages, published_stages
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.client import batches, in_precision, local_update
from zkaudit.attacks.federated.settings import PRECISIONS, FederatedSettings
from zkaudit.attacks.lab.models import build
from zkaudit.attacks.lab.records import synthetic
from zkaudit.attacks.model import Batch, PublicModel
from zkaudit.attacks.sites import activations
from zkaudit.attacks.taps import groups
from zkaudit.attacks.threat import Observation, Round

PUBLISHED = DagerOptions("published")
Prepare = Callable[[PublicModel], PublicModel]


@dataclass(frozen=True)
class Case:
    """What an attack sees, and what it should find: a causal model's update says nothing of a record's last token."""

    observation: Observation
    batches: list[Batch]

    @property
    def truth(self) -> list[list[int]]:
        hidden = int(self.observation.model.task == "causal_lm")
        rows = [row for batch in self.batches for row in zip(batch.input_ids, batch.attention_mask, strict=True)]
        return [ids[: int(mask.sum()) - hidden].tolist() for ids, mask in rows]

    def f1(self, recovery: Recovery) -> float:
        """Of the claimed set of tokens."""
        assert recovery.tokens is not None
        true = {token for ids in self.truth for token in ids}
        claimed = set(recovery.tokens.ids[: recovery.tokens.claimed])
        return 2 * len(true & claimed) / (len(true) + len(claimed))

    def exact(self, recovery: Recovery) -> float:
        """Share of records found whole."""
        return sum(ids in [list(found) for found in recovery.sequences] for ids in self.truth) / len(self.truth)


def whole(model: PublicModel) -> PublicModel:
    model.module.requires_grad_(True)
    return model


def lora(rank: int, targets: list[str], started: bool = True) -> Prepare:
    """LoRA; `started`: after some training, so that B is not zero."""

    def prepare(model: PublicModel) -> PublicModel:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            wrapped = peft.get_peft_model(model.module, peft.LoraConfig(r=rank, target_modules=targets))
            for name, parameter in wrapped.named_parameters():
                if started and "lora_B" in name:
                    torch.nn.init.normal_(parameter, std=0.02)
        return PublicModel(wrapped.eval(), model.tokenizer, model.task)

    return prepare


def observed(model: PublicModel, settings: FederatedSettings, seed: int = 7) -> Case:
    data = batches(model, synthetic(settings.records, seed), settings)
    return Case(Observation(model, settings, [Round(model.state(), local_update(model, data, settings))]), data)


def case(name: str, batch: int, longest: int, prepare: Prepare = whole, seed: int = 7, **more) -> Case:
    settings = FederatedSettings(batch=batch, longest=longest, dropout=False, **more)
    task = "sequence_classification" if "bert" in name else None
    return observed(prepare(build(name, task=task)), settings, seed)


@cache
def gpt2(precision: str = "float32") -> Case:
    """91 token positions in a width of 128."""
    return case("nano-gpt2", 4, 24, precision=precision)


@cache
def llama() -> Case:
    return case("nano-llama", 4, 24)


@pytest.mark.parametrize("options", [DagerOptions(), PUBLISHED], ids=lambda o: o.setting)
def test_batch_with_fewer_tokens_than_the_width_is_recovered(options: DagerOptions) -> None:
    recovery = Dager(options).run(gpt2().observation)
    assert gpt2().f1(recovery) >= 0.99
    assert gpt2().exact(recovery) == 1.0
    assert not recovery.evidence["degraded"]
    assert len(recovery.sequences) == 4


def test_padding_is_not_claimed() -> None:
    recovery = Dager().run(gpt2().observation)
    assert any((batch.attention_mask == 0).any() for batch in gpt2().batches)
    assert recovery.tokens is not None
    assert gpt2().observation.model.tokenizer.pad_token_id not in recovery.tokens.ids[: recovery.tokens.claimed]


def test_model_without_positions_is_recovered_from_one_list_of_candidates() -> None:
    recovery = Dager().run(llama().observation)
    assert len(recovery.evidence["counts"]["survivors"]) == 1
    assert llama().f1(recovery) >= 0.99
    assert llama().exact(recovery) == 1.0


def test_query_alone_does_not_show_a_causal_models_first_token() -> None:
    """Attention of the first position is 1 whatever q is: DAGER's published rules lose such records, stacked taps do not."""
    recovery = Dager(PUBLISHED).run(llama().observation)
    assert llama().exact(recovery) == 0.0
    assert recovery.tokens is not None
    claimed = recovery.tokens.ids[: recovery.tokens.claimed]
    later = {token for ids in llama().truth for token in ids[1:]}
    assert all(ids[0] not in claimed for ids in llama().truth if ids[0] not in later)


def test_lora_with_no_more_tokens_than_its_stacked_rank_is_recovered() -> None:
    some = case("nano-llama", 2, 20, lora(16, ["q_proj", "k_proj", "v_proj"]))
    assert sum(map(len, some.truth)) <= 48
    recovery = Dager().run(some.observation)
    assert some.f1(recovery) == 1.0
    assert some.exact(recovery) == 1.0


def test_first_round_of_lora_is_not_blind() -> None:
    """While B is zero the gradient of A is too, and that of B spans A x."""
    some = case("nano-llama", 1, 14, lora(16, ["q_proj", "k_proj", "v_proj"], started=False))
    recovery = Dager().run(some.observation)
    assert recovery.evidence["token stage"]["tap"] == "LoRA B"
    assert some.f1(recovery) == 1.0
    assert some.exact(recovery) == 1.0


@pytest.mark.parametrize("batch", [1, 2])
def test_encoder_is_recovered_up_to_eight_tokens(batch: int) -> None:
    some = case("micro-bert", batch, 8)
    recovery = Dager().run(some.observation)
    assert some.f1(recovery) == 1.0
    assert some.exact(recovery) == 1.0


def test_delta_of_one_sgd_step_is_a_gradient_after_its_weight_decay() -> None:
    some = case("nano-gpt2", 2, 16, sends="delta", weight_decay=0.1)
    plain = case("nano-gpt2", 2, 16)
    was, now = plain.observation.rounds[0], some.observation.rounds[0]
    name = "transformer.h.0.attn.c_attn.weight"
    expected = was.update.tensors[name].double()
    seen = gradient(now, some.observation.federated)[name]
    assert float((seen - expected).norm() / expected.norm()) < 1e-3
    assert some.exact(Dager().run(some.observation)) == 1.0


def test_more_tokens_than_the_width_are_best_effort() -> None:
    some = case("nano-gpt2", 8, 30)
    assert sum(map(len, some.truth)) > 128
    recovery = Dager().run(some.observation)
    assert recovery.evidence["degraded"]
    assert some.exact(recovery) == 0.0
    assert not any(recovery.evidence["passed"])
    published = Dager(PUBLISHED).run(some.observation)
    assert published.evidence["degraded"]
    assert some.f1(published) < 0.1 < some.f1(recovery)


def test_more_tokens_than_lora_can_tell_apart_are_ranked_and_said_to_be_degraded() -> None:
    some = case("nano-llama", 4, 24, lora(16, ["q_proj", "k_proj", "v_proj"]))
    assert sum(map(len, some.truth)) > 48
    recovery = Dager().run(some.observation)
    assert recovery.evidence["degraded"]
    assert some.exact(recovery) == 0.0
    assert some.f1(recovery) > 0.5


def test_thresholds_fail_in_low_precision_and_calibrated_tests_do_not() -> None:
    some = gpt2("bfloat16")
    assert some.f1(Dager(PUBLISHED).run(some.observation)) < 0.1
    assert some.f1(Dager().run(some.observation)) >= 0.95


def test_rounds_on_one_batch_add_their_ranks() -> None:
    some = case("nano-llama", 1, 20, lora(8, ["q_proj"]))
    model, first = some.observation.model, some.observation.rounds[0]
    moved = {name: value + 0.02 * torch.randn_like(value) * ("lora_B" in name) for name, value in first.start.items()}
    with model.holding(moved):
        second = Round(moved, local_update(model, some.batches, some.observation.federated))
    settings = FederatedSettings(batch=1, longest=20, dropout=False, rounds=2, same_batch=True)
    alone = Dager().run(some.observation).evidence["token stage"]
    both = Dager().run(Observation(model, settings, [first, second])).evidence["token stage"]
    assert (alone["rank"], alone["rounds"]) == (8, 1)
    assert (both["rank"], both["rounds"]) == (16, 2)


def test_rounds_on_other_records_are_attacked_one_by_one() -> None:
    one, two = case("nano-gpt2", 2, 12), case("nano-gpt2", 2, 12, seed=8)
    settings = FederatedSettings(batch=2, longest=12, dropout=False, rounds=2)
    rounds = [*one.observation.rounds, *two.observation.rounds]
    recovery = Dager().run(Observation(one.observation.model, settings, rounds))
    assert one.exact(recovery) == two.exact(recovery) == 1.0


def test_nothing_is_recovered_from_other_records() -> None:
    recovery = Dager().run(case("nano-gpt2", 4, 24, seed=8).observation)
    assert gpt2().exact(recovery) == 0.0


def test_update_that_shows_nothing_is_refused() -> None:
    some = gpt2().observation
    zero = {name: torch.zeros_like(value) for name, value in some.rounds[0].update.tensors.items()}
    empty = Round(some.rounds[0].start, type(some.rounds[0].update)("gradient", zero))
    with pytest.raises(AuditError, match="cannot order"):
        Dager().run(Observation(some.model, some.federated, [empty]))


def test_rank_is_that_of_the_graph_of_tokens_and_positions() -> None:
    """GPT-2's inputs e_v + w_p span one dimension for each token and position, less one for each connected part (and n)."""
    stage, _ = calibrated_stages(
        gpt2().observation, gpt2().observation.rounds, groups(gpt2().observation.model), DagerOptions()
    )
    assert stage is not None
    edges = sorted({(token, place) for ids in gpt2().truth for place, token in enumerate(ids)})
    tokens = sorted({token for token, _ in edges})
    rows = [tokens.index(token) for token, _ in edges]
    columns = [len(tokens) + place for _, place in edges]
    size = len(tokens) + max(place for _, place in edges) + 1
    parts, _ = connected_components(coo_array((np.ones(len(rows)), (rows, columns)), (size, size)), directed=False)
    assert stage.space.rank == min(size - parts, len(edges))


def test_published_spans_are_numpys() -> None:
    some = gpt2().observation
    token, _, rules, rank = published_stages(some, some.rounds, groups(some.model), PUBLISHED)
    assert (rules.tolerance, rules.tokens, rules.sentences) == (1e-8, 1e-5, 1e-3)
    names = [f"transformer.h.{layer}.attn.c_attn.weight" for layer in (0, 1)]
    matrices = [some.rounds[0].update.tensors[name].numpy().T for name in names]
    assert rank == min(max(np.linalg.matrix_rank(matrix, tol=1e-8) for matrix in matrices), 128 - 20)
    basis = np.linalg.svd(matrices[0].astype(np.float64))[2][:rank].T
    strong = basis[:, :80]  # the weakest directions are float32's own
    ours = token.space.basis.double().numpy()
    assert np.linalg.norm(ours @ (ours.T @ strong) - strong) < 1e-3
    x = torch.randn(5, 128, generator=torch.Generator().manual_seed(0))
    unit = (x / x.norm(dim=1, keepdim=True)).double().numpy()
    wanted = np.linalg.norm(unit - unit @ ours @ ours.T, axis=1)
    assert np.allclose(token.distances(x).numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("records", "averaged", "lora_", "rules"),
    [
        (2, False, False, (1e-7, 1e-5, 1e-3, 0)),
        (64, False, False, (1e-9, 1e-5, 1e-3, 0)),
        (16, True, False, (5e-6, 5e-3, 5e-3, 60)),
        (1, False, True, (5e-9, 0.05, 0.05, 0)),
    ],
)
def test_published_rules_depend_on_the_scenario(records: int, averaged: bool, lora_: bool, rules: tuple[float, ...]) -> None:
    from zkaudit.attacks.dager.options import published_rules

    found = published_rules(PUBLISHED, records, averaged, lora_)
    assert (found.tolerance, found.tokens, found.sentences, found.extra_rank) == rules


@pytest.mark.parametrize("name", ["nano-gpt2", "nano-llama"])
def test_extensions_side_by_side_are_extensions_one_by_one(name: str) -> None:
    some = (gpt2() if name == "nano-gpt2" else llama()).observation
    _, stage = calibrated_stages(some, some.rounds, groups(some.model), DagerOptions())
    generator = torch.Generator().manual_seed(0)
    prefixes = torch.randint(some.model.vocabulary, (3, 5), generator=generator)
    tokens = torch.randint(some.model.vocabulary, (7,), generator=generator)
    ours = extensions(some.model, stage, prefixes, tokens, block=64)
    for row, prefix in enumerate(prefixes):
        ids = torch.cat([prefix.expand(7, -1), tokens[:, None]], 1)
        (seen,) = activations(some.model, [stage.group.site], ids)
        assert torch.allclose(ours[row, :, 0], stage.distances(seen[:, -1]), atol=1e-5)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_rounding_error_is_of_the_size_measured(precision: str) -> None:
    value = torch.randn(400, 50, generator=torch.Generator().manual_seed(0)).double() * 1e-3
    measured = (in_precision(value, precision).double() - value).square().mean().sqrt()
    expected = rounding_error(value, precision).square().mean().sqrt()
    if precision == "float64":
        assert float(measured) == 0.0
        assert float(expected) < 1e-15
    else:
        assert 0.8 < float(expected / measured) < 1.25


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_noise_explains_the_distances_of_true_inputs(precision: str) -> None:
    some = gpt2(precision).observation
    stages = calibrated_stages(some, some.rounds, groups(some.model), DagerOptions())
    for stage in stages:
        assert stage is not None
        for ids in gpt2(precision).truth:
            (seen,) = activations(some.model, [stage.group.site], torch.tensor([ids]))
            distance, explained = stage.measured(seen)
            assert 0.3 < float((distance / explained).median()) < 3


def test_fitted_null_has_the_samples_shape() -> None:
    sample = stats.beta(8.0, 20.0).rvs(20_000, random_state=0)
    fitted = fit_beta(sample, (1.0, 1.0))
    assert fitted is not None
    assert stats.kstest(sample, stats.beta(*fitted).cdf).statistic < 0.02


def test_log_p_values_are_scipys_and_go_on_below_its_range() -> None:
    generator = np.random.default_rng(0)
    distances = torch.from_numpy(np.sqrt(stats.beta(40, 24).rvs(5000, random_state=generator)))
    ours = log_p_values(distances, 128, 48)
    isotropic = stats.beta.logcdf(distances.square().numpy(), 40, 24)
    assert np.all(ours.numpy() >= isotropic - 1e-9)
    assert np.median(np.abs(ours.numpy() - isotropic)) < 0.1
    tiny = log_p_values(torch.cat([distances, torch.tensor([1e-6, 1e-5])]), 128, 48)[-2:]
    assert -1e4 < float(tiny[0]) < float(tiny[1]) < -500


def test_discoveries_are_benjamini_hochbergs() -> None:
    p = np.concatenate([np.random.default_rng(1).random(500), np.full(20, 1e-6)])
    expected = stats.false_discovery_control(p) <= 0.05
    assert np.array_equal(discoveries(torch.from_numpy(np.log(p)), 0.05).numpy(), expected)


def test_versions_of_a_sequence_do_not_crowd_out_others() -> None:
    def found(*ids: int, gain: float, passed: bool) -> Found:
        return Found(ids, 0.1, gain, passed)

    result = Result(
        [found(1, 2, 3, 4, gain=9, passed=True)],
        [found(1, 2, 3, 5, gain=8, passed=False), found(6, 7, 8, 9, gain=7, passed=False)],
    )
    assert [sequence.ids for sequence in best(result, 2, 0.7, published=False)] == [(1, 2, 3, 4), (6, 7, 8, 9)]


@pytest.mark.parametrize("wrong", [{"setting": "best"}, {"beam": 0}, {"false_discovery": 1.5}])
def test_bad_options_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(AuditError, match=next(iter(wrong))):
        DagerOptions(**wrong)  # type: ignore[arg-type]
