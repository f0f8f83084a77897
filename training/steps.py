"""What every random choice of a run is drawn from: seeds derived from the run's own, one for each component and step.

    derive_seed(run_seed, component, step) = first 64 bits of SHA-256(tag, run_seed, component, step)

The run's seed is fixed before the data are opened, so that nobody can try seeds until the batches please them; components
(the sampler, an objective, an augmentation) draw from streams of their own and can be replayed one by one."""

from __future__ import annotations

import hashlib

from zkaudit.training.errors import TrainingError


def derive_seed(run_seed: str, component: str, step: int) -> int:
    """The seed of a component ("sampler.view-batch") at a step or other count: 0 <= seed < 2^64.

    TrainingError for a negative step, and for text that no file can hold (a lone surrogate).
    """
    if step < 0:
        raise TrainingError(f"step = {step} must not be negative: there is no seed for it")
    try:
        parts = [b"zkaudit seed", run_seed.encode(), component.encode(), str(step).encode()]
    except UnicodeEncodeError:
        raise TrainingError("a run's seed and a component's name must be text without lone surrogates") from None
    framed = b"".join(len(part).to_bytes(8, "little") + part for part in parts)
    return int.from_bytes(hashlib.sha256(framed).digest()[:8], "little")
