"""timm's optimizers as oracles. They need torch alone, but `import timm` needs torchvision: their package is loaded past it."""

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any


def timm_optimizer(module: str, name: str) -> Any:
    found = importlib.util.find_spec("timm")
    assert found is not None, "pip install --no-deps timm"
    assert found.origin is not None
    if "timm_optim" not in sys.modules:
        package = types.ModuleType("timm_optim")
        package.__path__ = [str(Path(found.origin).parent / "optim")]
        sys.modules["timm_optim"] = package
    return getattr(importlib.import_module(f"timm_optim.{module}"), name)
