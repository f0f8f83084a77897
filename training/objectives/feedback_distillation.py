"""Feedback distillation: a pruned student follows the whole model, and what judges of its output (AMD-Hummingbird, Isobe et
al. 2025, arXiv 2503.18559).

    loss = mean (student(x) - teacher(x))^2  -  sum over rewards of scale * mean reward(student(x), x)

A diffusion teacher may be guided, uncond + s (cond - uncond), with s = 12 in the released configuration. Rewards are
differentiable functions that give one number a record; Hummingbird has one on images with scale 1 and one on video with 2. Only
the student gets a gradient. A reward that is followed too far is won at the task's cost: `Guard` says when the task's loss on
held-out records has risen by more than a part. The paper's consistency distillation over noise levels belongs to its sampler
and is not here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method

METHOD = Method(
    name="feedback-distillation",
    title="Distillation with feedback from rewards",
    paper="Isobe et al. 2025, arXiv 2503.18559",
    where="zkaudit.training.objectives.feedback_distillation.FeedbackDistillation",
    changes=("objective",),
    effect="The pruned video model of 0.7B is first on VBench, after training on four GPUs.",
    library="",
    provable="Squared error to committed outputs of the teacher is in the relations; a reward is a network to be proved too.",
    server_sees="The student's gradient holds the teacher's answers on private data: who has the teacher can match inputs.",
    use=(
        "from zkaudit.training.objectives.feedback_distillation import FeedbackDistillation, Reward\n"
        "\n"
        'objective = FeedbackDistillation(teacher, {"image": Reward(image_score, 1.0), "video": Reward(video_score, 2.0)})\n'
        "terms = objective(student(x), x)\n"
        "terms.total.backward()"
    ),
    avoid="Rewards that nobody checks against held-out quality, and a teacher that may not see the data.",
    binding="declared",
)


@dataclass(frozen=True)
class Reward:
    """`score(output, inputs)` gives (N,), higher is better, and can be differentiated in the output."""

    score: Callable[[Tensor, Any], Tensor]
    scale: float


class Terms(NamedTuple):
    """What the loss is made of; rewards are means, before their scales."""

    total: Tensor
    distillation: Tensor
    rewards: dict[str, Tensor]


class FeedbackDistillation:
    """Called with the student's output and the inputs. `ask` runs the teacher on inputs; by default it is called with them.

    The teacher is put in evaluation mode and its parameters get no gradient. Raises TrainingError where shapes do not fit.
    """

    def __init__(
        self,
        teacher: nn.Module,
        rewards: Mapping[str, Reward] | None = None,
        ask: Callable[[nn.Module, Any], Tensor] | None = None,
    ) -> None:
        self.teacher = teacher.eval().requires_grad_(False)
        self.rewards = dict(rewards or {})
        self.ask = ask or (lambda model, inputs: model(inputs))

    def __call__(self, output: Tensor, inputs: Any) -> Terms:
        with torch.no_grad():
            target = self.ask(self.teacher, inputs)
        if target.shape != output.shape:
            raise TrainingError(f"the teacher gives {tuple(target.shape)} where the student gives {tuple(output.shape)}")
        distillation = F.mse_loss(output, target)
        scores = {name: reward.score(output, inputs) for name, reward in self.rewards.items()}
        for name, score in scores.items():
            if score.shape != output.shape[:1]:
                raise TrainingError(f"reward {name!r} gives {tuple(score.shape)}: one number for each of {len(output)} records")
        means = {name: score.mean() for name, score in scores.items()}
        total = distillation
        for name, mean in means.items():
            total = total - self.rewards[name].scale * mean
        return Terms(total, distillation, means)


def guided(conditional: Tensor, unconditional: Tensor, scale: float = 12.0) -> Tensor:
    """Classifier-free guidance of a diffusion teacher: 1 is the conditional output, 0 the unconditional."""
    return unconditional + scale * (conditional - unconditional)


@dataclass(frozen=True)
class Guard:
    """Whether rewards cost too much: the task's loss on held-out records against what it was without them."""

    before: float
    limit: float = 0.05

    def __post_init__(self) -> None:
        if not self.before > 0 or not self.limit >= 0:
            raise TrainingError(f"before = {self.before} must be above 0 and limit = {self.limit} not negative")

    def rise(self, now: float) -> float:
        """The part by which the loss rose."""
        return now / self.before - 1

    def holds(self, now: float) -> bool:
        return self.rise(now) <= self.limit
