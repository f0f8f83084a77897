"""Updates and adapters from files of any stack, fitted to a model by the names of its trainable tensors.

Files are safetensors, or dictionaries of tensors saved by torch (read without running code), or a folder that peft wrote. A
tensor may go by the model's name for it or by peft's, which leaves out the adapter's own name; wrappers' prefixes are ignored.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.threat import Round
from zkaudit.attacks.update import KINDS, Kind, Update

FOLDER_FILES = ("adapter_model.safetensors", "adapter_model.bin")


def load_for(model: PublicModel, path: Path, kind: Kind | None = None) -> Update:
    """An update of this model; `kind` says what it is where the file does not.

    AuditError if the file cannot be read, if it says otherwise, or at the first tensor that is lacking, foreign, misshapen or
    not finite.
    """
    tensors, stated = _read(path)
    if stated not in (None, *KINDS):
        raise AuditError(f"{path} holds {stated}, not an update; give the weights before and after training instead")
    if stated is not None and kind is not None and stated != kind:
        raise AuditError(f"{path} says that it is a {stated}, not a {kind}")
    if (stated or kind) is None:
        raise AuditError(f"{path} does not say whether it is a gradient or a delta; say so, or give weights before and after")
    return Update(cast(Kind, stated or kind), _fitted(model, tensors, path))


def load_weights(model: PublicModel, path: Path) -> dict[str, Tensor]:
    """Values of the model's trainable tensors, as a round starts or ends with; frozen tensors in the file are passed over.

    AuditError as `load_for`.
    """
    tensors, stated = _read(path)
    if stated in KINDS:
        raise AuditError(f"{path} is a {stated}, not weights")
    known = _names(model)
    frozen = {_bare(name) for name in model.module.state_dict()} - set(known)
    return _fitted(model, {name: value for name, value in tensors.items() if _bare(name) not in frozen}, path)


def load_delta(model: PublicModel, after: Path, before: Path | None = None) -> Update:
    """What training added: the weights `after` it minus those `before`, or minus the model's own. AuditError as `load_for`."""
    start = model.state() if before is None else load_weights(model, before)
    return difference(start, load_weights(model, after))


def load_round(model: PublicModel, start: Path, update: Path, kind: Kind | None = None) -> Round:
    """A captured round: the weights that the server handed out, and what came back."""
    return Round(load_weights(model, start), load_for(model, update, kind))


def difference(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> Update:
    """End minus start, for the same tensors."""
    return Update("delta", {name: value - before[name].to(value) for name, value in after.items()})


def save_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write values of trainable tensors; their file says that it is no update."""
    save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, path, {"kind": "weights"})


def _read(path: Path) -> tuple[dict[str, Tensor], str | None]:
    if path.is_dir():
        found = [path / name for name in FOLDER_FILES if (path / name).exists()]
        if not found:
            raise AuditError(f"{path} holds neither {' nor '.join(FOLDER_FILES)}")
        path = found[0]
    if not path.exists():
        raise AuditError(f"there is no file {path}")
    return _read_torch(path) if path.suffix in (".pt", ".pth", ".bin") else _read_safetensors(path)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], str | None]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, (file.metadata() or {}).get("kind")  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise AuditError(f"{path} is not a safetensors file: {error}") from None


def _read_torch(path: Path) -> tuple[dict[str, Tensor], str | None]:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a damaged pickle raises whatever its bytes make it raise
        raise AuditError(f"{path} is not a dictionary of tensors that can be read without running its code") from None
    stated = content.pop("kind", None) if isinstance(content, dict) else None
    if isinstance(content, dict) and set(content) == {"tensors"}:
        content = content["tensors"]
    if not isinstance(content, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()):
        raise AuditError(f"{path} is not a dictionary of tensors by name")
    if stated is not None and not isinstance(stated, str):
        raise AuditError(f"{path}: its kind is not a string")
    return {name: value.detach() for name, value in content.items()}, stated


def _fitted(model: PublicModel, tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors under the model's names for them, in float32 or float64, on the model's device."""
    known = _names(model)
    device = torch.device("cpu") if model.is_plan else model.device
    result: dict[str, Tensor] = {}
    foreign = []
    for name, value in tensors.items():
        own = known.get(_bare(name))
        if own is None:
            foreign.append(name)
        elif own in result:
            raise AuditError(f"{path} holds '{own}' twice, once as '{name}'")
        elif not value.is_floating_point():
            raise AuditError(f"{path}: '{own}' is of type {str(value.dtype).removeprefix('torch.')}, not of real numbers")
        else:
            result[own] = value.to(device, torch.float64 if value.dtype == torch.float64 else torch.float32)
    if not result:
        example = f", such as '{foreign[0]}'" if foreign else ""
        raise AuditError(f"{path} is of another model: this one trains none of its {len(foreign)} tensors{example}")
    if foreign:
        raise AuditError(f"{path}: '{foreign[0]}' is not a tensor that this model trains")
    shapes = {name: parameter.shape for name, parameter in model.trainable().items()}
    try:
        Update("delta", result).check(shapes)
    except AuditError as error:
        raise AuditError(f"{path}: {error}") from None
    return {name: result[name] for name in shapes}


def _names(model: PublicModel) -> dict[str, str]:
    """Every bare name under which a trainable tensor may be saved, to the model's own name for it."""
    trained = model.trainable()
    known = {_bare(name): name for name in trained}
    if not hasattr(model.module, "peft_config"):
        return known
    stored = _peft_state(model)
    places = {(value.data_ptr(), value.shape): name for name, value in trained.items()}
    for name, value in stored.items():
        own = places.get((value.data_ptr(), value.shape))
        if own is not None:
            known.setdefault(_bare(name), own)
    left = [name for name in stored if _bare(name) not in known]
    if len(left) == len(trained) == 1:  # a soft prompt, which peft saves as a copy
        known[_bare(left[0])] = next(iter(trained))
    return known


def _peft_state(model: PublicModel) -> dict[str, Tensor]:
    from peft import get_peft_model_state_dict

    module: Any = model.module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state: dict[str, Tensor] = get_peft_model_state_dict(
            module, adapter_name=module.active_adapter, save_embedding_layers=False
        )
    return state


def _bare(name: str) -> str:
    """A tensor's name without what wrappers add to it."""
    for wrapper in ("_orig_mod.", "_fsdp_wrapped_module."):  # of compilation and of sharding, at any depth
        name = name.replace(wrapper, "")
    return name.removeprefix("module.").removeprefix("base_model.model.")
