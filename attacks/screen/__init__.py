"""Screen of a handed-out base model or adapter start: was it prepared to leak what clients train on it?"""

from zkaudit.attacks.screen.report import ScreenReport, Signal, screen
from zkaudit.attacks.screen.study import roc, screen_study

__all__ = ["ScreenReport", "Signal", "roc", "screen", "screen_study"]
