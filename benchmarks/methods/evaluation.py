"""Checks of the protocols that compare models: recorded episodes of a small task, and graphs of stochastic blocks."""

from __future__ import annotations

from functools import cache
from statistics import fmean

import numpy as np
import torch
from methods.check import Check, Measured
from torch import nn
from torch.nn import functional as F

from zkaudit.training.eval.graph import Graph, Line, RandomEncoder, graph_protocol, node_accuracy
from zkaudit.training.eval.graph_ssl import GraphBarlowTwins, GraphConvolution, stochastic_blocks
from zkaudit.training.eval.offline_rl import OfflineData, Policy, Reference, evaluate, record
from zkaudit.training.eval.point_mass import PointMass, random_policy, spring_policy
from zkaudit.training.steps import derive_seed

MEDIUM = spring_policy(0.12, noise=0.3)
EPISODES = 50


@cache
def reference() -> Reference:
    means = [float(evaluate(policy, PointMass(), EPISODES, "reference").mean()) for policy in (random_policy, spring_policy())]
    return Reference(*means)


def score(policy: Policy, episodes: int = EPISODES) -> float:
    return reference().score(evaluate(policy, PointMass(), episodes, "reference"))


@cache
def mixed() -> OfflineData:
    """Episodes of random, medium and expert behaviour, as many of each."""
    parts = [
        record(policy, PointMass(), 40, f"mixed {number}")
        for number, policy in enumerate((random_policy, MEDIUM, spring_policy()))
    ]
    columns = ("observations", "actions", "rewards", "terminals", "timeouts")
    return OfflineData(*(np.concatenate([getattr(part, name) for part in parts]) for name in columns))


def network(inputs: int, outputs: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs)).double()


def fitted(model: nn.Module, x: np.ndarray, y: np.ndarray, steps: int = 800) -> nn.Module:
    torch.set_num_threads(1)
    inputs, targets = torch.as_tensor(x), torch.as_tensor(y)
    optimizer = torch.optim.Adam(model.parameters(), 0.002)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = torch.randint(len(inputs), (128,), generator=generator)
        optimizer.zero_grad()
        F.mse_loss(model(inputs[rows]), targets[rows]).backward()
        optimizer.step()
    return model


def copied(data: OfflineData) -> Policy:
    """Behaviour cloning: actions regressed on observations."""
    steps = data.transitions()
    model = fitted(network(4, 2), steps.observations, steps.actions)

    def act(observation: np.ndarray, draws: np.random.Generator) -> np.ndarray:
        with torch.no_grad():
            return np.clip(model(torch.as_tensor(observation)).numpy(), -1, 1)

    return act


def improved(data: OfflineData) -> Policy:
    """One step of improvement: what the recorded behaviour earns from here on is regressed on observation, action and the
    steps that are left, and of 16 actions the best is taken."""
    left, earned = np.zeros(len(data.rewards)), np.zeros(len(data.rewards))
    for episode in data.episodes():
        rewards = data.rewards[episode]
        earned[episode] = rewards[::-1].cumsum()[::-1]
        left[episode] = np.arange(len(rewards), 0, -1) / 40
    scale = earned.std()
    x = np.concatenate([data.observations, data.actions, left[:, None]], 1)
    model = fitted(network(7, 1), x, (earned / scale)[:, None])
    angles = np.arange(16) * np.pi / 8
    actions = np.stack([np.cos(angles), np.sin(angles)], 1)

    def act(observation: np.ndarray, draws: np.random.Generator) -> np.ndarray:
        rows = np.concatenate([np.tile(observation, (16, 1)), actions, np.full((16, 1), 0.5)], 1)
        with torch.no_grad():
            return actions[int(model(torch.as_tensor(rows)).argmax())]

    return act


def ends_of_the_scale() -> Measured:
    ours = score(random_policy), score(spring_policy())
    return Measured(max(abs(ours[0]), abs(ours[1] - 100)), 0.0, f"random {ours[0]:.6f}, expert {ours[1]:.6f}")


def copying_scores_as_recorded() -> Measured:
    data = record(MEDIUM, PointMass(), 100, "medium")
    behaviour = reference().score(data.returns())
    ours = score(copied(data))
    return Measured(
        ours / behaviour, None, f"copied {ours:.1f}, recorded {behaviour:.1f}; noise of the behaviour is averaged out"
    )


def best_episodes_copy_better() -> Measured:
    data = mixed()
    ways = {"all copied": copied(data), "best 30% copied": copied(data.best(0.3)), "one step improved": improved(data)}
    found = {way: score(policy) for way, policy in ways.items()}
    note = "; ".join(f"{way} {points:.1f}" for way, points in found.items())
    return Measured(
        found["best 30% copied"] - found["all copied"], None, f"{note}; recorded {reference().score(data.returns()):.1f}"
    )


@cache
def graph() -> Graph:
    torch.set_num_threads(1)
    return stochastic_blocks(seed=1)


@cache
def lines(kind: str) -> dict[tuple[str, str], Line]:
    def learner(part: Graph, seed: int) -> RandomEncoder | GraphBarlowTwins:
        if kind == "random":
            return RandomEncoder(GraphConvolution(part.features.shape[1], 32, seed))
        return GraphBarlowTwins(part, 32, seed, batch=kind, size=200 if kind == "nodes" else 4)

    steps = 1 if kind == "random" else 60
    found = graph_protocol(learner, graph(), "check", seeds=(0, 1), steps=steps, every=max(1, steps // 3))
    return {(line.task, line.stop): line for line in found}


KINDS = ("random", "full", "nodes", "clusters")


def learned_over_raw() -> Measured:
    seeds = [derive_seed("check", "eval.graphfm", seed) for seed in (0, 1)]
    raw = 100 * fmean(node_accuracy(graph().features.numpy(), graph().labels.numpy(), seed)[1] for seed in seeds)
    found = {kind: 100 * lines(kind)["accuracy", "last"].mean for kind in KINDS}
    note = "; ".join([f"raw features {raw:.1f}%", *(f"{kind} {points:.1f}%" for kind, points in found.items())])
    return Measured(found["full"] - raw, None, f"{note}; the encoder as made is over raw by {found['random'] - raw:.1f}")


def other_scores() -> Measured:
    """AUC of edges that training did not see, with the other scores beside it."""
    notes = []
    for kind in KINDS:
        last = {task: lines(kind)[task, "last"].mean for task in ("auc", "nmi", "accuracy")}
        best = lines(kind)["accuracy", "best"].mean
        said = f"AUC {last['auc']:.3f}, NMI {last['nmi']:.3f}, accuracy {last['accuracy']:.3f} last, {best:.3f} best"
        notes.append(f"{kind}: {said}")
    return Measured(lines("full")["auc", "last"].mean, None, "; ".join(notes))


CHECKS = [
    Check("offline-rl", "distance of the references' scores from 0 and 100", "points", "lower", ends_of_the_scale),
    Check(
        "offline-rl", "score of a copy of medium behaviour, over what was recorded", "x", "equal", copying_scores_as_recorded
    ),
    Check(
        "offline-rl",
        "score of copying the best 30% over copying all, mixed data",
        "points",
        "higher",
        best_episodes_copy_better,
    ),
    Check("graphfm", "accuracy over raw features, nodes of blocks", "points", "higher", learned_over_raw),
    Check("graphfm", "AUC of held-out edges", "of 1", "higher", other_scores),
]
