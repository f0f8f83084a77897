"""CoLM: small sources whole, quotas, greedy facility location, derivatives as autograd has them, and weights that help."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from torch import Tensor, nn

from zkaudit.training.batch.colm import UNIT, CoLMOptions, CoLMSelector, choose, facility_location, quotas
from zkaudit.training.batch.last_layer import LastLayer, example_losses
from zkaudit.training.errors import TrainingError
from zkaudit.training.replay import replay
from zkaudit.training.step_file import StepWriter
from zkaudit.training.steps import StepRecord

codes = st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=1, max_size=9)


def gain(points: np.ndarray, chosen: tuple[int, ...]) -> float:
    distance = cdist(points, points, "cityblock")
    return float((distance.max() - distance)[:, list(chosen)].max(axis=1).sum())


@given(codes, st.data())
def test_each_medoid_is_the_one_that_gains_most(points: list[tuple[int, int]], data: st.DataObject) -> None:
    """Against the definition; ties to the lower number. Greedy reaches 1 - 1/e of the best."""
    count = data.draw(st.integers(1, len(points)))
    array = np.array(points)
    expected: list[int] = []
    for _ in range(count):
        others = [j for j in range(len(points)) if j not in expected]
        expected.append(max(others, key=lambda j: (gain(array, (*expected, j)), -j)))
    found = facility_location(array, count)
    assert sorted(found) == sorted(expected)
    best = max(gain(array, each) for each in itertools.combinations(range(len(points)), count))
    assert gain(array, tuple(found)) >= (1 - 1 / np.e) * best - 1e-9


@given(codes, st.data())
def test_each_example_counts_for_its_nearest_medoid(points: list[tuple[int, int]], data: st.DataObject) -> None:
    found = facility_location(np.array(points), data.draw(st.integers(1, len(points))))
    chosen = sorted(found)
    distance = cdist(points, [points[j] for j in chosen], "cityblock")
    nearest = [chosen[int(d.argmin())] for d in distance]
    for j in chosen:
        nearest[j] = j
    assert found == {j: nearest.count(j) for j in chosen}
    assert sum(found.values()) == len(points)
    assert min(found.values()) >= 1


def test_ties_go_to_the_lower_row_whatever_its_place() -> None:
    options = CoLMOptions(1)
    assert list(choose((9, 2, 5), [(0,), (0,), (0,)], (0, 0, 0), options)) == [1]


@given(st.dictionaries(st.integers(0, 5), st.integers(1, 30), min_size=1), st.data())
def test_quotas_are_proportional_and_use_the_budget_up(counts: dict[int, int], data: st.DataObject) -> None:
    total = sum(counts.values())
    budget = data.draw(st.integers(0, total))
    found = quotas(counts, budget)
    assert sum(found.values()) == budget
    for source, count in counts.items():
        assert budget * count // total <= found[source] <= min(count, budget * count // total + len(counts))
    raised = {s for s in counts if found[s] > budget * counts[s] // total}
    assert all(counts[s] <= counts[o] for s in raised for o in set(counts) - raised if found[o] < counts[o])


def test_every_example_of_a_small_source_is_kept() -> None:
    """In a mixture of 90, 8 and 2%, where a random half would have half of them."""
    generator = np.random.default_rng(0)
    for _ in range(20):
        sources = generator.choice(3, 128, p=[0.9, 0.08, 0.02]).tolist()
        points = [tuple(row) for row in generator.integers(-99, 99, (128, 3)).tolist()]
        chosen = choose(range(128), points, sources, CoLMOptions(64, small=(1, 2)))
        assert len(chosen) == 64
        assert {place for place in range(128) if sources[place] in (1, 2)} <= set(chosen)
        assert all(chosen[place] == 1 for place in chosen if sources[place] in (1, 2))
        assert sum(chosen.values()) == 128


def test_more_of_small_sources_than_there_is_room_are_cut() -> None:
    assert choose((5, 4, 3, 2), [(0,)] * 4, (1, 1, 1, 0), CoLMOptions(2, small=(1,))) == {2: 1, 1: 1}


def small_model(kind: str) -> tuple[nn.Module, dict[str, Tensor]]:
    from streamed_models import MODELS, WORDS, in_float64

    torch.manual_seed(0)
    model = MODELS[kind]()
    in_float64(model.eval())
    ids = torch.randint(WORDS, (5, 11))
    labels = ids.clone()
    labels[:, :4] = -100
    labels[1, 8:] = -100
    return model, {"input_ids": ids, "labels": labels}


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
def test_the_last_layer_alone_gives_each_example_s_loss(kind: str) -> None:
    model, batch = small_model(kind)
    expected = [model(input_ids=ids[None], labels=labels[None]).loss for ids, labels in zip(*batch.values(), strict=True)]
    with torch.no_grad(), LastLayer(model, batch) as last:
        torch.testing.assert_close(last.losses().double(), torch.stack(expected).double(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        example_losses(model(batch["input_ids"]).logits, batch["labels"]).double(),
        torch.stack(expected).double(),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_derivatives_are_those_of_autograd(kind: str) -> None:
    """c_ij = the gradient of example i's loss at the value projection, times probe j."""
    model, batch = small_model(kind)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    selector = CoLMSelector(CoLMOptions(2, probes=3, eps=1e-4), run_seed="a")
    with torch.no_grad(), LastLayer(model, batch) as last:
        found = selector.derivatives(last.losses, last.value_weight)
        part = last.value_weight
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    layer = model.model.layers[-1].self_attn.v_proj if kind == "llama" else model.transformer.h[-1].attn.c_attn
    for i, (ids, labels) in enumerate(zip(*batch.values(), strict=True)):
        model.zero_grad()
        example_losses(model(ids[None]).logits, labels[None]).sum().backward()
        gradient = layer.weight.grad if kind == "llama" else layer.weight.grad[:, -part.shape[1] :]
        expected = [float((gradient * selector.direction(part.shape, j)).sum()) for j in range(3)]
        assert found[i].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_an_adapter_s_b_is_what_is_probed() -> None:
    from peft import LoraConfig, get_peft_model

    model, batch = small_model("llama")
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["v_proj"])).double()
    with torch.no_grad(), LastLayer(adapted, batch) as last:
        assert last.value_weight.shape == (16, 2)
        assert float(CoLMSelector(CoLMOptions(2), run_seed="a").derivatives(last.losses, last.value_weight).abs().max()) > 0


