"""Population based training: the paper's toy problem, who copies whom, repeatable runs, and lines of descent."""

import copy
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zkaudit.training.errors import TrainingError
from zkaudit.training.search.population import Choice, Population, PopulationOptions, Range, ray_scheduler

Theta = list[float]
TOY_SPACE = {"h0": Range(0.0, 1.0), "h1": Range(0.0, 1.0)}


def toy(options: PopulationOptions, first: list[dict[str, float]] | None = None) -> Population[Theta]:
    """Maximise 1.2 - |theta|^2, with steps along the gradient of 1.2 - h0 theta_0^2 - h1 theta_1^2 only."""

    def train(theta: Theta, hypers: dict[str, float], steps: int) -> Theta:
        for _ in range(steps):
            theta = [x - 0.02 * 2 * hypers[f"h{j}"] * x for j, x in enumerate(theta)]
        return theta

    return Population(lambda *_: [0.9, 0.9], train, lambda theta: 1.2 - sum(x * x for x in theta), TOY_SPACE, options, first)


ENDS = [{"h0": 1.0, "h1": 0.0}, {"h0": 0.0, "h1": 1.0}]


def test_a_population_gets_where_fixed_hyper_parameters_cannot() -> None:
    fixed = toy(PopulationOptions(members=2, interval=4, fraction=0.0), ENDS)
    moving = toy(PopulationOptions(members=2, interval=4, resample=0.25), ENDS)
    assert 1.2 - sum(x * x for x in fixed.run(50)) == pytest.approx(0.39, abs=1e-4)
    assert 1.2 - sum(x * x for x in moving.run(50)) > 1.15


def saved_score(state: float) -> float:
    return state


@settings(max_examples=30)
@given(members=st.integers(1, 12), fraction=st.floats(0, 0.5), seed=st.integers(0, 999))
def test_only_the_worst_copy_and_only_from_the_best(members: int, fraction: float, seed: int) -> None:
    options = PopulationOptions(members=members, interval=1, fraction=fraction, seed=seed)
    population: Population[float] = Population(
        lambda hypers, seed: hypers["h"],
        lambda state, hypers, steps: state + hypers["h"],
        saved_score,
        {"h": Range(0, 1)},
        options,
    )
    population.run(4)
    for done in range(1, 4):
        before = sorted(event.score for event in population.lineage[(done - 1) * members : done * members])
        scores = {event.member: event.score for event in population.lineage[(done - 1) * members : done * members]}
        copies = [e for e in population.lineage[done * members : (done + 1) * members] if e.parent != e.member]
        assert len(copies) <= options.copied
        for event in copies:
            assert scores[event.member] <= before[options.copied - 1]
            assert scores[event.parent] >= before[members - options.copied]


def test_a_copy_takes_the_parents_weights_and_hyper_parameters_times_a_factor() -> None:
    population = toy(PopulationOptions(members=2, interval=1), [{"h0": 0.5, "h1": 0.5}, {"h0": 0.1, "h1": 0.1}])
    population.round()
    theta = list(population.states[0])
    population.round()
    event = population.lineage[3]
    assert event.parent == 0
    assert all(min(abs(event.hypers[name] - 0.5 * factor) for factor in (0.8, 1.2)) < 1e-12 for name in ("h0", "h1"))
    assert population.states[1] == [x - 0.04 * event.hypers[f"h{j}"] * x for j, x in enumerate(theta)]


def test_a_parent_and_its_copy_share_no_tensor() -> None:
    def train(model: torch.nn.Linear, hypers: dict[str, float], steps: int) -> torch.nn.Linear:
        with torch.no_grad():
            model.weight.fill_(hypers["h"])
        return model

    population = Population(
        lambda *_: torch.nn.Linear(2, 1), train, lambda model: float(model.weight.detach().sum()), {"h": Range(0, 1)},
        PopulationOptions(members=2, interval=1, seed=1),
    )  # fmt: skip
    population.run(3)
    assert any(event.parent != event.member for event in population.lineage)
    assert population.states[0].weight.data_ptr() != population.states[1].weight.data_ptr()
    assert [float(m.weight.detach()[0, 0]) for m in population.states] == pytest.approx([h["h"] for h in population.hypers])


def test_a_copied_optimizer_steps_the_copied_model() -> None:
    Pair = tuple[torch.nn.Linear, torch.optim.Optimizer]

    def start(hypers: dict[str, float], seed: int) -> Pair:
        torch.manual_seed(seed)
        model = torch.nn.Linear(2, 1, bias=False)
        return model, torch.optim.SGD(model.parameters(), lr=hypers["rate"], momentum=0.9)

    def train(pair: Pair, hypers: dict[str, float], steps: int) -> Pair:
        model, optimizer = pair
        optimizer.param_groups[0]["lr"] = hypers["rate"]
        for _ in range(steps):
            optimizer.zero_grad()
            model.weight.square().sum().backward()
            optimizer.step()
        return pair

    population = Population(
        start, train, lambda pair: -float(pair[0].weight.detach().square().sum()), {"rate": Range(1e-3, 1e-1, log=True)},
        PopulationOptions(members=4, interval=5, fraction=0.5),
    )  # fmt: skip
    population.run(6)
    assert any(event.parent != event.member for event in population.lineage[-4:])
    for model, optimizer in population.states:
        assert optimizer.param_groups[0]["params"][0] is model.weight
        assert optimizer.state[model.weight]


