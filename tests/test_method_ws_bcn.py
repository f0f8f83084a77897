"""Weight standardisation and batch-channel normalisation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from zkaudit.training.errors import TrainingError
from zkaudit.training.norm.batch_channel import BatchChannelNorm, convert_batch_norm
from zkaudit.training.norm.weight_standard import fix_weights, standardise_weights


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def convolutional() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.Linear(4, 3),
    ).double()


def test_standardised_weights_have_mean_0_and_deviation_1_by_hand() -> None:
    model = convolutional()
    learnt = model[0].weight.detach().clone()
    standardise_weights(model)
    rows = learnt.reshape(6, 18).numpy()
    by_hand = (rows - rows.mean(1, keepdims=True)) / (rows.std(1, ddof=1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(model[0].weight.detach().reshape(6, 18).numpy(), by_hand, rtol=1e-12)


def test_standardised_convolution_ignores_scale_and_shift_of_its_weights() -> None:
    model, x = convolutional(), random(2, 2, 5, 5)
    standardise_weights(model, eps=1e-14)
    before = model[0](x)
    with torch.no_grad():
        model[0].parametrizations.weight.original.mul_(7).add_(3)
    torch.testing.assert_close(model[0](x), before)


def test_gradient_of_a_standardised_weight_has_no_part_along_shift_or_scale() -> None:
    model, x = convolutional(), random(2, 2, 5, 5)
    standardise_weights(model, eps=1e-14)
    (model[0](x) ** 3).sum().backward()
    original = model[0].parametrizations.weight.original
    centred = original - original.mean((1, 2, 3), keepdim=True)
    assert original.grad.abs().max() > 1
    assert original.grad.sum((1, 2, 3)).abs().max() < 1e-9
    assert (original.grad * centred).sum((1, 2, 3)).abs().max() < 1e-9


def test_what_is_standardised_and_what_is_left_is_listed() -> None:
    model = convolutional()
    model.append(nn.Conv1d(1, 3, 1))
    named = standardise_weights(model)
    assert named.applied == ("0", "3")
    assert named.left == ("1", "4", "6", "7")


def test_fixed_weights_compute_the_same_without_parametrizations() -> None:
    model, x = convolutional(), random(3, 2, 5, 5)
    keys = set(model.state_dict())
    standardise_weights(model)
    before = model.eval()(x)
    fix_weights(model)
    assert torch.equal(model(x), before)
    assert set(model.state_dict()) == keys


def test_a_model_without_convolutions_has_nothing_to_standardise() -> None:
    with pytest.raises(TrainingError, match="no convolution"):
        standardise_weights(nn.Linear(2, 2))


def batch_channel_by_hand(x: np.ndarray, mean: np.ndarray, var: np.ndarray, rate: float, groups: int) -> tuple[np.ndarray, ...]:
    """The paper's micro-batch algorithm, with weights 1 and biases 0, in float64."""
    seen = x.transpose(1, 0, 2, 3).reshape(x.shape[1], -1)
    mean = mean + rate * (seen.mean(1) - mean)
    var = var + rate * (seen.var(1) - var)
    z = (x - mean[None, :, None, None]) / np.sqrt(var[None, :, None, None] + 1e-5)
    grouped = z.reshape(len(x), groups, -1)
    y = (grouped - grouped.mean(-1, keepdims=True)) / np.sqrt(grouped.var(-1, keepdims=True) + 1e-5)
    return y.reshape(x.shape), mean, var


@settings(max_examples=30)
@given(records=st.integers(1, 3), groups=st.sampled_from([1, 2, 4]), rate=st.sampled_from([0.1, 1.0]), seed=st.integers(0, 99))
def test_batch_channel_norm_is_the_papers_algorithm(records: int, groups: int, rate: float, seed: int) -> None:
    norm = BatchChannelNorm(4, groups, rate).double()
    mean, var = np.zeros(4), np.ones(4)
    for step in range(3):
        x = random(records, 4, 3, 2, seed=seed + step) * 2 + 1
        y, mean, var = batch_channel_by_hand(x.numpy(), mean, var, rate, groups)
        np.testing.assert_allclose(norm(x).detach().numpy(), y, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(norm.running_mean.numpy(), mean, rtol=1e-12)
    np.testing.assert_allclose(norm.running_var.numpy(), var, rtol=1e-12)


def test_no_gradient_flows_through_the_estimates() -> None:
    """So that with estimates that follow the batch fully the gradient is still that of fixed numbers."""
    x = random(2, 4, 3, 3).requires_grad_()
    norm = BatchChannelNorm(4, 2, rate=1.0).double()
    (norm(x) ** 3).sum().backward()
    fixed = x.detach().clone().requires_grad_()
    (norm.eval()(fixed) ** 3).sum().backward()
    torch.testing.assert_close(x.grad, fixed.grad, rtol=0, atol=0)


def test_evaluation_leaves_the_estimates_alone() -> None:
    norm = BatchChannelNorm(4, 2).eval()
    norm(torch.randn(3, 4, 2, 2))
    assert torch.equal(norm.running_mean, torch.zeros(4))
    assert torch.equal(norm.running_var, torch.ones(4))


def test_one_records_output_does_not_depend_on_the_others_but_through_the_estimates() -> None:
    norm, x = BatchChannelNorm(4, 2).eval(), torch.randn(3, 4, 2, 2)
    torch.testing.assert_close(norm(x)[1:2], norm(x[1:2]))


def test_two_passes_before_the_backward_one_are_possible() -> None:
    norm = BatchChannelNorm(4, 2)
    (norm(torch.randn(1, 4, 2, 2)).sum() + norm(torch.randn(1, 4, 2, 2)).sum()).backward()
    assert norm.weight.grad is not None


def test_training_from_a_saved_state_goes_on_bit_for_bit() -> None:
    def started() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = convolutional()
        convert_batch_norm(model, groups=2)
        standardise_weights(model)
        return model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)

    def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(random(1, 2, 5, 5, seed=step)), torch.tensor([step % 3])).backward()
            optimizer.step()

    straight, broken, resumed = started(), started(), started()
    train(*straight, range(6))
    train(*broken, range(3))
    for old, new in zip(broken, resumed, strict=True):
        new.load_state_dict(old.state_dict())
    train(*resumed, range(3, 6))
    for key, value in straight[0].state_dict().items():
        assert torch.equal(value, resumed[0].state_dict()[key]), key


def test_converted_norms_are_named_and_take_groups_that_divide() -> None:
    model = convolutional()
    assert convert_batch_norm(model, groups=4) == ("1", "4")
    assert (model[1].groups, model[4].groups) == (3, 4)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_features": 6, "groups": 4}, "groups = 4 does not divide 6"),
        ({"num_features": 6, "groups": 3, "rate": 0.0}, "rate = 0.0 must be above 0"),
    ],
)
def test_bad_options_are_named(options: dict[str, float], sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        BatchChannelNorm(**options)


def test_inputs_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \(N, 4"):
        BatchChannelNorm(4, 2)(torch.ones(2, 3, 1, 1))
