"""The exact trainer against the reference trainer, the standard library's decimals and float32."""

from __future__ import annotations

import dataclasses
import itertools
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from zkaudit.training import config as configuration
from zkaudit.training import data
from zkaudit.training.config import DataConfig, FixedPoint, ModelConfig, RunConfig, Settings, TrainingConfig
from zkaudit.training.errors import TrainingError
from zkaudit.training.fixedpoint import (
    dequantise,
    initial_network,
    prepare,
    quantise,
    read_model_weights,
    targets,
    train,
    write_model,
)
from zkaudit.training.fixedpoint.exact import EXACT, rescaled_product, subtract_product
from zkaudit.training.fixedpoint.loss import exponential_table
from zkaudit.zk.testing.reference_trainer import OutOfRange, exponential, reference_run

DIGITS = Path(__file__).parent.parent / "examples" / "digits.toml"


@dataclasses.dataclass(frozen=True)
class Problem:
    """A small network, its data and how it is to be trained."""

    widths: tuple[int, ...]
    settings: Settings
    x: Any  # int64 (rows, d)
    y: Any  # int64 (rows, outputs)
    start: list[Any]  # int64 (d + 1, outputs) a layer
    batches: Any  # int64 (steps, batch)

    def reference(self) -> dict[str, Any]:
        s = self.settings
        bits = dataclasses.astuple(s.fixed_point)
        return reference_run(self.widths, s.loss, *bits, s.rates, self.x, self.y, self.start, self.batches)

    def run(self) -> tuple[dict[str, Any], list[Any]]:
        """Arrays stacked over steps, and end weights."""
        steps: list[dict[str, Any]] = []
        start = [torch.from_numpy(matrix) for matrix in self.start]
        x, y = torch.from_numpy(self.x), torch.from_numpy(self.y)
        end = train(start, x, y, self.batches, self.settings, lambda arrays, _: steps.append(arrays))
        return {name: np.stack([step[name] for step in steps]) for name in steps[0]}, [matrix.numpy() for matrix in end]


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Networks of 1 to 4 layers whose numbers, now and then, leave their ranges."""
    widths = tuple(draw(st.lists(st.integers(1, 6), min_size=2, max_size=5)))
    loss = draw(st.sampled_from(configuration.LOSSES))
    f = draw(st.integers(2, 14))
    g = draw(st.integers(f, 15))
    w = draw(st.integers(max(16, f + g), 48))
    batch, rows, steps = draw(st.integers(1, 4)), draw(st.integers(4, 8)), draw(st.integers(1, 3))
    largest = draw(st.sampled_from([1, 1 << (w - f - g), 1 << max(0, w - f - g - 3)]))
    rates = tuple(draw(st.lists(st.integers(1, largest), min_size=steps, max_size=steps)))
    random = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    size = draw(st.sampled_from([0.2, 1.0, 4.0])) * 2**w
    fixed_point = FixedPoint(f, g, w)
    shapes = [(d + 1, units) for d, units in itertools.pairwise(widths)]
    training = Settings(loss, batch, rates, fixed_point)
    labels = random.integers(0, widths[-1], rows)
    return Problem(
        widths,
        training,
        random.integers(-(2 << f), (2 << f) + 1, (rows, widths[0])).clip(-(1 << 15), (1 << 15) - 1),
        targets(labels, widths[-1], training).numpy(),
        [random.uniform(-size, size, shape).astype(np.int64) for shape in shapes],
        random.integers(0, rows, (steps, batch)),
    )


@settings(max_examples=60)
@given(problems())
def test_trainer_equals_reference(problem: Problem) -> None:
    try:
        expected = problem.reference()
    except OutOfRange:
        with pytest.raises(TrainingError):
            problem.run()
        return
    arrays, end = problem.run()
    for name in arrays.keys() - {"batch"}:
        assert (expected[name] == arrays[name]).all(), name
    for j, matrix in enumerate(end):
        assert (expected[f"end.w{j}"] == matrix).all()
    names = {name for name in expected if name[0] not in "PBmde"}
    assert names == arrays.keys() - {"batch"}


@settings(max_examples=150)
@given(st.data())
def test_products_are_exact_at_every_size(draws: st.DataObject) -> None:
    rows, inner, columns = (draws.draw(st.integers(1, 5)) for _ in range(3))
    bits = draws.draw(st.integers(16, 48))
    left_bits, right_bits = draws.draw(st.integers(0, 27)), draws.draw(st.integers(0, bits + 5))

    def matrix(height: int, width: int, size: int) -> Any:
        entries = st.one_of(st.sampled_from([-size, size, size - 1, 1 - size]), st.integers(-size, size))
        return draws.draw(st.lists(entries, min_size=height * width, max_size=height * width))

    left = np.array(matrix(rows, inner, 1 << left_bits), object).reshape(rows, inner)
    right = np.array(matrix(inner, columns, (1 << right_bits) - 1), object).reshape(inner, columns)
    total = left.dot(right) + (1 << (bits - 1))
    quotient, remainder = rescaled_product(_double(left), _double(right), (1 << right_bits) - 1, bits)
    assert (total // (1 << bits) == quotient.numpy()).all()
    assert (total % (1 << bits) == remainder.numpy()).all()


def test_product_beyond_64_bits_is_refused() -> None:
    wide = _double(np.full((1, 1), 1 << 40, object))
    with pytest.raises(TrainingError, match="62 bits"):
        rescaled_product(wide, _double(np.full((1, 1), 1 << 52, object)), 1 << 52, 16)


@given(st.integers(1, 1 << 20), st.integers(1, 1 << 30), st.integers(1, 1 << 20), st.integers(-EXACT + 1, EXACT - 1))
def test_update_is_exact_or_refused(a: int, g: int, rate: int, weight: int) -> None:
    left, right = np.array([[a, -a, 3]], object), np.array([[g], [1], [-1]], object)
    expected = weight - rate * int(left.dot(right)[0, 0])
    target = _double(np.array([[weight]], object))
    try:
        largest = subtract_product(target, abs(weight), _double(left), _double(right), rate)
    except TrainingError:
        assert abs(expected) >= EXACT
        return
    assert (expected, abs(expected)) == (int(target), largest)


def _double(matrix: Any) -> torch.Tensor:
    return torch.from_numpy(matrix.astype(np.float64))


@pytest.mark.parametrize("f", range(2, 15))
def test_exponential_table_is_the_decimal_floor(f: int) -> None:
    table = exponential_table(f).tolist()
    places = [*range(0, 1 << 16, 61), *range(12 << f, min(1 << 16, (12 << f) + 64))]
    assert [exponential(d, f) for d in places] == [table[d] for d in places]


def test_exponential_table_does_not_hang_on_the_last_bit_of_exp() -> None:
    with localcontext() as context:
        context.prec = 50
        for f in range(2, 15):
            d = np.arange(1, 1 << 16)
            values = 65536 * np.exp(-d / 2**f)
            near = np.flatnonzero(abs(values - np.rint(values)) < 1e-5 * (values > 0.5)) + 1
            for place in near.tolist():
                exact = 65536 * (Decimal(-place) / 2**f).exp()
                assert abs(exact - exact.to_integral_value()) > Decimal(2) ** -30, (f, place)


def test_result_does_not_depend_on_the_thread_count() -> None:
    random = np.random.default_rng(5)
    training = Settings("cross_entropy", 64, (6,) * 3, FixedPoint())
    widths = (200, 150, 10)
    problem = Problem(
        widths,
        training,
        random.integers(-512, 512, (128, 200)),
        targets(random.integers(0, 10, 128), 10, training).numpy(),
        [matrix.numpy() for matrix in quantise(initial_network(widths, 1), training.fixed_point)],
        random.integers(0, 128, (3, 64)),
    )
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = problem.run()[1]
        torch.set_num_threads(2)
        together = problem.run()[1]
    finally:
        torch.set_num_threads(threads)
    assert all((a == b).all() for a, b in zip(alone, together, strict=True))


def test_overflow_names_step_layer_value_range_and_parameter() -> None:
    training = Settings("square", 1, (1, 1), FixedPoint())
    x, y = torch.tensor([[1 << 14]]), torch.tensor([[256]])
    start = [torch.full((2, 1), 7 << 32), torch.full((2, 1), 1 << 20)]
    with pytest.raises(TrainingError) as caught:
        train(start, x, y, np.zeros((2, 1), np.int64), training)
    message = str(caught.value)
    assert message.startswith("step 1 of 2, layer 1 of 2: the pre-activation 116480 (which stands for 455) lies outside")
    assert "[-65536, 65535]" in message
    assert "learning_rate" in message
    assert "activation_bits" in message


def test_start_weights_out_of_range_are_refused() -> None:
    training = Settings("square", 1, (1,), FixedPoint())
    with pytest.raises(TrainingError, match="layer 1 of 1"):
        train([torch.full((2, 1), 8 << 32)], torch.zeros(1, 1), torch.zeros(1, 1), np.zeros((1, 1), np.int64), training)


def test_weights_may_grow_beyond_the_range_of_start_weights() -> None:
    grown, training = [torch.full((2, 1), 9 << 32)], Settings("square", 1, (1, 1), FixedPoint())
    zero, y = torch.zeros((1, 1), dtype=torch.int64), torch.tensor([[256]])
    end = train(grown, zero, y, np.zeros((2, 1), np.int64), training, first_step=1)
    assert int(end[0][1, 0]) == (9 << 32) - 256 * ((9 * 256 - 256) << 4)


def _every_epoch_shuffled(rows: int, batch: int, steps: int) -> Any:
    random, per_epoch = np.random.default_rng(0), rows // batch
    epochs = [random.permutation(rows)[: per_epoch * batch].reshape(-1, batch) for _ in range(steps // per_epoch + 1)]
    return np.concatenate(epochs)[:steps]


@pytest.mark.parametrize(("learning_rate", "steps", "least"), [(0.1, 100, 0.7), (0.5, 200, 0.93)])
def test_digits_accuracy_is_within_a_point_of_float32(learning_rate: float, steps: int, least: float, tmp_path: Path) -> None:
    loaded = configuration.load(DIGITS)
    training = dataclasses.replace(loaded.training, learning_rate=(learning_rate,) * steps, steps=steps)
    config = dataclasses.replace(loaded, training=training, model=ModelConfig((128, 64), init_seed=3))
    run = prepare(config, tmp_path / "run")
    result = run.train(_every_epoch_shuffled(run.rows, 64, steps))
    assert abs(result.float_test_accuracy - result.test_accuracy) <= 0.01
    assert result.test_accuracy > least


def _configuration(**training: Any) -> RunConfig:
    values: dict[str, Any] = {"loss": "square", "batch": 4, "steps": 1, "learning_rate": (0.1,), "seed": ""} | training
    return RunConfig(DataConfig("iris"), ModelConfig(()), TrainingConfig(**values))


def test_effective_learning_rate_is_the_nearest_that_the_widths_express() -> None:
    used = _configuration(batch=64).settings
    assert used.rates == (6,)
    assert used.learning_rates == (6 * 64 / 4096,)


def test_rate_that_rounds_to_zero_names_the_smallest() -> None:
    with pytest.raises(TrainingError, match=r"0\.0078125"):
        _configuration(batch=32, learning_rate=(1e-3,))


def test_a_users_own_model_is_the_start_and_comes_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    config = dataclasses.replace(_configuration(), model=ModelConfig((5,)))
    result = prepare(config, tmp_path, model=model).train(np.arange(4)[None])
    returned = dequantise(result.start, config.fixed_point)
    for name, value in model.state_dict().items():
        assert (value.double() - returned.state_dict()[name]).abs().max() <= 2.0**-33, name
    write_model(tmp_path / "model.safetensors", result.start, result.end, config.fixed_point)
    for which, weights in (("start", result.start), ("end", result.end)):
        read = read_model_weights(tmp_path / "model.safetensors", which)
        assert all((a.numpy() == b).all() for a, b in zip(weights, read, strict=True))


def _spoiled(value: float) -> nn.Sequential:
    network = initial_network((2, 3), 0)
    network[0].weight.data[1, 1] = value
    return network


UNFIT = {
    "not a number": (_spoiled(float("nan")), "not finite"),
    "infinite": (_spoiled(float("inf")), "not finite"),
    "large": (_spoiled(9.0), "size 9"),
    "other activation": (nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 3)), "Tanh"),
    "without bias": (nn.Sequential(nn.Linear(2, 3, bias=False)), "bias"),
    "ends in ReLU": (nn.Sequential(nn.Linear(2, 3), nn.ReLU()), "end in a Linear"),
    "width mismatch": (nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(4, 3)), "3 outputs"),
    "empty": (nn.Sequential(), "Linear"),
}


@pytest.mark.parametrize("what", UNFIT)
def test_unfit_start_model_is_refused(what: str) -> None:
    model, word = UNFIT[what]
    with pytest.raises(TrainingError, match=word):
        quantise(model, FixedPoint())


def test_start_model_of_other_widths_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"\[4, 2\]"):
        prepare(_configuration(), tmp_path / "run", model=initial_network((4, 2), 0))
    assert not (tmp_path / "run").exists()


def test_model_file_with_an_inexact_weight_is_refused(tmp_path: Path) -> None:
    start = quantise(initial_network((2, 3), 0), FixedPoint())
    write_model(tmp_path / "model.safetensors", start, start, FixedPoint())
    raw = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "other.safetensors").write_bytes(raw[:-8] + np.float64(2.0**-40).tobytes())
    with pytest.raises(TrainingError, match="multiples"):
        read_model_weights(tmp_path / "other.safetensors", "start")


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08" + b"\0" * 7 + b"{}      "])
def test_file_that_is_no_model_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(TrainingError, match=r"model\.safetensors"):
        read_model_weights(tmp_path / "model.safetensors")


WRONG_SETTINGS: list[tuple[str, str, str]] = [
    ("batch = 64", "batch = 0", "batch"),
    ("batch = 64", "batch = true", "batch"),
    ("batch = 64", "batch = 64.0", "batch"),
    ("steps = 100", "steps = 0", "steps"),
    ("steps = 100", "steps = 9999999999999", "steps"),
    ("steps = 100", "", "steps"),
    ("learning_rate = 0.1", "learning_rate = [0.1, 0.1]", "2 entries for 100 steps"),
    ("learning_rate = 0.1", "learning_rate = nan", "learning_rate"),
    ("learning_rate = 0.1", "learning_rate = -0.1", "learning_rate"),
    ("learning_rate = 0.1", "learning_rate = 1e-6", "smallest is 0.015625"),
    ("learning_rate = 0.1", "learning_rate = 1e300", "largest"),
    ("learning_rate = 0.1", 'learning_rate = "fast"', "learning_rate"),
    ('seed = "2026-11-24"', "seed = 7", "seed"),
    ("hidden = [128, 64]", "hidden = [128, 0]", "hidden"),
    ("hidden = [128, 64]", "hidden = 128", "hidden"),
    ("hidden = [128, 64]", "hidden = [1.5]", "hidden"),
    ("hidden = [128, 64]", f"hidden = {[2] * 64}", "63"),
    ("hidden = [128, 64]", "hidden = []\ninit_seed = -1", "init_seed"),
    ('loss = "cross_entropy"', 'loss = "hinge"', "cross_entropy, square"),
    ('source = "digits"', 'source = "mnist"', "source"),
    ('source = "digits"', "source = 3", "source"),
    ("test_fraction = 0.25", "test_fraction = 1", "test_fraction"),
    ("activation_bits = 8", "activation_bits = 13", "gradient_bits"),
    ("weight_bits = 32", "weight_bits = 18", "weight_bits"),
    ("weight_bits = 32", "weight_bits = 49", "weight_bits"),
    ("weight_bits = 32", "weight_bits = 32\nbits = 1", "bits"),
    ("[model]", "[optimiser]\n[model]", "optimiser"),
    ("[data]", "model = 3\n[data]", "config.toml"),
]


@pytest.mark.parametrize(("old", "new", "word"), WRONG_SETTINGS)
def test_wrong_setting_is_one_sentence_with_file_and_key(old: str, new: str, word: str, tmp_path: Path) -> None:
    text, path = DIGITS.read_text(), tmp_path / "config.toml"
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(TrainingError) as caught:
        configuration.load(path)
    message = str(caught.value)
    assert str(path) in message
    assert word in message
    assert "\n" not in message


def test_fixed_point_is_optional_and_paths_start_at_the_files_folder(tmp_path: Path) -> None:
    text = DIGITS.read_text().partition("[fixed_point]")[0].replace('"digits"', '"sub/set.npz"')
    (tmp_path / "config.toml").write_text(text)
    loaded = configuration.load(tmp_path / "config.toml")
    assert loaded.fixed_point == FixedPoint(8, 12, 32)
    assert loaded.data.source == str(tmp_path / "sub" / "set.npz")


@pytest.mark.parametrize("name", configuration.BUNDLED)
def test_bundled_sets_are_small_numbers_split_by_class(name: str) -> None:
    loaded = data.load(DataConfig(name, 0.25))
    assert max(abs(loaded.x_train).max(), abs(loaded.x_test).max()) <= 8
    assert len(loaded.x_test) == pytest.approx(0.25 * (len(loaded.x_test) + len(loaded.x_train)), abs=1)
    train_share, test_share = (np.bincount(y, minlength=loaded.classes) / len(y) for y in (loaded.y_train, loaded.y_test))
    assert abs(train_share - test_share).max() < 0.03


RANDOM = np.random.default_rng(1)
X, Y = RANDOM.normal(size=(40, 3)), np.arange(40) % 2
UNUSABLE = {
    "not a number": (np.where(np.arange(120).reshape(40, 3) == 7, np.nan, X), Y, r"X\[2, 1\] is nan"),
    "infinite": (np.where(np.arange(120).reshape(40, 3) == 7, np.inf, X), Y, "finite"),
    "rows differ": (X[:-1], Y, "shape"),
    "flat": (X[:, 0], Y, "shape"),
    "no features": (X[:, :0], Y, "features"),
    "one class": (X, Y * 0, "1 classes"),
    "fractional labels": (X, Y + 0.5, "integers"),
    "text labels": (X, Y.astype(str), "numbers"),
    "lonely class": (X, np.where(np.arange(40) == 3, 2, Y), "split"),
    "objects": (X.astype(object), Y, "plain numbers"),
    "huge": (np.sign(X) * 1e308, Y, "too large"),
}


@pytest.mark.parametrize("what", UNUSABLE)
@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
def test_unusable_data_is_one_sentence(what: str, tmp_path: Path) -> None:
    x, y, words = UNUSABLE[what]
    path = tmp_path / "set.npz"
    np.savez(path, X=x, y=y)
    with pytest.raises(TrainingError, match=words) as caught:
        data.load(DataConfig(str(path)))
    assert str(path) in str(caught.value)


def test_constant_features_and_odd_labels_are_fine(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", X=np.concatenate([X, np.ones((40, 1), np.float32)], axis=1), y=Y * 10.0 - 3)
    loaded = data.load(DataConfig(str(tmp_path / "set.npz")))
    assert set(loaded.y_train) == {0, 1}
    assert not loaded.x_train[:, 3].any()
    assert loaded.x_train[:, :3].std(axis=0) == pytest.approx(1)


def test_batch_above_the_training_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="112 training rows"):
        prepare(_configuration(batch=113), tmp_path)


def test_inputs_that_need_more_than_sixteen_bits_are_refused(tmp_path: Path) -> None:
    x = np.zeros((40, 1))
    x[0] = x[1] = 1e6
    np.savez(tmp_path / "set.npz", X=x, y=Y)
    base = RunConfig(
        DataConfig(str(tmp_path / "set.npz")),
        ModelConfig(()),
        TrainingConfig("square", 1, 1, (0.1,), ""),
        FixedPoint(14, 15, 40),
    )
    with pytest.raises(TrainingError, match="activation_bits"):
        prepare(base, tmp_path / "run")
