"""A model from a folder of transformers (config.json, weights, tokenizer) or from a config.json alone. Nothing is downloaded.

Without weights they are random; if they would be large the model stays a plan on the meta device, enough for the meter.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.model import PublicModel, Task

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model")
LARGEST = 300_000_000  # parameters that are made up at random; more stay a plan
TASKS: tuple[tuple[str, Task], ...] = (
    ("ForCausalLM", "causal_lm"),
    ("LMHeadModel", "causal_lm"),
    ("ForMaskedLM", "masked_lm"),
    ("ForSequenceClassification", "sequence_classification"),
)
LOADERS = {
    "causal_lm": "AutoModelForCausalLM",
    "masked_lm": "AutoModelForMaskedLM",
    "sequence_classification": "AutoModelForSequenceClassification",
}


def unheard(_note: str) -> None:
    """A listener that does nothing."""


def model_from(path: Path, note: Callable[[str], None] = unheard, seed: int = 0) -> PublicModel:
    """The model at `path`, a folder or its config.json: weights frozen, float32, eval mode. `note` is told what was made up.

    AuditError names the file that is missing or broken, an architecture that is not known, or a tokenizer with more tokens than
    the model's embedding has rows.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    config = _config(path / "config.json" if path.is_dir() else path)
    task = _task(config)
    loader = getattr(transformers, LOADERS[task])
    weights = [name for name in WEIGHTS if (folder / name).exists()]
    module = _read(loader, folder, config, note) if weights else _random(loader, config, seed, note)
    tokenizer = _tokenizer(folder, note)
    module.requires_grad_(False)
    model = PublicModel(module.eval(), tokenizer, task)
    if tokenizer is not None and len(tokenizer) > model.vocabulary:
        raise AuditError(f"the tokenizer in {folder} has {len(tokenizer)} tokens; the model's embedding has {model.vocabulary}")
    return model


def _config(path: Path) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AuditError(f"there is no model configuration at {path}") from None
    except OSError as error:
        raise AuditError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise AuditError(f"{path} is not JSON") from None
    kind = content.get("model_type") if isinstance(content, dict) else None
    if not isinstance(kind, str):
        raise AuditError(f"{path} names no model_type")
    try:
        return transformers.AutoConfig.for_model(**content)
    except ValueError:
        raise AuditError(f"{path}: transformers {transformers.__version__} does not know the model_type '{kind}'") from None
    except Exception as error:  # transformers' validation has classes of its own
        raise AuditError(f"{path} does not describe a {kind}: {_first_line(error)}") from None


def _task(config: Any) -> Task:
    for architecture in config.architectures or ():
        for end, task in TASKS:
            if architecture.endswith(end):
                return task
        raise AuditError(f"the architecture {architecture} is neither a language model nor a sequence classifier")
    masked = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)
    return "masked_lm" if masked else "causal_lm"


def _read(loader: Any, folder: Path, config: Any, note: Callable[[str], None]) -> nn.Module:
    try:
        module, info = loader.from_pretrained(
            folder, config=config, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, SafetensorError, pickle.UnpicklingError) as error:
        raise AuditError(
            f"the weights in {folder} cannot be read or do not fit its config.json: {_first_line(error)}"
        ) from None
    missing = sorted(info["missing_keys"])
    if missing:
        note(f"the weights in {folder} lack {len(missing)} tensors, '{missing[0]}' first: they are random")
    return cast(nn.Module, module)


def _random(loader: Any, config: Any, seed: int, note: Callable[[str], None]) -> nn.Module:
    try:
        with torch.device("meta"):
            plan = loader.from_config(config, dtype=torch.float32)
        size = sum(parameter.numel() for parameter in plan.parameters())
        if size > LARGEST:
            note(f"there are no weights and {size:,} would have to be made up: the model stays a plan, for the meter only")
            return cast(nn.Module, plan)
        note("there are no weights: they are random")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cast(nn.Module, loader.from_config(config, dtype=torch.float32))
    except (AttributeError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise AuditError(
            f"transformers cannot build a {config.model_type} from its config.json: {_first_line(error)}"
        ) from None


def _tokenizer(folder: Path, note: Callable[[str], None]) -> Any:
    """The folder's tokenizer, with a token to pad with; None if there is none."""
    if not any((folder / name).exists() for name in TOKENIZER):
        note(f"there is no tokenizer in {folder}")
        return None
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises plain Exception
        raise AuditError(f"the tokenizer in {folder} cannot be read: {_first_line(error)}") from None
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
