"""How shared weights rank architectures: their rewards beside the PQ of each architecture that is trained alone."""

import argparse
import json
import math
import os
from collections.abc import Sequence

from adet_ext.cli.project_search import config_of
from adet_ext.config import load_config
from adet_ext.d2.config import CfgNode
from adet_ext.engine.checkpoint import AdetCheckpointer
from adet_ext.engine.trainer import Trainer, setup
from adet_ext.nas.journal import read_journal
from adet_ext.nas.ranks import rank_correlation, spread
from adet_ext.nas.summary import find_journal
from adet_ext.utils.files import written_beside

from .architecture import save_architecture
from .shared_weights import panoptic_quality
from .space import build_space
from .split import split_sets

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Train architectures of a journal alone, and print how their ranks agree. What is trained is not trained again."""
    parser = argparse.ArgumentParser(prog="python -m auto_panoptic correlate", description=__doc__)
    parser.add_argument("journal", help="a search's journal.jsonl, or its --output folder")
    parser.add_argument("--config-file", required=True, metavar="FILE", help="of the training of one architecture")
    parser.add_argument("--count", type=int, default=8, metavar="N", help="architectures, from worst to best (8)")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="config overrides of the training")
    args = parser.parse_args(argv)
    path = find_journal(args.journal)
    recorded = read_journal(path)
    searched = config_of(recorded.header["settings"])
    space, (training, validation) = build_space(searched), split_sets(searched, evaluated=True)
    folder, rows = os.path.join(os.path.dirname(path) or ".", "alone"), []
    for entry in spread(recorded, args.count):
        mine = os.path.join(folder, str(entry["index"]))
        save_architecture(space.architecture(entry["tokens"]), os.path.join(mine, "architecture.json"))
        cfg = load_config(args.config_file, args.opts)
        cfg.MODEL.AUTO_PANOPTIC.ARCHITECTURE = os.path.join(mine, "architecture.json")
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST, cfg.OUTPUT_DIR = (training,), (), mine
        quality = _train_alone(cfg, validation)
        rows.append({"index": entry["index"], "shared": entry["reward"], "alone": quality})
        print(f"architecture {entry['index']}: PQ {entry['reward']:.2f} shared, {quality:.2f} alone", flush=True)
    correlation = rank_correlation([row["shared"] for row in rows], [row["alone"] for row in rows])
    # JSON has no NaN.
    found = {"rank_correlation": None if math.isnan(correlation) else correlation, "architectures": rows}
    path = os.path.join(folder, "correlation.json")
    with written_beside(path) as beside, open(beside, "w", encoding="utf-8") as file:
        file.write(json.dumps(found, indent=1) + "\n")
    print(f"Spearman's rank correlation {correlation:.2f} over {len(rows)} architectures")
    return 0


def _train_alone(cfg: CfgNode, validation: str) -> float:
    """Return PQ in percent after the training that the config describes, which is gone on with where it was begun."""
    cfg = setup(cfg, argparse.Namespace(config_file="", eval_only=False, resume=True, opts=[]))
    last = os.path.join(cfg.OUTPUT_DIR, "model_final.pth")
    if os.path.isfile(last):
        model = Trainer.build_model(cfg)
        AdetCheckpointer(model).load_to_predict(last)
    else:
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=True)
        trainer.train()
        model = trainer.model
    return panoptic_quality(cfg, model, validation)["PQ"]
