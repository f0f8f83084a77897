"""Why the other trainable tensors have no tap: what their update is made of, in a sentence each."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from zkaudit.attacks.model import PublicModel


@dataclass(frozen=True)
class Quiet:
    """A tensor whose update spans no inputs. `capacity` is how many directions it shows of anything: 1 for a vector."""

    kind: str
    parameter: str
    capacity: int
    explanation: str
    derived: bool = True  # False if nothing is known of this kind of tensor, which is no sign of safety


MATCHING = "only gradient matching and memorisation are left to an attacker"

# Part of the name, kind, capacity, reason; the first that fits.
REASONS = (
    ("lora_magnitude_vector", "DoRA magnitude", 1, "one number an output, summed over all positions: no span of inputs"),
    ("lora_E", "AdaLoRA E", 1, "one number a rank, summed over all positions: no span of inputs"),
    ("lora_embedding_B", "LoRA on embedding, B", 0, "zero while A is zero, then a sum over tokens; A shows the tokens anyway"),
    ("ia3_l", "IA3 scales", 1, "one vector a module, a sum over all positions of error times activation: no span of inputs"),
    ("ln_tuning_layers", "norm", 1, "one vector a norm, a sum over all positions: no span of inputs"),
)


def quiet(model: PublicModel, parameter: str) -> Quiet:
    """Why this trainable tensor shows no inputs."""
    for part, kind, capacity, reason in REASONS:
        if part in parameter:
            return Quiet(kind, parameter, capacity, f"{reason}; {MATCHING}")
    if parameter.startswith("prompt_encoder."):
        return _prompt(model, parameter)
    owner = model.module.get_submodule(parameter.rpartition(".")[0])
    value = model.module.get_parameter(parameter)
    if isinstance(owner, nn.Embedding):
        reason = "row p is non-zero only if some record is longer than p, or has that segment: it tells lengths, not tokens"
        return Quiet("position embedding", parameter, 0, reason)
    if value.dim() == 1:
        kind = "bias" if parameter.endswith("bias") else "norm"
        return Quiet(kind, parameter, 1, f"one vector a module, a sum over all positions: no span of inputs; {MATCHING}")
    return Quiet("unknown", parameter, 0, "no derivation covers this kind of tensor: what it shows is not known", derived=False)


def _prompt(model: PublicModel, parameter: str) -> Quiet:
    config = model.module.peft_config.get(parameter.split(".")[1])  # type: ignore[union-attr, operator]
    method = str(getattr(config, "peft_type", "")).rpartition(".")[-1]
    if method == "PREFIX_TUNING" and getattr(config, "prefix_projection", False):
        reason = "the network that makes keys and values mixes all layers and heads: the queries' span is hidden"
        return Quiet("prefix projection", parameter, 0, f"{reason}; {MATCHING}")
    if method == "PREFIX_TUNING":
        reason = "several heads of queries share a key here, so a row mixes their queries: they leak, but no tap reads it"
        return Quiet("shared prefix keys", parameter, 0, reason, derived=False)
    if method in ("PROMPT_TUNING", "P_TUNING"):
        kind = "prompt" if method == "PROMPT_TUNING" else "prompt encoder"
        reason = "the error reaches it through the whole network and mixes all positions: no span of inputs"
        return Quiet(kind, parameter, 0, f"{reason}; {MATCHING}")
    return Quiet("unknown", parameter, 0, "no derivation covers this kind of tensor: what it shows is not known", derived=False)
