"""Print results for a spreadsheet, compare them with expected ones, and flatten them."""

import logging
import math
import sys
from collections.abc import Mapping

logger = logging.getLogger(__name__)


def print_csv_format(results: Mapping) -> None:
    """Log the main metrics of each task as two lines of comma-separated names and values.

    Metrics with a "-" in their name are of single classes and left out.
    """
    for task, metrics in results.items():
        if not isinstance(metrics, Mapping):
            logger.info("copypaste: %s=%s", task, metrics)
            continue
        main = {name: value for name, value in metrics.items() if "-" not in name}
        logger.info("copypaste: Task: %s", task)
        logger.info("copypaste: %s", ",".join(main))
        logger.info("copypaste: %s", ",".join(f"{value:.4f}" for value in main.values()))


def verify_results(cfg, results: Mapping) -> bool:
    """Compare with ``cfg.TEST.EXPECTED_RESULTS``, a list of [task, metric, value, tolerance].

    Return True, or log every difference and end the program with status 1.
    """
    wrong = []
    for task, metric, expected, tolerance in cfg.TEST.EXPECTED_RESULTS:
        actual = results.get(task, {}).get(metric)
        if actual is None or not math.isfinite(actual) or abs(actual - expected) > tolerance:
            wrong.append(f"{task}/{metric} is {actual}, expected {expected} within {tolerance}")
    if wrong:
        logger.error("Results are not as TEST.EXPECTED_RESULTS says:\n%s", "\n".join(wrong))
        sys.exit(1)
    if cfg.TEST.EXPECTED_RESULTS:
        logger.info("Results are as TEST.EXPECTED_RESULTS says.")
    return True


def flatten_results_dict(results: Mapping) -> dict:
    """Return {"a/b": 1} of {"a": {"b": 1}}, to any depth."""
    flat = {}
    for key, value in results.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}/{inner}": v for inner, v in flatten_results_dict(value).items()})
        else:
            flat[key] = value
    return flat
