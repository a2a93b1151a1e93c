"""Stop a process that gets SIGTERM or Ctrl-C: at once, or where its work can be cut."""

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

__all__ = ["StopRequest", "Terminated", "held_back", "terminate_at_once"]


class Terminated(SystemExit):
    """SIGTERM came. Ends the process with status 143, as the signal itself would, but cleans up on the way."""

    def __init__(self, message: str = "stopped by SIGTERM"):
        super().__init__(143)
        self.message = message


class terminate_at_once:
    """A context in which SIGTERM raises :class:`Terminated`, as Ctrl-C raises KeyboardInterrupt."""

    def __enter__(self) -> None:
        self._process, self._before = os.getpid(), None
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._handle)

    def __exit__(self, *exception) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _handle(self, number: int, frame) -> None:
        _only_in(self._process, number)
        raise Terminated


class StopRequest:
    """A context in which the first SIGTERM or Ctrl-C only sets ``requested``, to be answered by :meth:`stop`.

    A second signal, or ``patience`` seconds without an answer, stops the process where it is. What comes right after
    the first is the same request: a scheduler signals all processes, and a parent passes its signal on.

    Args:
        patience: ``math.inf`` waits for the answer, however long it takes.
        say: is told, in a sentence, that the first signal has come.
        promise: what that sentence says after the signal's name; by default, that of a training.
        cut: what a stop without an answer says.
    """

    def __init__(
        self,
        patience: float = 5.0,
        say: Callable[[str], None] | None = None,
        promise: str = "",
        cut: str = "stopped within an iteration; the checkpoints are as they were",
    ):
        self.patience, self._say = patience, say or (lambda sentence: print(sentence, file=sys.stderr, flush=True))
        self._promise, self._cut = promise, cut
        self.requested = 0

    def __enter__(self) -> "StopRequest":
        self._process, self._before, self._timer, self.requested, self._when = os.getpid(), {}, None, 0, 0.0
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for number, handler in self._before.items():
            # None: a handler that was not set from Python cannot be set back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def stop(self, number: int, message: str) -> None:
        """Raise what the signal ``number`` stands for."""
        raise Terminated(message) if number == signal.SIGTERM else KeyboardInterrupt(message)

    def _handle(self, number: int, frame) -> None:
        _only_in(self._process, number)
        now = time.monotonic()
        if self.requested and now - self._when < min(1.0, self.patience / 2):
            return
        if self.requested:
            self.stop(self.requested, self._cut)
        self.requested, self._when = number, now
        if math.isfinite(self.patience):
            self._timer = threading.Timer(self.patience, _signal_main_thread, (number,))
            self._timer.daemon = True
            self._timer.start()
        promise = self._promise or f"stopping after this iteration, within {self.patience:g} s"
        self._say(f"{signal.Signals(number).name}: {promise}")


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Hold SIGTERM and Ctrl-C back, and for good in the processes that are started within.

    Schedulers and terminals signal all processes of a group; a trainer cannot finish its iteration without its workers.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _signal_main_thread(number: int) -> None:
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident, number)
    else:
        signal.raise_signal(number)


def _only_in(process: int, number: int) -> None:
    """In a process that was forked from ``process``, do what the signal does by default."""
    if os.getpid() != process:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
