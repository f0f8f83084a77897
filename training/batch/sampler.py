"""What samplers of whole batches share: a batch is what a step's record says of it, and any step can be had again."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

from torch.utils.data import Sampler

from zkaudit.training.errors import TrainingError
from zkaudit.training.steps import derive_seed


class RecordedSampler(Sampler[list[Any]]):
    """A batch sampler over `steps` steps in all, whose choices follow from `run_seed`.

    One pass over the loader is the whole run. `fields` of a step are those of its record. `state_dict` says how many batches
    were taken; a loaded sampler goes on there. With loader workers, which take batches before they are used, set `step` to the
    updates that were made before saving.
    """

    def __init__(self, run_seed: str, steps: int) -> None:
        if steps < 1:
            raise TrainingError(f"steps = {steps} must be at least 1")
        self.run_seed, self.steps, self.step = run_seed, steps, 0
        self._ahead = 0  # the step that the stream gives next
        self._stream: Iterator[dict[str, Any]] = iter(())

    @abstractmethod
    def stream(self, first: int) -> Iterator[dict[str, Any]]:
        """Fields of the records of step `first` and all after it, without end."""

    def keys(self, chosen: Mapping[str, Any]) -> list[Any]:
        """What a data set is asked for, from the fields of a step."""
        return list(chosen["ids"])

    @property
    def seed(self) -> bytes:
        """Of the sampler's own stream."""
        return derive_seed(self.run_seed, "sampler", 0).to_bytes(8, "little")

    def fields(self, step: int) -> dict[str, Any]:
        """Of any step; one after the other is what costs least."""
        if step != self._ahead or step == 0:
            self._stream = self.stream(step)
        self._ahead = step + 1
        return next(self._stream)

    def __iter__(self) -> Iterator[list[Any]]:
        while self.step < self.steps:
            self.step += 1
            yield self.keys(self.fields(self.step - 1))

    def __len__(self) -> int:
        return self.steps - self.step

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "run_seed": self.run_seed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["run_seed"] != self.run_seed:
            raise TrainingError(f"the saved sampler belongs to run seed {state['run_seed']!r}, not {self.run_seed!r}")
        self.step = state["step"]
