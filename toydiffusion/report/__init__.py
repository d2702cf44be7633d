"""The demo on the squares and its report: every picture beside the truth, every number kept."""

from __future__ import annotations

from toydiffusion.report.demo import demo
from toydiffusion.report.settings import DemoSettings

__all__ = ["DemoSettings", "demo"]
