"""BatchFormer: attention over the batch in training, the identity in use."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from zkaudit.training.errors import TrainingError
from zkaudit.training.models.batch_former import BatchFormer


def attention_by_hand(layer: nn.TransformerEncoderLayer, x: Tensor, heads: int) -> Tensor:
    """One post-norm encoder layer over the rows of x (N, C), from its equations."""
    attention = layer.self_attn
    q, k, v = (x @ attention.in_proj_weight.T + attention.in_proj_bias).chunk(3, dim=1)
    parts = []
    for q_h, k_h, v_h in zip(q.chunk(heads, 1), k.chunk(heads, 1), v.chunk(heads, 1), strict=True):
        parts.append(torch.softmax(q_h @ k_h.T / q_h.shape[1] ** 0.5, dim=1) @ v_h)
    x = layer.norm1(x + attention.out_proj(torch.cat(parts, dim=1)))
    return layer.norm2(x + layer.linear2(torch.relu(layer.linear1(x))))


@settings(max_examples=20)
@given(records=st.integers(2, 9), heads=st.sampled_from([1, 2, 4]), seed=st.integers(0, 99))
def test_second_half_is_an_encoder_layer_over_the_batch(records: int, heads: int, seed: int) -> None:
    torch.manual_seed(seed)
    former, features = BatchFormer(8, heads, dropout=0.0).double(), torch.randn(records, 8).double()
    mixed, labels = former(features, torch.arange(records))
    torch.testing.assert_close(attention_by_hand(former.encoder, features, heads), mixed[records:])
    assert torch.equal(features, mixed[:records])
    assert labels.tolist() == 2 * list(range(records))


def test_in_use_features_and_labels_pass_unchanged() -> None:
    former, features, labels = BatchFormer(8).eval(), torch.randn(5, 8), torch.arange(5)
    found, found_labels = former(features, labels)
    assert found is features
    assert found_labels is labels


def test_order_of_records_does_not_matter_but_company_does() -> None:
    torch.manual_seed(0)
    former, features, order = BatchFormer(8, dropout=0.0).double(), torch.randn(6, 8).double(), torch.randperm(6)
    whole = former(features, torch.arange(6))[0][6:]
    torch.testing.assert_close(whole[order], former(features[order], order)[0][6:])
    assert not torch.allclose(whole[:3], former(features[:3], torch.arange(3))[0][3:])


def test_a_records_loss_moves_the_features_of_others() -> None:
    torch.manual_seed(0)
    former, features = BatchFormer(8), torch.randn(4, 8, requires_grad=True)
    former(features, torch.arange(4))[0][4].square().sum().backward()
    assert (features.grad[1:].abs().sum(dim=1) > 0).all()


def test_a_batch_of_one_is_passed_on_and_counted() -> None:
    former, features, labels = BatchFormer(8), torch.randn(1, 8), torch.zeros(1)
    assert former(features, labels)[0] is features
    assert former.passed_on == 1


def test_a_run_goes_on_bit_for_bit_after_its_state_is_loaded() -> None:
    def steps(former: BatchFormer, optimizer: torch.optim.Optimizer) -> None:
        torch.manual_seed(3)
        for _ in range(3):
            optimizer.zero_grad()
            features, labels = former(torch.randn(6, 8), torch.arange(6) % 8)
            F.cross_entropy(features, labels).backward()
            optimizer.step()

    former, other = BatchFormer(8), BatchFormer(8)
    optimizer, again = torch.optim.Adam(former.parameters()), torch.optim.Adam(other.parameters())
    steps(former, optimizer)
    other.load_state_dict(copy.deepcopy(former.state_dict()))
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(former, optimizer)
    steps(other, again)
    assert all(torch.equal(a, b) for a, b in zip(former.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 10}, "4 does not divide 10"),
        ({"width": 8, "dropout": 1.0}, "dropout"),
        ({"width": 8, "feedforward": 0}, "feedforward"),
    ],
)
def test_bad_options_are_named(options: dict[str, float], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        BatchFormer(**options)


@pytest.mark.parametrize(("features", "labels"), [((4, 7), 4), ((4, 2, 8), 4), ((4, 8), 3)])
def test_features_and_labels_of_other_shapes_are_refused(features: tuple[int, ...], labels: int) -> None:
    with pytest.raises(TrainingError, match="BatchFormer needs"):
        BatchFormer(8)(torch.zeros(features), torch.zeros(labels))
