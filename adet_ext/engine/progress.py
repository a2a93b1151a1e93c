"""A training for the eye: one progress bar on the terminal, everything else in the log file."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import TextIO

from tqdm import tqdm

from ..d2.engine import HookBase
from ..utils.files import make_folder

__all__ = ["ProgressBar", "quiet_console"]


@contextlib.contextmanager
def quiet_console(path: str) -> Iterator[TextIO]:
    """Send what is logged, printed or warned about to the file ``path`` instead of the terminal.

    Only the standard error stays free, for a progress bar. Gives the open file, which is then the standard
    output: where a library has begun to log both there and to the same file, :func:`forget_terminal` ends the former.
    """
    make_folder(os.path.dirname(path))
    with open(path, "a", buffering=1, encoding="utf-8") as log:
        warnings = logging.getLogger("py.warnings")
        handler = logging.StreamHandler(log)
        handler.setFormatter(logging.Formatter("[%(asctime)s %(name)s]: %(message)s", "%m/%d %H:%M:%S"))
        warnings.addHandler(handler)
        propagate, warnings.propagate = warnings.propagate, False
        logging.captureWarnings(True)
        try:
            with contextlib.redirect_stdout(log):
                yield log
        finally:
            logging.captureWarnings(False)
            warnings.removeHandler(handler)
            warnings.propagate = propagate
            forget_terminal(log)


def forget_terminal(stream: TextIO) -> None:
    """Remove every logger's handlers that write to ``stream``."""
    for logger in [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]:
        for handler in list(getattr(logger, "handlers", ())):
            if isinstance(handler, logging.StreamHandler) and handler.stream is stream:
                logger.removeHandler(handler)


class ProgressBar(HookBase):
    """Shows iteration, time left and the total loss (median of the last 20) on the standard error.

    A resumed training's bar starts where the training does. Register it last.
    """

    def before_train(self) -> None:
        start, end = self.trainer.start_iter, self.trainer.max_iter
        # Refreshed every second at most: a log that captures the bar does not fill up with it.
        self._bar = tqdm(
            total=end, initial=start, desc="training", unit="it", mininterval=1.0, dynamic_ncols=True, file=sys.stderr
        )

    def after_step(self) -> None:
        storage = self.trainer.storage
        if "total_loss" in storage.histories():
            loss = storage.history("total_loss").median(20)
            self._bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
        self._bar.update()
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            self._bar.close()  # before the evaluation, which is not part of the iterations

    def after_train(self) -> None:
        self._bar.close()
