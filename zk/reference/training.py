"""Sections 6.5 to 6.8: the network, the matrix products of all steps, the history of updates, element-wise relations."""

from itertools import accumulate

from .conventions import R, Vector, bits, powers, rw
from .dialogue import ONE, Claim, Dialogue, Expression, Factors, combine
from .layout import limbs
from .statement import Statement, sample_rows

Term = tuple[int, Vector, Vector, Vector]  # (j, tau, inputs, out): the sum over t of tau[t] <W_j[t], inputs (x) out>
WeightClaim = tuple[Expression, list[Term]]  # value, and terms that sum up to it


class Network:
    """Section 6.5: what the network computes, as linear forms in the blocks that are added to a claim."""

    def __init__(self, s: Statement) -> None:
        self.s, self.w, self.last, self.row = s, s.weight_bits, s.layers - 1, sample_rows(s)

    def rows(self, smp: Vector) -> Vector:
        result = [0] * self.s.rows
        for row, weight in zip(self.row, smp, strict=True):
            result[row] = (result[row] + weight) % R
        return result

    def act(self, claim: Claim, j: int, inputs: Vector, smp: Vector) -> None:
        *units, bias = inputs
        if j == 0:
            claim.parts.append(("x", 1, units, self.rows(smp)))
            claim.constant -= (1 << 15) * sum(units) * sum(smp)
        else:
            claim.parts.append((((1, -1, f"b{j - 1}"), (0, 1, f"p{j - 1}")), 1, units, smp))
        claim.constant += (1 << self.s.activation_bits) * bias * sum(smp)

    def grad(self, claim: Claim, j: int, out: Vector, smp: Vector) -> None:
        a = 1 << self.s.gradient_bits - self.s.activation_bits
        if j < self.last:
            claim.parts.append((((1, -1, f"b{j}"), (-(1 << 15), 1, f"ga{j}")), 1, out, smp))
        elif self.s.cross_entropy:
            claim.parts += [("q", 1, out, smp), ("y", -(1 << self.s.gradient_bits), out, self.rows(smp))]
        else:
            claim.parts += [("z", a, out, smp), ("y", -a, out, self.rows(smp))]
            claim.constant -= (1 << 15) * a * sum(out) * sum(smp)

    def pre(self, claim: Claim, j: int, c: int, out: Vector, smp: Vector) -> None:
        if j < self.last:
            claim.parts += [(f"p{j}", c << self.w, out, smp), (f"b{j}", -c << self.w + 16, out, smp)]
        elif self.s.cross_entropy:
            claim.parts += [("m", c << self.w, [sum(out)], smp), ("d", -c << self.w, out, smp)]
        else:
            claim.parts.append(("z", c << self.w, out, smp))
        claim.constant -= (c << self.w + 15) * sum(out) * sum(smp) if j == self.last else 0
        self.rem(claim, f"r{j}", c, out, smp)

    def back(self, claim: Claim, j: int, c: int, out: Vector, smp: Vector) -> None:
        claim.parts.append((f"ga{j}", c << self.w, out, smp))
        claim.constant -= (c << self.w + 15) * sum(out) * sum(smp)
        self.rem(claim, f"rg{j}", c, out, smp)

    def rem(self, claim: Claim, name: str, c: int, out: Vector, smp: Vector) -> None:
        claim.parts += [(limb, c << 16 * k, out, smp) for k, limb in enumerate(limbs(name, self.w))]
        claim.constant -= (c << self.w - 1) * sum(out) * sum(smp)

    def weights(self, claim: Claim, name: str, j: int, c: int, inputs: Vector, out: Vector) -> None:
        *units, bias = inputs
        claim.parts += [(f"{name}{j}", c, out, units), (f"{name}{j}.bias", c * bias, [1], out)]