def test_adam_s_normalisation_is_that_of_whole_gradients() -> None:
    """Against c_i z written out in full, over steps, with coordinates chosen for each source."""
    options = CoLMOptions(4, small=(1,), probes=1, weighted=False, adam=True, coordinates=6)
    selector = CoLMSelector(options, run_seed="a")
    z = selector.direction((5, 3), 0).double().flatten()
    m, v = torch.zeros(15).double(), torch.zeros(15).double()
    sources = (0, 2, 0, 1, 2, 0, 0)
    for step in range(1, 4):
        c = torch.randn(7, 1, generator=torch.Generator().manual_seed(step)).double()
        first, second = 0.9 * m + 0.1 * c * z, 0.999 * v + 0.001 * (c * z) ** 2
        r = first / (1 - 0.9**step) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        chosen = selector.choose(c, (5, 3), range(7), sources)
        for source in set(sources):
            rows = [i for i in range(7) if sources[i] == source]
            largest = r[rows].mean(dim=0).abs().argsort(descending=True, stable=True)[:6]
            expected = (r[rows][:, largest] * 2**UNIT).round()
            assert (torch.tensor([chosen.scores[i] for i in rows]) - expected).abs().max() <= 1
        large = [i for i in chosen.places if sources[i] != 1]
        m, v = first[large].mean(dim=0), second[large].mean(dim=0)
        torch.testing.assert_close(selector.first, m)
        torch.testing.assert_close(selector.second, v)
    assert chosen.weights == ()


def test_a_loaded_selector_chooses_alike() -> None:
    one, other = (CoLMSelector(CoLMOptions.paper(2), run_seed="a") for _ in range(2))
    one.choose(torch.randn(5, 1), (4, 2), range(5), [0] * 5)
    other.load_state_dict(one.state_dict())
    assert other.digest() == one.digest() != ""
    c = torch.randn(5, 1)
    assert one.choose(c, (4, 2), range(5), [0] * 5) == other.choose(c, (4, 2), range(5), [0] * 5)


@pytest.mark.parametrize("paper", [False, True])
def test_a_recorded_choice_is_replayed_from_codes_and_sources(tmp_path: Path, paper: bool) -> None:
    options = CoLMOptions.paper(4, (1,)) if paper else CoLMOptions(4, (1,), probes=2)
    selector = CoLMSelector(options, run_seed="a")
    column = np.array([0, 2, 0, 1, 2, 0, 0, 0] * 3)
    rules = {"colm": {"keep": 4, "small": [1], "weighted": options.weighted}}
    with StepWriter(tmp_path, "a", 24, rules, columns={"source": column}, selector="colm") as writer:
        for step in range(3):
            ids = tuple(range(8 * step, 8 * step + 8))
            chosen = selector.choose(torch.randn(8, options.probes), (3, 2), ids, column[list(ids)].tolist())
            writer.write(StepRecord(step, **chosen.fields(ids)))
    done = replay(tmp_path)
    assert done.difference is None
    assert "ids" in done.recomputed
    assert ("weights" in done.recomputed) == options.weighted


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: CoLMOptions(0), "keep = 0"),
        (lambda: CoLMOptions(1, probes=2, adam=True), "probes = 2"),
        (lambda: CoLMOptions(1, eps=0.0), "eps"),
        (lambda: choose((1,), [(0,)], (0,), CoLMOptions(2)), "2 examples cannot be kept of 1"),
        (lambda: CoLMSelector(CoLMOptions(1), run_seed="a").choose(torch.zeros(2, 8), (1,), (3, 3), (0, 0)), "each named once"),
        (lambda: CoLMSelector(CoLMOptions(1), run_seed="a").choose(torch.zeros(2, 8) / 0, (1,), (3, 4), (0, 0)), "lower eps"),
        (lambda: LastLayer(nn.Linear(2, 2), {}), "Linear is not known"),
    ],
)
def test_what_cannot_be_chosen_from_is_named(make: object, sentence: str) -> None:
    with pytest.raises(TrainingError, match=sentence):
        make()  # type: ignore[operator]
