"""Sections 6.9 and 6.10: all claims become one about the blocks' values at one point, and one equation settles everything."""

from math import prod

from .conventions import POINT_BYTES, Point, R, Vector, bits, combination, decode, demand, dot, eq, generator, powers
from .dialogue import ONE, Claim, Dialogue, Expression, Form, Part, combine
from .layout import Layout


def gather(dialogue: Dialogue, layout: Layout, claims: list[Claim]) -> tuple[Vector, Vector, Expression]:
    """The point z, the weights psi^i of the blocks, and `opened`."""
    chis = powers(dialogue.challenge("gather claims"), len(claims))
    values = [(chi, combine((1, claim.value), (-claim.constant, {ONE: 1}))) for chi, claim in zip(chis, claims, strict=True)]
    z, rest = dialogue.sumcheck("gather", max(map(sum, layout.shapes.values())), 3, combine(*values))
    val = dict(zip(layout.shapes, dialogue.message("block values", len(layout.blocks)), strict=True))

    def of(form: Form) -> Expression:
        return combine((form[0], {ONE: 1}), (form[1], val[form[2]]))

    shapes: dict[tuple[int, int], dict[Form | None, list[tuple[int, Part]]]] = {}  # and left forms; block parts have none
    for claim, chi in zip(claims, chis, strict=True):
        for part in sorted(claim.parts, key=lambda part: not isinstance(part[0], str)):
            left, block = (None, part[0]) if isinstance(part[0], str) else (part[0][0], part[0][0][2])
            shapes.setdefault(layout.shapes[block], {}).setdefault(left, []).append((chi, part))
    terms = [(-1, rest)]
    for (a, b), groups in shapes.items():
        at_low, at_high, lack = eq(z[:b]), eq(z[b : a + b]), prod(1 - coordinate for coordinate in z[a + b :]) % R
        for left, parts in groups.items():
            forms = [(0, 1, part[0]) if isinstance(part[0], str) else part[0][1] for _, part in parts]
            weights = [chi * c * dot(low, at_low) * dot(high, at_high) for chi, (_, c, high, low) in parts]
            value = combine(*((weight, of(form)) for weight, form in zip(weights, forms, strict=True)))
            if left:
                right, [value] = value, dialogue.message("gathered product", 1)
                dialogue.product("gathered product", of(left), right, value)
            terms.append((lack, value))
    dialogue.require(*terms)
    psis = powers(dialogue.challenge("open blocks"), len(val))
    return z, psis, combine(*zip(psis, val.values(), strict=True))


def settle(dialogue: Dialogue, layout: Layout, claims: list[Claim], rows: list[Point]) -> None:
    """Reads the rest of the proof; Refused unless the final equation holds. `rows` are the commitments of all rows."""
    z, psis, opened = gather(dialogue, layout, claims)
    weights: Vector = []
    for (high, low), psi in zip(layout.shapes.values(), psis, strict=True):
        short = prod(1 - coordinate for coordinate in z[high + low : layout.columns]) % R
        demand(short != 0, "a short block cannot be opened at this point")
        weights += [psi * pow(short, -1, R) * weight % R for weight in eq(z[layout.columns : high + low])]
    dialogue.require((-1, opened))
    t, dd = dialogue.challenge("batch requirements"), dialogue.challenge("weigh messages")
    demand(t != 0 and dd != 0, "a challenge of the batching is zero")
    ts, dds = powers(t, len(dialogue.requirements)), powers(dd, len(dialogue.messages) + 1)
    inverse_dds = powers(pow(dd, -1, R), len(dds))
    batch = combine(*zip(ts, dialogue.requirements, strict=True))
    value = -batch.get(ONE, 0)
    a = [ts[-1] * inverse_dds[-1] * weight % R for weight in eq(z[: layout.columns])]
    a += [inverse_dds[j] * batch.get(y, 0) % R for y, j in enumerate(dialogue.slots)]
    [mask], [va] = decode(dialogue.read("mask", POINT_BYTES)), dialogue.scalars("masked value", 1)
    x, [vb], bind = dialogue.challenge("mask"), dialogue.scalars("masked blinding", 1), dialogue.challenge("bind value")
    equation, us, s = [(1, mask)], list[int](), [1]
    for _ in range(bits(len(a) - 1)):
        left, right = decode(dialogue.read("fold", 2 * POINT_BYTES))
        us.append(dialogue.challenge("fold"))
        demand(us[-1] != 0, "the challenge of a fold is zero")
        equation += [(us[-1], left), (pow(us[-1], -1, R), right)]
    [last] = dialogue.scalars("last", 1)
    demand(dialogue.place == len(dialogue.proof), "bytes follow the end of the proof")
    for u in reversed(us):
        s += [entry * u % R for entry in s]
    equation += [(x * dds[-1] * weight, row) for weight, row in zip(weights, rows, strict=True)]
    equation += [(x * power, message) for power, message in zip(dds, dialogue.messages, strict=False)]
    equation += [(-vb, generator("single", 0)), (bind * (x * value + va - last * dot(a, s)), generator("single", 1))]
    names = [("columns", i) for i in range(1 << layout.columns)] + [("slots", y) for y in range(len(dialogue.slots))]
    equation += [(-last * entry, generator(*name)) for entry, name in zip(s, names, strict=False)]
    total = combination([scalar % R for scalar, _ in equation], [point for _, point in equation])
    demand(combination([0xD201000000010001], [total]) is None, "the final equation does not hold")
