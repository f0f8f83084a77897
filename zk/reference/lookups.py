"""Section 6.4: every entry of the listed blocks is in its table, by a tree of fractions."""

from decimal import Context
from functools import cache

from .conventions import Vector, dot, eq
from .dialogue import Claim, Dialogue, Expression, combine, polynomial, prefixes, stack_variables
from .layout import PAIRS, Layout


@cache
def exponentials(f: int) -> Vector:
    """floor(2^16 exp(-i / 2^f)) for i < 2^16. Fifty digits settle the floor: no exponential is that close to an integer."""
    fifty = Context(prec=50)
    return [int(fifty.multiply(1 << 16, fifty.exp(fifty.divide(-i, 1 << f)))) for i in range(1 << 16)]


def lookups(dialogue: Dialogue, layout: Layout, activation_bits: int) -> list[Claim]:
    """The claims about the numerators and the denominators of the leaves."""
    gamma, beta = dialogue.challenges("lookup", 2)
    sizes = [sum(layout.shapes[name]) for name, _ in layout.lookups] + [size for _, _, size in layout.counts]
    num, den, point = _tree(dialogue, stack_variables(sizes))
    of_all = prefixes(sizes, point)
    of_lookups, of_tables = of_all[: -len(layout.tables)], of_all[-len(layout.tables) :]
    vectors = cache(lambda high, low: (eq(point[low : low + high]), eq(point[:low])))  # shared by blocks of one shape
    numerator, denominator = Claim(num, sum(of_lookups)), Claim(den, 1 - sum(of_all))
    for k, (name, high, low), pre in zip(layout.tables, layout.counts, of_tables, strict=True):
        numerator.parts.append((name, -pre, *vectors(high, low)))
        t0 = sum(coordinate << i for i, coordinate in enumerate(point[:low]))
        t1 = dot(eq(point[:low]), exponentials(activation_bits)) if k == PAIRS else 0
        denominator.constant += pre * (gamma - t0 - beta * t1 - beta**2 * k)
    for (name, k), pre in zip(layout.lookups, of_lookups, strict=True):
        denominator.constant += pre * (gamma - beta**2 * k)
        denominator.parts.append((name, -pre, *vectors(*layout.shapes[name])))
        if k == PAIRS:
            denominator.parts.append(("e", -pre * beta, *vectors(*layout.shapes["e"])))
    return [numerator, denominator]


def _tree(dialogue: Dialogue, variables: int) -> tuple[Expression, Expression, Vector]:
    """Numerator and denominator at a point of the leaves, from those of the root."""
    num, [den], point = Expression(), dialogue.message("root", 1), list[int]()
    for _ in range(variables):
        lam = dialogue.challenge("fraction batch")
        claim, bound = combine((1, num), (lam, den)), list[int]()
        for u in point:
            c = dialogue.message("fractions", 3)
            dialogue.require((1 - u, c[0]), (u, polynomial(c, 1)), (-1, claim))
            bound.append(dialogue.challenge("fraction round"))
            claim = polynomial(c, bound[-1])
        p0, p1, q0, q1, a, b = dialogue.message("gate", 6)
        dialogue.product("fraction gate", p0, q1, a)
        dialogue.product("fraction gate", q0, combine((1, p1), (lam, q1)), b)
        dialogue.require((1, a), (1, b), (-1, claim))
        u = dialogue.challenge("fraction child")
        num, den, point = combine((1 - u, p0), (u, p1)), combine((1 - u, q0), (u, q1)), [u, *bound]
    return num, den, point
