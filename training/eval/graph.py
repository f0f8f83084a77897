"""Self-supervised learning on graphs, judged as GraphFM does (Xu et al. 2024, arXiv 2406.08310).

An encoder is trained without labels, on whole graphs or on parts; its embeddings Z (N, d) are frozen and judged by

    node classification    logistic regression on 20% of the nodes, accuracy on 60% (20% choose when to stop)
    link prediction        logistic regression on Z_u * Z_v, with edges that training did not see: AUC, average precision
    clustering             k-means with as many clusters as classes: NMI and ARI, which do not care how clusters are named

over several seeds, both after the last step and at the step whose validation accuracy was best: which of the two is reported,
and how batches are made, changes the order of methods, so both are. The released protocol evaluates every 250 of 1000 steps.

Graphs are dense here, for some thousands of nodes; `from_data` takes one of torch_geometric, `to_data` gives one back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method
from zkaudit.training.steps import derive_seed

METHOD = Method(
    name="graphfm",
    title="A protocol for self-supervised learning on graphs",
    paper="Xu et al. 2024, arXiv 2406.08310",
    where="zkaudit.training.eval.graph.graph_protocol",
    changes=("evaluation",),
    effect="A benchmark: when to stop and how batches are made change the order of eight methods on six data sets.",
    library="torch_geometric has encoders and sampled batches for large graphs; dense ones, the protocol and a method are ours",
    provable="Splits and the edges held out follow from seeds; a step on a dense graph is products of matrices.",
    server_sees="A node's gradient holds its neighbours' data too; link prediction measures what is told of edges.",
    use=(
        "from zkaudit.training.eval.graph import from_data, graph_protocol\n"
        "from zkaudit.training.eval.graph_ssl import GraphBarlowTwins\n"
        "\n"
        "graph = from_data(data)  # of torch_geometric; from_edges takes tensors\n"
        "learner = lambda graph, seed: GraphBarlowTwins(graph, width=64, seed=seed)\n"
        'for line in graph_protocol(learner, graph, run_seed="7f"):\n'
        "    print(line)"
    ),
    avoid="Graphs of more than some thousands of nodes: adjacency is dense. Accuracy of clusters: it hangs on their names.",
    binding="replayable",
)

Scores = dict[str, float]


@dataclass(frozen=True)
class Graph:
    """features (N, F), adjacency (N, N) of zeros and ones, symmetric without a diagonal, labels (N,) from 0.

    Raises TrainingError for what is none.
    """

    features: Tensor
    adjacency: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        n = len(self.features)
        if self.adjacency.shape != (n, n) or self.labels.shape != (n,) or self.features.dim() != 2:
            raise TrainingError(f"a graph of {n} nodes needs an adjacency ({n}, {n}) and {n} labels")
        if not torch.equal(self.adjacency, self.adjacency.T) or bool(self.adjacency.diagonal().any()):
            raise TrainingError("the adjacency must be symmetric, without loops")
        if not bool(((self.adjacency == 0) | (self.adjacency == 1)).all()):
            raise TrainingError("the adjacency must be of zeros and ones")

    def part(self, nodes: Tensor) -> Graph:
        """The subgraph of some nodes, in their order."""
        return Graph(self.features[nodes], self.adjacency[nodes][:, nodes], self.labels[nodes])


def from_edges(features: Tensor, edges: Tensor, labels: Tensor) -> Graph:
    """Of edges (2, E) in one or both directions; loops are dropped."""
    adjacency = torch.zeros(len(features), len(features))
    adjacency[edges[0], edges[1]] = 1
    return Graph(features, torch.maximum(adjacency, adjacency.T).fill_diagonal_(0), labels)


def from_data(data: Any) -> Graph:
    """Of a torch_geometric.data.Data with `x` (N, F), `edge_index` (2, E) and `y` (N,) or (N, 1): directions, loops and repeats
    of edges are dropped, as are weights and all else. TrainingError for what has not got these, or if the package is missing.
    """
    if not isinstance(data, _geometric().Data):
        raise TrainingError(f"a {type(data).__name__} was given where a torch_geometric.data.Data must be")
    if missing := [name for name in ("x", "edge_index", "y") if getattr(data, name, None) is None]:
        raise TrainingError(f"the data have no {missing[0]}: features x, edges edge_index and labels y are needed")
    labels = data.y.squeeze(1) if data.y.dim() == 2 and data.y.shape[1] == 1 else data.y
    if data.edge_index.numel() and not 0 <= int(data.edge_index.min()) <= int(data.edge_index.max()) < len(data.x):
        raise TrainingError(f"edge_index names a node that is none of the {len(data.x)} of x")
    return from_edges(data.x, data.edge_index, labels)


def to_data(graph: Graph) -> Any:
    """A torch_geometric.data.Data with `x`, `y` and each edge in both directions, in rising order."""
    return _geometric().Data(x=graph.features, edge_index=graph.adjacency.nonzero().T.contiguous(), y=graph.labels)


def _geometric() -> Any:
    try:
        return import_module("torch_geometric.data")
    except ImportError as error:
        raise TrainingError("graphs of torch_geometric need the package: pip install 'zkaudit[graphs]'") from error


class Learner(Protocol):
    """What is judged: `step` trains once, `embed` gives (N, d) for a graph."""

    def step(self) -> None: ...

    def embed(self, graph: Graph) -> Tensor: ...


@dataclass(frozen=True)
class Line:
    """The mean and deviation over seeds of one score, after the last step or at the best validation accuracy."""

    task: str
    stop: str  # "last" or "best"
    mean: float
    deviation: float


def graph_protocol(
    learner: Callable[[Graph, int], Learner],
    graph: Graph,
    run_seed: str,
    seeds: Sequence[int] = (0, 1),
    steps: int = 1000,
    every: int = 250,
    held_out: float = 0.1,
) -> list[Line]:
    """Every score. `learner(graph, seed)` gets the graph without the held-out edges, which link prediction is tested on."""
    if not 1 <= every <= steps or not seeds:
        raise TrainingError(f"every = {every} must be from 1 to steps = {steps}, and there must be a seed")
    found: dict[tuple[str, str], list[float]] = {}
    for seed in seeds:
        derived = derive_seed(run_seed, "eval.graphfm", seed)
        kept, edges, others = without_edges(graph, held_out, derived)
        one, history = learner(kept, seed), list[Scores]()
        for step in range(1, steps + 1):
            one.step()
            if step % every == 0 or step == steps:
                history.append(scores(one.embed(kept), kept, edges, others, derived))
        best = max(history, key=lambda each: each["validation"])
        for stop, each in (("last", history[-1]), ("best", best)):
            for task, value in each.items():
                found.setdefault((task, stop), []).append(value)
    return [Line(task, stop, float(np.mean(values)), float(np.std(values))) for (task, stop), values in found.items()]


def scores(embedding: Tensor, graph: Graph, edges: Tensor, others: Tensor, seed: int) -> Scores:
    """All scores of frozen embeddings: edges (2, E) were held out, others (2, E) are none."""
    z = embedding.detach().cpu().double().numpy()
    validation, test = node_accuracy(z, graph.labels.numpy(), seed)
    auc, precision = link_scores(z, graph, edges, others, seed)
    nmi, ari = cluster_scores(z, graph.labels.numpy(), seed)
    return {"validation": validation, "accuracy": test, "auc": auc, "precision": precision, "nmi": nmi, "ari": ari}


def node_accuracy(embedding: NDArray[Any], labels: NDArray[Any], seed: int) -> tuple[float, float]:
    """Accuracy on validation and test nodes of logistic regression on the training nodes; a random split 20 : 20 : 60."""
    from sklearn.linear_model import LogisticRegression

    order = np.random.default_rng(seed).permutation(len(labels))
    fifth = len(labels) // 5
    train, validation, test = order[:fifth], order[fifth : 2 * fifth], order[2 * fifth :]
    if len(set(labels[train].tolist())) < 2:
        raise TrainingError(f"the {fifth} training nodes are of one class: classification needs more")
    scaled = _standardised(embedding, train)
    model = LogisticRegression(max_iter=300).fit(scaled[train], labels[train])
    return float(model.score(scaled[validation], labels[validation])), float(model.score(scaled[test], labels[test]))


def link_scores(embedding: NDArray[Any], graph: Graph, edges: Tensor, others: Tensor, seed: int) -> tuple[float, float]:
    """AUC and average precision of held-out edges against pairs that are none, learned from the graph's own edges."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import average_precision_score, roc_auc_score

    known = graph.adjacency.triu().nonzero().T
    taken = torch.cat([edges, others], 1)
    none = _pairs_without_edge(graph.adjacency, known.shape[1], np.random.default_rng(seed + 1), taken)
    pairs = torch.cat([known, none], 1).numpy()
    target = np.repeat([1, 0], [known.shape[1], none.shape[1]])
    tested = taken.numpy()
    features = embedding[pairs[0]] * embedding[pairs[1]]
    scale = _scale(features)
    model = LogisticRegression(max_iter=300).fit((features - scale[0]) / scale[1], target)
    found = model.decision_function((embedding[tested[0]] * embedding[tested[1]] - scale[0]) / scale[1])
    truth = np.repeat([1, 0], [edges.shape[1], others.shape[1]])
    return float(roc_auc_score(truth, found)), float(average_precision_score(truth, found))


