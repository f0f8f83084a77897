"""A Flower federation on one machine: a ServerApp with FedAvg and a ClientApp that fine-tune a model's trainable tensors.

With the engine "ray" it runs in Flower's own simulation, which starts processes (half a minute) and needs ray. With "inline"
all of Flower is used but its transport: an own Grid hands each message, serialised as on the wire, to the ClientApp and its
mods in this process, one after another. There is no SuperLink then, no network and no process to start.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from zkaudit.attacks.attack import Progress, silent
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.client import Protect, batches, local_update, private_seed
from zkaudit.attacks.federated.flower import EXAMPLES, ROUND, CapturingStrategy, Handler, tensors_of
from zkaudit.attacks.federated.saved import load_round
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.lab.records import Record
from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.threat import Round

try:
    from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.common.serde import message_from_proto, message_to_proto
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.supercore.task_identity import TaskIdentity
except ImportError:
    raise AuditError("this release of Flower is too old or too new for a simulation; 1.42 works") from None

SERVER = 1  # the server's node id
Mod = Callable[[Any, Any, Handler], Any]


def fine_tune(
    model: PublicModel,
    clients: Sequence[Sequence[Record]],
    settings: FederatedSettings,
    folder: Path,
    protect: Protect | None = None,
    seed: int = 0,
    mods: Sequence[Mod] = (),
    engine: Literal["inline", "ray"] = "inline",
    progress: Progress = silent,
) -> list[Round]:
    """Fine-tune for the settings' rounds; what the server saw of each, also written to `folder`. `model` stays as it is.

    Clients are numbered as given; with a cohort of fewer than all, FedAvg draws it, and not by the seed. The server sees a
    cohort's mean; without one (cohort = 1) that is the client's update. Flower's clients send weights: AuditError if the
    settings send gradients, if records are too few, or if a round brings nothing.
    """
    _check(clients, settings, engine)
    capture = CapturingStrategy(
        FedAvg(
            fraction_train=settings.cohort / len(clients),
            fraction_evaluate=0.0,
            min_train_nodes=settings.cohort,
            min_available_nodes=len(clients),
        ),
        folder,
        only_mean=settings.cohort > 1,
    )
    server = server_app(model, settings, capture, progress)
    client = client_app(model, clients, settings, protect, seed, mods)
    with _quiet():
        if engine == "ray":
            _run_with_ray(server, client, len(clients))
        else:
            _run_inline(server, client, len(clients))
    rounds = []
    for number in range(1, settings.rounds + 1):
        start, mean = (folder / f"round-{number}-{part}.safetensors" for part in ("start", "mean"))
        if not mean.exists():
            raise AuditError(f"round {number} brought the server no update; Flower's log says why")
        rounds.append(load_round(model, start, mean))
    return rounds


def client_app(
    model: PublicModel,
    clients: Sequence[Sequence[Record]],
    settings: FederatedSettings,
    protect: Protect | None = None,
    seed: int = 0,
    mods: Sequence[Mod] = (),
) -> ClientApp:
    """A ClientApp whose node of partition i trains on the records of client i and answers with its new weights."""
    app = ClientApp(mods=list(mods))

    @app.train()  # type: ignore[untyped-decorator]
    def train(message: Message, context: Context) -> Message:
        start = tensors_of(message)
        client = int(context.node_config["partition-id"])
        number = int(message.content["config"][ROUND]) - 1
        first = 0 if settings.same_batch else number * settings.records
        private = private_seed(seed, number, client)
        with model.holding(start):
            data = batches(model, clients[client][first : first + settings.records], settings, private)
            update = local_update(model, data, settings, protect, private)
        weights = {name: start[name] + value.to(start[name]) for name, value in update.tensors.items()}
        content = {"arrays": ArrayRecord(weights), "metrics": MetricRecord({EXAMPLES: settings.records})}
        return Message(RecordDict(content), reply_to=message)

    return app


def server_app(model: PublicModel, settings: FederatedSettings, strategy: Any, progress: Progress = silent) -> ServerApp:
    """A ServerApp that hands out the model's trainable tensors and lets the strategy run."""
    app = ServerApp()
    start = ArrayRecord(model.state())

    @app.main()  # type: ignore[untyped-decorator]
    def main(grid: Grid, context: Context) -> None:
        def report(number: int, _arrays: ArrayRecord) -> None:
            progress("a Flower federation", number / settings.rounds)

        strategy.start(grid, start, num_rounds=settings.rounds, evaluate_fn=report)

    return app


class InlineGrid(Grid):  # type: ignore[misc]
    """Flower's interface of a server to its nodes; a message is answered as it is pushed. Errors of clients are not caught."""

    def __init__(self, app: ClientApp, nodes: int, run_id: int) -> None:
        self._app = app
        self._run_id = run_id
        self._replies: dict[str, Message] = {}
        self._contexts = {
            SERVER + 1 + number: Context(
                run_id, SERVER + 1 + number, {"partition-id": number, "num-partitions": nodes}, RecordDict(), {}
            )
            for number in range(nodes)
        }

    def set_run(self, run: Any) -> None:
        self._run_id = run.run_id

    @property
    def run(self) -> Any:
        from flwr.supercore.run import Run

        return Run.create_empty(self._run_id)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        sent = []
        for message in messages:
            name = str(uuid.uuid4())
            message.metadata.__dict__["_message_id"] = name  # Flower's grids set it so
            node = message.metadata.dst_node_id
            reply = self._app(_over_the_wire(message), self._contexts[node])
            self._replies[name] = _over_the_wire(reply)
            sent.append(name)
        return sent

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [self._replies.pop(name) for name in message_ids if name in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return self.pull_messages(self.push_messages(messages))


def _over_the_wire(message: Message) -> Message:
    """The message as its receiver reads it: nothing is shared with the sender's."""
    return message_from_proto(message_to_proto(message))


def _run_inline(server: ServerApp, client: ClientApp, nodes: int) -> None:
    run_id = uuid.uuid4().int >> 65
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, run_id, SERVER
    server(InlineGrid(client, nodes, run_id), Context(run_id, SERVER, {}, RecordDict(), {}))


def _run_with_ray(server: ServerApp, client: ClientApp, nodes: int) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from flwr.simulation import run_simulation

    everything = {"num_cpus": os.cpu_count() or 1, "num_gpus": 0.0}  # one process, which takes the clients one by one
    run_simulation(server, client, nodes, backend_config={"client_resources": everything})


def _check(clients: Sequence[Sequence[Record]], settings: FederatedSettings, engine: str) -> None:
    if settings.sends != "delta":
        raise AuditError('Flower\'s clients send weights, not gradients; set sends = "delta"')
    if settings.warm_up_steps:
        raise AuditError("a Flower federation has no warm-up; train the model before it")
    if len(clients) < settings.cohort:
        raise AuditError(f"a cohort takes {settings.cohort} clients; there are {len(clients)}")
    needed = settings.records * (1 if settings.same_batch else settings.rounds)
    for client, records in enumerate(clients):
        if len(records) < needed:
            raise AuditError(f"client {client} needs {needed} records for {settings.rounds} rounds; it has {len(records)}")
    if engine not in ("inline", "ray"):
        raise AuditError(f"Flower's engine is {engine!r}; it must be inline or ray")
    if engine == "ray" and importlib.util.find_spec("ray") is None:
        raise AuditError("Flower's engine ray needs ray; pip install 'zkaudit[ray]', or take the engine inline")


@contextmanager
def _quiet() -> Iterator[None]:
    """Flower logs every step to the console."""
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
