"""Graph Barlow Twins, a method to judge by graph.py, and graphs of stochastic blocks to judge it on (Bielak et al. 2022, arXiv
2106.02466).

Two views of a graph, with a part of the edges and of the features left out, are encoded to Z and Z' (N, d); with columns
standardised and C = Z^T Z' / N,

    loss = sum_i (1 - C_ii)^2 + (1 / d) sum_(i != j) C_ij^2

The encoder is a graph convolution of two layers, H = act(S X W) with S = D^(-1/2) (A + I) D^(-1/2), for dense A. Batches are
the whole graph, the subgraph of sampled nodes and their neighbours, or one of a few clusters of neighbouring nodes in turn."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zkaudit.training.errors import TrainingError
from zkaudit.training.eval.graph import Graph
from zkaudit.training.steps import derive_seed

BATCHES = ("full", "nodes", "clusters")


class GraphConvolution(nn.Module):
    """Two layers from features (N, F) to (N, width)."""

    def __init__(self, features: int, width: int, seed: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(features, 2 * width), nn.Linear(2 * width, width)
        self.act = nn.PReLU()
        generator = seeded(seed, "weights")
        with torch.no_grad():
            for layer in (self.first, self.second):
                bound = (6 / (layer.in_features + layer.out_features)) ** 0.5
                layer.weight.uniform_(-bound, bound, generator=generator)
                layer.bias.zero_()

    def forward(self, features: Tensor, adjacency: Tensor) -> Tensor:
        smooth = normalised(adjacency)
        found: Tensor = smooth @ self.second(self.act(smooth @ self.first(features)))
        return found


def normalised(adjacency: Tensor) -> Tensor:
    """D^(-1/2) (A + I) D^(-1/2), with the degrees D of A + I."""
    loops = adjacency + torch.eye(len(adjacency), dtype=adjacency.dtype)
    scale = loops.sum(1).rsqrt()
    return scale[:, None] * loops * scale


def seeded(seed: int, purpose: str) -> torch.Generator:
    """Draws for one purpose: with one seed for all, views would leave out the very edges that the graph's draws had made."""
    return torch.Generator().manual_seed(derive_seed(str(seed), f"eval.graph.{purpose}", 0) % 2**63)


@dataclass(frozen=True)
class Augmentation:
    """The parts of edges and of features that a view leaves out."""

    edges: float = 0.4
    features: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.edges < 1 or not 0 <= self.features < 1:
            raise TrainingError(f"edges = {self.edges} and features = {self.features} to leave out must be from 0 to below 1")

    def view(self, graph: Graph, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Features and adjacency with columns set to 0 and edges removed, both directions of one together."""
        kept = (torch.rand(graph.adjacency.shape, generator=generator) >= self.edges).triu(1)
        columns = torch.rand(graph.features.shape[1], generator=generator) >= self.features
        return graph.features * columns, graph.adjacency * (kept | kept.T)


class GraphBarlowTwins:
    """A Learner. `batch` is one of BATCHES; `size` is how many nodes a batch samples, or the number of clusters.

    Raises TrainingError for another batch, or a size that the graph does not have.
    """

    def __init__(
        self,
        graph: Graph,
        width: int = 64,
        seed: int = 0,
        lr: float = 0.005,
        augmentation: Augmentation | None = None,
        batch: str = "full",
        size: int = 8,
    ) -> None:
        if batch not in BATCHES:
            raise TrainingError(f"batch = {batch!r} is none of {', '.join(BATCHES)}")
        if not 1 <= size <= len(graph.features):
            raise TrainingError(f"size = {size} must be from 1 to the number of nodes, {len(graph.features)}")
        self.graph, self.augmentation, self.batch, self.size = graph, augmentation or Augmentation(), batch, size
        self.encoder = GraphConvolution(graph.features.shape[1], width, seed)
        self.optimizer = torch.optim.AdamW(self.encoder.parameters(), lr, weight_decay=1e-5)
        self.generator = seeded(seed, "views")
        self.parts = clusters(graph.adjacency, size) if batch == "clusters" else []
        self.steps = 0

    def step(self) -> None:
        part = self._part()
        views = [self.encoder(*self.augmentation.view(part, self.generator)) for _ in range(2)]
        self.optimizer.zero_grad()
        torch.autograd.backward(barlow_twins(*views))
        self.optimizer.step()
        self.steps += 1

    @torch.no_grad()
    def embed(self, graph: Graph) -> Tensor:
        found: Tensor = self.encoder(graph.features, graph.adjacency)
        return found

    def _part(self) -> Graph:
        if self.batch == "full":
            return self.graph
        if self.batch == "clusters":
            return self.graph.part(self.parts[self.steps % len(self.parts)])
        chosen = torch.randperm(len(self.graph.features), generator=self.generator)[: self.size]
        near = self.graph.adjacency[chosen].any(0)
        near[chosen] = True
        return self.graph.part(near.nonzero()[:, 0])


def barlow_twins(first: Tensor, second: Tensor) -> Tensor:
    """The loss of two views' embeddings (N, d)."""
    n, d = first.shape
    a, b = ((z - z.mean(0)) / (z.std(0, correction=0) + 1e-15) for z in (first, second))
    c = a.T @ b / n
    diagonal = c.diagonal()
    return (1 - diagonal).square().sum() + (c.square().sum() - diagonal.square().sum()) / d


def clusters(adjacency: Tensor, count: int) -> list[Tensor]:
    """`count` parts of nearly equal size, grown breadth first from the lowest node that is free; nodes in order of number."""
    n = len(adjacency)
    free, found = [True] * n, list[Tensor]()
    for number in range(count):
        wanted = (n * (number + 1)) // count - (n * number) // count
        part: list[int] = []
        queue: list[int] = []
        while len(part) < wanted:
            node = queue.pop(0) if queue else free.index(True)
            if free[node]:
                free[node] = False
                part.append(node)
                queue += [other for other in adjacency[node].nonzero()[:, 0].tolist() if free[other]]
        found.append(torch.tensor(sorted(part)))
    return found


def stochastic_blocks(
    sizes: tuple[int, ...] = (150, 150, 150, 150),
    inside: float = 0.05,
    between: float = 0.015,
    features: int = 32,
    signal: float = 0.5,
    seed: int = 0,
) -> Graph:
    """Blocks of nodes that are joined with probability `inside`, and `between` them; features are a block's own random mean of
    length about `signal`, and noise of deviation 1."""
    generator = seeded(seed, "blocks")
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    chance = torch.where(labels[:, None] == labels, inside, between)
    upper = (torch.rand(chance.shape, generator=generator) < chance).float().triu(1)
    means = torch.nn.functional.normalize(torch.randn(len(sizes), features, generator=generator)) * signal
    noisy = means[labels] + torch.randn(len(labels), features, generator=generator)
    return Graph(noisy, upper + upper.T, labels)
