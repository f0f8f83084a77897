"""Learning from recorded episodes, scored as D4RL does (Fu et al. 2020, arXiv 2004.07219).

Data are flat arrays of N steps: observations, actions, rewards, terminals (the task ended) and timeouts (the recording did). A
transition is a row and the observation after it; none goes from one episode into the next:

    timeout, not terminal: no transition, as what came after is not known        terminal: no next observation, value 0 after

A policy's score on a task is linear in its mean return R,

    score = 100 (R - R_random) / (R_expert - R_random)        0 as a random policy, 100 as an expert

with reference returns fixed for the task. Arrays without timeouts need the task's longest episode. Data sets of Minari, which
follows D4RL, are read with `load_minari`, and there are reference returns for D4RL's three best known tasks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method
from zkaudit.training.steps import derive_seed

METHOD = Method(
    name="offline-rl",
    title="Recorded episodes and normalised scores, as in D4RL",
    paper="Fu, Kumar, Nachum, Tucker, Levine 2020, arXiv 2004.07219",
    where="zkaudit.training.eval.offline_rl.Reference",
    changes=("evaluation",),
    effect="A benchmark: on it, copying the recorded behaviour was hard to beat on data of mixed quality.",
    library="minari has data sets and the same score; `load_minari` reads one from this machine",
    provable="A score is a public linear map of returns; data, reference returns and evaluation seeds are bound by hashes.",
    server_sees="Nothing by itself; episodes are personal records, and keeping the best ones tells outcomes.",
    use=(
        "from zkaudit.training.eval.offline_rl import OfflineData, Reference, evaluate\n"
        "\n"
        "data = OfflineData(observations, actions, rewards, terminals, timeouts)\n"
        "steps = data.best(0.3).transitions()  # of the 30% of episodes with the highest return\n"
        'score = Reference(random, expert).score(evaluate(policy, task, episodes=20, run_seed="7f"))'
    ),
    avoid="Comparing scores across reference returns: they are part of the score. Few evaluation episodes.",
    binding="replayable",
)

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Transitions(NamedTuple):
    """Rows that can be learned from. Where `terminals` is set, the next observation is the row's own and must not be used."""

    observations: Floats
    actions: Floats
    rewards: Floats
    next_observations: Floats
    terminals: Bools


@dataclass(frozen=True)
class OfflineData:
    """observations (N, ...), actions (N, ...), rewards, terminals and timeouts (N,).

    Raises TrainingError for lengths that differ, numbers that are not finite, and for no steps.
    """

    observations: Floats
    actions: Floats
    rewards: Floats
    terminals: Bools
    timeouts: Bools

    def __post_init__(self) -> None:
        for each in fields(self):
            kind = np.bool_ if each.name in ("terminals", "timeouts") else np.float64
            values: NDArray[Any] = np.ascontiguousarray(getattr(self, each.name)).astype(kind)
            if len(values) != len(self.rewards) or len(values) == 0:
                raise TrainingError(
                    f"{each.name} has {len(values)} steps and rewards {len(self.rewards)}: need the same, not 0"
                )
            if not np.isfinite(values).all():
                raise TrainingError(f"{each.name} holds a number that is not finite")
            object.__setattr__(self, each.name, values)
        if self.rewards.ndim != 1 or self.terminals.ndim != 1 or self.timeouts.ndim != 1:
            raise TrainingError("rewards, terminals and timeouts must be one number a step")

    @classmethod
    def with_longest(
        cls, observations: Floats, actions: Floats, rewards: Floats, terminals: Bools, longest: int
    ) -> OfflineData:
        """Of arrays without timeouts: an episode that has gone on for `longest` steps ends there."""
        if longest < 1:
            raise TrainingError(f"longest = {longest} must be at least 1 step")
        timeouts, since = np.zeros(len(rewards), bool), 0
        for row, ended in enumerate(np.asarray(terminals, bool)):
            since += 1
            timeouts[row] = not ended and since == longest
            since = 0 if ended or timeouts[row] else since
        return cls(observations, actions, rewards, terminals, timeouts)

    @property
    def digest(self) -> str:
        """SHA-256 of all arrays with their names and shapes."""
        total = hashlib.sha256(b"zkaudit offline data")
        for each in fields(self):
            values = getattr(self, each.name)
            total.update(f"{each.name} {values.shape} ".encode())
            total.update(values.astype(values.dtype.newbyteorder("<")).tobytes())
        return total.hexdigest()

    def episodes(self) -> list[slice]:
        """Rows of each episode that came to an end; those after the last end belong to none."""
        ends = (np.flatnonzero(self.terminals | self.timeouts) + 1).tolist()
        return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]

    def returns(self) -> Floats:
        """The sum of rewards of each episode."""
        return np.array([self.rewards[episode].sum() for episode in self.episodes()])

    def transitions(self) -> Transitions:
        """In order; rows without a known next observation are left out."""
        last = len(self.rewards) - 1
        known = ~self.timeouts
        known[last] = False  # the recording ended
        rows = np.flatnonzero(known | self.terminals)
        following = np.where(self.terminals[rows], rows, rows + 1)
        return Transitions(
            self.observations[rows], self.actions[rows], self.rewards[rows], self.observations[following], self.terminals[rows]
        )

    def best(self, part: float) -> OfflineData:
        """The episodes with the highest returns, `part` of them and one at least, in order; of equal ones the earlier."""
        if not 0 < part <= 1:
            raise TrainingError(f"part = {part} must be above 0 and at most 1")
        episodes, returns = self.episodes(), self.returns()
        if not episodes:
            raise TrainingError("no episode of the data came to an end")
        order = np.argsort(-returns, kind="stable")[: max(1, round(part * len(episodes)))]
        rows = np.concatenate([np.arange(episodes[i].start, episodes[i].stop) for i in np.sort(order)])
        return OfflineData(*(getattr(self, each.name)[rows] for each in fields(self)))


