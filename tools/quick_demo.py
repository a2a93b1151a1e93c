#!/usr/bin/env python3
"""The body of ``make demo``: train a small BlendMask on the built-in shapes, evaluate it, draw, report.

Interrupted, it goes on where it was when it is called again.
"""

import argparse
import os
import sys

from adet_ext.config import load_config
from adet_ext.errors import UserError
from adet_ext.quick import clear_run, run_to_report


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default="demo/shapes_R_18.yaml", help="default: %(default)s")
    parser.add_argument("--output", default="demo_output", metavar="FOLDER", help="default: %(default)s")
    parser.add_argument("--max-iter", type=int, metavar="N", help="train for N iterations instead of the config's")
    parser.add_argument("--fresh", action="store_true", help="start anew; removes what an earlier run left in --output")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides, at the end")
    arguments = parser.parse_args(argv)
    try:
        cfg = load_config(arguments.config_file, arguments.opts)
        cfg.OUTPUT_DIR = arguments.output
        if arguments.max_iter is not None:
            cfg.SOLVER.MAX_ITER = arguments.max_iter
        if arguments.fresh:
            clear_run(arguments.output)
        tested = ", ".join(cfg.DATASETS.TEST)
        work = f"{cfg.SOLVER.MAX_ITER} iterations of {cfg.SOLVER.IMS_PER_BATCH} images"
        print(f"training {cfg.MODEL.META_ARCHITECTURE}: {work}; the log is {os.path.join(arguments.output, 'log.txt')}")
        command = ["python", *(sys.argv if argv is None else ["tools/quick_demo.py", *argv])]
        report, ap = run_to_report(cfg, command=command, say=lambda line: print(line, file=sys.stderr))
    except UserError as error:
        print(f"quick_demo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    found = ", ".join(f"{name} AP {ap.get(task, 0.0):.1f}" for task, name in (("segm", "mask"), ("bbox", "box")))
    print(f"report: {report}   {found} on {tested}")
    return 0


if __name__ == "__main__":  # worker processes import this module again
    sys.exit(main())
