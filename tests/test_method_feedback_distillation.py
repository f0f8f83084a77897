"""Feedback distillation: squared error to the teacher, less scaled rewards; only the student learns."""

import pytest
import torch
from torch import Tensor, nn

from zkaudit.training.errors import TrainingError
from zkaudit.training.objectives.feedback_distillation import FeedbackDistillation, Guard, Reward, guided

X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2)).double()


def first_column(output: Tensor, inputs: Tensor) -> Tensor:
    return output[:, 0]


def against_inputs(output: Tensor, inputs: Tensor) -> Tensor:
    return -(output[:, 1] - inputs[:, 1]).square()


REWARDS = {"image": Reward(first_column, 1.0), "video": Reward(against_inputs, 2.0)}


def test_the_loss_is_squared_error_less_the_scaled_rewards_and_so_is_its_gradient() -> None:
    teacher, output = network(1), torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    terms = FeedbackDistillation(teacher, REWARDS)(output, X)
    target = teacher(X)
    rewards = output[:, 0].mean(), -((output[:, 1] - X[:, 1]) ** 2).mean()
    torch.testing.assert_close(terms.total, ((output - target) ** 2).mean() - rewards[0] - 2 * rewards[1])
    torch.testing.assert_close(terms.rewards, {"image": rewards[0], "video": rewards[1]})
    terms.total.backward()
    expected = 2 * (output - target).detach() / 10
    expected[:, 0] -= 1 / 5
    expected[:, 1] += 4 * (output[:, 1] - X[:, 1]).detach() / 5
    torch.testing.assert_close(output.grad, expected)


def test_only_the_student_learns_and_the_teacher_has_no_dropout() -> None:
    teacher, student = network(1).train(), network(2)
    objective = FeedbackDistillation(teacher, REWARDS)
    terms = [objective(student.eval()(X), X) for _ in range(2)]
    assert terms[0].total == terms[1].total
    terms[0].total.backward()
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.grad is not None for parameter in student.parameters())


def test_a_student_equal_to_its_teacher_has_no_distillation_loss() -> None:
    teacher = network(1)
    terms = FeedbackDistillation(teacher)(teacher.eval()(X), X)
    assert terms.total == terms.distillation == 0


def test_a_teacher_can_be_asked_with_guidance() -> None:
    teacher = network(1)
    objective = FeedbackDistillation(teacher, ask=lambda model, x: guided(model(x), model(torch.zeros_like(x)), scale=3.0))
    target = 3 * teacher.eval()(X) - 2 * teacher(torch.zeros_like(X))
    torch.testing.assert_close(objective(torch.zeros(5, 2, dtype=torch.float64), X).total, (target**2).mean())


def test_guidance_of_1_is_the_conditional_output_and_of_0_the_unconditional() -> None:
    assert torch.equal(guided(X, torch.zeros_like(X), 1.0), X)
    assert torch.equal(guided(X, torch.ones_like(X), 0.0), torch.ones_like(X))


def test_the_guard_holds_up_to_its_limit() -> None:
    guard = Guard(before=2.0, limit=0.05)
    assert guard.holds(2.099)
    assert not guard.holds(2.101)
    assert guard.rise(1.0) == -0.5


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: FeedbackDistillation(network(1))(torch.zeros(5, 3), X), "the student gives"),
        (
            lambda: FeedbackDistillation(network(1), {"bad": Reward(lambda o, x: o, 1.0)})(network(2)(X), X),
            "reward 'bad' gives",
        ),
        (lambda: Guard(0.0), "before = 0.0"),
    ],
)
def test_what_does_not_fit_is_named(make: object, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        make()
