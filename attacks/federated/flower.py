"""Flower: what its server sees of its clients, written down where it leaves a client or where it reaches the server.

`capture_mod` goes first into a ClientApp's list of mods, before mods that clip or add noise, so that it sees what leaves the
machine. `CapturingStrategy` goes around a strategy of the message API. Both change nothing. They write safetensors files, for
each update the tensors that the server handed out and the update: `saved.load_round` reads them.

Flower's clients send weights; the update is their difference from those they got. Names of tensors are the ArrayRecord's keys,
as they are after ArrayRecord(state_dict); for records made of a list of arrays, give the names in its order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.saved import difference, save_weights
from zkaudit.attacks.update import Kind, Update, save

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # read when flwr is imported
try:
    from flwr.app import ArrayRecord, Message
    from flwr.serverapp.strategy import Strategy
except ImportError:
    raise AuditError("Flower is not installed; pip install 'zkaudit[federated]'") from None

ROUND = "server-round"  # the key of the round's number in what strategies send
EXAMPLES = "num-examples"  # the key of a reply's weight
Handler = Callable[[Any, Any], Any]  # of a Message and a Context, to a Message


def capture_mod(folder: Path, names: Sequence[str] | None = None, kind: Kind = "delta") -> Callable[[Any, Any, Handler], Any]:
    """A mod for a ClientApp that writes each training reply to `folder`, as round-1-node-7.safetensors.

    `kind` "gradient" is for clients whose replies are gradients, not weights. AuditError if a message has several ArrayRecords.
    """

    def capture(message: Any, context: Any, call_next: Handler) -> Any:
        if message.metadata.message_type.partition(".")[0] != "train":
            return call_next(message, context)
        start = tensors_of(message, names)  # copied before the client works on it
        reply = call_next(message, context)
        if not reply.has_error():
            number = _round_of(message)
            write_round(folder, number, f"node-{context.node_id}", start, _update(start, tensors_of(reply, names), kind))
        return reply

    return capture


class CapturingStrategy(Strategy):  # type: ignore[misc]
    """A strategy that does what `inner` does, and writes what arrives in each round to `folder`.

    Written are the replies' mean, weighted by num-examples, as round-1-mean.safetensors, and each reply alone, as
    round-1-node-7.safetensors, unless `only_mean`: under secure aggregation no single update reaches a server.
    """

    def __init__(
        self,
        inner: Any,
        folder: Path,
        names: Sequence[str] | None = None,
        kind: Kind = "delta",
        only_mean: bool = False,
    ) -> None:
        self.inner = inner
        self.folder = folder
        self.names = names
        self.kind = kind
        self.only_mean = only_mean
        self._start: dict[str, Tensor] = {}

    def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Any:
        self._start = _named(arrays, self.names)
        return self.inner.configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round: int, replies: Iterable[Any]) -> Any:
        replies = list(replies)
        self._capture(server_round, [reply for reply in replies if not reply.has_error()])
        return self.inner.aggregate_train(server_round, replies)

    def configure_evaluate(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Any:
        return self.inner.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Any]) -> Any:
        return self.inner.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        self.inner.summary()

    def _capture(self, server_round: int, replies: Sequence[Any]) -> None:
        if not replies:
            return
        updates = [_update(self._start, tensors_of(reply, self.names), self.kind) for reply in replies]
        weights = [_examples(reply) for reply in replies]
        total = sum(weights)
        mean = {
            name: sum((w / total * u.tensors[name] for w, u in zip(weights, updates, strict=True)), torch.zeros(()))
            for name in updates[0].tensors
        }
        write_round(self.folder, str(server_round), "mean", self._start, Update(self.kind, mean))
        if not self.only_mean:
            for reply, update in zip(replies, updates, strict=True):
                write_round(self.folder, str(server_round), f"node-{reply.metadata.src_node_id}", self._start, update)


def write_round(folder: Path, number: str, sender: str, start: Mapping[str, Tensor], update: Update) -> None:
    """Write an update and, under the round's name, the tensors that it started from."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(start, folder / f"round-{number}-start.safetensors")
    save(update, folder / f"round-{number}-{sender}.safetensors")


def tensors_of(message: Any, names: Sequence[str] | None = None) -> dict[str, Tensor]:
    """A copy of the arrays that a Message carries, by name; AuditError unless it has one ArrayRecord."""
    records = list(message.content.array_records.values())
    if len(records) != 1:
        raise AuditError(f"a Flower message carries {len(records)} ArrayRecords; a capture takes one")
    return _named(records[0], names)


def _named(record: ArrayRecord, names: Sequence[str] | None) -> dict[str, Tensor]:
    if names is not None and len(names) != len(record):
        raise AuditError(f"a Flower message carries {len(record)} arrays; there are {len(names)} names for them")
    tensors = [torch.from_numpy(np.array(value.numpy())) for value in record.values()]
    return dict(zip(names or record.keys(), tensors, strict=True))


def _update(start: Mapping[str, Tensor], end: Mapping[str, Tensor], kind: Kind) -> Update:
    if {name: value.shape for name, value in start.items()} != {name: value.shape for name, value in end.items()}:
        raise AuditError("a Flower client's reply has other arrays than the message that it answers")
    return difference(start, end) if kind == "delta" else Update(kind, end)


def _round_of(message: Message) -> str:
    for config in message.content.config_records.values():
        if ROUND in config:
            return str(config[ROUND])
    return str(message.metadata.group_id or message.metadata.message_id)


def _examples(reply: Message) -> float:
    for metrics in reply.content.metric_records.values():
        if EXAMPLES in metrics:
            return float(metrics[EXAMPLES])
    return 1.0