def test_a_run_goes_on_the_same_after_its_state_is_loaded_and_again_with_its_seed() -> None:
    options = PopulationOptions(members=6, interval=3, resample=0.25, seed=7)
    whole, parted, other = toy(options), toy(options), toy(PopulationOptions(members=6, interval=3, resample=0.25, seed=8))
    whole.run(10)
    parted.run(4)
    other.load_state_dict(copy.deepcopy(parted.state_dict()))
    other.run(6)
    assert whole.lineage == other.lineage
    assert whole.states == other.states
    assert parted.lineage == whole.lineage[: 4 * 6]


def test_training_along_a_line_of_descent_gives_the_same_weights() -> None:
    population = toy(PopulationOptions(members=5, interval=4, resample=0.25, seed=3))
    best = population.run(20)
    line = population.schedule()
    assert [event.round for event in line] == list(range(20))
    assert any(event.member != line[-1].member for event in line)
    theta = [0.9, 0.9]
    for event in line:
        for _ in range(4):
            theta = [x - 0.02 * 2 * event.hypers[f"h{j}"] * x for j, x in enumerate(theta)]
    assert best == theta


def test_a_score_that_is_not_a_number_is_the_worst() -> None:
    population: Population[float] = Population(
        lambda hypers, seed: hypers["h"], lambda state, *_: state, lambda state: math.nan if state > 0.5 else state,
        {"h": Range(0, 1)}, PopulationOptions(members=2, interval=1), [{"h": 0.9}, {"h": 0.2}],
    )  # fmt: skip
    population.run(2)
    assert population.best in (0, 1)
    assert population.lineage[2].parent == 1


@given(st.integers(0, 999), st.sampled_from(["a", "b", "c"]), st.floats(1e-4, 1e-1))
def test_perturbed_values_stay_in_their_space(seed: int, value: str, rate: float) -> None:
    import random

    draws = random.Random(seed)
    letters, rates = Choice(("a", "b", "c")), Range(1e-4, 1e-1, log=True)
    moved = letters.perturb(value, (0.8, 1.2), draws)
    assert abs(letters.values.index(moved) - letters.values.index(value)) <= 1
    assert rates.low <= rates.perturb(rate, (0.8, 1.2), draws) <= rates.high
    assert rates.low * (1 - 1e-9) <= rates.draw(draws) <= rates.high * (1 + 1e-9)


def test_lineage_is_drawn_to_a_file(tmp_path: Path) -> None:
    population = toy(PopulationOptions(members=4, interval=4))
    population.run(5)
    population.plot_lineage(tmp_path / "lineage.png", "h0")
    assert (tmp_path / "lineage.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(TrainingError, match="'rate' is none of"):
        population.plot_lineage(tmp_path / "lineage.png", "rate")


def test_ray_tunes_scheduler_gets_the_same_options_or_the_missing_library_is_named() -> None:
    options = PopulationOptions(members=4, interval=7, fraction=0.25, resample=0.1, factors=(0.5, 2.0))
    try:
        from ray.tune.schedulers import PopulationBasedTraining
    except ImportError:
        with pytest.raises(TrainingError, match=r"pip install 'ray\[tune\]'"):
            ray_scheduler(TOY_SPACE, options)
    else:
        scheduler = ray_scheduler(TOY_SPACE, options)
        assert isinstance(scheduler, PopulationBasedTraining)
        assert scheduler._perturbation_interval == 7
        assert scheduler._quantile_fraction == 0.25


@pytest.mark.parametrize(
    "change", [{"members": 0}, {"interval": 1.5}, {"fraction": 0.6}, {"factors": (0.0, 1.2)}, {"resample": 2.0}]
)
def test_bad_options_are_named(change: dict[str, object]) -> None:
    with pytest.raises(TrainingError, match=next(iter(change))):
        PopulationOptions(**change)


def test_bad_spaces_and_starts_are_named() -> None:
    with pytest.raises(TrainingError, match="low < high"):
        Range(1, 1)
    with pytest.raises(TrainingError, match="at least one value"):
        Choice(())
    with pytest.raises(TrainingError, match="for each of 2 members"):
        toy(PopulationOptions(members=2), [{"h0": 1.0, "h1": 1.0}])
    with pytest.raises(TrainingError, match="before its first round"):
        _ = toy(PopulationOptions(members=2)).best
