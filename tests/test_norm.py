"""Proved layer and RMS norm: as torch has it, accepted where it is followed, and refused where one relation is broken.

Each cheating prover breaks one relation and computes all that follows from the lie; without that relation it must be accepted,
which shows that nothing else is broken."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zkaudit.zk.block import LIMB, SIGN_OFFSET, Block, padded
from zkaudit.zk.channel import Channel, ProverChannel, VerifierChannel
from zkaudit.zk.circuit.arithmetic import Shape, split
from zkaudit.zk.circuit.norm import Gain, Norm
from zkaudit.zk.claims import Claim
from zkaudit.zk.errors import BadInput
from zkaudit.zk.testing import ChannelProtocol, assert_complete, assert_sound
from zkaudit.zk.testing.relations import Relations, accepted, prove, verify

torch.set_num_threads(1)
UNITS, SAMPLES = 5, 6
SHAPE = Shape(padded(UNITS), padded(SAMPLES), UNITS, SAMPLES)
X_BLOCK, GAIN_BLOCK, BIAS_BLOCK = Block("x", 8, 8), Block("gains", 1, 8), Block("biases", 1, 8)
LAYER = Norm("y", "x", SHAPE, is_centred=True, fraction=10, precision=2, epsilon=5)
RMS = replace(LAYER, is_centred=False)
COARSE = replace(LAYER, precision=-3, epsilon=1 << 6)
PUBLIC = Gain("z", "y", SHAPE, bits=12, gains=(4096, -300, 7, 4100, 9000), biases=(0, -5, 100, 3, -1))
COMMITTED = replace(PUBLIC, gains="gains", biases="biases")
GAINS, BIASES = np.array(PUBLIC.gains), np.array(PUBLIC.biases)

Values = dict[str, Any]
MEAN, ROOT = ("mean", "mean below"), ("root", "root below")
OF_RMS = (*ROOT, "beside", "quotient", "quotient below")
OF_LAYER = (*MEAN, *OF_RMS)
OF_GAIN = ("scaled", "gain beside")


@dataclass(frozen=True)
class Circuit:
    """A norm with a gain after it, over committed inputs, gains and biases."""

    norm: Norm
    gain: Gain

    @property
    def names(self) -> tuple[str, ...]:
        """Of its claims, in order."""
        return (*(OF_LAYER if self.norm.is_centred else OF_RMS), *OF_GAIN[: 1 + self.gain.is_committed])

    def relations(self, left_out: str = "", no_range: str = "") -> Relations:
        """All of it; without the claim of this name, or the range of this block."""
        ranges = [(X_BLOCK, LIMB), (GAIN_BLOCK, LIMB), (BIAS_BLOCK, LIMB), *self.norm.ranges(), *self.gain.ranges()]
        others = [*self.norm.tied(), *self.gain.tied(), *(block for block, _ in ranges if block.name == no_range)]

        def claims(named: dict[str, Block], channel: Channel) -> list[Claim]:
            found = [*self.norm.claims(named, channel), *self.gain.claims(named, channel)]
            return [claim for name, claim in zip(self.names, found, strict=True) if name != left_out]

        return Relations([x for x in ranges if x[0].name != no_range], claims, others)

    def values(self, x: Any, gains: Any = GAINS, beside: Values | None = None) -> Values:
        """What an honest prover commits to; `beside` replaces blocks of the norm, and what follows fits them."""
        made = {**self.norm.tables(x), **(beside or {})}
        given = (gains, BIASES) if self.gain.is_committed else (None, None)
        scaled = self.gain.tables(made["y"] - SIGN_OFFSET, *given)
        inputs = {"x": x, "gains": gains[None], "biases": BIASES[None]}
        return {**made, **scaled, **{name: values + SIGN_OFFSET for name, values in inputs.items()}}


CIRCUITS = {
    "layer norm": Circuit(LAYER, PUBLIC),
    "layer norm, committed gain": Circuit(LAYER, COMMITTED),
    "RMS norm": Circuit(RMS, PUBLIC),
    "RMS norm, committed gain": Circuit(RMS, COMMITTED),
    "coarse root": Circuit(COARSE, COMMITTED),
}
CIRCUIT = CIRCUITS["layer norm, committed gain"]
X = np.random.default_rng(3).integers(-3000, 3000, (UNITS, SAMPLES))


@st.composite
def inputs(draw: st.DrawFn) -> tuple[Norm, Any]:
    """A norm of either kind, and numbers of any size that fits, some samples of which do not vary at all."""
    units, samples, bits = draw(st.integers(1, 70)), draw(st.integers(1, 5)), draw(st.integers(2, 15))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    x = rng.integers(-(1 << bits), 1 << bits, (units, samples)) + rng.integers(-(1 << bits), 1 << bits, samples)
    x = np.where(rng.random(samples) < 0.1, x[:1], x).clip(-SIGN_OFFSET, SIGN_OFFSET - 1)
    largest = bits + 1 + (units.bit_length() + 1) // 2  # of the root, in bits
    precision = min(6, 15 - largest)
    epsilon = draw(st.integers(1 << max(0, -2 * precision), 1 << 16))
    shape = Shape(padded(units), padded(samples), units, samples)
    return Norm("y", "x", shape, draw(st.booleans()), max(8, -precision), precision, epsilon), x


@given(inputs())
@settings(max_examples=150, deadline=None)
def test_as_torch_normalises(case: tuple[Norm, Any]) -> None:
    """Up to what is rounded: x - m by less than 1, the variance by less than 1, the root and the quotient by less than 1."""
    norm, x = case
    units = x.shape[0]
    t, eps = torch.from_numpy(x.T.astype(np.float64)), norm.epsilon / units
    function = torch.nn.functional.layer_norm if norm.is_centred else torch.nn.functional.rms_norm
    expected = function(t, (units,), eps=eps).numpy().T * 2.0**norm.fraction
    centred = x - x.mean(axis=0) if norm.is_centred else x
    deviation = np.sqrt((centred**2).mean(axis=0) + eps)
    mean = 1 / deviation if norm.is_centred else 0 * deviation
    variance = mean / deviation / 2
    root = 2 / (2.0**norm.precision * np.sqrt(units) * deviation)  # 1 / S, doubled as S is floored
    factor = 1 / norm.factor
    relative = (1 + variance) * (1 + root) * (1 + factor) - 1
    allowed = 1 + (np.abs(expected) + mean * 2.0**norm.fraction) * relative + mean * 2.0**norm.fraction
    assert (np.abs(norm.forward(x) - expected) <= allowed + 1e-6).all()


@given(inputs())
@settings(max_examples=60, deadline=None)
def test_as_its_equations_in_plain_integers(case: tuple[Norm, Any]) -> None:
    norm, x = case
    found, n, e = norm.forward(x), x.shape[0], norm.precision
    for column, y in zip(x.T.tolist(), found.T.tolist(), strict=True):
        mean = sum(column) // n if norm.is_centred else 0
        total = sum((value - mean) ** 2 for value in column) + norm.epsilon
        root = max(s for s in _near((total * 4.0**e) ** 0.5) if s * s * 4 ** max(-e, 0) <= total * 4 ** max(e, 0))
        assert y == [norm.factor * (value - mean) // root for value in column]


def _near(x: float) -> range:
    return range(max(0, int(x) - 3), int(x) + 4)


@given(st.lists(st.integers(-SIGN_OFFSET, SIGN_OFFSET - 1), min_size=UNITS, max_size=UNITS), st.integers(13, 32))
def test_a_gain_rounds_to_nearest(gains: list[int], bits: int) -> None:
    y = np.random.default_rng(0).integers(-4096, 4096, (UNITS, SAMPLES))
    z = replace(PUBLIC, bits=bits, gains=tuple(gains)).forward(y)
    exact = y * np.array(gains)[:, None] / 2.0**bits + BIASES[:, None]
    assert (np.floor(exact + 0.5) == z).all()


@pytest.mark.parametrize("columns", [None, 4])
@pytest.mark.parametrize("name", CIRCUITS)
def test_an_honest_norm_is_accepted(name: str, columns: int | None) -> None:
    circuit = CIRCUITS[name]
    assert accepted(circuit.relations(), circuit.values(X), columns)


@pytest.mark.slow
@given(inputs())
@settings(max_examples=20, deadline=None)
def test_honest_norms_of_any_shape_are_accepted(case: tuple[Norm, Any]) -> None:
    norm, x = case
    block = Block("x", norm.shape.highs, norm.shape.lows)
    relations = Relations([(block, LIMB), *norm.ranges()], norm.claims, norm.tied())
    assert accepted(relations, {"x": x + SIGN_OFFSET, **norm.tables(x)})


def root_tables(norm: Norm, squares: Any, root: Any, below: Any = None) -> Values:
    """A root's blocks with slacks that fit both equations, or with another slack below."""
    shift, width, name = norm.root.bits, LIMB + 1 + norm.root.bits, norm.root.name
    above = squares - (root * root << shift)
    below = ((2 * root + 1) << shift) - 1 - above if below is None else below
    return {name: root, **split(f"{name}.above", above, width), **split(f"{name}.below", below, width)}


