"""COAT's activations (Xi et al. 2024, arXiv 2410.19313): what autograd saves for the backward pass is stored in FP8.

Linear layers save their input with one scale for the tensor ("group scaling": the largest of the groups' largest). Norms,
activation functions and the product of gated units save theirs in groups of 1 x 16 along channels, never across tokens, and
read what they stored forwards and backwards, so that their gradients are those of what they computed. The group, E4M3 for
activations and E5M2 for gradients are the released code's. Products of matrices stay in the model's own type, unless the option
`products` has them taken of FP8 codes, which is where the published speed comes from.

Of what the paper stores, a norm's statistics and the activated half of a gated unit are computed again instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from zkaudit.training.errors import TrainingError
from zkaudit.training.fp8 import fused
from zkaudit.training.fp8.codes import FORMATS
from zkaudit.training.fp8.layers import Linear, Shared, Stored, StoredAttention
from zkaudit.training.fp8.products import MULTIPLE, LinearInFp8, require_products
from zkaudit.training.method import Method

METHOD = Method(
    name="coat-activations",
    title="COAT: saved activations in FP8 at mixed granularity",
    paper="Xi et al. 2024, arXiv 2410.19313",
    where="zkaudit.training.fp8.activations.compress_activations",
    changes=("memory",),
    effect="1.54 times less end-to-end memory than BF16 together with coat-states, 1.43 times the speed with FP8 products",
    library="torch.nn.functional.scaled_mm multiplies FP8 codes; torchao.float8 has FP8 products that save in BF16",
    provable="yes for fully connected ReLU layers, static scales a layer: docs/proved-methods.md",
    server_sees="an update of the same span; its gradients carry noise of the size of an FP8 step",
    use="""
