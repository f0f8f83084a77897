"""Several rounds of a federation on one machine: what the server saw in each of them, and apart from it what the clients had.

In a round the server hands out the trainable tensors, each client of the cohort computes its update, the server learns their
mean (through secure aggregation if there is more than one) and applies it: a gradient by one step of the settings' optimizer, a
delta by adding it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from zkaudit.attacks.attack import Progress, silent
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.client import Protect, batches, local_update, make_optimizer, private_seed
from zkaudit.attacks.federated.cohort import secure_mean
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.lab.records import Record
from zkaudit.attacks.model import Batch, PublicModel
from zkaudit.attacks.threat import Capability, Observation, Round
from zkaudit.attacks.update import Update

Train = Callable[[PublicModel, Sequence[Batch], FederatedSettings, int], Update]  # the last is a seed


@dataclass(frozen=True)
class Simulation:
    """`rounds` and `end`, the trainable tensors after the last round, are the server's; `truth` and `batches` are for scorers.

    `truth` holds the records behind each round's update, `batches` the same as the model saw them (masked, cut, padded).
    """

    model: PublicModel
    settings: FederatedSettings
    rounds: Sequence[Round]
    end: Mapping[str, Tensor]
    truth: Sequence[Sequence[Record]] = field(repr=False)
    batches: Sequence[Sequence[Batch]] = field(repr=False)

    def observation(
        self,
        capabilities: Capability = Capability.UPDATE,
        defence: str | None = None,
        auxiliary: Sequence[Record] = (),
        tokens: int | None = None,
    ) -> Observation:
        """What an attacker with these capabilities is given; nothing of `truth` or `batches` is in it."""
        return Observation(self.model, self.settings, self.rounds, capabilities, defence, tokens, auxiliary)


def simulate(
    model: PublicModel,
    clients: Sequence[Sequence[Record]],
    settings: FederatedSettings,
    protect: Protect | None = None,
    seed: int = 0,
    progress: Progress = silent,
    public: Sequence[Record] = (),
    train: Train | None = None,
) -> Simulation:
    """Run the settings' rounds. If there are more clients than a cohort takes, each round draws one.

    A client uses its records in order, fresh ones in every round unless `same_batch`. `public` records are what the warm-up
    trains on. `train` is what clients do instead of `local_update` with `protect`: a defence that makes gradients in another
    way (DP-SGD). Afterwards the model holds the first round's start: its own values, moved by the warm-up where the settings
    ask for one. AuditError says how many records, clients or public records are lacking, or which tensor is not finite.
    """
    cohorts = _cohorts(len(clients), settings, seed)
    _check_records(clients, cohorts, settings)
    _warm_up(model, public, settings, seed)
    start = model.state()
    optimizer = make_optimizer(model.trainable().values(), settings)
    used = [0] * len(clients)
    rounds: list[Round] = []
    truth: list[list[Record]] = []
    seen: list[list[Batch]] = []
    try:
        for number, cohort in enumerate(cohorts):
            handed_out = model.state()
            updates: list[Update] = []
            truth.append([])
            seen.append([])
            for client in cohort:
                records = clients[client][used[client] : used[client] + settings.records]
                used[client] += 0 if settings.same_batch else settings.records
                private = private_seed(seed, number, client)
                data = batches(model, records, settings, private)
                updates.append(
                    train(model, data, settings, private) if train else local_update(model, data, settings, protect, private)
                )
                truth[-1].extend(records)
                seen[-1].extend(data)
                progress("simulating the federation", (number + len(updates) / len(cohort)) / len(cohorts))
            mean = updates[0].tensors if len(updates) == 1 else secure_mean([update.tensors for update in updates])
            received = Update(settings.sends, mean)
            received.check({name: value.shape for name, value in handed_out.items()})
            rounds.append(Round(handed_out, received))
            _apply(model, received, optimizer)
        end = model.state()
    finally:
        model.assign(start)
    return Simulation(model, settings, rounds, end, truth, seen)


def _cohorts(clients: int, settings: FederatedSettings, seed: int) -> list[list[int]]:
    if clients < settings.cohort:
        raise AuditError(f"a cohort takes {settings.cohort} clients; there are {clients}")
    generator = torch.Generator().manual_seed(private_seed(seed, "cohorts"))
    return [sorted(torch.randperm(clients, generator=generator)[: settings.cohort].tolist()) for _ in range(settings.rounds)]


def _check_records(clients: Sequence[Sequence[Record]], cohorts: Sequence[Sequence[int]], settings: FederatedSettings) -> None:
    for client, records in enumerate(clients):
        turns = sum(client in cohort for cohort in cohorts)
        needed = settings.records * (min(turns, 1) if settings.same_batch else turns)
        if len(records) < needed:
            raise AuditError(f"client {client} needs {needed} records for {turns} rounds; it has {len(records)}")


def _warm_up(model: PublicModel, public: Sequence[Record], settings: FederatedSettings, seed: int) -> None:
    """SGD steps by the server, each on a batch of its own; after one of them LoRA's B is no longer 0."""
    needed = settings.warm_up_steps * settings.batch
    if len(public) < needed:
        raise AuditError(f"{settings.warm_up_steps} warm-up steps need {needed} public records; there are {len(public)}")
    step = FederatedSettings(batch=settings.batch, longest=settings.longest, dropout=False)
    for number in range(settings.warm_up_steps):
        records = public[number * settings.batch : (number + 1) * settings.batch]
        update = local_update(model, batches(model, records, step, private_seed(seed, "warm-up", number)), step)
        _apply(model, update, torch.optim.SGD(list(model.trainable().values()), lr=settings.learning_rate))


def _apply(model: PublicModel, update: Update, optimizer: torch.optim.Optimizer) -> None:
    """The server's step."""
    for name, parameter in model.trainable().items():
        value = update.tensors[name].to(parameter)
        if update.kind == "delta":
            parameter.data += value
        else:
            parameter.grad = value
    if update.kind == "gradient":
        optimizer.step()
        optimizer.zero_grad()
