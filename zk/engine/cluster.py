"""Proving as Ray tasks, one a segment, on this machine or on a cluster.

A worker that sees the run's folder under the path it has here reads it there. One that does not says so, and its segment is
submitted again with what it needs beside it, through Ray's object store (shipment.py). A folder counts as seen if it holds the
openings of the statement's commitments, so that another run under the same path is not taken for this one.

Ray is imported when it is used. Its retries are off: a lost task is counted and submitted again here, as for other engines.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Generator, Sequence
from typing import Any

from zkaudit.zk import curve, field
from zkaudit.zk.engine.attempts import Attempts
from zkaudit.zk.engine.job import Job, Proof, Report, Supplies, answer, supplies
from zkaudit.zk.engine.shipment import ship
from zkaudit.zk.errors import BadInput

PATIENCE = 10  # seconds for a cluster to accept a connection


class RayTasks:
    """At most `workers` tasks at a time, by default one for each machine, which share `threads`, by default all CPUs Ray has.

    `address` is that of a cluster ("auto" finds the one that this machine belongs to). Without it Ray is started on this
    machine and stopped afterwards; a Ray that this process is connected to is used as it is.
    """

    def __init__(self, workers: int | None = None, threads: int | None = None, address: str | None = None) -> None:
        self.workers, self.threads, self.address = workers, threads, address
        _ray()

    def prove(self, jobs: Sequence[Job], report: Report) -> Generator[Proof, None, None]:
        """See Engine."""
        ray = _ray()
        connected = ray.is_initialized()
        try:
            if not connected:
                self._connect(ray)
            yield from self._prove(ray, jobs, report)
        finally:
            if not connected:
                # Kills what still works for this process, wherever it is. Tasks are not cancelled: Ray aborts the process that
                # cancels one which is just ending. With a connection of the caller's they run on, and nobody hears of them.
                ray.shutdown()

    def _connect(self, ray: Any) -> None:
        quiet = {"logging_level": "ERROR", "log_to_driver": False}
        os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_IGNORE_UNHANDLED_ERRORS": "1"}  # tasks given up are not news
        try:
            if self.address is None:
                cpus = self.threads or field.threads()
                ray.init("local", num_cpus=cpus, include_dashboard=False, **quiet)
            else:
                _require_reachable(self.address)
                ray.init(self.address, **quiet)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            where = f"at {self.address}" if self.address else "on this machine"
            token = "" if "RAY_AUTH_MODE" in os.environ else "; if it asks for a token, set RAY_AUTH_MODE=token"
            raise BadInput(f"cannot connect to Ray {where}: {str(error).partition('. ')[0]}{token}") from None

    def _prove(self, ray: Any, jobs: Sequence[Job], report: Report) -> Generator[Proof, None, None]:
        workers, share = self._shares(ray)
        gpus = self._gpus(ray, jobs)
        task = ray.remote(_prove_task).options(num_cpus=share, num_gpus=gpus, max_retries=0)
        waiting, attempts = deque((job, False) for job in jobs), Attempts()
        pending: dict[Any, tuple[Job, bool]] = {}  # a task's result -> its job, and whether the run was sent along
        while waiting or pending:
            while waiting and len(pending) < workers:
                job, sent = waiting.popleft()
                pending[task.remote(job, share, ray.put(ship(job)) if sent else None)] = job, sent
                report(job.segment, "proving", 0.0)
            (done,), _ = ray.wait(list(pending))
            job, sent = pending.pop(done)
            try:
                said = ray.get(done)
            except ray.exceptions.RayTaskError as error:  # from before the job began: answer() lets nothing pass
                why = str(error.cause).partition("\n")[0]
                raise BadInput(f"a Ray worker cannot run zkaudit, is this version installed there? {why}") from None
            except ray.exceptions.RayError as error:
                waiting.appendleft((job, sent))
                attempts.lost(job.segment, f"by {type(error).__name__}")
                continue
            if said is None:
                waiting.appendleft((job, True))
            elif isinstance(said, Exception):
                raise said
            else:
                yield said

    def _shares(self, ray: Any) -> tuple[int, int]:
        """Tasks at a time, and CPUs for each: no more than the largest machine has, which could never be given."""
        cpus = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        cpus = [count for count in cpus if count]
        if not cpus:
            raise BadInput("no machine of the Ray cluster offers a CPU")
        workers = self.workers or len(cpus)
        return workers, max(1, min((self.threads or sum(cpus)) // workers, max(cpus)))

    def _gpus(self, ray: Any, jobs: Sequence[Job]) -> int:
        """GPUs for each task: Ray hides them from tasks that ask for none."""
        if all(job.device != "cuda" for job in jobs):
            return 0
        if not any(node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"]):
            raise BadInput("--device cuda: no machine of the Ray cluster offers a GPU")
        return 1


def _prove_task(job: Job, threads: int, sent: Supplies | None) -> Proof | Exception | None:
    """In a worker: the proof, the error, or None if the run was not sent along and is not to be seen."""
    field.set_threads(threads)
    curve.set_threads(threads)
    if sent is None:
        try:
            sent = supplies(job)
        except BadInput:
            return None
    given = sent
    return answer(job, lambda _: given, lambda *_: None)


def _require_reachable(address: str) -> None:
    """OSError if nothing listens at host:port, which Ray itself takes minutes to find out."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), PATIENCE).close()


def _ray() -> Any:
    try:
        import ray
    except ModuleNotFoundError:
        raise BadInput("the engine ray needs the package ray, which is not installed: pip install 'zkaudit[ray]'") from None
    return ray