def cluster_scores(embedding: NDArray[Any], labels: NDArray[Any], seed: int) -> tuple[float, float]:
    """NMI and ARI of k-means against the classes."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    clusters = KMeans(len(set(labels.tolist())), n_init=10, random_state=seed % 2**32).fit_predict(embedding)
    return float(normalized_mutual_info_score(labels, clusters)), float(adjusted_rand_score(labels, clusters))


def without_edges(graph: Graph, part: float, seed: int) -> tuple[Graph, Tensor, Tensor]:
    """The graph less a part of its edges; those edges (2, E), and as many pairs that were no edge."""
    edges = graph.adjacency.triu().nonzero().T
    count = round(part * edges.shape[1])
    if not 0 < count < edges.shape[1]:
        raise TrainingError(f"held_out = {part} of {edges.shape[1]} edges leaves nothing to test on or to learn from")
    draws = np.random.default_rng(seed)
    gone = edges[:, torch.as_tensor(draws.permutation(edges.shape[1])[:count])]
    others = _pairs_without_edge(graph.adjacency, count, draws)
    adjacency = graph.adjacency.clone()
    adjacency[gone[0], gone[1]] = adjacency[gone[1], gone[0]] = 0
    return Graph(graph.features, adjacency, graph.labels), gone, others


def _pairs_without_edge(adjacency: Tensor, count: int, draws: np.random.Generator, taken: Tensor | None = None) -> Tensor:
    """`count` different pairs u < v (2, count) that are no edge and not among `taken`."""
    free = (adjacency == 0).triu(1)
    if taken is not None:
        free[taken[0], taken[1]] = False
    pairs = free.nonzero().T
    if pairs.shape[1] < count:
        raise TrainingError(f"the graph has {pairs.shape[1]} pairs without an edge: {count} are needed")
    return pairs[:, torch.as_tensor(draws.choice(pairs.shape[1], count, replace=False))]


def _scale(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    deviation = values.std(0)
    return values.mean(0), np.where(deviation > 0, deviation, 1.0)


def _standardised(values: NDArray[Any], rows: NDArray[Any]) -> NDArray[Any]:
    mean, deviation = _scale(values[rows])
    found: NDArray[Any] = (values - mean) / deviation
    return found


class RandomEncoder:
    """A Learner that learns nothing: an encoder as it was made, to compare with."""

    def __init__(self, encoder: nn.Module) -> None:
        self.encoder = encoder.eval()

    def step(self) -> None:
        """Nothing."""

    @torch.no_grad()
    def embed(self, graph: Graph) -> Tensor:
        found: Tensor = self.encoder(graph.features, graph.adjacency)
        return found
