"""A PEFT configuration, from a file or a mapping, and the model with it.

A configuration is {"type": "LORA", "r": 8, "target_modules": ["c_attn"]}: the type, and options under the names that peft's own
configuration classes give them. Files that peft saves (adapter_config.json) are read too, with their weights if those lie
beside them. Besides peft's types there are DORA (LoRA with use_dora), FULL, BITFIT (biases only) and BOTTLENECK; besides its
options `freeze_a` for LoRA (FFA-LoRA: A stays as it is at the start, only B is trained).
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from zkaudit.attacks.adapters import BottleneckSettings, insert
from zkaudit.attacks.device import seeded
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.model import PublicModel

OURS = {"FULL": (), "BITFIT": (), "BOTTLENECK": tuple(f.name for f in dataclasses.fields(BottleneckSettings))}
PEFT = {
    "LORA": peft.LoraConfig,
    "DORA": peft.LoraConfig,
    "ADALORA": peft.AdaLoraConfig,
    "IA3": peft.IA3Config,
    "PREFIX_TUNING": peft.PrefixTuningConfig,
    "PROMPT_TUNING": peft.PromptTuningConfig,
    "P_TUNING": peft.PromptEncoderConfig,
    "LN_TUNING": peft.LNTuningConfig,
}
TYPES = (*PEFT, *OURS)
PROMPTS = ("PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING")
POSITIVE = ("r", "init_r", "target_r", "total_step", "num_virtual_tokens", "lora_alpha", "encoder_hidden_size")
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # as peft names them


@dataclass(frozen=True)
class PeftSettings:
    """The type and its options; `weights` is a file with the adapter's tensors as peft saves them."""

    type: str
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: Path | None = None


def load(source: Path | Mapping[str, Any]) -> PeftSettings:
    """Settings from a JSON file, a folder that peft saved, or a mapping. AuditError names what is wrong in it."""
    if isinstance(source, Mapping):
        return _settings(source, "the PEFT configuration")
    path = source / ADAPTER_CONFIG if source.is_dir() else source
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AuditError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise AuditError(f"{path} is not JSON") from None
    if not isinstance(content, dict):
        raise AuditError(f"{path} holds no JSON object")
    settings = _settings(content, str(path))
    weights = path.parent / ADAPTER_WEIGHTS
    return dataclasses.replace(settings, weights=weights) if path.name == ADAPTER_CONFIG and weights.exists() else settings


def _settings(content: Mapping[str, Any], where: str) -> PeftSettings:
    saved = "peft_type" in content  # by peft, with every field of its class, also of later versions
    kind = content.get("type", content.get("peft_type"))
    if not isinstance(kind, str) or kind.upper() not in TYPES:
        raise AuditError(f"{where}: type is {kind!r}; it must be one of {', '.join(TYPES)}")
    kind = kind.upper()
    options = {key: value for key, value in content.items() if key not in ("type", "peft_type")}
    known = _known(kind)
    if saved:
        options = {key: value for key, value in options.items() if key in known and value is not None and value != {}}
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise AuditError(f"{where}: {kind} has no option '{unknown[0]}'; known are {', '.join(sorted(known))}")
    for name in POSITIVE:
        value = options.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
            raise AuditError(f"{where}: {name} is {value!r}; it must be positive")
    for name in ("lora_dropout",):
        if not isinstance(options.get(name, 0.0), (int, float)) or not 0 <= options.get(name, 0.0) < 1:
            raise AuditError(f"{where}: {name} is {options[name]!r}; it must be at least 0 and below 1")
    for name in ("target_modules", "modules_to_save"):
        value = options.get(name)
        if value is not None and not _is_names(value) and not (name == "target_modules" and isinstance(value, str)):
            raise AuditError(f"{where}: {name} is {value!r}; it must be a list of module names")
    return PeftSettings(kind, options)


def _known(kind: str) -> tuple[str, ...]:
    if kind in OURS:
        return OURS[kind]
    fixed = {"peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"}
    names = tuple(f.name for f in dataclasses.fields(PEFT[kind]) if f.name not in fixed)
    return (*names, "freeze_a") if kind in ("LORA", "DORA") else names


def _is_names(value: Any) -> bool:
    return isinstance(value, (list, tuple, set)) and all(isinstance(name, str) for name in value)


def apply(model: PublicModel, settings: PeftSettings | Mapping[str, Any], seed: int = 0) -> PublicModel:
    """The model with the adapter in it, ready to be a round's start. The base model's modules are changed in place.

    New tensors come from `seed`. AuditError if the model already has an adapter, or the method does not fit the model.
    """
    if isinstance(settings, Mapping):
        settings = load(settings)
    if hasattr(model.module, "peft_config") or model.trainable():
        raise AuditError("the model already has trainable tensors; give the base model alone")
    with seeded(seed, model.device):
        return _ours(model, settings) if settings.type in OURS else _peft(model, settings)


