"""Where an audit computes: its model, updates and all that attacks make of them are on one device, chosen once.

Numbers are drawn by generators of the CPU and moved, so that devices agree up to rounding. Only dropout, where a model has any,
is drawn by the device itself. Rankings, sequences and evidence are on the host.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from zkaudit.attacks.errors import AuditError

DEVICES = ("auto", "cpu", "cuda")


def chosen(name: str = "auto") -> torch.device:
    """The device of this name; "auto" is a GPU where torch sees one. AuditError for "cuda" where it sees none."""
    if name not in DEVICES:
        raise AuditError(f"the device is {name!r}; it must be one of {', '.join(DEVICES)}")
    seen = torch.cuda.is_available()
    if name == "cuda" and not seen:
        built = "" if torch.version.cuda else f" (torch {torch.__version__} is built without CUDA)"
        raise AuditError(f'the device is "cuda", and torch sees no GPU{built}; "auto" takes the CPU then')
    return torch.device("cuda" if seen and name != "cpu" else "cpu")


def described(device: torch.device) -> str:
    """For a report: "cpu", or "cuda" with the GPU's name."""
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Within the context torch's generators, of the CPU and of the device, start at `seed`; afterwards they are as before."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
