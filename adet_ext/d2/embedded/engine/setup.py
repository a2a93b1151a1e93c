"""Set up a training or evaluation script: arguments, log, seeds, files, processes."""

import argparse
import logging
import os
import sys

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ....utils.files import written_beside
from ..config import CfgNode
from ..utils import comm
from ..utils.env import collect_env_info, seed_all_rng
from ..utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter
from ..utils.file_io import PathManager
from ..utils.logger import setup_logger


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """Return the arguments of Detectron2's training scripts, with the same names."""
    script = os.path.basename(sys.argv[0])
    examples = f"""
examples:
  {script} --config-file FILE.yaml --num-gpus 8
  {script} --config-file FILE.yaml MODEL.WEIGHTS model.pth SOLVER.BASE_LR 0.001
  torchrun --nproc-per-node 8 {script} --config-file FILE.yaml
on two machines:
  (first)  {script} --num-gpus 8 --num-machines 2 --machine-rank 0 --dist-url tcp://FIRST:PORT ...
  (second) {script} --num-gpus 8 --num-machines 2 --machine-rank 1 --dist-url tcp://FIRST:PORT ...
"""
    parser = argparse.ArgumentParser(epilog=epilog or examples, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default="", metavar="FILE", help="the YAML config")
    parser.add_argument(
        "--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR, where there is one"
    )
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS and train nothing")
    parser.add_argument(
        "--num-gpus", type=int, default=1, help="processes per machine, each with a GPU where there are any"
    )
    parser.add_argument("--num-machines", type=int, default=1, help="number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, help="which machine this is, from 0")
    # Each user has one port, so that processes of a broken run are noticed.
    user = os.getuid() if hasattr(os, "getuid") else 1
    parser.add_argument(
        "--dist-url",
        default=f"tcp://127.0.0.1:{2**15 + 2**14 + hash(user) % 2**14}",
        help="where the processes of several machines meet",
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, default=None, help="KEY VALUE pairs that override the config")
    return parser


def default_setup(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Make ``cfg.OUTPUT_DIR``, log the environment, write ``config.yaml``, and set the seeds.

    A ``cfg.SEED`` below 0 means a random seed. Else the seed of each process is ``SEED`` plus its rank.
    """
    output_dir, rank = cfg.OUTPUT_DIR, comm.get_rank()
    if comm.is_main_process() and output_dir:
        PathManager.mkdirs(output_dir)
    setup_logger(output_dir or None, distributed_rank=rank, name="fvcore")
    logger = setup_logger(output_dir or None, distributed_rank=rank)
    logger.info("Rank of current process: %d. World size: %d", rank, comm.get_world_size())
    logger.info("Environment info:\n%s", collect_env_info())
    logger.info("Command line arguments: %s", args)
    config_file = getattr(args, "config_file", "")
    if config_file:
        with PathManager.open(config_file, "r") as file:
            logger.info("Contents of args.config_file=%s:\n%s", config_file, file.read())
    if comm.is_main_process() and output_dir:
        text = cfg.dump()
        logger.info("Running with full config:\n%s", text)
        path = os.path.join(output_dir, "config.yaml")
        with written_beside(path) as beside, open(beside, "w", encoding="utf-8") as file:
            file.write(text)
        logger.info("Full config saved to %s", path)
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    # Evaluation has a new image size at every step. Timing kernels for each costs more than it saves.
    if not getattr(args, "eval_only", False):
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    precision = cfg.get("FLOAT32_PRECISION", "")
    if precision and torch.cuda.is_available():
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = precision != "highest"


def default_writers(output_dir: str, max_iter: int | None = None) -> list[EventWriter]:
    """Return writers to the log, to ``metrics.json`` and, if tensorboard is installed, to its event files."""
    PathManager.mkdirs(output_dir)
    writers = [CommonMetricPrinter(max_iter), JSONWriter(os.path.join(output_dir, "metrics.json"))]
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        logging.getLogger(__name__).warning("no TensorBoard event files are written: %s", error)
    else:
        writers.append(TensorboardXWriter(output_dir))
    return writers


def create_ddp_model(model: nn.Module, **kwargs) -> nn.Module:
    """Wrap the model into DistributedDataParallel if there are several processes.

    ``kwargs`` go to DistributedDataParallel. A model on a GPU is bound to the GPU of the process. A model on
    the CPU stays there.
    """
    if comm.get_world_size() == 1:
        return model
    if next(model.parameters()).is_cuda:
        kwargs.setdefault("device_ids", [comm.get_local_rank()])
    return DistributedDataParallel(model, **kwargs)
