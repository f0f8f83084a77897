"""UDS: of the candidates for a step, train on those whose logits are large and various, and unlike what was trained on lately.

For candidate b with logits Z_b (L x V), scored without gradients,

    score_b = sum of singular values of Z_b + alpha * mean distance of code(Z_b) to the codes in a buffer

code is linear: columns times random signs, real part of the Fourier transform, 128 of V columns; then rows the same way, 8 of
T; 1024 numbers in all, whose distance estimates the Frobenius distance of the logits. The `keep` highest scores are trained
on, and their codes pushed into the buffer, first in, first out.

Zou et al., "Utility-Diversity Aware Online Batch Selection for LLM Supervised Fine-tuning", 2025, arXiv:2510.16882, and its
released code: buffer 1024, codes 128 x 8, alpha 2.5e-3 or 1.5e-3. That code's transform is not normalised, so its distances
are sqrt(T V) / 2 times the true ones, and its alpha as much larger than it looks: 1.5e-3 at T = 512 and V = 152,000 is 6.6 on
the true scale, on which `alpha` counts here; `paper_scale` restores theirs. It scores prompts and padding too: give a `mask`
for what should count. The sum of singular values grows with the number of positions, so longer candidates win: `per_position`
stands beside it, or bucket by length. At one position it is the length of a vector and picks what the model is most sure of:
refused. A large sum is not a high rank: diag(10, 0) has more than the identity. Nothing keeps the chosen of one step apart.

Scores are rounded to multiples of 2^-16 and compared as integers, ties to the lower row, so that a choice can be replayed from
recorded scores; that scores are those of the model is taken at the record's word."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zkaudit.training.batch.selection import Selection, SelectorRule, forward_logits
from zkaudit.training.errors import TrainingError
from zkaudit.training.method import Method
from zkaudit.training.replay import Lacking, Rule, Run, made
from zkaudit.training.steps import derive_seed

METHOD = Method(
    name="uds",
    title="UDS: utility and diversity sampling",
    paper="Zou et al. 2025, arXiv:2510.16882",
    where="zkaudit.training.batch.uds.UDSSelector",
    changes=("batch", "speed"),
    effect="Better than MaxLoss, MaxGrad, RHO-Loss and GREATS on MMLU, ScienceQA, GSM8K and HumanEval, faster than full data.",
    library="The released code is a subclass of transformers' Trainer; selector, codes and scale are ours.",
    provable="The choice from recorded scores is replayed; the scores, a second forward pass and a spectrum, are not proved.",
    server_sees="Fewer records behind each gradient, so easier to invert. Codes and scores never leave the trainer.",
    use=(
        "from zkaudit.training.batch.uds import UDSOptions, UDSSelector\n"
        "\n"
        'selector = UDSSelector(UDSOptions(keep=1, length=512, vocabulary=32000), run_seed="public")\n'
        "chosen = selector.select(model, candidates, candidate_ids, mask)  # a batch of 8, a row each\n"
        "model(**chosen.of(candidates)).loss.backward()"
    ),
    avoid="Classification, where it picks what the model is sure of, and candidates of very different lengths.",
    binding="replayable",
)

UNIT = 16  # fractional bits of a recorded score


@dataclass(frozen=True)
class UDSOptions:
    """`keep` of each step's candidates; `length` is T, the longest candidate; alpha on the true scale of logits.

    codes: how many columns and rows a code has. paper_scale: distances as the released code has them, for its alpha (2.5e-3).
    """

    keep: int
    length: int
    vocabulary: int
    alpha: float = 6.6
    buffer: int = 1024
    codes: tuple[int, int] = (128, 8)
    paper_scale: bool = False

    def __post_init__(self) -> None:
        for name in ("keep", "vocabulary", "buffer"):
            if getattr(self, name) < 1:
                raise TrainingError(f"{name} = {getattr(self, name)} must be at least 1")
        if self.length < 2:
            raise TrainingError(f"length = {self.length}: one position's singular value says only how sure the model is")
        if min(self.codes) < 1 or not math.isfinite(self.alpha) or self.alpha < 0:
            raise TrainingError(f"codes = {self.codes} must be above 0, and alpha = {self.alpha} not negative")

    @property
    def paper_factor(self) -> float:
        """How much larger the released code's distances are than the true ones."""
        return math.sqrt(self.length * self.vocabulary) / 2


@dataclass(frozen=True)
class UDSSelection(Selection):
    """What scores are made of, (B,) each; `per_position` is utility by scored positions."""

    utility: Tensor
    diversity: Tensor
    per_position: Tensor


