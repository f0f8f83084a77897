"""View consistency: the first view is the target, groups and not labels say which rows are views of one record."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import rel_entr, softmax
from torch import Tensor
from torch.nn import functional as F

from zkaudit.training.errors import TrainingError
from zkaudit.training.objectives.view_consistency import ViewConsistency, first_rows, view_divergence


def logits_of(rows: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(groups=st.lists(st.integers(0, 4), min_size=1, max_size=12), seed=st.integers(0, 99))
def test_it_is_the_mean_divergence_from_each_groups_first_row(groups: list[int], seed: int) -> None:
    logits = logits_of(len(groups), seed)
    p = softmax(logits.numpy(), axis=1)
    parts = [rel_entr(p[groups.index(g)], p[row]).sum() for row, g in enumerate(groups) if groups.index(g) != row]
    expected = np.mean(parts) if parts else 0.0
    assert float(view_divergence(logits, torch.tensor(groups))) == pytest.approx(expected, abs=1e-12)
    assert first_rows(torch.tensor(groups)).tolist() == [groups.index(g) for g in groups]


def test_neighbours_of_one_class_are_not_views_of_one_record() -> None:
    """What the released code, which looks at labels, mixes up."""
    logits, labels = logits_of(4), torch.tensor([3, 3, 3, 3])
    apart = ViewConsistency(after_epoch=-1)(logits, labels, torch.arange(4), epoch=0)
    assert apart == F.cross_entropy(logits, labels)
    pairs = ViewConsistency(after_epoch=-1)(logits, labels, torch.tensor([0, 0, 1, 1]), epoch=0)
    expected = (
        view_divergence(logits[:2], torch.zeros(2, dtype=int)) + view_divergence(logits[2:], torch.zeros(2, dtype=int))
    ) / 2
    torch.testing.assert_close(pairs, F.cross_entropy(logits, labels) + expected)


def test_the_first_view_gets_no_gradient() -> None:
    logits = logits_of(4).requires_grad_()
    view_divergence(logits, torch.tensor([7, 7, 7, 2])).backward()
    assert logits.grad is not None
    assert not logits.grad[[0, 3]].any()
    others = (F.softmax(logits[1:3], 1) - F.softmax(logits[:1], 1)).detach() / 2
    torch.testing.assert_close(logits.grad[1:3], others)


def test_it_starts_after_its_epoch_and_paper_scale_is_the_mean_over_elements() -> None:
    logits, labels, groups = logits_of(2), torch.tensor([0, 1]), torch.tensor([4, 4])
    plain = F.cross_entropy(logits, labels)
    objective = ViewConsistency(weight=2.0, paper_scale=True)
    assert objective(logits, labels, groups, epoch=5) == plain
    released = F.kl_div(F.log_softmax(logits[1:], 1), F.softmax(logits[:1], 1), reduction="none").mean()
    torch.testing.assert_close(objective(logits, labels, groups, epoch=6), plain + 2 * released)


def test_a_batch_without_second_views_still_has_a_gradient() -> None:
    logits = logits_of(3).requires_grad_()
    view_divergence(logits, torch.arange(3)).backward()
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ViewConsistency(weight=-1), "weight = -1"),
        (lambda: view_divergence(logits_of(3), torch.arange(2)), "must be 3 whole numbers"),
        (lambda: view_divergence(logits_of(3), torch.zeros(3)), "must be 3 whole numbers"),
    ],
)
def test_what_does_not_fit_is_named(make: object, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        make()
