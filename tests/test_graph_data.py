"""Graphs of torch_geometric: there and back, against its own conversions, and what is missing is named."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Data
from torch_geometric.utils import remove_self_loops, to_dense_adj, to_undirected

from zkaudit.training.errors import TrainingError
from zkaudit.training.eval.graph import Graph, from_data, to_data
from zkaudit.training.eval.graph_ssl import stochastic_blocks

X, Y, EDGES = torch.randn(4, 3), torch.tensor([0, 1, 1, 0]), torch.tensor([[0, 2], [1, 1]])


@given(n=st.integers(2, 9), edges=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=30))
@settings(max_examples=40, deadline=None)
def test_edges_are_those_of_torch_geometric_s_undirected_graph(n: int, edges: list[tuple[int, int]]) -> None:
    index = torch.tensor([edge for edge in edges if max(edge) < n], dtype=torch.int64).reshape(-1, 2).T
    data = Data(x=torch.randn(n, 2), edge_index=index, y=torch.arange(n))
    undirected = remove_self_loops(to_undirected(index, num_nodes=n))[0]
    graph = from_data(data)
    assert torch.equal(graph.adjacency, to_dense_adj(undirected, max_num_nodes=n)[0])
    back = to_data(graph)
    assert torch.equal(back.edge_index, undirected)
    assert (back.x is data.x, back.y is data.y) == (True, True)


def test_a_graph_comes_back_as_it_was() -> None:
    graph = stochastic_blocks((12, 9), inside=0.4, between=0.1, features=5)
    data = to_data(graph)
    assert data.validate()
    assert data.is_undirected()
    assert not data.has_self_loops()
    back: Graph = from_data(data)
    for name in ("features", "adjacency", "labels"):
        assert torch.equal(getattr(back, name), getattr(graph, name))
    assert torch.equal(from_data(Data(x=X, edge_index=EDGES, y=Y[:, None])).labels, Y)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"x": X}, "a dict was given"),
        (Data(edge_index=EDGES, y=Y), "no x"),
        (Data(x=X, y=Y), "no edge_index"),
        (Data(x=X, edge_index=EDGES), "no y"),
        (Data(x=X, edge_index=EDGES + 2, y=Y), "none of the 4"),
        (Data(x=X, edge_index=EDGES - 1, y=Y), "none of the 4"),
        (Data(x=X, edge_index=EDGES, y=Y[:3]), "4 labels"),
    ],
)
def test_data_that_are_no_such_graph_are_named(data: Any, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        from_data(data)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Data(x=X, edge_index=EDGES, y=Y)
    monkeypatch.setitem(sys.modules, "torch_geometric.data", None)
    for call in (lambda: from_data(data), lambda: to_data(stochastic_blocks((3, 3), inside=0.9, between=0.1, features=2))):
        with pytest.raises(TrainingError, match=r"pip install 'zkaudit\[graphs\]'"):
            call()
