"""StreamBP with what trains around a model: preference losses, adapters, Trainer, and the bytes that it keeps."""

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from streamed_models import MODELS, WORDS, assert_same, batch, gradients, in_float64, llama
from torch import Tensor, nn

transformers = pytest.importorskip("transformers")

from zkaudit.training.errors import TrainingError  # noqa: E402
from zkaudit.training.memory.stream_bp import StreamBP  # noqa: E402
from zkaudit.training.memory.stream_preferences import (  # noqa: E402
    dpo_loss,
    sequence_log_probabilities,
    token_log_probabilities,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def plain_log_probabilities(model: Any, inputs: dict[str, Tensor], temperature: float = 1.0) -> Tensor:
    logits = model(inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False).logits[:, :-1] / temperature
    targets = inputs["labels"][:, 1:]
    picked = logits.log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    return torch.where(targets == -100, 0.0, picked)


@pytest.mark.parametrize("kind", MODELS)
def test_log_probabilities_of_tokens_and_any_gradient_through_them(kind: str) -> None:
    model, inputs = in_float64(MODELS[kind]()), batch("right")
    weights = torch.randn(3, inputs["input_ids"].shape[1] - 1, dtype=torch.float64)
    plain = plain_log_probabilities(model, inputs, 0.7)
    expected = gradients(model, (weights * plain).sum())
    with StreamBP(model, logit_chunk=6, layer_chunk=5) as stream:
        found = token_log_probabilities(stream, **inputs, temperature=0.7)
        torch.testing.assert_close(found, plain, rtol=1e-11, atol=1e-12)
        assert_same(expected, gradients(model, (weights * found).sum()))


def test_dpo_gradient() -> None:
    model, frozen = in_float64(llama()), in_float64(llama())
    chosen, rejected = batch("right", seed=1), batch("right", seed=2)
    with torch.no_grad():
        known = [plain_log_probabilities(frozen, one).sum(-1) for one in (chosen, rejected)]
    margins = [plain_log_probabilities(model, one).sum(-1) - by for one, by in zip((chosen, rejected), known, strict=True)]
    plain = -nn.functional.logsigmoid(0.1 * (margins[0] - margins[1])).mean()
    expected = gradients(model, plain)
    with torch.no_grad(), StreamBP(frozen, layer_chunk=5) as stream:
        known = [sequence_log_probabilities(stream, **one) for one in (chosen, rejected)]
    with StreamBP(model, logit_chunk=6, layer_chunk=5) as stream:
        loss = dpo_loss(*(sequence_log_probabilities(stream, **one) for one in (chosen, rejected)), *known, beta=0.1)
        torch.testing.assert_close(loss, plain, rtol=1e-11, atol=0)
        assert_same(expected, gradients(model, loss))


def test_grpo_gradient() -> None:
    """Clipped per-token ratios against an older policy, with an advantage a row."""
    model, inputs, advantage = in_float64(llama()), batch("right"), torch.tensor([1.0, -0.5, -0.5], dtype=torch.float64)
    older = plain_log_probabilities(model, inputs).detach() + 0.3 * torch.randn(3, 22, dtype=torch.float64)
    counted = inputs["labels"][:, 1:] != -100

    def objective(now: Tensor) -> Tensor:
        ratio = (now - older).exp()
        gain = torch.minimum(ratio * advantage[:, None], ratio.clamp(0.8, 1.2) * advantage[:, None])
        return -(gain * counted).sum() / counted.sum()

    expected = gradients(model, objective(plain_log_probabilities(model, inputs)))
    with StreamBP(model, logit_chunk=6, layer_chunk=5) as stream:
        assert_same(expected, gradients(model, objective(token_log_probabilities(stream, **inputs))))


def test_a_temperature_of_zero_is_refused() -> None:
    with StreamBP(llama()) as stream, pytest.raises(TrainingError, match="temperature is 0"):
        token_log_probabilities(stream, **batch("none"), temperature=0)


def test_lora_adapters_have_the_same_gradients() -> None:
    peft = pytest.importorskip("peft")
    options = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj", "up_proj"], init_lora_weights=False)
    model = peft.get_peft_model(llama(), options).double()
    in_float64(model)
    inputs = batch("right")
    logits = model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[:, :-1]
    plain = nn.functional.cross_entropy(logits.flatten(0, 1), inputs["labels"][:, 1:].flatten())
    expected = gradients(model, plain)
    with StreamBP(model, layer_chunk=5):
        assert_same(expected, gradients(model, model(**inputs).loss))


def rows() -> list[dict[str, Tensor]]:
    ids = torch.randint(0, WORDS, (24, 15), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "labels": row} for row in ids]


