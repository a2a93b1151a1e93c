"""``quick``: train a small BlendMask on the built-in shapes, evaluate it, draw its predictions, write a report.

An interrupted run resumes when the same command is called again.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from ..config import load_config
from ..experiments.run import clear_run, run_to_report
from .arguments import parse_with_overrides

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the training and print where the report is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default="demo/shapes_R_18.yaml", help="default: %(default)s")
    parser.add_argument("--output", default="demo_output", metavar="FOLDER", help="default: %(default)s")
    parser.add_argument("--max-iter", type=int, metavar="N", help="train for N iterations instead of the config's")
    parser.add_argument("--fresh", action="store_true", help="remove what an earlier run left in --output first")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides, at the end")
    arguments = parse_with_overrides(parser, argv)
    words = sys.argv[1:] if argv is None else argv
    cfg = load_config(arguments.config_file, arguments.opts)
    cfg.OUTPUT_DIR = arguments.output
    if arguments.max_iter is not None:
        cfg.SOLVER.MAX_ITER = arguments.max_iter
    if arguments.fresh:
        clear_run(arguments.output)
    work = f"{cfg.SOLVER.MAX_ITER} iterations of {cfg.SOLVER.IMS_PER_BATCH} images"
    print(f"training {cfg.MODEL.META_ARCHITECTURE}: {work}; the log is {os.path.join(arguments.output, 'log.txt')}")
    command = ["python", "-m", "adet_ext", "quick", *words]
    try:
        report, ap = run_to_report(cfg, command=command, say=lambda line: print(line, file=sys.stderr))
    except KeyboardInterrupt:
        print("\nstopped; the same command resumes from the last checkpoint", file=sys.stderr)
        return 130
    found = ", ".join(f"{name} AP {ap.get(task, 0.0):.1f}" for task, name in (("segm", "mask"), ("bbox", "box")))
    print(f"report: {report}   {found} on {', '.join(cfg.DATASETS.TEST)}")
    return 0
