"""Where the planned segments of a run are proved: in this process, in several on this machine, or as Ray tasks on many.

    job         one segment to prove, and its proof
    attempts    how often a segment may lose its worker
    local       this process, or workers on this machine; worker is what those run
    cluster     Ray
    shipment    a trace for workers that do not see the run's folder

An engine returns proofs and writes nothing. The process that asked for them writes the files.
"""

from zkaudit.zk.engine.cluster import RayTasks
from zkaudit.zk.engine.job import Engine, Job, Proof
from zkaudit.zk.engine.local import Processes, ThisProcess

__all__ = ["Engine", "Job", "Processes", "Proof", "RayTasks", "ThisProcess"]
