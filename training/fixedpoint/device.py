"""Where a run computes. The device changes no number, so a run may go on on another one."""

from __future__ import annotations

import torch

from zkaudit.training.errors import TrainingError


def choose(name: str) -> torch.device:
    """The device called "cpu", "cuda", or "auto", which is a GPU where torch sees one; TrainingError says what "cuda" lacks."""
    if name != "cpu" and torch.cuda.is_available():
        return torch.device("cuda")
    if name != "cuda":
        return torch.device("cpu")
    if torch.version.cuda is None:
        raise TrainingError(
            f"--device cuda needs torch with CUDA, but torch {torch.__version__} is built without it: install a build for your "
            "CUDA as https://pytorch.org/get-started/locally says, or train with --device cpu"
        )
    raise TrainingError(
        f"--device cuda needs an NVIDIA GPU with a driver for CUDA {torch.version.cuda}, but torch sees none: nvidia-smi shows "
        "whether there is one, or train with --device cpu"
    )


def description(device: torch.device) -> str:
    """For the user: "the CPU", or the GPU's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
