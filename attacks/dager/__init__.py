"""DAGER, as published and calibrated."""

from zkaudit.attacks.dager.attack import Dager
from zkaudit.attacks.dager.options import DagerOptions

__all__ = ["Dager", "DagerOptions"]
