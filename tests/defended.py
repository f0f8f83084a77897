"""Models with adapters for tests of defences."""

from typing import Any

import torch

from zkaudit.attacks import peft_setup
from zkaudit.attacks.federated.settings import FederatedSettings
from zkaudit.attacks.lab.models import build as laboratory
from zkaudit.attacks.model import PublicModel

LORA = {"type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "k_proj", "v_proj"]}  # K = 24 in a block
ONE_RECORD = FederatedSettings(batch=1, longest=16, dropout=False)  # n = 15: the last position has no part in the loss


def adapted(config: Any = LORA, seed: int = 0, name: str = "nano-llama", task: Any = None) -> PublicModel:
    """With LoRA's B away from zero, as after some rounds."""
    model = peft_setup.apply(laboratory(name, seed, task), config, seed)
    generator = torch.Generator().manual_seed(seed)
    model.assign({n: 0.02 * torch.randn(p.shape, generator=generator) for n, p in model.trainable().items() if "lora_B" in n})
    return model
