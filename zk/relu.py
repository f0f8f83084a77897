"""zkReLU. A hidden layer's pre-activation is Z' = P - 2^16 B with P in [0, 2^16) and B a bit: B is its sign.

    forward    A_{j+1} = (1 - B_j) P_j
    backward   G_j     = (1 - B_j) GA'_j
    sign bit   (1 - B_j) B_j = 0

P and GA' (stored with an offset of 2^15) lie in 16-bit tables by lookup, which makes P and B unique for every Z', zero
included: with B = 1 and Z' >= 0, P would be 2^16 or more. The three products never get a sumcheck of their own: they are
product parts of claims, and the gather sumcheck settles them for all layers and steps at once. The claim below fixes the sign
bits. Error: (n + 1) / |F| a layer. Source: zkDL (Sun et al. 2023), section on zkReLU; bits of the value are replaced by
lookups. With FP8 (circuit/fp8.py), casts of P and GA' stand in the first two lines."""

from __future__ import annotations

from zkaudit.zk.block import SIGN_OFFSET
from zkaudit.zk.channel import Channel
from zkaudit.zk.circuit import fp8
from zkaudit.zk.claims import Claim, Form
from zkaudit.zk.layout import Layout
from zkaudit.zk.linear import Linear
from zkaudit.zk.statement import Statement


def active(j: int) -> Form:
    """1 - B_j: one where the unit lets its value through."""
    return Form(1, ((-1, f"b{j}"),))


def forward_forms(s: Statement, j: int) -> tuple[Form, Form]:
    """The two factors of A_{j+1}."""
    return active(j), Form(0, ((1, fp8.cast_name("p", j) if s.fp8 else f"p{j}"),))


def backward_forms(s: Statement, j: int) -> tuple[Form, Form]:
    """The two factors of G_j."""
    return active(j), Form(-SIGN_OFFSET, ((1, fp8.cast_name("ga", j) if s.fp8 else f"ga{j}"),))


def sign_claims(layout: Layout, channel: Channel) -> list[Claim]:
    """(1 - B_j) B_j vanishes, one claim a hidden layer."""
    s, claims = layout.statement, []
    for j in range(s.layers - 1):
        units = channel.random_weights("sign units", s.widths[j + 1])
        samples = channel.random_weights("sign samples", s.steps * s.batch)
        claim = Claim(Linear())
        claim.add_product(layout.named[f"b{j}"], active(j), Form(0, ((1, f"b{j}"),)), 1, units, samples)
        claims.append(claim)
    return claims
