"""DAGER's parts: spans, nulls, noise, extensions and the choice of sequences, each against something we did not write."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dager_cases import PUBLISHED, gpt2, llama
from scipy import stats
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from zkaudit.attacks.dager import DagerOptions
from zkaudit.attacks.dager.decoder import extensions
from zkaudit.attacks.dager.nulls import discoveries, fit_beta, log_p_values
from zkaudit.attacks.dager.observed import rounding_error
from zkaudit.attacks.dager.search import Found, Result, best
from zkaudit.attacks.dager.stages import calibrated_stages, published_stages
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.client import in_precision
from zkaudit.attacks.federated.settings import PRECISIONS
from zkaudit.attacks.sites import activations
from zkaudit.attacks.taps import groups


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
    assert stage is not None
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
