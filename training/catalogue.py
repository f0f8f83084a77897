"""All training methods: what each changes, where it is, whether it can be proved, what a server sees of it.

Each module says so itself, in a constant `METHOD` (method.py); here is only the list of modules. `zkaudit methods` prints it,
and docs/methods.md is made from it: `python -m zkaudit.training.catalogue > docs/methods.md`."""

from __future__ import annotations

from importlib import import_module

from zkaudit.training.method import BINDINGS, CHANGES, Method

MODULES = (
    *("optim.galore", "optim.fira", "optim.block_int8"),
    *("low_rank.lora", "low_rank.switch_lora", "low_rank.factorised", "low_rank.sltrain"),
    *("low_rank.refactorisation", "low_rank.momentum_reset"),
    *("fp8.states", "fp8.activations", "memory.stream_bp"),
    *("optim.lars", "optim.lamb", "optim.agvm", "batch.conadv", "batch.multigrid"),
    *("norm.ghost_batch", "norm.layer", "norm.batch_channel", "objectives.load_balance"),
    *("schedule.power", "schedule.wsd", "schedule.regime"),
    *("robust.ibp", "models.batch_former"),
    *("search.population", "search.time_to_target", "search.scaling_law", "search.sequence_plan", "search.run_triage"),
    *("batch.view_batch", "batch.length_buckets", "batch.packing", "batch.hard_batch", "batch.uds", "batch.colm"),
    *("mixture.phases", "mixture.skill_it", "mixture.admire"),
    *("filters.betr", "filters.minhash", "filters.perplexity", "filters.quality"),
    *("objectives.ul2", "objectives.sla", "objectives.view_consistency", "objectives.step_by_step"),
    *("objectives.bash", "objectives.rac", "objectives.feedback_distillation"),
    *("generation.recycle", "generation.thoughts", "generation.self_lengthen", "generation.coverage"),
    *("generation.batch_prompt", "norm.adab2n", "models.block_pruning", "models.soup", "models.modular_ablation"),
    *("eval.offline_rl", "eval.graph"),
)


def catalogue() -> dict[str, Method]:
    """Every method by name, in the order of the list."""
    found: dict[str, Method] = {}
    for name in MODULES:
        module = import_module(f"zkaudit.training.{name}")
        for method in getattr(module, "METHODS", None) or (module.METHOD,):
            if method.name in found:
                raise ValueError(f"two modules call a method {method.name!r}")
            found[method.name] = method
    return found


def as_markdown(methods: dict[str, Method]) -> str:
    """The document: a table by what is changed, then a section for each method."""
    lines = [
        "# Training methods",
        "",
        "Made from the modules by `python -m zkaudit.training.catalogue`; `zkaudit methods` prints the same. Each method is",
        "used by itself, in a loop of one's own, in ours (`training/loop.py`) or in transformers' Trainer. What they do here",
        "beside what was published is measured by `benchmarks/training.py`; results are in `benchmarks/results/training.json`,",
        "those of a GPU in `training-gpu.json` beside it.",
        "",
        "| method | " + " | ".join(CHANGES) + " |",
        "|---" * (len(CHANGES) + 1) + "|",
    ]
    for method in methods.values():
        marks = ("x" if change in method.changes else "" for change in CHANGES)
        lines.append(f"| `{method.name}` | " + " | ".join(marks) + " |")
    for method in methods.values():
        lines += ["", f"## `{method.name}`", "", f"{method.title} ({method.paper}).", ""]
        lines += ["```python", *method.use.strip().splitlines(), "```", ""]
        lines += [f"- **{head}:** {text}" for head, text in described(method)]
    return "\n".join(lines) + "\n"


def described(method: Method) -> list[tuple[str, str]]:
    """What there is to say of a method, heading and text."""
    binding = [("binding", _sentence(BINDINGS[method.binding]))] if method.binding else []
    return [
        ("import", f"`{method.where}`"),
        ("published", _sentence(method.effect)),
        ("not for", _sentence(method.avoid)),
        ("code", _sentence(method.library or "ours")),
        *binding,
        ("proof", _sentence(method.provable)),
        ("a server sees", _sentence(method.server_sees)),
    ]


def _sentence(text: str) -> str:
    return f"{text.rstrip('.')}."


if __name__ == "__main__":
    print(as_markdown(catalogue()), end="")
