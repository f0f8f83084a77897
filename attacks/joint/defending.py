"""The same client under defences, each against an attacker who does not know of it and one who does.

A defence of what is sent (noise, sparsity, precision) is tried on the very update that the proof speaks about. One of how a
client trains (batch, local steps) needs another training: the same start weights and data, in floating point, which no proof
speaks about, and the note says so. The static attacker runs `ratios` unchanged and is scored by what it claims. The adaptive
one knows the defence and takes what fits: least squares over all units of one record, sparse factors, matching over all steps,
and ratios of units that moved most where nothing else applies. Under GaLore or LoRA the static one takes the update for one of
plain SGD, and the adaptive one has the records' zeros and matching through the method's steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from zkaudit.attacks.attack import Progress, silent
from zkaudit.attacks.defences import NONE, Defence, catalogue, parse
from zkaudit.attacks.defences.pareto import front
from zkaudit.attacks.defences.sweep import DefenceResult, static_only
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.client import in_precision
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.joint import controls
from zkaudit.attacks.joint.client import Client, Found, Seen, layers, named
from zkaudit.attacks.joint.factors import ROUGH_DRAWS, ROUGHLY, SparseFactors
from zkaudit.attacks.joint.mixtures import smallest_record
from zkaudit.attacks.joint.ratios import Ratios, guesses, regression
from zkaudit.attacks.joint.scoring import Scorer
from zkaudit.attacks.joint.sparse_records import SparseRecords
from zkaudit.attacks.joint.unrolled import UnrolledMatching
from zkaudit.training.fixedpoint.float_step import mean_loss, trained

SEEDS = (0, 1, 2)
TIMES = 8  # what batch and local steps are multiplied by
QUICK = UnrolledMatching(restarts=1, iterations=200, most_steps=8)  # for each seed of each defence


@dataclass(frozen=True)
class Trial:
    """One update under a defence: what the server sees of it, and the client whose it is."""

    client: Client
    seen: Seen
    trained_anew: bool


def default_defences(client: Client) -> tuple[str, ...]:
    """On what is sent, and on how the client trains."""
    steps, batch = client.batches.shape
    larger = min(TIMES * batch, len(client.data))
    return ("noise:0.1", "noise:1", "top_k:0.1", "bf16", "sign", f"batch:{larger}", f"local_steps:{TIMES * steps}")


def measured_defences(client: Client, texts: Sequence[str], progress: Progress = silent) -> list[dict[str, Any]]:
    """One dictionary a defence, for the report, "none" first. AuditError for a defence that no such client can have."""
    results: list[DefenceResult] = []
    losses, anew = [], []
    defences = [NONE, *(defence for defence in map(parse, texts) if defence.name != NONE.name)]
    for number, defence in enumerate(defences):
        progress(f"defence {defence.name}", number / len(defences))
        scores: dict[str, list[float]] = {"static": [], "adaptive": [], "chance": []}
        trials = [trial(client, defence, seed) for seed in SEEDS]
        if all(_same(one.seen, trials[0].seen) for one in trials):  # nothing is drawn
            trials = trials[:1]
        for seed, one in zip(SEEDS, trials, strict=False):
            scorer = Scorer(*one.client.truth, client.data)
            guessed = controls.marginal(client.data, one.seen.records, seed)
            for name, found in (
                ("static", _claims(Ratios(), one.seen.as_plain)),
                ("adaptive", adaptive(one.seen)),
                ("chance", guessed),
            ):
                scores[name].append(scorer.fidelity(found.records))
        static, adapted, chance = (tuple(scores[name]) for name in ("static", "adaptive", "chance"))
        result = DefenceResult(defence.name, static, adapted, chance)
        results.append(replace(result, static_only=bool(results) and static_only(results[0], result)))
        losses.append(sum(_loss(one) for one in trials) / len(trials))
        anew.append(trials[0].trained_anew)
    progress("defences", 1.0)
    return _rows(results, losses, anew)


def trial(client: Client, defence: Defence, seed: int) -> Trial:
    """The client's update under a defence; AuditError for one that is made for other models."""
    steps, batch = client.batches.shape
    plain = FederatedSettings(sends="delta", batch=batch, local_steps=steps, precision="float64")
    settings = defence.settings(plain)
    allowed = replace(plain, batch=settings.batch, local_steps=settings.local_steps, precision=settings.precision)
    if defence.private is not None or defence.linear_map is not None or settings != allowed:
        raise AuditError(f"defence '{defence.name}' is not one for the update of a fully connected network")
    anew = (settings.batch, settings.local_steps) != (batch, steps)
    if anew:
        client = _trained_anew(client, settings.batch, settings.local_steps, seed)
    tensors = named(client.update, client.method)
    if defence.protect is not None:
        tensors = defence.protect(tensors, torch.Generator().manual_seed(seed))
    sent = {name: in_precision(value, settings.precision).double() for name, value in tensors.items()}
    partial = any(part.startswith("top_k") for part in defence.name.split("+"))
    return Trial(client, replace(client.seen, update=layers(sent), partial=partial), anew)