def trained(folder: Path, steps: int, streams: bool, resume: bool = False) -> tuple[nn.Module, list[dict[str, float]]]:
    torch.manual_seed(0)
    model = llama()
    arguments = transformers.TrainingArguments(
        str(folder), max_steps=steps, per_device_train_batch_size=3, gradient_accumulation_steps=2, learning_rate=1e-3,
        lr_scheduler_type="constant", save_steps=2, logging_steps=1, eval_strategy="steps", eval_steps=2, seed=1,
        prediction_loss_only=True, report_to=[], use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = transformers.Trainer(model, arguments, train_dataset=rows(), eval_dataset=rows()[:6])
    if not streams:
        trainer.train(resume_from_checkpoint=resume)
    else:
        with StreamBP(model, logit_chunk=4, layer_chunk=6):
            trainer.train(resume_from_checkpoint=resume)
    return model, [entry for entry in trainer.state.log_history if "loss" in entry or "eval_loss" in entry]


def test_trainer_takes_the_same_steps(tmp_path: Path) -> None:
    plain, expected = trained(tmp_path / "plain", 4, streams=False)
    streamed, found = trained(tmp_path / "streamed", 4, streams=True)
    for one, other in zip(expected, found, strict=True):
        for name in {"loss", "eval_loss", "grad_norm"} & set(one):
            assert other[name] == pytest.approx(one[name], rel=1e-4)
    torch.testing.assert_close(dict(streamed.named_parameters()), dict(plain.named_parameters()), rtol=1e-3, atol=1e-5)


def test_a_run_resumed_from_its_checkpoint_continues_bit_for_bit(tmp_path: Path) -> None:
    whole, _ = trained(tmp_path / "whole", 4, streams=True)
    trained(tmp_path / "halves", 2, streams=True)
    halves, _ = trained(tmp_path / "halves", 4, streams=True, resume=True)
    for one, other in zip(whole.parameters(), halves.parameters(), strict=True):
        assert torch.equal(one, other)


class _Kept:
    """What autograd holds in place of a tensor; gone when autograd lets go of it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def kept(model: Any, inputs: dict[str, Tensor]) -> int:
    """Bytes that autograd keeps from forward to backward, a storage once, without the parameters' own."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    held: weakref.WeakSet[_Kept] = weakref.WeakSet()

    def pack(tensor: Tensor) -> _Kept:
        held.add(one := _Kept(tensor))
        return one

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda one: one.tensor):
        loss = model(**inputs).loss
    assert loss.requires_grad
    storages = [one.tensor.untyped_storage() for one in held]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages if storage.data_ptr() not in own}.values())


def test_what_is_kept_grows_by_layer_inputs_alone() -> None:
    """Per position of 4 bytes: `width` for each layer and norm, and none for the vocabulary or the inner width."""
    model, lengths = llama(vocab_size=2000, intermediate_size=600), (200, 400)

    def bytes_of(length: int) -> int:
        ids = torch.arange(length)[None] % WORDS
        return kept(model, {"input_ids": ids, "labels": ids})

    with StreamBP(model):
        short, long = map(bytes_of, lengths)
    plain_short, plain_long = map(bytes_of, lengths)
    per_position = (long - short) / 200
    assert per_position <= 4 * 32 * 8
    assert (plain_long - plain_short) / 200 > 10 * per_position
