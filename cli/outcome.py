"""What a command can end in: the exit codes, and the sentence and code for each kind of failure.

0: done, or the proof is valid. 1: the proof is invalid, or about something else than it was given with. 2: bad input or usage.
130: stopped by the user.
"""

from __future__ import annotations

import sys

from zkaudit.zk.errors import BadInput, InvalidProof, NotBound

DONE, INVALID, UNUSABLE, STOPPED = 0, 1, 2, 130
EXTRAS = {  # which extra brings a package
    **dict.fromkeys(("torch", "sklearn", "scipy", "safetensors"), "train"),
    **dict.fromkeys(("transformers", "peft", "tokenizers", "faker", "rouge_score", "matplotlib"), "audit"),
    "flwr": "federated",
    "opacus": "dp",
}


def explain(error: BaseException) -> tuple[str, int]:
    """One sentence for the user and the exit code."""
    if isinstance(error, KeyboardInterrupt):
        return "stopped; run the same command again to go on", STOPPED
    if isinstance(error, InvalidProof):
        return f"the proof is invalid: {error}", INVALID
    if isinstance(error, NotBound):
        return str(error), INVALID
    if isinstance(error, BadInput) or _is_error_of("training", error) or _is_error_of("attacks", error):
        return str(error), UNUSABLE
    if isinstance(error, ModuleNotFoundError) and error.name and (extra := EXTRAS.get(error.name.partition(".")[0])):
        return f"this needs the package '{error.name}', which is not installed: pip install 'zkaudit[{extra}]'", UNUSABLE
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{where}{error.strerror or error}", UNUSABLE
    if isinstance(error, MemoryError):
        return "there is not enough memory for this; shorter segments need less (zkaudit prove --segment-steps)", UNUSABLE
    kind = type(error).__name__
    return f"internal error, please report it: {kind}: {error} (ZKAUDIT_DEBUG=1 shows where)", UNUSABLE


def _is_error_of(package: str, error: BaseException) -> bool:
    # Taken from the loaded modules: to import it here would make every command load that package.
    errors = sys.modules.get(f"zkaudit.{package}.errors")
    kinds = {"training": "TrainingError", "attacks": "AuditError"}
    return errors is not None and isinstance(error, getattr(errors, kinds[package]))