class UDSSelector:
    """Chooses and remembers; see the module. Signs and places of the codes follow from `run_seed`."""

    def __init__(self, options: UDSOptions, *, run_seed: str) -> None:
        self.options = options
        columns, rows = options.codes
        self.signs = _signs(run_seed, "uds columns", options.vocabulary), _signs(run_seed, "uds rows", options.length)
        self.places = (
            _places(run_seed, "uds columns", options.vocabulary, columns),
            _places(run_seed, "uds rows", options.length, rows),
        )
        self.codes = torch.zeros(0, columns * rows)

    def select(
        self, model: nn.Module, candidates: Mapping[str, Tensor], ids: Sequence[int], mask: Tensor | None = None
    ) -> UDSSelection:
        """Score a batch with the model, in evaluation mode and without gradients, and choose from it."""
        return self.choose(forward_logits(model, candidates), ids, mask)

    def choose(self, logits: Tensor, ids: Sequence[int], mask: Tensor | None = None) -> UDSSelection:
        """From logits (B, L, V) of rows `ids`; mask (B, L): the positions that count, all if None.

        TrainingError for shapes other than the options', rows named twice, logits that are not finite, and where no candidate
        has two positions.
        """
        self._check(logits, ids, mask)
        counted = logits.detach().float() if mask is None else logits.detach().float() * mask[..., None]
        utility = nuclear_norm(counted)
        codes = self.code(counted)
        buffer = self.codes.to(codes.device)
        diversity = torch.cdist(codes, buffer).mean(dim=1) if len(buffer) else torch.zeros_like(utility)
        score = utility.double() + self.options.alpha * diversity.double()
        scores = tuple((round(value * (1 << UNIT)),) for value in score.tolist())
        places = top(scores, ids, self.options.keep)
        state = self.digest()
        self.codes = torch.cat([self.codes, codes[list(places)].cpu()])[-self.options.buffer :]
        positions = logits.shape[1] if mask is None else mask.sum(dim=1).clamp(min=1)
        made = (METHOD.name, places, tuple(ids[p] for p in places), scores, state, ())
        return UDSSelection(*made, utility, diversity, utility / positions)

    def code(self, logits: Tensor) -> Tensor:
        """(B, L, V) with L <= T to (B, 1024); linear, and distances between codes estimate those between logits."""
        columns, rows = (sign.to(logits.device) for sign in self.signs)
        padded = torch.nn.functional.pad(logits, (0, 0, 0, self.options.length - logits.shape[1]))
        narrow = torch.fft.fft(padded * columns, dim=2).real[:, :, self.places[0]]
        small = torch.fft.fft(narrow * rows[:, None], dim=1).real[:, self.places[1]]
        scale = math.sqrt(self.options.vocabulary * self.options.length / math.prod(self.options.codes))
        codes: Tensor = small.flatten(1) * (scale if self.options.paper_scale else scale / self.options.paper_factor)
        return codes

    def digest(self) -> str:
        """Of the codes that are remembered, hex."""
        return hashlib.sha256(b"zkaudit uds" + self.codes.numpy().astype("<f4").tobytes()).hexdigest()

    def state_dict(self) -> dict[str, Tensor]:
        return {"codes": self.codes}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if state["codes"].shape[1:] != self.codes.shape[1:]:
            raise TrainingError("the saved codes have another width than the options ask for")
        self.codes = state["codes"].clone()

    def _check(self, logits: Tensor, ids: Sequence[int], mask: Tensor | None) -> None:
        if logits.dim() != 3 or logits.shape[1] > self.options.length or logits.shape[2] != self.options.vocabulary:
            wanted = f"(candidates, at most {self.options.length}, {self.options.vocabulary})"
            raise TrainingError(f"logits are {tuple(logits.shape)}, but {wanted} was asked for")
        if len(ids) != len(logits) or len(set(ids)) != len(ids) or self.options.keep > len(ids):
            raise TrainingError(
                f"{len(ids)} rows for {len(logits)} candidates, of which {self.options.keep} are kept: name each once"
            )
        if mask is not None and mask.shape != logits.shape[:2]:
            raise TrainingError(f"mask is {tuple(mask.shape)}, but logits are {tuple(logits.shape)}")
        if logits.shape[1] < 2 or (mask is not None and int(mask.sum(dim=1).max()) < 2):
            raise TrainingError("candidates have one position each: its singular value says only how sure the model is")
        if not torch.isfinite(logits).all():
            raise TrainingError("logits are not finite: there is nothing to rank them by")


def nuclear_norm(matrices: Tensor) -> Tensor:
    """Sum of singular values of each matrix (B, L, V), as roots of the eigenvalues of its smaller Gram matrix."""
    wide = matrices.double() if matrices.shape[1] <= matrices.shape[2] else matrices.double().mT
    squares: Tensor = torch.linalg.eigvalsh(wide @ wide.mT)
    return squares.clamp(min=0).sqrt().sum(dim=1)


def top(scores: Sequence[tuple[int, ...]], ids: Sequence[int], keep: int) -> tuple[int, ...]:
    """Places of the `keep` highest scores, ties to the lower row, in the order of the candidates."""
    ranked = sorted(range(len(ids)), key=lambda place: (-scores[place][0], ids[place]))
    return tuple(sorted(ranked[:keep]))


def _signs(run_seed: str, name: str, count: int) -> Tensor:
    words = np.frombuffer(_stream(run_seed, f"{name} signs", -(-count // 8)), np.uint8)
    return torch.from_numpy(np.unpackbits(words)[:count].astype(np.float32) * 2 - 1)


def _places(run_seed: str, name: str, below: int, count: int) -> Tensor:
    """Drawn with repetition, as in the released code."""
    words = np.frombuffer(_stream(run_seed, f"{name} places", 8 * count), "<u8")
    return torch.tensor([int(word) * below >> 64 for word in words])


def _stream(run_seed: str, component: str, size: int) -> bytes:
    return hashlib.shake_256(derive_seed(run_seed, component, 0).to_bytes(8, "little")).digest(size)


def rule(run: Run, options: Mapping[str, Any]) -> Rule:
    """{"keep": 1}; records need scores."""

    def make(keep: int) -> SelectorRule:
        def choose(ids: Sequence[int], scores: Sequence[tuple[int, ...]]) -> dict[str, Any]:
            if not 1 <= keep <= len(ids):
                raise Lacking("candidate_ids", f"rows of which {keep} can be kept")
            return {"ids": tuple(ids[place] for place in top(scores, ids, keep)), "weights": ()}

        return SelectorRule(choose, width=1)

    found: Rule = made(make, "uds", options)
    return found
