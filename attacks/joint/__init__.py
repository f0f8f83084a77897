"""Proof and audit of one client: what the very update that a proof of training speaks about leaks, and what helps.

`joint_audit` gets the proof's verdict, its statements and what a run holds as plain data, all of it opened against the
statement's commitments before (`zkaudit audit RUN --proof FILE`); nothing here knows of proofs.
"""

from zkaudit.attacks.joint.audit import joint_audit

__all__ = ["joint_audit"]
