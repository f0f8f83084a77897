"""The protocol for graphs: held-out edges stay out, scores are scikit-learn's, and learners are compared alike."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import Tensor

from zkaudit.training.errors import TrainingError
from zkaudit.training.eval.graph import (
    Graph,
    RandomEncoder,
    cluster_scores,
    from_edges,
    graph_protocol,
    link_scores,
    node_accuracy,
    without_edges,
)
from zkaudit.training.eval.graph_ssl import (
    Augmentation,
    GraphBarlowTwins,
    GraphConvolution,
    barlow_twins,
    clusters,
    normalised,
    stochastic_blocks,
)

SMALL = stochastic_blocks((30, 30), inside=0.3, between=0.05, features=6)


def test_convolution_is_the_equation_in_numpy() -> None:
    encoder = GraphConvolution(6, 4, seed=0)
    a = SMALL.adjacency.numpy() + np.eye(60)
    scale = np.diag(a.sum(1) ** -0.5)
    smooth = scale @ a @ scale
    hidden = smooth @ (SMALL.features.numpy() @ encoder.first.weight.detach().numpy().T + encoder.first.bias.detach().numpy())
    hidden = np.where(hidden > 0, hidden, encoder.act.weight.item() * hidden)
    expected = smooth @ (hidden @ encoder.second.weight.detach().numpy().T + encoder.second.bias.detach().numpy())
    np.testing.assert_allclose(encoder(SMALL.features, SMALL.adjacency).detach(), expected, atol=1e-5)
    np.testing.assert_allclose(normalised(SMALL.adjacency), smooth, atol=1e-6)


@given(n=st.integers(3, 12), d=st.integers(1, 5), seed=st.integers(0, 99))
def test_the_loss_is_of_the_cross_correlation(n: int, d: int, seed: int) -> None:
    draws = np.random.default_rng(seed)
    first, second = draws.standard_normal((2, n, d))
    c = (
        np.corrcoef(first.T, second.T).reshape(2 * d, 2 * d)[:d, d:]
        if d > 1
        else np.corrcoef(first[:, 0], second[:, 0])[:1, 1:]
    )
    off = c**2 - np.diag(np.diag(c) ** 2)
    expected = ((1 - np.diag(c)) ** 2).sum() + off.sum() / d
    assert float(barlow_twins(torch.tensor(first), torch.tensor(second))) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@given(part=st.floats(0.05, 0.9), seed=st.integers(0, 2**64 - 1))
def test_held_out_edges_are_gone_and_others_never_were(part: float, seed: int) -> None:
    kept, edges, others = without_edges(SMALL, part, seed)
    assert edges.shape == others.shape
    assert SMALL.adjacency[edges[0], edges[1]].all()
    assert not kept.adjacency[edges[0], edges[1]].any()
    assert not kept.adjacency[edges[1], edges[0]].any()
    assert not SMALL.adjacency[others[0], others[1]].any()
    assert len({tuple(pair) for pair in torch.cat([edges, others], 1).T.tolist()}) == 2 * edges.shape[1]
    assert int(kept.adjacency.sum()) == int(SMALL.adjacency.sum()) - 2 * edges.shape[1]


def test_a_perfect_embedding_scores_1_and_a_random_one_chance() -> None:
    labels = SMALL.labels.numpy()
    perfect = np.eye(2)[labels] + 0.01 * np.random.default_rng(0).standard_normal((60, 2))
    assert node_accuracy(perfect, labels, 0) == (1.0, 1.0)
    assert cluster_scores(perfect, labels, 0) == (pytest.approx(1.0), pytest.approx(1.0))
    noise = np.random.default_rng(1).standard_normal((60, 2))
    assert abs(cluster_scores(noise, labels, 0)[1]) < 0.15
    assert node_accuracy(noise, labels, 0)[1] < 0.75


def test_clusters_need_no_names() -> None:
    labels = np.array([1] * 30 + [0] * 30)
    perfect = np.eye(2)[1 - labels]
    assert cluster_scores(perfect, labels, 3) == (pytest.approx(1.0), pytest.approx(1.0))


def test_link_scores_are_of_the_held_out_pairs() -> None:
    """With the true probability of an edge as the only feature, AUC is that of the probability itself."""
    graph = stochastic_blocks((40, 40), inside=0.4, between=0.02)
    kept, edges, others = without_edges(graph, 0.3, 0)
    sign = np.where(graph.labels.numpy() == 0, -1.0, 1.0)[:, None]
    tested = torch.cat([edges, others], 1).numpy()
    truth = np.repeat([1, 0], edges.shape[1])
    expected = roc_auc_score(truth, sign[tested[0], 0] * sign[tested[1], 0])
    assert link_scores(sign, kept, edges, others, 0)[0] == pytest.approx(expected)


def test_the_protocol_gives_every_score_at_the_last_and_at_the_best_step() -> None:
    class Counting(RandomEncoder):
        count = 0

        def step(self) -> None:
            Counting.count += 1

    seen: list[Graph] = []

    def learner(graph: Graph, seed: int) -> RandomEncoder:
        seen.append(graph)
        return Counting(GraphConvolution(6, 4, seed))

    lines = graph_protocol(learner, SMALL, "run", seeds=(0, 1, 2), steps=6, every=4)
    assert Counting.count == 3 * 6
    assert {(line.task, line.stop) for line in lines} == {
        (task, stop) for task in ("validation", "accuracy", "auc", "precision", "nmi", "ari") for stop in ("last", "best")
    }
    found = {(line.task, line.stop): line.mean for line in lines}
    assert all(found[task, "last"] == found[task, "best"] for task in ("accuracy", "auc"))  # nothing was learned
    assert all(graph.adjacency.sum() < SMALL.adjacency.sum() for graph in seen)
    assert lines == graph_protocol(learner, SMALL, "run", seeds=(0, 1, 2), steps=6, every=4)


def test_the_best_step_is_that_of_the_best_validation_accuracy() -> None:
    class Forgets:
        """Knows the classes at the first evaluation and nothing after."""

        steps = 0

        def step(self) -> None:
            self.steps += 1

        def embed(self, graph: Graph) -> Tensor:
            known = torch.eye(2)[graph.labels]
            forgotten = torch.randn(known.shape, generator=torch.Generator().manual_seed(0))
            return known if self.steps <= 2 else forgotten

    found = {(line.task, line.stop): line.mean for line in graph_protocol(lambda g, s: Forgets(), SMALL, "r", (0,), 6, 2)}
    assert found["accuracy", "best"] == 1.0
    assert found["accuracy", "last"] < 0.7


@pytest.mark.parametrize("batch", ["full", "nodes", "clusters"])
def test_training_lowers_the_loss_on_the_whole_graph(batch: str) -> None:
    learner = GraphBarlowTwins(SMALL, width=8, seed=1, batch=batch, size=4)
    generator = torch.Generator().manual_seed(9)
    views = [[Augmentation().view(SMALL, generator) for _ in range(2)] for _ in range(8)]

    def loss() -> float:
        with torch.no_grad():
            return sum(float(barlow_twins(*(learner.encoder(*view) for view in pair))) for pair in views)

    before = loss()
    for _ in range(100):
        learner.step()
    assert loss() < 0.96 * before


def test_a_view_leaves_out_whole_edges_and_columns() -> None:
    features, adjacency = Augmentation(0.5, 0.5).view(SMALL, torch.Generator().manual_seed(0))
    assert torch.equal(adjacency, adjacency.T)
    assert bool((adjacency <= SMALL.adjacency).all())
    assert 0.35 < float(adjacency.sum() / SMALL.adjacency.sum()) < 0.65
    gone = (features == 0).all(0)
    assert gone.any()
    assert torch.equal(features[:, ~gone], SMALL.features[:, ~gone])
    same = Augmentation(0.0, 0.0).view(SMALL, torch.Generator())
    assert torch.equal(same[0], SMALL.features)
    assert torch.equal(same[1], SMALL.adjacency)


@given(count=st.integers(1, 60))
def test_clusters_part_the_nodes_evenly(count: int) -> None:
    parts = clusters(SMALL.adjacency, count)
    assert sorted(torch.cat(parts).tolist()) == list(range(60))
    assert {len(part) for part in parts} <= {60 // count, -(-60 // count)}


def test_clusters_follow_edges() -> None:
    two = torch.block_diag(torch.ones(4, 4), torch.ones(4, 4)).fill_diagonal_(0)
    order = torch.tensor([0, 4, 1, 5, 2, 6, 3, 7])
    mixed = two[order][:, order]
    assert [part.tolist() for part in clusters(mixed, 2)] == [[0, 2, 4, 6], [1, 3, 5, 7]]


def test_a_graph_of_torch_geometrics_shape_is_taken() -> None:
    data = SimpleNamespace(
        x=torch.randn(3, 2), edge_index=torch.tensor([[0, 1, 2, 2], [1, 0, 0, 2]]), y=torch.tensor([0, 1, 1])
    )
    graph = from_edges(data.x, data.edge_index, data.y)
    assert graph.adjacency.tolist() == [[0, 1, 1], [1, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Graph(torch.zeros(2, 1), torch.zeros(3, 3), torch.zeros(2)), "a graph of 2 nodes"),
        (lambda: Graph(torch.zeros(2, 1), torch.tensor([[0.0, 1], [0, 0]]), torch.zeros(2)), "symmetric"),
        (lambda: Graph(torch.zeros(2, 1), torch.tensor([[0.0, 2], [2, 0]]), torch.zeros(2)), "zeros and ones"),
        (lambda: without_edges(SMALL, 0.0, 0), "held_out = 0.0"),
        (lambda: graph_protocol(lambda g, s: None, SMALL, "r", steps=2, every=3), "every = 3"),
        (lambda: GraphBarlowTwins(SMALL, batch="half"), "none of full, nodes, clusters"),
        (lambda: GraphBarlowTwins(SMALL, size=61), "size = 61"),
        (lambda: Augmentation(edges=1.0), "edges = 1.0"),
        (lambda: node_accuracy(np.zeros((10, 1)), np.zeros(10), 0), "one class"),
    ],
)
def test_what_cannot_be_used_is_named(make: object, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        make()
