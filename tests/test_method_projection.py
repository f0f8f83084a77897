"""Subspaces of a gradient: orthonormal bases with fixed signs, sketches, overlap, rotation."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zkaudit.training.errors import TrainingError
from zkaudit.training.optim.projection import PROJECTIONS, Subspace, exact, seeded, sides, sketched

seeds = st.integers(0, 2**32 - 1)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@given(m=st.integers(1, 9), n=st.integers(1, 9), kind=st.sampled_from(PROJECTIONS), seed=seeds)
def test_bases_are_orthonormal_and_their_signs_fixed(m: int, n: int, kind: str, seed: int) -> None:
    gradient, rank = random(m, n, seed=seed), min(m, n)
    for subspace in (exact(gradient, rank, kind), sketched(gradient, rank, kind), seeded(gradient, rank, kind)):
        assert ((subspace.left is not None), (subspace.right is not None)) == sides(gradient.shape, kind)
        for basis in (subspace.left, subspace.right):
            if basis is not None:
                torch.testing.assert_close(basis.T @ basis, torch.eye(rank, dtype=torch.float64))
    one_sided = exact(gradient, rank, "left").left
    assert one_sided is not None
    assert bool((one_sided.amax(0) >= -one_sided.amin(0)).all())
    torch.testing.assert_close(exact(-gradient, rank, "left").left, one_sided)


def test_a_basis_of_bfloat16_comes_from_float32() -> None:
    gradient = random(20, 12, dtype=torch.bfloat16)
    assert exact(gradient, 4).right is not None
    torch.testing.assert_close(exact(gradient, 4).right, exact(gradient.float(), 4).right, rtol=0, atol=0)


@settings(max_examples=20)
@given(rank=st.integers(1, 5), kind=st.sampled_from(PROJECTIONS), seed=seeds)
def test_a_sketch_finds_the_subspace_of_a_low_rank_gradient(rank: int, kind: str, seed: int) -> None:
    gradient = random(30, rank, seed=seed) @ random(rank, 20, seed=seed + 1)
    assert exact(gradient, rank, kind).overlap(sketched(gradient, rank, kind, seed)) == pytest.approx(1, abs=1e-9)


def test_overlap_is_0_of_orthogonal_subspaces_and_needs_the_same_side() -> None:
    identity = torch.eye(6)
    assert Subspace(identity[:, :2]).overlap(Subspace(identity[:, 2:4])) == 0
    assert Subspace(identity[:, :2]).overlap(Subspace(identity[:, 1:3])) == 0.5
    with pytest.raises(TrainingError, match="same side"):
        Subspace(identity).overlap(Subspace(None, identity))


@given(kind=st.sampled_from(PROJECTIONS), seed=seeds)
def test_rotation_is_projecting_what_the_old_subspace_stood_for(kind: str, seed: int) -> None:
    old, new = (exact(random(8, 6, seed=seed + i), 3, kind) for i in range(2))
    low = old.down(random(8, 6, seed=seed + 2))
    torch.testing.assert_close(new.rotate(low, old), new.down(old.up(low)))
    torch.testing.assert_close(old.rotate(low, old), low)
