"""Timing of the operators next to the compositions of PyTorch and torchvision that do the same.

A case makes its own inputs and hands out two functions, ours and theirs; they are called in turn, so that a slow second
hits both alike. Each operator's cases are in a module of their own; see :func:`all_cases`.
"""

from .case import Case, Contest
from .registry import all_cases

__all__ = ["Case", "Contest", "all_cases"]
