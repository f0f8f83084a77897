"""Training in exact fixed-point arithmetic: the same integers on every machine, which is what a proof can speak about.

run = prepare(load(Path("config.toml")), Path("RUN"))
result = run.train(batches)                        # batches: rows of each step, (steps, batch)
write_model(Path("RUN/model.safetensors"), result.start, result.end, run.config.fixed_point)
"""

from zkaudit.training.fixedpoint.float_twin import float_twin
from zkaudit.training.fixedpoint.model_file import read_model_weights, write_model
from zkaudit.training.fixedpoint.network import accuracy, dequantise, initial_network, quantise
from zkaudit.training.fixedpoint.run import Result, Run, prepare, quantise_inputs, targets
from zkaudit.training.fixedpoint.trainer import train

__all__ = [
    "Result",
    "Run",
    "accuracy",
    "dequantise",
    "float_twin",
    "initial_network",
    "prepare",
    "quantise",
    "quantise_inputs",
    "read_model_weights",
    "targets",
    "train",
    "write_model",
]
