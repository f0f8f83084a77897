"""What a client should know of its own configuration before it sends anything: findings, each with a remedy.

They follow from the model and the settings alone; no attack runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

from torch import nn

from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.sites import Dependence
from zkaudit.attacks.taps import Group, Tap, TokenLeak
from zkaudit.attacks.taps.quiet import Quiet

Severity = Literal["high", "medium", "low", "info"]
SEVERITIES: tuple[Severity, ...] = ("high", "medium", "low", "info")

# Classes of layers with quantised weights, by name: bitsandbytes, GPTQ and AWQ, HQQ, EETQ, torch.ao, torchao's modules.
QUANTISED_LAYERS = (
    *("Linear4bit", "Linear8bitLt", "LinearFP4", "LinearNF4", "QuantLinear", "QuantizedLinear", "QuantLinearExllama"),
    *("WQLinear_GEMM", "WQLinear_GEMV", "HQQLinear", "EetqLinear", "Int8DynActInt4WeightLinear"),
)
QUANTISED_TENSORS = ("AffineQuantizedTensor", "NF4Tensor", "Int4Tensor", "Int8Tensor", "Float8Tensor", "QTensor")


@dataclass(frozen=True)
class Finding:
    """What was found, how bad it is, and what would help (empty if nothing needs to be done)."""

    severity: Severity
    sentence: str
    remedy: str = ""


def findings(
    model: PublicModel,
    tokens: int,
    settings: FederatedSettings | None,
    groups: Sequence[Group],
    exact: Sequence[int],
    mute: Sequence[Tap],
    leaks: Sequence[TokenLeak],
    silent: Sequence[Quiet],
) -> list[Finding]:
    """All findings, the worst first.

    `exact` holds the usable rank of each group whose tokens can be told apart one by one, 0 for the others; `mute` are taps
    that show nothing in the first round.
    """
    found = [
        *_token_leaks(leaks),
        *_spans(groups, exact, tokens, settings),
        *_first_round(mute),
        *_adapters(model, groups),
        *_unknown(silent),
        *_federation(model, tokens, settings, groups),
        *_base(model),
        *_versions(),
    ]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def _token_leaks(leaks: Sequence[TokenLeak]) -> Iterator[Finding]:
    for leak in leaks:
        some = f" (those {len(leak.listed)} that are trained)" if leak.listed is not None else ""
        yield Finding(
            "medium" if leak.listed is not None else "high",
            f"'{leak.parameter}' ({leak.kind}) names the tokens of a batch{some} however large it is: {leak.explanation}",
            _remedy(leak),
        )


def _remedy(leak: TokenLeak) -> str:
    if "modules_to_save" in leak.parameter:
        return "take it out of modules_to_save, or train it where the server sees nothing of it"
    if "lora" in leak.parameter:
        return "take the embedding and the output head out of target_modules"
    if leak.listed is not None:
        return "train only tokens whose presence is no secret"
    return "freeze the embedding, the output head and its bias"


def _spans(groups: Sequence[Group], exact: Sequence[int], tokens: int, settings: FederatedSettings | None) -> Iterator[Finding]:
    first = [i for i, group in enumerate(groups) if group.dependence <= Dependence.POSITION]
    if first:
        names = list(dict.fromkeys(tap.site.module for i in first for tap in groups[i].taps))
        whose = f"'{names[0]}'" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
        what = "the token" if all(groups[i].dependence == Dependence.TOKEN for i in first) else "the token and its position"
        yield Finding(
            "high" if any(exact[i] for i in first) else "medium",
            f"the inputs of {whose} depend on {what} alone, so a server can test each token of the vocabulary",
            "adapt later layers only (peft's layers_to_transform); this leaves what the model memorises",
        )
    if any(exact):
        n = tokens * (settings.cohort if settings else 1)
        yield Finding(
            "high",
            f"n/K = {n / max(exact):.2g}: an update comes from {n} tokens and shows {max(exact)} directions, "
            "so what was in it can be told exactly",
            "send updates over more tokens: larger batches, gradient accumulation, a sum over clients; or lower the rank",
        )


def _first_round(mute: Sequence[Tap]) -> Iterator[Finding]:
    if mute:
        yield Finding(
            "medium",
            f"{len(mute)} tensor(s), '{mute[0].parameters[0]}' first, show nothing in a first round, since what multiplies "
            "their gradient starts at zero; they do from the second round on",
            "measure with rounds = 2 or warm_up_steps = 1 for what later rounds show",
        )


def _adapters(model: PublicModel, groups: Sequence[Group]) -> Iterator[Finding]:
    for tap in (tap for group in groups for tap in group.taps):
        parent = model.module.get_submodule(tap.site.module.partition(".adapter_down")[0])
        if tap.kind == "adapter down" and len(tap.parameters) > 1 and any(isinstance(m, nn.ReLU) for m in parent.modules()):
            yield Finding(
                "medium",
                f"'{tap.site.module}' has a bias and feeds a ReLU: the gradient of a neuron that one token alone set off "
                "is that token's input, and a server may choose the start weights so that this is common",
                "use GELU, and adapters without a bias",
            )
            return


def _unknown(silent: Sequence[Quiet]) -> Iterator[Finding]:
    unknown = [each.parameter for each in silent if not each.derived]
    if unknown:
        yield Finding(
            "medium",
            f"nothing is known of what {len(unknown)} tensor(s) show, '{unknown[0]}' first",
            "measure: run the audit's attacks on this configuration",
        )


def _federation(
    model: PublicModel, tokens: int, settings: FederatedSettings | None, groups: Sequence[Group]
) -> Iterator[Finding]:
    if settings is None:
        return
    if settings.cohort == 1:
        width = max((group.dimension for group in groups), default=0)
        clients = f" over {width // tokens + 1} clients or more (n > d)" if width >= tokens else ""
        yield Finding("medium", "the server sees each client's update alone", f"sum updates by secure aggregation{clients}")
    if settings.same_batch and settings.rounds > 1:
        yield Finding(
            "medium",
            f"updates come from the same records in {settings.rounds} rounds: the server stacks them, and averages noise out",
            "draw other records in each round",
        )
    if settings.precision in ("float32", "float64"):
        yield Finding(
            "low",
            f"updates are sent in {settings.precision}, in which exact tests work as published",
            "send bfloat16 or int8: this stops fixed thresholds, but not an attacker who ranks candidates",
        )
    if not settings.dropout or not _drops(model):
        yield Finding(
            "low",
            "clients train without dropout, as published attacks assume",
            "turn dropout on (lora_dropout too): it blurs inputs a little",
        )


def _drops(model: PublicModel) -> bool:
    layers = any(isinstance(m, nn.Dropout) and m.p > 0 for m in model.module.modules())
    return layers or float(getattr(model.config, "attention_dropout", 0.0) or 0.0) > 0


def _base(model: PublicModel) -> Iterator[Finding]:
    layers = quantised_layers(model)
    if layers:
        yield Finding(
            "info",
            f"{len(layers)} layers of the base model are quantised, '{layers[0]}' first: the base is frozen and only "
            "changes the errors d_i, so what the update spans is unchanged (a server whose kernels round otherwise than the "
            "client's sees candidates for deeper layers a little off)",
        )


def quantised_layers(model: PublicModel) -> list[str]:
    """Names of layers whose weights are not held as floating-point numbers, or whose class is that of a quantised layer."""
    return [name for name, module in model.module.named_modules() if _is_quantised(module)]


def _is_quantised(module: nn.Module) -> bool:
    if hasattr(module, "base_layer"):  # a wrapper around such a layer; the layer itself comes too
        return False
    if any(kind.__name__ in QUANTISED_LAYERS for kind in type(module).__mro__):
        return True
    weight = module._parameters.get("weight", module._buffers.get("weight", module._buffers.get("qweight")))
    if weight is None:
        return False
    return type(weight.data).__name__ in QUANTISED_TENSORS or not (weight.is_floating_point() or weight.is_complex())


def _versions() -> Iterator[Finding]:
    try:
        peft, opacus = metadata.version("peft"), metadata.version("opacus")
    except metadata.PackageNotFoundError:
        return
    if tuple(int(part) for part in peft.split(".")[:2]) >= (0, 14):
        yield Finding(
            "info",
            f"peft {peft} with opacus {opacus}: since peft 0.14 training under opacus' GradSampleModule has been seen to leave "
            "adapters as they were (pytorch/opacus#820)",
            "check after the first private step that adapter weights moved",
        )
