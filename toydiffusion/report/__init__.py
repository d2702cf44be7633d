"""The demo on the squares, and its report, which compares every figure and number with the truth."""

from __future__ import annotations

from toydiffusion.report.demo import demo
from toydiffusion.report.settings import DemoSettings

__all__ = ["DemoSettings", "demo"]
