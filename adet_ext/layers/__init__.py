"""Operators and layers. Importing this loads the compiled operators, where they were built."""

from .extension import native_operators, status

__all__ = ["native_operators", "status"]

status()
