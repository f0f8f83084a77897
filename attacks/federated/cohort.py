"""Secure aggregation: a server learns the sum of its clients' updates and nothing else of any of them.

Each client writes its update as integers modulo 2^64 and adds a mask for each other client; two clients share the mask of
their pair, one adds it and the other subtracts it, so all masks cancel in the sum (Bonawitz et al. 2017, section 4). One masked
update alone is uniform modulo 2^64. Masks are SHAKE-256 of a secret of the pair, here drawn from the operating system; between
machines a key agreement makes it. Left out are that paper's self-masks and secret shares: every client must answer, the server
is honest.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from zkaudit.attacks.errors import AuditError

Secrets = Mapping[int, bytes]  # what a client shares with each other client
WORD = 62  # bits of a sum's magnitude; one is left for the sign


@dataclass(frozen=True)
class Encoding:
    """Real numbers of at most `largest` in magnitude as integers, such that `clients` of them add up without overflow."""

    clients: int
    largest: float = 64.0

    def __post_init__(self) -> None:
        if self.clients < 1 or not 0 < self.largest < math.inf:
            raise AuditError(f"secure aggregation cannot add {self.clients} clients' numbers of up to {self.largest}")

    @property
    def step(self) -> float:
        """The distance of two numbers that can be told apart, a power of two: about 6e-17 for ten clients."""
        return math.ldexp(1.0, math.ceil(math.log2(self.largest)) + math.ceil(math.log2(self.clients)) - WORD)

    def encode(self, update: Mapping[str, Tensor]) -> Tensor:
        """All tensors, in order of their names, as one vector of int64; AuditError names a tensor that is out of range."""
        parts = []
        for name in sorted(update):
            value = update[name].detach().double().cpu().flatten()
            if not bool((value.abs() <= self.largest).all()):
                raise AuditError(f"'{name}' has values beyond {self.largest:g}, which secure aggregation cannot encode")
            parts.append((value / self.step).round().long())
        return torch.cat(parts)

    def decode(self, total: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A vector of int64 as tensors of float64 with the names and shapes of `like`."""
        names = sorted(like)
        parts = torch.split(total.double() * self.step, [like[name].numel() for name in names])
        flat = dict(zip(names, parts, strict=True))
        return {name: flat[name].reshape(value.shape) for name, value in like.items()}


def pair_secrets(clients: int) -> list[Secrets]:
    """For each client its secrets, 32 bytes shared with each other client, from the operating system's generator."""
    shared = {(a, b): secrets.token_bytes(32) for a in range(clients) for b in range(a + 1, clients)}
    return [
        {other: shared[min(own, other), max(own, other)] for other in range(clients) if other != own} for own in range(clients)
    ]


def mask(encoded: Tensor, own: int, shared: Secrets) -> Tensor:
    """What client number `own` sends: its encoded update plus or minus the mask of each pair it is in, modulo 2^64."""
    sent = encoded.clone()
    for other, secret in shared.items():
        words = np.frombuffer(hashlib.shake_256(secret).digest(8 * len(encoded)), dtype="<i8")
        stream = torch.from_numpy(words.astype(np.int64))
        sent = sent + stream if own < other else sent - stream  # torch's int64 wraps around
    return sent


def secure_mean(updates: Sequence[Mapping[str, Tensor]], largest: float = 64.0) -> dict[str, Tensor]:
    """The mean of clients' updates as the server learns it, in the updates' precision; AuditError if their tensors differ."""
    encoding = Encoding(len(updates), largest)
    like = updates[0]
    for number, update in enumerate(updates):
        if {name: value.shape for name, value in update.items()} != {name: value.shape for name, value in like.items()}:
            raise AuditError(f"client {number}'s update has other tensors than client 0's")
    total = torch.zeros(sum(value.numel() for value in like.values()), dtype=torch.int64)
    for own, (update, shared) in enumerate(zip(updates, pair_secrets(len(updates)), strict=True)):
        total = total + mask(encoding.encode(update), own, shared)
    return {
        name: (value / len(updates)).to(like[name].dtype).to(like[name].device)
        for name, value in encoding.decode(total, like).items()
    }
