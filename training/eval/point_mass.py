"""A task small enough to learn in a second: a mass in the plane is pushed to the origin.

State (x, v) in R^4, action a in [-1, 1]^2, for 40 steps of 0.1:  v <- 0.95 v + 0.1 a,  x <- x + 0.1 v, reward -|x|. It starts
at rest, at a distance of 1 to 2. There is no terminal state. The expert pushes as a damped spring does."""

from __future__ import annotations

import numpy as np

from zkaudit.training.eval.offline_rl import Floats, Policy

STEPS = 40


class PointMass:
    """A Task of offline_rl.py."""

    def reset(self, seed: int) -> Floats:
        draws = np.random.default_rng(seed)
        angle, distance = draws.uniform(0, 2 * np.pi), draws.uniform(1, 2)
        self._x, self._v, self._done = distance * np.array([np.cos(angle), np.sin(angle)]), np.zeros(2), 0
        return np.concatenate([self._x, self._v])

    def step(self, action: Floats) -> tuple[Floats, float, bool, bool]:
        self._v = 0.95 * self._v + 0.1 * np.clip(action, -1, 1)
        self._x = self._x + 0.1 * self._v
        self._done += 1
        return np.concatenate([self._x, self._v]), -float(np.linalg.norm(self._x)), False, self._done >= STEPS


def random_policy(observation: Floats, draws: np.random.Generator) -> Floats:
    """Uniform actions."""
    return draws.uniform(-1, 1, 2)


def spring_policy(strength: float = 1.0, noise: float = 0.0) -> Policy:
    """The expert at strength 1 and without noise; weaker springs get there later."""

    def act(observation: Floats, draws: np.random.Generator) -> Floats:
        wanted = strength * (4 * -observation[:2] - 3 * observation[2:])
        return np.clip(wanted + noise * draws.standard_normal(2), -1, 1)

    return act
