"""Skill-it: the published rule and values, its limits, and shares that anybody computes again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkaudit.training.errors import TrainingError
from zkaudit.training.mixture.draw import ONE
from zkaudit.training.mixture.skill_it import Round, SkillIt, SkillItOptions, learn_graph, replay

LEGO = [[1, 0, 0, 0, 0], [0, 1, 1, 1, 1], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]
LOSSES = st.floats(0.0625, 20, width=32)
EDGES = st.floats(-2, 2, width=32)


def test_the_first_round_on_the_lego_graph_has_the_published_shares() -> None:
    assert SkillIt(LEGO).mixture == pytest.approx([0.1179, 0.5284, 0.1179, 0.1179, 0.1179], abs=5e-5)


@given(st.data(), st.integers(1, 4), st.integers(1, 4), st.booleans(), st.booleans())
def test_shares_follow_the_rule(data: st.DataObject, k: int, m: int, relative: bool, mean: bool) -> None:
    graph = data.draw(st.lists(st.lists(EDGES, min_size=m, max_size=m), min_size=k, max_size=k))
    start = data.draw(st.lists(st.floats(0.1, 3), min_size=k, max_size=k))
    losses = data.draw(st.lists(st.lists(LOSSES, min_size=m, max_size=m), min_size=1, max_size=6))
    mixer = SkillIt(graph, SkillItOptions(0.3, window=3, start=tuple(start), relative=relative, mean=mean))
    for loss in losses:
        mixer.observe(loss)
    window = np.array(losses)[-3:] / (np.array(losses[0]) if relative else 1)
    exponent = 0.3 * np.array(graph) @ (window.mean(0) if mean else window.sum(0))
    weights = np.array(start) * np.exp(exponent - exponent.max())
    assert mixer.next_round() == pytest.approx(weights / weights.sum(), abs=1e-8)
    assert sum(mixer.shares) == ONE


def test_a_full_graph_is_uniform_and_the_identity_follows_losses() -> None:
    losses = [0.5, 2.0, 1.0]
    full, alone = SkillIt([[1.0] * 3] * 3), SkillIt(np.eye(3).tolist())
    for mixer in (full, alone):
        mixer.observe(losses)
        mixer.next_round()
    assert full.mixture == pytest.approx([1 / 3] * 3, abs=1e-9)
    assert np.argsort(alone.mixture).tolist() == np.argsort(losses).tolist()


def test_edges_between_skills_fade_with_every_round() -> None:
    mixer = SkillIt([[1, 1], [0, 1]], SkillItOptions(eta=1.0, fading=0.5))
    ratios = [np.log(mixer.mixture[0] / mixer.mixture[1])]
    for _ in range(3):
        mixer.next_round()
        ratios.append(np.log(mixer.mixture[0] / mixer.mixture[1]))
    assert ratios == pytest.approx([1, 1 / 2, 1 / 4, 1 / 8], rel=1e-6)


def test_large_losses_leave_a_mixture() -> None:
    mixer = SkillIt(np.eye(2).tolist(), SkillItOptions(eta=100.0))
    mixer.observe([1e6, 0.0])
    assert mixer.next_round() == (1.0, 0.0)


@given(st.lists(st.lists(st.floats(0.0625, 1, width=32), min_size=5, max_size=5), min_size=1, max_size=5), st.integers(0, 4))
def test_a_changed_share_or_loss_is_found_by_the_replay(losses: list[list[float]], skill: int) -> None:
    mixer, options = SkillIt(LEGO), SkillItOptions()
    for loss in losses:
        mixer.observe(loss)
        mixer.next_round()
    assert replay(LEGO, mixer.losses, mixer.rounds, options) is None
    last = mixer.rounds[-1]
    shares = list(last.shares)
    shares[skill] += 1
    shares[(skill + 1) % 5] -= 1
    changed = [*mixer.rounds[:-1], Round(last.evaluations, tuple(shares))]
    assert replay(LEGO, mixer.losses, changed, options) == len(losses)
    other = [list(loss) for loss in losses]
    other[0][1] += 1.0
    assert replay(LEGO, other, mixer.rounds, options) == 1
    assert replay(LEGO, losses[:-1], mixer.rounds, options) == len(losses)


def test_draws_depend_on_seed_and_step_alone() -> None:
    mixer = SkillIt(LEGO)
    assert mixer.draw(32, "7", 5) == SkillIt(LEGO).draw(32, "7", 5)
    assert len({tuple(mixer.draw(32, seed, step)) for seed, step in (("7", 5), ("7", 6), ("8", 5))}) == 3


def test_an_edge_is_learnt_where_training_on_both_beats_training_on_one() -> None:
    helps = {(0, 1), (1, 2)}

    def loss(trained: tuple[int, ...], judged: int) -> float:
        alone = 1.0 if judged in trained else 2.0
        return alone - 0.5 * any((i, judged) in helps for i in trained) + 0.1 * (len(trained) - 1)

    assert learn_graph(loss, 3) == [[1, 1, 0], [0, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: SkillIt([]), "a row for each skill"),
        (lambda: SkillIt([[1, 0], [1]]), "a row for each skill"),
        (lambda: SkillIt([[float("nan")]]), "finite numbers"),
        (lambda: SkillIt(LEGO, SkillItOptions(start=(1.0,))), "start has 1 weights for 5 skills"),
        (lambda: SkillItOptions(window=0), "window = 0"),
        (lambda: SkillIt(LEGO).observe([1.0]), "5 finite losses"),
        (lambda: SkillIt([[1]], SkillItOptions(relative=True)).observe([0.0]), "first ones above 0"),
    ],
)
def test_bad_input_is_named(make: object, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        make()
