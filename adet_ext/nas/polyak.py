"""Polyak averaging, which searches and trainings share."""

from ..utils.polyak import PolyakAverage

__all__ = ["PolyakAverage"]
