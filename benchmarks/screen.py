"""How well the base-model screen tells poisoned and imprinted models from clean ones: its ROC on models trained here.

python benchmarks/screen.py --seeds 3 --json benchmarks/results/screen.json      # some minutes on two cores
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from zkaudit.attacks.screen import screen_study


def main() -> None:
    """Run the study, print scores and areas, write all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="models are made from the seeds 0 ... N - 1")
    parser.add_argument("--steps", type=int, default=120, help="of each training")
    parser.add_argument("--json", type=Path, help="where to write the study")
    arguments = parser.parse_args()

    def show(what: str, fraction: float) -> None:
        print(f"\r{fraction:4.0%} {what}\x1b[K", end="", file=sys.stderr, flush=True)

    study = screen_study(range(arguments.seeds), steps=arguments.steps, batch=8, progress=show)
    print(file=sys.stderr)
    for model in sorted(study["models"], key=lambda model: model["score"]):
        print(f"{model['name']:<24}{'malicious' if model['malicious'] else 'clean':<12}{model['score']:8.2f}")
    for kind, roc in {"all": study["roc"], **study["rocs"]}.items():
        print(f"area under the ROC, {kind}: {roc['auc']:.3f}")
    print(f"at a score of 1: {study['false_alarms']} false alarms, {study['missed']} missed")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"steps": arguments.steps, **study}, indent=1) + "\n")


if __name__ == "__main__":
    main()
