"""Reports: one self-contained page each.

`demo` trains models on the squares and compares every figure and number with the truth. `table_report` is
about one model of a table, `sweep_report` about a grid of settings.
"""

from __future__ import annotations

from toydiffusion.report.demo import demo
from toydiffusion.report.settings import DemoSettings
from toydiffusion.report.sweep import sweep_report
from toydiffusion.report.table import table_report

__all__ = ["DemoSettings", "demo", "sweep_report", "table_report"]
