"""Recorded episodes: none runs into the next, and scores are 0 for random and 100 for the expert."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkaudit.training.errors import TrainingError
from zkaudit.training.eval.offline_rl import D4RL, OfflineData, Reference, evaluate, from_episodes, load_minari, record
from zkaudit.training.eval.point_mass import STEPS, PointMass, random_policy, spring_policy

ENDS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30)


def flat(ends: list[tuple[bool, bool]]) -> OfflineData:
    """Row i has observation (episode, i), so that a transition between episodes shows."""
    episode, rows = 0, []
    for row, (terminal, timeout) in enumerate(ends):
        rows.append((episode, row))
        episode += terminal or timeout
    n = len(ends)
    columns = [np.array(column) for column in zip(*ends, strict=True)]
    return OfflineData(np.array(rows, float), np.arange(n)[:, None], np.arange(n) ** 2, *columns)


@given(ends=ENDS)
def test_no_transition_crosses_an_episode(ends: list[tuple[bool, bool]]) -> None:
    data = flat(ends)
    found = data.transitions()
    for before, after, terminal in zip(found.observations, found.next_observations, found.terminals, strict=True):
        assert before[0] == after[0]
        assert after[1] == before[1] + (0 if terminal else 1)
    wanted = [row for row, (terminal, timeout) in enumerate(ends) if terminal or (not timeout and row + 1 < len(ends))]
    assert found.observations[:, 1].tolist() == wanted
    assert found.actions[:, 0].tolist() == wanted
    assert found.rewards.tolist() == [row**2 for row in wanted]


@given(ends=ENDS)
def test_episodes_part_the_rows_up_to_the_last_end(ends: list[tuple[bool, bool]]) -> None:
    data = flat(ends)
    rows = [row for episode in data.episodes() for row in range(episode.start, episode.stop)]
    assert rows == list(range(max((row + 1 for row, end in enumerate(ends) if any(end)), default=0)))
    for episode in data.episodes():
        assert len(set(data.observations[episode, 0])) == 1
    assert data.returns().sum() == sum(row**2 for row in rows)


def test_without_timeouts_an_episode_ends_at_its_longest() -> None:
    terminals = np.array([0, 0, 0, 0, 1, 0, 0, 0, 0], bool)
    zeros = np.zeros(9)
    data = OfflineData.with_longest(zeros[:, None], zeros[:, None], zeros, terminals, longest=3)
    assert data.timeouts.tolist() == [False, False, True, False, False, False, False, True, False]


@given(part=st.floats(0.01, 1), ends=ENDS.filter(lambda ends: any(map(any, ends))))
def test_the_best_episodes_are_kept_whole_and_in_order(part: float, ends: list[tuple[bool, bool]]) -> None:
    data = flat(ends)
    kept = data.best(part)
    returns = sorted(data.returns(), reverse=True)[: max(1, round(part * len(data.episodes())))]
    assert sorted(kept.returns(), reverse=True) == returns
    assert sorted(kept.observations[:, 1]) == kept.observations[:, 1].tolist()
    numbers = set(kept.observations[:, 0])
    assert len(kept.rewards) == sum(data.observations[row, 0] in numbers for row in range(data.episodes()[-1].stop))


def test_of_equal_episodes_the_earlier_are_kept() -> None:
    data = OfflineData(np.arange(4.0)[:, None], np.zeros((4, 1)), np.array([1, 5, 1, 5]), np.ones(4), np.zeros(4))
    assert data.best(0.25).observations[:, 0].tolist() == [1]
    assert data.best(0.75).observations[:, 0].tolist() == [0, 1, 3]


def test_scores_are_0_for_the_random_reference_and_100_for_the_expert() -> None:
    reference = Reference(-30.0, -10.0)
    assert [reference.score([value]) for value in (-30, -10, -20, 0)] == [0, 100, 50, 150]
    assert reference.score([-30, -10]) == 50


def test_published_reference_returns() -> None:
    assert D4RL["halfcheetah"].score([12135.0]) == pytest.approx(100)
    assert D4RL["hopper"].score([-20.272305]) == pytest.approx(0)
    assert D4RL["walker2d"].score([(1.629008 + 4592.3) / 2]) == pytest.approx(50)


def test_recordings_depend_on_the_seed_alone() -> None:
    policy = spring_policy(0.5, noise=0.3)
    first, again, other = (record(policy, PointMass(), 3, seed) for seed in ("a", "a", "b"))
    assert first.digest == again.digest != other.digest
    assert len(first.rewards) == 3 * STEPS
    assert first.timeouts.sum() == 3
    assert len(first.transitions().rewards) == 3 * (STEPS - 1)
    assert evaluate(policy, PointMass(), 3, "a") == pytest.approx(first.returns())


def test_a_stronger_spring_scores_higher_and_random_is_lowest() -> None:
    returns = [evaluate(policy, PointMass(), 20, "a").mean() for policy in (random_policy, spring_policy(0.1), spring_policy())]
    assert returns == sorted(returns)
    assert returns[2] - returns[0] > 20


def test_a_changed_number_changes_the_digest() -> None:
    data = flat([(False, False), (True, False)])
    rewards = data.rewards.copy()
    rewards[0] += 1e-9
    assert OfflineData(data.observations, data.actions, rewards, data.terminals, data.timeouts).digest != data.digest


def test_minaris_episodes_become_the_flat_format() -> None:
    episodes = [
        SimpleNamespace(
            observations=np.arange(start, start + length + 1.0)[:, None], actions=np.ones((length, 1)), rewards=np.ones(length),
            terminations=np.eye(length)[-1] * terminal, truncations=np.eye(length)[-1] * truncated,
        )
        for start, length, terminal, truncated in ((0, 3, 1, 0), (100, 2, 0, 1), (200, 4, 0, 0))
    ]  # fmt: skip
    data = from_episodes(episodes)
    assert data.observations[:, 0].tolist() == [0, 1, 2, 100, 101, 200, 201, 202, 203]
    assert np.flatnonzero(data.terminals).tolist() == [2]
    assert np.flatnonzero(data.timeouts).tolist() == [4, 8]
    assert [episode.stop for episode in data.episodes()] == [3, 5, 9]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: OfflineData(*[np.zeros((0, 1))] * 2, *[np.zeros(0)] * 3), "need the same, not 0"),
        (lambda: OfflineData(np.zeros((3, 1)), np.zeros((2, 1)), *[np.zeros(3)] * 3), "actions has 2 steps"),
        (lambda: OfflineData(np.full((1, 1), np.nan), np.zeros((1, 1)), *[np.zeros(1)] * 3), "observations holds"),
        (lambda: OfflineData(*[np.zeros((2, 1))] * 5), "one number a step"),
        (lambda: flat([(True, False)]).best(0.0), "part = 0.0"),
        (lambda: flat([(False, False)]).best(0.5), "no episode of the data"),
        (lambda: Reference(1.0, 1.0), "must be above"),
        (lambda: Reference(0.0, 1.0).score([]), "no return"),
        (lambda: record(random_policy, PointMass(), 0, "a"), "episodes = 0"),
        (lambda: from_episodes([]), "no episodes"),
        (lambda: OfflineData.with_longest(*[np.zeros((1, 1))] * 2, *[np.zeros(1)] * 2, 0), "longest = 0"),
    ],
)
def test_what_cannot_be_used_is_named(make: object, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        make()


def test_without_minari_its_data_sets_are_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(TrainingError, match="needs the package minari"):
        load_minari("D4RL/pointmaze/umaze-v2")
