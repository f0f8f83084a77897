"""From a configuration to what an audit needs: the base model, the model with adapters, and everybody's records."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zkaudit.attacks import peft_setup
from zkaudit.attacks.attack import Progress, silent
from zkaudit.attacks.config import AuditConfig
from zkaudit.attacks.device import chosen
from zkaudit.attacks.errors import AuditError
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.lab import models
from zkaudit.attacks.lab.records import Record, read, synthetic, values
from zkaudit.attacks.model import PublicModel
from zkaudit.attacks.model_folder import model_from

TEST_RECORDS = 24  # for utility


@dataclass(frozen=True)
class Records:
    """`private` are the clients', `auxiliary` the attacker's own, `public` everybody's; no two share a value."""

    private: Sequence[Record]
    test: Sequence[Record]
    auxiliary: Sequence[Record]
    public: Sequence[Record]

    def clients(self, settings: FederatedSettings, batch: int) -> list[list[Record]]:
        """The records of the clients of one observation, the `batch`-th; AuditError if there are not enough."""
        each = _each(settings)
        start = batch * each * settings.cohort
        end = start + each * settings.cohort
        if end > len(self.private):
            raise AuditError(f"this audit needs {end} records of clients; [data] has {len(self.private)}")
        return [list(self.private[i : i + each]) for i in range(start, end, each)]

    def enough_clients(self, settings: FederatedSettings, batch: int) -> list[list[Record]]:
        """The same for settings that the data were not meant for: synthetic records stand in where the clients' run out."""
        each = _each(settings)
        needed = each * settings.cohort
        pool = list(self.private[batch * needed : (batch + 1) * needed])
        pool += synthetic(needed - len(pool), 4_000 + batch, values(self.private))
        return [pool[i : i + each] for i in range(0, needed, each)]


def _each(settings: FederatedSettings) -> int:
    """Records that one client uses up in all rounds."""
    return settings.records * (1 if settings.same_batch else settings.rounds)


def records(config: AuditConfig) -> Records:
    """Everybody's records. Of a file, the first are the clients' and the rest are for tests of utility."""
    federated = config.federated
    batches = max(config.attacks.batches, config.defences.batches if config.defences.run else 1)
    needed = _each(federated) * federated.cohort * batches
    seed, kinds = config.data.seed, config.data.kinds
    if config.data.source == "synthetic":
        private = synthetic(needed + TEST_RECORDS, seed, (), kinds)
        test = private[needed:]
        private = private[:needed]
    else:
        private = read(Path(config.data.source))
        test = private[needed : needed + TEST_RECORDS]
    auxiliary = synthetic(config.threat.auxiliary, seed + 1_000, values(private) | values(test), kinds)
    taken = values(private) | values(test) | values(auxiliary)
    shared = max(64, federated.warm_up_steps * federated.batch, 1000 if config.model.train_steps else 0)
    public = synthetic(shared, seed + 2_000, taken, kinds)
    return Records(private, test, auxiliary, public)


def base_model(config: AuditConfig, public: Sequence[Record], progress: Progress = silent) -> PublicModel:
    """The base model on the audit's device, without adapters, all weights frozen. AuditError if it cannot be audited."""
    section = config.model
    device = chosen(section.device)
    if section.source in models.SHAPES:
        model = models.build(section.source, section.seed, section.task).to(device)  # type: ignore[arg-type]
        if section.train_steps:
            texts = [record.text for record in public]
            models.train_language(model, texts, section.train_steps, seed=section.seed, progress=progress)
        return model
    path = Path(section.source)
    if not path.exists():
        raise AuditError(f"there is no model at {path}, and no laboratory model of that name ({', '.join(models.SHAPES)})")
    model = model_from(path, seed=section.seed)
    check_complete(model, path)
    return model.to(device)


def check_complete(model: PublicModel, path: Path) -> None:
    """AuditError if the model at a path lacks something that attacks cannot do without, though the meter can."""
    if model.tokenizer is None:
        raise AuditError(f"{path} has no tokenizer, without which tokens cannot be read")
    if model.tokenizer.pad_token_id is None:
        raise AuditError(f"the tokenizer of {path} has neither a token to pad with nor one for the end of a text")
    if model.is_plan:
        raise AuditError(f"{path} has no weights, and too many for random ones; only the meter can do without")


def with_adapters(base: PublicModel, config: AuditConfig) -> PublicModel:
    """A copy of the base with the configuration's adapters in it."""
    own = PublicModel(copy.deepcopy(base.module), base.tokenizer, base.task)
    peft = dict(config.peft)
    settings = peft_setup.load(Path(peft.pop("config"))) if "config" in peft else peft_setup.load(peft)
    return peft_setup.apply(own, settings, config.model.seed)