@dataclass(frozen=True)
class Reference:
    """Mean returns of a random policy and of an expert, for one task."""

    random: float
    expert: float

    def __post_init__(self) -> None:
        if not self.expert > self.random:
            raise TrainingError(f"the expert's return, {self.expert}, must be above the random policy's, {self.random}")

    def score(self, returns: Sequence[float] | Floats) -> float:
        """Of the mean return, in percent."""
        if len(returns) == 0:
            raise TrainingError("there is no return to score")
        return 100 * (float(np.mean(returns)) - self.random) / (self.expert - self.random)


D4RL = {  # of version 0 to 2 of the tasks, whatever the data set
    "halfcheetah": Reference(-280.178953, 12135.0),
    "hopper": Reference(-20.272305, 3234.3),
    "walker2d": Reference(1.629008, 4592.3),
}


class Task(Protocol):
    """An environment: `reset` with a seed gives the first observation; `step` the next, the reward, terminal and timeout."""

    def reset(self, seed: int) -> Floats: ...

    def step(self, action: Floats) -> tuple[Floats, float, bool, bool]: ...


Policy = Callable[[Floats, np.random.Generator], Floats]


def record(policy: Policy, task: Task, episodes: int, run_seed: str, component: str = "eval.offline-rl") -> OfflineData:
    """Whole episodes. Episode i starts, and the policy draws, from derive_seed(run_seed, component, i)."""
    if episodes < 1:
        raise TrainingError(f"episodes = {episodes} must be at least 1")
    rows: list[tuple[Floats, Floats, float, bool, bool]] = []
    for number in range(episodes):
        seed = derive_seed(run_seed, component, number)
        draws, ended = np.random.default_rng(seed), False
        observation = task.reset(seed)
        while not ended:
            action = policy(observation, draws)
            following, reward, terminal, timeout = task.step(action)
            rows.append((observation, action, reward, terminal, timeout))
            observation, ended = following, terminal or timeout
    return OfflineData(*(np.array(column) for column in zip(*rows, strict=True)))


def evaluate(policy: Policy, task: Task, episodes: int, run_seed: str) -> Floats:
    """The return of each of `episodes` new episodes."""
    return record(policy, task, episodes, run_seed).returns()


def from_episodes(episodes: Iterable[Any]) -> OfflineData:
    """Of Minari's episodes: observations (T + 1, ...), actions, rewards, terminations and truncations (T, ...) each.

    The observation after a truncation is left out, as in the flat format.
    """
    columns: list[list[Any]] = [[], [], [], [], []]
    for episode in episodes:
        length = len(episode.rewards)
        parts = (episode.observations[:length], episode.actions, episode.rewards, episode.terminations, episode.truncations)
        for column, part in zip(columns, parts, strict=True):
            column.append(np.asarray(part))
        if not (columns[3][-1][-1] or columns[4][-1][-1]):
            columns[4][-1] = np.append(columns[4][-1][:-1], True)  # a recording that stops has no next step
    if not columns[0]:
        raise TrainingError("the data set has no episodes")
    return OfflineData(*(np.concatenate(column) for column in columns))


def load_minari(name: str) -> tuple[OfflineData, Reference | None]:
    """A data set that Minari has on this machine, and its reference returns if it has them. TrainingError without Minari."""
    try:
        minari: Any = import_module("minari")
    except ImportError:
        raise TrainingError(f"data set {name!r} needs the package minari, which is not installed") from None
    dataset = minari.load_dataset(name)
    known = dataset.storage.metadata
    low, high = known.get("ref_min_score"), known.get("ref_max_score")
    found = None if low is None or high is None else Reference(float(low), float(high))
    return from_episodes(dataset.iterate_episodes()), found