def adaptive(seen: Seen) -> Found:
    """What an attacker who knows the defence, and the method, makes of an update."""
    if not seen.method.is_plain:
        return _through_method(seen)
    if seen.records == 1:
        return Found(regression(seen)[None])
    found = _claims(SparseFactors(), seen)
    if found.claimed == seen.records:
        return found
    rough = SparseFactors(draws=ROUGH_DRAWS, zero=ROUGHLY).guess(seen)
    try:
        return QUICK.run(seen, near=[] if rough is None else [rough])
    except AuditError:  # more records or steps than matching is run for
        if found.claimed or not bool(seen.update[0][-1].any()):
            return found
        return Found(guesses(seen))


def suggested(seen: Seen) -> list[Tensor]:
    """Guesses (m, d) from which matching can begin where the first layer shows no ratios."""
    if seen.method.is_plain:
        return []
    with suppress(AuditError):
        return [SparseRecords().run(seen).records]
    with suppress(AuditError):
        return [smallest_record(seen)]
    return []


def _through_method(seen: Seen) -> Found:
    """Records by their zeros, else by matching, else none."""
    with suppress(AuditError):
        return SparseRecords().run(seen)
    with suppress(AuditError):  # there may be too much to match
        return QUICK.run(seen, near=suggested(seen))
    return Found(seen.layers[0].new_zeros(0, seen.inputs))


def _claims(attack: Ratios | SparseFactors, seen: Seen) -> Found:
    """What an attack stands by; nothing where it does not apply."""
    try:
        found = attack.run(seen)
    except AuditError:
        return Found(seen.start[0].new_zeros(0, seen.inputs))
    return replace(found, records=found.records[: found.claimed])


def _trained_anew(client: Client, batch: int, steps: int, seed: int) -> Client:
    """The client after other steps, on batches drawn without replacement in each pass over the data."""
    rows = len(client.data)
    if batch > rows:
        raise AuditError(f"a batch of {batch} cannot be drawn from {rows} records")
    generator = torch.Generator().manual_seed(seed)
    order: list[Tensor] = []
    while sum(len(one) for one in order) < steps:
        order.append(torch.randperm(rows, generator=generator)[: rows // batch * batch].reshape(-1, batch))
    batches = torch.cat(order)[:steps]
    rates = [client.rates[step % len(client.rates)] for step in range(steps)]
    end = trained(
        client.start, client.data, client.targets, batches, rates, client.loss, client.method, client.frozen
    )  # fmt: skip
    return replace(client, end=end, batches=batches, rates=rates)


def _same(one: Seen, other: Seen) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.update, other.update, strict=True))


def _loss(one: Trial) -> float:
    after = one.seen.method.layers(one.seen.frozen, one.seen.end)
    return mean_loss(after, one.client.data, one.client.targets, one.client.loss)


def _rows(results: Sequence[DefenceResult], losses: Sequence[float], anew: Sequence[bool]) -> list[dict[str, Any]]:
    kinds = {kind.name: kind.explanation for kind in catalogue()}
    best = front([(-loss, result.interval("adaptive").value) for loss, result in zip(losses, results, strict=True)])
    rows = []
    for result, loss, again, on_front in zip(results, losses, anew, best, strict=True):
        note = "trained anew from the committed start weights, in floating point: the proof does not speak of this update"
        rows.append(
            {
                "name": result.defence,
                "explanation": "; ".join(kinds[part.split(":")[0].strip()] for part in result.defence.split("+")),
                "static": result.interval("static").to_dict(),
                "adaptive": result.interval("adaptive").to_dict(),
                "chance": result.interval("chance").value,
                "undefended": results[0].interval("adaptive").value,
                "epsilon": None,
                "static_only": result.static_only,
                "note": note if again else "on the very update that the proof speaks about",
                "utility": {"name": "training loss", "value": loss, "better": "lower"},
                "front": on_front,
            }
        )
    return rows