def after_the_mean(norm: Norm, x: Any, mean: Any) -> Values:
    """All that follows from these means, (units, samples)."""
    centred = x - mean
    squares = ((centred**2).sum(axis=0, keepdims=True) + norm.epsilon) << max(0, 2 * norm.precision)
    root = norm.root.tables(squares)
    return {"y.mean": mean + SIGN_OFFSET, **root, **after_the_root(norm, centred, root[norm.root.name])}


def after_the_root(norm: Norm, centred: Any, root: Any) -> Values:
    """All that follows from these roots, (1 or units, samples)."""
    beside = np.broadcast_to(root, centred.shape)
    return {"y.beside": beside, **norm.quotient.tables(norm.factor * centred, beside)}


def squares_of(norm: Norm, x: Any) -> tuple[Any, Any]:
    """x - m and what the root is taken of."""
    centred = x - (x.sum(axis=0) // UNITS if norm.is_centred else 0)
    return centred, ((centred**2).sum(axis=0, keepdims=True) + norm.epsilon) << max(0, 2 * norm.precision)


def bumped(values: Any, amount: int, unit: int = 1, sample: int = 2) -> Any:
    out = np.array(values, np.int64)
    out[unit, sample] += amount
    return out


def mean_off_by_one(c: Circuit) -> Values:
    mean = np.repeat(X.sum(axis=0, keepdims=True) // UNITS, UNITS, axis=0)
    mean[:, 2] += 1
    return c.values(X, beside=after_the_mean(c.norm, X, mean))


def mean_of_one_unit_off_by_one(c: Circuit) -> Values:
    mean = np.repeat(X.sum(axis=0, keepdims=True) // UNITS, UNITS, axis=0)
    return c.values(X, beside=after_the_mean(c.norm, X, bumped(mean, 1)))


def mean_of_another_sample(c: Circuit) -> Values:
    mean = np.repeat(X.sum(axis=0, keepdims=True) // UNITS, UNITS, axis=0)
    mean[:, 2] = mean[:, 3]
    return c.values(X, beside=after_the_mean(c.norm, X, mean))


def mean_rounded_further_down(c: Circuit) -> Values:
    """Its remainder is n too large, and the slack that would show it is 0."""
    mean = np.repeat(X.sum(axis=0, keepdims=True) // UNITS, UNITS, axis=0)
    mean[:, 2] -= 1
    rest = bumped(X.sum(axis=0, keepdims=True) % UNITS, UNITS, 0)
    slack = (UNITS - 1 - rest).clip(0)
    return c.values(X, beside={**after_the_mean(c.norm, X, mean), "y.mean.rest": rest, "y.mean.slack": slack})


def root_too_large(c: Circuit) -> Values:
    """By one; slacks fit each other, but the first equation has none that does."""
    centred, squares = squares_of(c.norm, X)
    root = bumped(c.norm.root.tables(squares)[c.norm.root.name], 1, 0)
    fitting = np.maximum(squares, root * root << c.norm.root.bits)
    return c.values(X, beside={**root_tables(c.norm, fitting, root), **after_the_root(c.norm, centred, root)})


def root_too_small(c: Circuit) -> Values:
    """By one; the first equation holds, and for the second the slack would be negative."""
    centred, squares = squares_of(c.norm, X)
    root = bumped(c.norm.root.tables(squares)[c.norm.root.name], -1, 0)
    below = (((2 * root + 1) << c.norm.root.bits) - 1 - (squares - (root * root << c.norm.root.bits))).clip(0)
    return c.values(X, beside={**root_tables(c.norm, squares, root, below), **after_the_root(c.norm, centred, root)})


def root_of_another_sample(c: Circuit) -> Values:
    centred, squares = squares_of(c.norm, X)
    root = c.norm.root.tables(squares)[c.norm.root.name].copy()
    root[:, 2] = root[:, 3]
    return c.values(X, beside=after_the_root(c.norm, centred, root))


def root_of_one_unit_changed(c: Circuit) -> Values:
    centred, squares = squares_of(c.norm, X)
    root = np.repeat(c.norm.root.tables(squares)[c.norm.root.name], UNITS, axis=0)
    return c.values(X, beside=after_the_root(c.norm, centred, bumped(root, 900)))


def quotient_too_large(c: Circuit) -> Values:
    """By one; the remainder stays as it is."""
    return c.values(X, beside={"y": bumped(c.norm.tables(X)["y"], 1)})


def quotient_too_small(c: Circuit) -> Values:
    """By one; the remainder makes up for it, and the slack that would show it is 0."""
    made = c.norm.tables(X)
    rest = bumped(made["y.rest"], int(made["y.beside"][1, 2]))
    slack = made["y.slack"].copy()
    slack[1, 2] = 0
    return c.values(X, beside={"y": bumped(made["y"], -1), "y.rest": rest, "y.slack": slack})


def output_off_by_one(c: Circuit) -> Values:
    values = c.values(X)
    return {**values, "z": bumped(values["z"], 1)}


def gain_changed_for_one_sample(c: Circuit) -> Values:
    values, gain = c.values(X), np.repeat(GAINS[:, None], SAMPLES, axis=1)
    return {**values, **gained(c, values, bumped(gain, 500))}


def gained(c: Circuit, values: Values, gain: Any) -> Values:
    """The gain's blocks for gains that stand beside each sample, (units, samples)."""
    raised = (values["y"] - SIGN_OFFSET) * gain + (1 << (c.gain.bits - 1))
    scaled = (raised >> c.gain.bits) + BIASES[:, None]
    rest = split("z.rest", raised - (raised >> c.gain.bits << c.gain.bits), c.gain.bits)
    return {"z": scaled + SIGN_OFFSET, **rest, "z.gain": gain + SIGN_OFFSET}


def public_gain_changed(c: Circuit) -> Values:
    """All that follows from other gains than the statement's."""
    values = c.values(X)
    return {**values, **gained(c, values, np.repeat(GAINS[:, None] + 64, SAMPLES, axis=1))}


def a_unit_of_padding_counted(c: Circuit) -> Values:
    """Mean and root over a sixth unit, which stands in the padding of x; the mean is still divided by n."""
    longer = np.concatenate([X, np.full((1, SAMPLES), 900)])
    mean = np.repeat(longer.sum(axis=0, keepdims=True) // UNITS, UNITS, axis=0)
    rest = longer.sum(axis=0, keepdims=True) % UNITS
    return {**c.values(X, beside={**after_the_mean(c.norm, X, mean), "y.mean.rest": rest, "y.mean.slack": UNITS - 1 - rest}),
            "x": longer + SIGN_OFFSET}  # fmt: skip


CHEATS: dict[Callable[[Circuit], Values], tuple[str, str]] = {
    mean_off_by_one: ("layer norm, committed gain", "mean"),
    mean_of_one_unit_off_by_one: ("layer norm, committed gain", "mean"),
    mean_of_another_sample: ("layer norm", "mean"),
    mean_rounded_further_down: ("layer norm, committed gain", "mean below"),
    root_too_large: ("layer norm, committed gain", "root"),
    root_too_small: ("RMS norm", "root below"),
    root_of_another_sample: ("layer norm, committed gain", "beside"),
    root_of_one_unit_changed: ("RMS norm, committed gain", "beside"),
    quotient_too_large: ("layer norm, committed gain", "quotient"),
    quotient_too_small: ("RMS norm", "quotient below"),
    output_off_by_one: ("layer norm", "scaled"),
    public_gain_changed: ("RMS norm", "scaled"),
    gain_changed_for_one_sample: ("layer norm, committed gain", "gain beside"),
    a_unit_of_padding_counted: ("layer norm", "mean"),
}


@pytest.mark.parametrize("cheat", CHEATS, ids=lambda cheat: cheat.__name__)
def test_a_cheat_on_one_relation_passes_only_without_it(cheat: Callable[[Circuit], Values]) -> None:
    name, relation = CHEATS[cheat]
    circuit = CIRCUITS[name]
    values = cheat(circuit)
    assert not accepted(circuit.relations(), values)
    assert accepted(circuit.relations(left_out=relation), values)


@pytest.mark.parametrize("cheat", [root_of_another_sample, gain_changed_for_one_sample], ids=lambda cheat: cheat.__name__)
def test_a_cheat_is_refused_on_the_hiding_channel(cheat: Callable[[Circuit], Values]) -> None:
    assert not accepted(CIRCUIT.relations(), cheat(CIRCUIT), 4)


RANGED = [block for block, _ in (*LAYER.ranges(), *COMMITTED.ranges())]


@pytest.mark.parametrize("block", RANGED, ids=lambda block: block.name)
def test_every_block_s_range_is_checked_in_its_padding_too(block: Block) -> None:
    values = CIRCUIT.values(X)
    table = np.zeros((block.highs, block.lows), np.int64)
    table[: values[block.name].shape[0], : values[block.name].shape[1]] = values[block.name]
    table[-1, -1] = -1
    assert not accepted(CIRCUIT.relations(), {**values, block.name: table})
    assert accepted(CIRCUIT.relations(no_range=block.name), {**values, block.name: table})


def test_padding_within_its_range_enters_no_relation() -> None:
    values, rng = CIRCUIT.values(X), np.random.default_rng(1)
    filled = {}
    for name, real in values.items():
        block = next(b for b in [*(x for x, _ in CIRCUIT.relations().ranges), *CIRCUIT.relations().others] if b.name == name)
        filled[name] = rng.integers(0, 2, (block.highs, block.lows))
        filled[name][: real.shape[0], : real.shape[1]] = real
    assert accepted(CIRCUIT.relations(), filled)


class Normalisation(ChannelProtocol):
    """The circuit as a protocol of its own, for the kit's cheats."""

    def instances(self) -> st.SearchStrategy[tuple[Any, Any]]:
        rows = st.lists(st.integers(-3000, 3000), min_size=UNITS * SAMPLES, max_size=UNITS * SAMPLES)
        return rows.map(lambda x: ((LAYER.epsilon,), CIRCUIT.values(np.array(x).reshape(UNITS, SAMPLES))))

    def prover(self, statement: Any, witness: Any, channel: ProverChannel) -> None:
        channel.transcript.absorb(b"norm", repr(statement).encode())
        prove(CIRCUIT.relations(), witness, channel)

    def verifier(self, statement: Any, channel: VerifierChannel) -> None:
        channel.transcript.absorb(b"norm", repr(statement).encode())
        verify(CIRCUIT.relations(), channel)


@pytest.mark.parametrize("columns", [None, pytest.param(4, marks=pytest.mark.slow)])
def test_as_a_protocol_it_is_complete_and_no_cheat_of_the_kit_gets_through(columns: int | None) -> None:
    protocol = Normalisation(columns)
    assert_complete(protocol, examples=1)
    assert_sound(protocol, ["change-message", "truncate", "swap"], examples=4)


def test_relations_need_a_range_of_16_bits() -> None:
    with pytest.raises(ValueError, match="ranges: one block must have 16 bits"):
        Relations([(X_BLOCK, 8)], lambda named, channel: [])


def test_values_that_do_not_fit_their_block_are_an_error() -> None:
    with pytest.raises(ValueError, match="block 'x' have shape"):
        CIRCUIT.relations().placed({**CIRCUIT.values(X), "x": np.zeros((9, 2))})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": 7}, "has precision 7"),
        ({"precision": -9}, "has precision -9"),
        ({"fraction": 16}, "has fraction 16"),
        ({"fraction": 2, "precision": -3, "epsilon": 64}, "has fraction 2"),
        ({"epsilon": 0}, "has epsilon 0"),
        ({"precision": -3}, "has epsilon 5"),
    ],
)
def test_options_out_of_range_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        replace(LAYER, **changes)  # type: ignore[arg-type]


def test_numbers_that_leave_their_range_are_an_error() -> None:
    with pytest.raises(BadInput, match="the inputs of the norm 'y' leave 16 bits"):
        LAYER.forward(X + (1 << 15))
    with pytest.raises(BadInput, match=r"the square root 'y\.root' leaves 16 bits"):
        replace(LAYER, precision=6).forward(X * 10)
    with pytest.raises(BadInput, match="the gain 'z' makes leaves 16 bits"):
        replace(PUBLIC, bits=1).forward(LAYER.forward(X))
    with pytest.raises(BadInput, match="gains of 'z' are committed to and were not given"):
        COMMITTED.forward(LAYER.forward(X))