def matrix_products(dialogue: Dialogue, s: Statement, network: Network, forward: bool) -> tuple[list[Claim], WeightClaim]:
    """Section 6.6, one direction: two claims, and one about the weights."""
    label, layers = ("forward product", range(s.layers)) if forward else ("backward product", range(1, s.layers))
    smp = dialogue.weights("product samples", s.samples)
    mu, nu = (s.widths[1:], [d + 1 for d in s.widths[:-1]]) if forward else (s.widths[1:-1], s.widths[2:])
    point = dialogue.challenges("product units", bits(max(mu) - 1))
    alphas = powers(dialogue.challenge("product layers"), len(layers))
    v, z, prefixes, left, right = dialogue.stacked_product(label, [bits(inner - 1) + bits(s.steps - 1) for inner in nu])
    products, factors, terms = Claim(v), Claim(left), list[Term]()
    step = rw(z, s.steps)
    of_step = [step[i // s.batch] * weight % R for i, weight in enumerate(smp)]
    for j, a, pre, units, inputs in zip(layers, alphas, prefixes, mu, nu, strict=True):
        outer, inner, tau = rw(point, units), rw(z[bits(s.steps - 1) :], inputs), [*(pre * weight % R for weight in step), 0]
        scaled = [pre * a * weight % R for weight in inner]
        if forward:
            network.pre(products, j, a, outer, smp)
            network.act(factors, j, scaled, of_step)
            terms.append((j, tau, inner, outer))
        else:
            network.back(products, j - 1, a, outer, smp)
            network.grad(factors, j, scaled, of_step)
            terms.append((j, tau, [*outer, 0], inner))
    return [products, factors], (right, terms)


def layer_vectors(dialogue: Dialogue, s: Statement, label: str) -> list[tuple[int, Vector, Vector]]:
    """Section 6.7's LAYERS(label): a^j, in_j and out_j for every layer j."""
    p = dialogue.challenges(f"{label} inputs", bits(max(s.widths[:-1])))
    q = dialogue.challenges(f"{label} outputs", bits(max(s.widths[1:]) - 1))
    scales = powers(dialogue.challenge(f"{label} layers"), s.layers)
    return [(a, rw(p, d + 1), rw(q, units)) for a, d, units in zip(scales, s.widths, s.widths[1:], strict=False)]


def update_history(dialogue: Dialogue, s: Statement, network: Network, weight_claims: list[WeightClaim]) -> list[Claim]:
    """Section 6.7, four claims: on the start weights, the end weights, and the two factors of all updates."""
    end = layer_vectors(dialogue, s, "end weights")
    [ends] = dialogue.message("end weights", 1)
    claims = [*weight_claims, (ends, [(j, [0] * s.steps + [a], inputs, out) for j, (a, inputs, out) in enumerate(end)])]
    omegas = powers(dialogue.challenge("weight claims"), len(claims))
    entries = [(omega, term) for omega, (_, terms) in zip(omegas, claims, strict=True) for term in terms]
    hist, z, prefixes, left, right = dialogue.stacked_product("update history", [bits(s.samples - 1)] * len(entries))
    value = combine((1, hist), *((omega, value) for omega, (value, _) in zip(omegas, claims, strict=True)))
    on_start, on_end, on_act, on_grad = Claim(value), Claim(ends), Claim(left), Claim(right)
    smp = rw(z, s.samples)
    for (omega, (layer, tau, inputs, out)), pre in zip(entries, prefixes, strict=True):
        network.weights(on_start, "start", layer, omega * sum(tau), inputs, out)
        later = list(accumulate(tau[:0:-1]))[::-1]  # tau[t+1] + .. + tau[T]
        kappa = [omega * rate * rest % R for rate, rest in zip(s.rates, later, strict=True)]
        of_kappa = [kappa[i // s.batch] * weight % R for i, weight in enumerate(smp)]
        network.act(on_act, layer, [pre * weight % R for weight in inputs], of_kappa)
        network.grad(on_grad, layer, [pre * weight % R for weight in out], smp)
    for j, (a, inputs, out) in enumerate(end):
        network.weights(on_end, "end", j, a, inputs, out)
    return [on_start, on_end, on_act, on_grad]


def elementwise(dialogue: Dialogue, s: Statement, network: Network) -> list[Claim]:
    """Section 6.8: sign bits, loss, and what the first segment starts from."""
    claims = []
    for j, units in enumerate(s.widths[1:-1]):
        out, smp = dialogue.weights("sign units", units), dialogue.weights("sign samples", s.samples)
        claims.append(Claim(parts=[(((1, -1, f"b{j}"), (0, 1, f"b{j}")), 1, out, smp)]))
    ones = [1] * s.widths[-1]
    if s.cross_entropy:
        drawn = [(dialogue.weights("loss units", len(ones)), dialogue.weights("loss samples", s.samples)) for _ in range(6)]
        (_, smp2), (_, smp3), (out4, smp4), (out6, smp6) = drawn[1], drawn[2], drawn[3], drawn[5]
        h, qs, k = (0, 1, "h"), ((0, 1, "q"), (0, 1, "s")), -(1 << 16)
        of_e: list[tuple[Factors, int]] = [("e", 1 << s.gradient_bits), (qs, -1), ("rho.0", -1), ("rho.1", k)]
        of_s = [("s", 1), ("rho.0", -1), ("rho.1", k), ("sigma.0", -1), ("sigma.1", k)]
        claims += [
            Claim(parts=[((h, (1, -1, "h")), 1, *drawn[0])]),
            Claim({ONE: sum(smp2)}, parts=[("h", 1, ones, smp2)]),
            Claim(parts=[((h, (0, 1, "d")), 1, ones, smp3)]),
            Claim(parts=[("e", sum(out4), ones, smp4), ("s", -1, out4, smp4)]),
            Claim(parts=[(*part, *drawn[4]) for part in of_e]),
            Claim({ONE: sum(out6) * sum(smp6)}, parts=[(*part, out6, smp6) for part in of_s]),
        ]
    if s.segment == 0:
        claims.append(Claim())
        for j, (a, inputs, out) in enumerate(layer_vectors(dialogue, s, "start weights")):
            network.weights(claims[-1], "start", j, a, inputs, out)
            for k in range(len(limbs("", s.weight_bits + 4))):
                claims[-1].parts.append((f"start{j}.{k}", -a << 16 * k, out, inputs[:-1]))
                claims[-1].parts.append((f"start{j}.bias.{k}", -a * inputs[-1] << 16 * k, [1], out))
            claims[-1].constant += (a << s.weight_bits + 3) * sum(inputs) * sum(out)
        if s.cross_entropy:
            v = dialogue.weights("label rows", s.rows)
            claims.append(Claim({ONE: sum(v)}, parts=[("y", 1, ones, v)]))
    return claims