done = compress_activations(model, ActivationOptions(attention=True))
print(done.left)  # what stays as it was; done.remove() undoes it
""",
    avoid=(
        "models whose activations are a small part of memory, and gradients that must be exact: they are 2 to 6 % off "
        "on a small model; with StreamBP set exact=True, or what runs again differs a little from what ran"
    ),
)

GATED = ("LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP", "GemmaMLP", "Gemma2MLP")  # down(act(gate(x)) * up(x))
NORMS = (nn.LayerNorm, nn.RMSNorm)
FUNCTIONS = (nn.SiLU, nn.GELU, nn.Mish, nn.ELU, nn.Softplus, nn.Hardswish)


@dataclass(frozen=True)
class ActivationOptions:
    """How activations are stored.

    group: channels that share a scale.
    exact: norms and activation functions compute from their input, not from what they stored of it; losses are then those
        without compression, gradients are not.
    gradients: "E5M2" (or "E4M3") rounds what flows back into linear layers, None leaves it.
    attention: queries, keys, values and the output of attention are stored too, which the paper does not.
    products: linear layers multiply FP8 codes, where their sizes are multiples of 16 (Compression.products says which); a
        `gradients` of None is then "E5M2".
    """

    group: int = 16
    exact: bool = False
    gradients: str | None = None
    attention: bool = False
    products: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.group <= 1024:
            raise TrainingError(f"group = {self.group} is not between 1 and 1024 channels")
        if self.gradients not in (None, *FORMATS):
            raise TrainingError(f"gradients = {self.gradients!r} is none of None, {', '.join(map(repr, FORMATS))}")


@dataclass
class Compression:
    """What was done to a model, by names of its modules; `remove`, or leaving it as a context, undoes it.

    `left` names the modules without children that save what they save in their own type, and their class.
    """

    linear: list[str] = field(default_factory=list)
    products: list[str] = field(default_factory=list)  # of `linear`, those whose products are of FP8 codes
    groupwise: list[str] = field(default_factory=list)
    gated: list[str] = field(default_factory=list)
    attention: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    _undo: list[Callable[[], object]] = field(default_factory=list, repr=False)

    def remove(self) -> None:
        """Give the model its own forward functions back."""
        while self._undo:
            self._undo.pop()()

    def __enter__(self) -> Compression:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.remove()


def compress_activations(model: nn.Module, options: ActivationOptions | None = None) -> Compression:
    """Let the layers of `model` save their inputs in FP8 when it is trained; without gradients it computes as before.

    Parameters, names and state_dict stay as they are. Linear layers, transformers' Conv1D, LayerNorm, every RMSNorm, activation
    functions and the gated MLPs of GATED are handled; frozen linear layers save nothing anyway. Raises TrainingError if there
    is no such layer, if the model is compressed already, or if products in FP8 are asked of a device without them.
    """
    options = options or ActivationOptions()
    if any(_is_ours(module) for module in model.modules()):
        raise TrainingError("this model's activations are compressed already")
    for device in {p.device for p in model.parameters()} if options.products else ():
        require_products(device)
    done, shared = Compression(), Shared()
    inside_gates = {module.act_fn for module in model.modules() if type(module).__name__ in GATED}
    for name, module in model.named_modules():
        if type(module).__name__ in GATED:
            _replace(done, done.gated, name, module, partial(_gated, module, options))
        elif options.attention and type(module).__name__.endswith("Attention"):
            hooks = StoredAttention(options.group)
            _replace(done, done.attention, name, module, partial(_attention, hooks, module.forward))
        elif type(module) is nn.Linear or _is_conv1d(module):
            function: type[torch.autograd.Function] = Linear
            if options.products and all(size % MULTIPLE == 0 for size in module.weight.shape):
                function = LinearInFp8
                done.products.append(name)
            changed = partial(_linear, module, module.forward, function, shared, options.gradients)
            _replace(done, done.linear, name, module, changed)
        elif _is_groupwise(module) and module not in inside_gates:
            _replace(done, done.groupwise, name, module, partial(_groupwise, module, module.forward, options))
        elif not any(module.children()) and module not in inside_gates and type(module).forward is not nn.Module.forward:
            done.left[name] = type(module).__name__
    if not done._undo:
        raise TrainingError(f"{type(model).__name__} has no layer whose activations can be compressed")
    done._undo.append(model.register_forward_hook(shared.forget).remove)
    return done


def _replace(done: Compression, names: list[str], name: str, module: nn.Module, forward: Callable[..., Any]) -> None:
    before = vars(module).get("forward")
    module.forward = forward
    names.append(name)
    done._undo.append(partial(setattr, module, "forward", before) if before else partial(delattr, module, "forward"))


def _is_ours(module: nn.Module) -> bool:
    forward = vars(module).get("forward")
    return isinstance(forward, partial) and forward.func in (_linear, _groupwise, _gated, _attention)


def _is_conv1d(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv1D" and type(module).__module__ == "transformers.pytorch_utils"


def _is_groupwise(module: nn.Module) -> bool:
    """A norm, or an activation function that does not overwrite its input."""
    if type(module) in NORMS or type(module).__name__.endswith("RMSNorm"):
        return True
    known = type(module) in FUNCTIONS or type(module).__module__ == "transformers.activations"
    return known and not getattr(module, "inplace", False)


def _linear(
    module: nn.Module,
    plain: Callable[..., Tensor],
    function: type[torch.autograd.Function],
    shared: Shared,
    gradients: str | None,
    x: Tensor,
) -> Tensor:
    weight: Tensor = module.weight  # type: ignore[assignment]
    if not (torch.is_grad_enabled() and weight.requires_grad and x.is_floating_point() and x.ndim > 1):
        return plain(x)
    transposed = type(module) is not nn.Linear
    return function.apply(x, weight, module.bias, *shared.codes(x), transposed, gradients)  # type: ignore[no-any-return, no-untyped-call]


def _groupwise(
    module: nn.Module, plain: Callable[..., Tensor], options: ActivationOptions, x: Tensor, *others: Any, **named: Any
) -> Tensor:
    parameters = list(module.parameters())
    if others or named or x.ndim == 0 or not _saves(x, *parameters):
        return plain(x, *others, **named)
    if (found := fused.norm(module, x, options.group, options.exact)) is not None:
        return found
    return Stored.apply(plain, options.group, options.exact, 1, x, *parameters)  # type: ignore[no-any-return, no-untyped-call]


def _gated(module: Any, options: ActivationOptions, x: Tensor) -> Tensor:
    gate, up = module.gate_proj(x), module.up_proj(x)
    product, inner = partial(_product, module.act_fn), None
    if _saves(gate, up):
        inner = fused.gate(module.act_fn, gate, up, options.group, options.exact)
        if inner is None:
            inner = Stored.apply(product, options.group, options.exact, 2, gate, up)  # type: ignore[no-untyped-call]
    else:
        inner = product(gate, up)
    return module.down_proj(inner)  # type: ignore[no-any-return]


def _product(function: Callable[[Tensor], Tensor], gate: Tensor, up: Tensor) -> Tensor:
    return function(gate) * up


def _attention(hooks: StoredAttention, plain: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
    with saved_tensors_hooks(hooks.pack, hooks.unpack):
        return plain(*inputs, **named)


def _saves(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
