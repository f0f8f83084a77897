"""`zkaudit audit`: what training leaks, measured on the user's own set-up, on a saved update or on the update of a proof."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zkaudit.cli.command import Command
from zkaudit.cli.outcome import DONE
from zkaudit.cli.progress import ProgressBar
from zkaudit.zk.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping

METER = "meter"


def run(arguments: argparse.Namespace) -> int:
    """Print the template, measure without attacking, attack a saved update or a proved one, or run a whole audit."""
    if arguments.template:
        from zkaudit.attacks.template import TEMPLATE

        print(TEMPLATE, end="")
        return DONE
    if arguments.config == METER:
        return _meter(arguments)
    if arguments.proof is not None:
        return _proved(arguments)
    if arguments.update is not None:
        return _saved(arguments)
    return _audit(arguments)


def _audit(arguments: argparse.Namespace) -> int:
    if arguments.config is None:
        raise BadInput("give a configuration (zkaudit audit --template prints one), or --update and --model")
    if arguments.out is None:
        raise BadInput("give --out, the folder for result.json and report.html")
    if Path(arguments.config).is_dir():
        raise BadInput(f"{arguments.config} is a folder: to audit a run of zkaudit train, give its proof too (--proof)")
    _quiet()
    from zkaudit.attacks import config
    from zkaudit.attacks.audit import audit

    if arguments.device is not None:
        raise BadInput("--device is for --update and meter; an audit's device stands in its configuration, [model] device")
    settings = config.load(Path(arguments.config))
    with ProgressBar() as progress:
        result = audit(settings, arguments.out, progress)
    _summary(result, arguments.out)
    return DONE


def _proved(arguments: argparse.Namespace) -> int:
    others = [
        name for name in ("update", "model", "peft", "start", "records", "device") if getattr(arguments, name) is not None
    ]
    if others:
        raise BadInput(f"--proof is for a run of zkaudit train alone: --{others[0]} does not go with it")
    if arguments.config is None or arguments.out is None:
        raise BadInput("--proof also needs RUN, the folder that zkaudit train wrote, and --out")
    _quiet()
    from zkaudit.cli import joint

    return joint.run(Path(arguments.config), arguments.proof, arguments.out)


def _saved(arguments: argparse.Namespace) -> int:
    if arguments.model is None or arguments.out is None:
        raise BadInput("--update also needs --model, the folder of the model that clients got, and --out")
    _quiet()
    from zkaudit.attacks.saved_audit import SavedUpdate, audit_saved

    saved = SavedUpdate(
        update=arguments.update,
        model=arguments.model,
        peft=arguments.peft,
        start=arguments.start,
        kind=arguments.kind,
        records=arguments.records,
        batch=arguments.batch,
        longest=arguments.longest,
        device=arguments.device or "auto",
    )
    with ProgressBar() as progress:
        result = audit_saved(saved, arguments.out, progress)
    _summary(result, arguments.out)
    return DONE


def _meter(arguments: argparse.Namespace) -> int:
    if arguments.model is None or arguments.tokens is None:
        raise BadInput("zkaudit audit meter needs --model and --tokens (and --peft, unless --model has adapters saved in it)")
    _quiet()
    from zkaudit.attacks.meter import measure
    from zkaudit.attacks.saved_audit import model_with_adapters

    model = model_with_adapters(arguments.model, arguments.peft, arguments.device or "auto")
    measured = measure(model, arguments.tokens)
    print(json.dumps(measured.to_dict(), indent=1) if arguments.json else "\n".join(measured.lines()))
    return DONE


def _quiet() -> None:
    """transformers talks a lot while it is loaded, none of it about the audit."""
    import os
    import warnings

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin for work halt a machine with other work on it
    warnings.filterwarnings("ignore")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _summary(result: Mapping[str, Any], out: Path) -> None:
    """The verdict, a line for each attack and defence, and where the rest is."""
    print(f"{result['verdict']['level']}: {' '.join(result['verdict']['sentences'])}")
    if "meter" in result:
        print(f"meter: {result['meter']['verdict']}, {result['meter']['reason']}")
    print(f"{'attack':<18}{'tokens':>9}{'ranked':>9}{'records':>9}{'PII':>7}{'seconds':>9}")
    for attack in result["attacks"]:
        cells = [_cell(attack, name) for name in ("token_recall", "recall_at_n", "exact_match", "pii_exact")]
        note = f"  {attack['error']}" if attack.get("error") else ""
        print(f"{attack['name']:<18}{cells[0]:>9}{cells[1]:>9}{cells[2]:>9}{cells[3]:>7}{attack['seconds']:>9.1f}{note}")
    for defence in result.get("defences", []):
        warning = "  stops only an attacker who does not know of it" if defence["static_only"] else ""
        static, adaptive = defence["static"]["value"], defence["adaptive"]["value"]
        print(f"defence {defence['name']:<24} static {static:.2f}  adaptive {adaptive:.2f}{warning}")
    print(f"{out}: result.json and report.html, {result['seconds']:.0f} s on {result['device']}")


def _cell(attack: Mapping[str, Any], metric: str) -> str:
    found = (attack.get("metrics") or {}).get(metric)
    return "-" if found is None else f"{found['value']:.2f}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """CONFIG, RUN or meter, --out, --template; --proof; --update, --model, --peft, --records and what they need."""
    what = "what to audit: a configuration, or the folder of a proved run; or `meter`, to measure only"
    parser.add_argument("config", metavar="CONFIG.toml|RUN|meter", nargs="?", help=what)
    parser.add_argument("--out", metavar="DIR", type=Path, help="the folder to write result.json and report.html to")
    parser.add_argument("--template", action="store_true", help="print a configuration that runs as it is, every key explained")
    proved = parser.add_argument_group("the update of a proved run")
    proof = (
        "RUN's proof, or the folder of its segments: it is verified, and RUN opened against its commitments, before any attack"
    )
    proved.add_argument("--proof", metavar="PROOF", type=Path, help=proof)
    saved = parser.add_argument_group("a saved update, of any stack")
    saved.add_argument("--update", metavar="FILE", type=Path, help="gradient or delta: safetensors, or a dictionary of torch")
    saved.add_argument("--model", metavar="DIR", type=Path, help="the model that clients got (for meter, config.json will do)")
    saved.add_argument("--peft", metavar="PEFT", type=Path, help="adapter_config.json, or the folder of a saved adapter")
    saved.add_argument(
        "--start", metavar="FILE", type=Path, help="the round's start, as captures save it, if not PEFT's weights"
    )
    saved.add_argument("--kind", choices=("gradient", "delta"), help="what the update is, if the file does not say it")
    saved.add_argument("--records", metavar="FILE", type=Path, help="the records behind it, as JSON lines, to score attacks")
    saved.add_argument("--batch", metavar="N", type=int, default=8, help="records behind the update, at most (default 8)")
    saved.add_argument("--longest", metavar="N", type=int, default=64, help="tokens a record, at most (default 64)")
    where = "where to compute, for meter too (default auto: a GPU if torch sees one)"
    saved.add_argument("--device", choices=("auto", "cpu", "cuda"), help=where)
    meter = parser.add_argument_group("meter")
    meter.add_argument("--tokens", metavar="N", type=int, help="token positions behind one update")
    meter.add_argument("--json", action="store_true", help="print the measurement as JSON")


EXAMPLES = """\
examples:
  zkaudit audit --template > audit.toml                    a configuration to change
  zkaudit audit audit.toml --out audits/first              result.json and report.html; go on after a stop by the same command
  zkaudit audit --update update.safetensors --model base/ --peft adapter/ --out audits/saved
  zkaudit audit meter --model base/ --peft adapter/ --tokens 512
  zkaudit audit runs/digits --proof digits.zkp --out audits/digits    one report of a proof and of what its update leaks

Nothing is downloaded. Personal data are hidden in reports unless the configuration says show_values = true.

exit codes: 0 done, 1 the proof is invalid or speaks about another run, 2 bad input or usage
"""

COMMAND = Command("audit", "measure what federated training leaks", EXAMPLES, add_arguments, run)
