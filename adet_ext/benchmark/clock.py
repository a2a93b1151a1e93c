"""Notice that a machine slows down while it is measured: its clock is throttled, or others take part of it."""

import os
import time

import torch

__all__ = ["ClockWatch"]

_SIDE = 256  # of the matrices: a product of about a millisecond
_REPEATS = 3  # of which the shortest counts
STEADY = 1.25  # the most by which the slowest look may exceed the fastest


class ClockWatch:
    """Times a fixed product of matrices on the CPU, each time that it is asked to look."""

    def __init__(self):
        self.matrix = torch.rand(_SIDE, _SIDE)
        self.milliseconds: list[float] = []
        self.load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0  # before anything is measured

    def look(self) -> None:
        """Time the product."""
        times = []
        for _ in range(_REPEATS):
            start = time.perf_counter()
            self.matrix @ self.matrix
            times.append(time.perf_counter() - start)
        self.milliseconds.append(1e3 * min(times))

    def note(self) -> str | None:
        """Return a sentence for the report if the machine was busy or not equally fast all the time, else None."""
        remarks = []
        if self.milliseconds and max(self.milliseconds) > STEADY * min(self.milliseconds):
            remarks.append(
                f"a fixed product took {min(self.milliseconds):.2f} to {max(self.milliseconds):.2f} ms: the clock was "
                "throttled, or other processes ran"
            )
        if self.load > 0.5:
            remarks.append(f"the load was {self.load:.1f} before the start: other processes ran")
        return "not a steady machine: " + "; ".join(remarks) if remarks else None
