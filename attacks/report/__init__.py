"""The report: `write` makes one self-contained HTML file of a result, `check` says whether a result has the right form."""

from zkaudit.attacks.report.html import render, write
from zkaudit.attacks.report.mask import mask
from zkaudit.attacks.report.schema import SCHEMA, check, plain

__all__ = ["SCHEMA", "check", "mask", "plain", "render", "write"]