def _ours(model: PublicModel, settings: PeftSettings) -> PublicModel:
    if settings.type == "BOTTLENECK":
        insert(model, BottleneckSettings(**settings.options))
    for name, parameter in model.module.named_parameters():
        if settings.type == "FULL" or (settings.type == "BITFIT" and name.endswith("bias")) or "adapter_" in name:
            parameter.requires_grad_(True)
    if not model.trainable():
        raise AuditError("BITFIT trains biases, and this model has none")
    return model


def _peft(model: PublicModel, settings: PeftSettings) -> PublicModel:
    options = {**_defaults(model, settings.type, settings.options), **settings.options}
    freeze_a = options.pop("freeze_a", False)
    _check_tokens(model, options.get("trainable_token_indices"))
    if model.task == "masked_lm" and settings.type in ("PROMPT_TUNING", "P_TUNING"):
        raise AuditError(
            f"{settings.type} puts virtual tokens before a record, for which a masked language model has no labels"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = PEFT[settings.type](task_type=_task(model, settings.type), **options)
            module = peft.get_peft_model(model.module, config)
    except (AssertionError, AttributeError, IndexError, KeyError, NotImplementedError, TypeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise AuditError(f"peft cannot apply {settings.type} to this model: {reason}") from None
    for name, parameter in module.named_parameters():
        if "ranknum" in name or (freeze_a and ("lora_A" in name or "lora_embedding_A" in name)):
            parameter.requires_grad_(False)
    result = PublicModel(module.eval(), model.tokenizer, model.task)
    if settings.type == "PREFIX_TUNING":
        _check_prefix(result)
    if settings.weights is not None:
        _read_weights(module, settings.weights)
    return result


def _task(model: PublicModel, kind: str) -> str | None:
    """peft's name for the task; a masked language model has none there, but features with a prefix."""
    names = {"causal_lm": "CAUSAL_LM", "sequence_classification": "SEQ_CLS"}
    return names.get(model.task, "FEATURE_EXTRACTION" if kind in PROMPTS else None)


def _defaults(model: PublicModel, kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that peft wants to be told, where it has no default for this architecture."""
    if kind in PROMPTS:
        return {"num_virtual_tokens": 8}
    result: dict[str, Any] = {"use_dora": True} if kind == "DORA" else {}
    if kind == "ADALORA":
        target = options.get("target_r", options.get("r", 8))
        result |= {"total_step": 1000, "target_r": target, "init_r": (3 * target + 1) // 2}
    tables = peft.utils.constants
    table = {
        "IA3": tables.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING,
        "LN_TUNING": tables.TRANSFORMERS_MODELS_TO_LNTUNING_TARGET_MODULES_MAPPING,
        "ADALORA": tables.TRANSFORMERS_MODELS_TO_ADALORA_TARGET_MODULES_MAPPING,
    }.get(kind, tables.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING)
    if model.config.model_type not in table:
        if kind == "LN_TUNING":
            result["target_modules"] = sorted({n.split(".")[-1] for n, m in model.module.named_modules() if _is_norm(m)})
        elif kind != "IA3":
            result["target_modules"] = "all-linear"
    return result


def _is_norm(module: nn.Module) -> bool:
    return type(module).__name__.endswith("Norm")


def _check_tokens(model: PublicModel, indices: Any) -> None:
    listed = indices.values() if isinstance(indices, Mapping) else [indices] if indices is not None else []
    for part in listed:
        for token in part if isinstance(part, (list, tuple)) else [part]:
            if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < model.vocabulary:
                raise AuditError(
                    f"trainable_token_indices holds {token!r}; the model has the tokens 0 to {model.vocabulary - 1}"
                )


def _check_prefix(model: PublicModel) -> None:
    """AuditError unless the model takes keys and values from outside."""
    if model.device.type == "meta":
        return
    ids = torch.zeros(1, 2, dtype=torch.long, device=model.device)
    try:
        with torch.no_grad():
            model.module(input_ids=ids, attention_mask=torch.ones_like(ids))
    except (RuntimeError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise AuditError(f"peft cannot apply PREFIX_TUNING to this model: {reason}") from None


def _read_weights(module: nn.Module, path: Path) -> None:
    try:
        outcome = peft.set_peft_model_state_dict(module, load_file(path))
    except (OSError, SafetensorError) as error:
        raise AuditError(f"{path} is not a safetensors file: {error}") from None
    except RuntimeError as error:
        raise AuditError(f"{path} does not fit the configuration beside it: {str(error).splitlines()[-1].strip()}") from None
    if outcome.unexpected_keys:
        raise AuditError(f"{path} holds '{outcome.unexpected_keys[0]}', which the configuration beside it does not make")
