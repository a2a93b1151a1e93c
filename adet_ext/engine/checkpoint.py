"""Load and save weights, with errors that a user can act upon.

Files are Detectron2's ``.pth`` and ``.pkl`` and ``.safetensors``; nothing that is loaded can run code, and nothing that
is written can destroy what was there (see :class:`adet_ext.d2.safe_files.SafeFiles`). Classifiers of torchvision and
timm are put into the model's body (see :mod:`adet_ext.engine.foreign`).
"""

import itertools
import os
import re
from collections.abc import Sequence
from typing import Any

from ..d2.checkpoint import DetectionCheckpointer, read_checkpoint
from ..errors import UserError
from . import pretrained  # noqa: F401  (registers imagenet://)
from .foreign import look_of, place
from .foreign_names import Foreign, recognize
from .load_report import load_report

__all__ = ["AdetCheckpointer", "Diverged", "classes_in"]

# ImageNet weights published under the classifier's own names, told by their file names; matched by the names' ends.
_BARE_NAMES = ("dla", "lpf")


# Modules that predictions do without.
_TRAINING_ONLY = ("seg_head.",)

HOW_TO_GO_ON = "lower SOLVER.BASE_LR or switch on SOLVER.CLIP_GRADIENTS, and go on with --resume"


class Diverged(UserError, FloatingPointError):
    """A loss or a weight is infinite or not a number."""


class AdetCheckpointer(DetectionCheckpointer):
    """The engine's checkpointer, whose failures are :class:`UserError`.

    ``incompatible`` is what did not fit when the model was loaded last; None before that. ``classes`` are the names of
    the model's classes in their order, which are saved with it; ``loaded_classes`` those of the file that was loaded
    last. None: unknown.
    """

    incompatible: Any = None
    classes: list[str] | None = None
    loaded_classes: list[str] | None = None
    # What kind of foreign classifier was loaded last; None: none.
    foreign: Foreign | None = None
    # Parts of names that nothing is said about if the file has none of them.
    _needless: tuple[str, ...] = ()

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load ``path`` into the model and, with them, the named checkpointables; return what is left over.

        Tensors that are missing, superfluous or of another shape are listed in the log, by module, and left as they
        are; so is what a foreign classifier needs of the images that the model is not set to.

        Raises:
            UserError: the file is missing, cut off, not a checkpoint, or would run code.
        """
        name = os.path.basename(path).lower()
        if any(word in name for word in _BARE_NAMES) and name.endswith(".pth") and "?" not in name:
            path += "?matching_heuristics=True"
        try:
            rest = super().load(path, checkpointables)
        except (OSError, ValueError, AssertionError) as error:
            raise UserError(" ".join(str(error).split()) or f"{path} cannot be loaded") from error
        if self.foreign and (look := look_of(self.foreign, self.model)):
            self.logger.warning("%s holds %s, which was trained for another setting: %s", path, self.foreign.kind, look)
        self.loaded_classes = _names(rest.get("classes"))
        return rest

    def check_classes(self, dataset: str, classes: Sequence[str] | None) -> None:
        """Refuse a data set whose classes are not those of the file that was loaded last, in its order.

        Raises:
            UserError: naming the first class that differs.
        """
        if not self.loaded_classes or not classes or list(classes) == self.loaded_classes:
            return
        pairs = itertools.zip_longest(self.loaded_classes, classes, fillvalue="none")
        number, (trained, given) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
        raise UserError(
            f"data set {dataset} must have the classes that the model was trained on, in their order; got {given} for "
            f"class {number}, which is {trained} in the checkpoint. Give the data set with --dataset, which matches "
            "classes by name, or register it with classes=adet_ext.engine.checkpoint.classes_in(checkpoint)"
        )

    def load_to_predict(self, path: str) -> None:
        """Load ``path`` into a model that predicts or is evaluated, whose weights must all be in the file.

        Raises:
            UserError: as :meth:`load`; or the file lacks weights of the model, which would be random.
        """
        self._needless = _TRAINING_ONLY
        try:
            self.load(path, checkpointables=[])
        finally:
            self._needless = ()
        lacking = set(self.incompatible.missing_keys) if self.incompatible else set()
        lacking &= {name for name, _ in self.model.named_parameters()}
        lacking = {name for name in lacking if not any(part in name for part in _TRAINING_ONLY)}
        if not lacking:
            return
        if self.foreign:
            raise UserError(
                f"{path} holds the weights of a backbone alone, {self.foreign.kind}: the rest of the model is not "
                "trained, and its predictions would be noise. Train it from this file first, or give a trained "
                "checkpoint"
            )
        names = [name for name, _ in self.model.named_parameters()]
        modules = list(dict.fromkeys(name.rpartition(".")[0] for name in names if name in lacking))
        more = f" and {len(modules) - 3} other modules" if len(modules) > 3 else ""
        raise UserError(
            f"{path} does not fit the model: {len(lacking)} of its {len(names)} weights are missing or of another "
            f"shape, in {', '.join(modules[:3])}{more}, and would be random. Give the config and the number of classes "
            "(MODEL.FCOS.NUM_CLASSES) that the file was trained with"
        )

    def _load_file(self, f: str) -> dict[str, Any]:
        checkpoint = super()._load_file(f)
        tensors, self.foreign = checkpoint["model"], None
        if not tensors.keys() <= self.model.state_dict().keys():
            self.foreign = recognize(tensors)
        if self.foreign:
            checkpoint["model"] = place(self.foreign, tensors, self.model)
        return checkpoint

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        missing = incompatible.missing_keys
        missing[:] = [name for name in missing if not any(part in name for part in self._needless)]
        for level, line in load_report(self.model, incompatible):
            self.logger.log(level, "Weights: %s", line)

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        self.incompatible = super()._load_model(checkpoint)
        return self.incompatible

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``name.pth``, so that a crash or a full disk leaves what was there.

        Raises:
            Diverged: a weight is not finite; a run could not go on from such a file.
            UserError: the file cannot be written.
        """
        if self.save_dir and self.save_to_disk:
            parameters = {key for key, _ in self.model.named_parameters()}
            for key, value in self.model.state_dict().items():
                # Other buffers may be infinite on purpose.
                learned = key in parameters or key.endswith(("running_mean", "running_var"))
                if learned and not value.isfinite().all():
                    last = self.step_back(kwargs.get("iteration", 0) - 1)
                    raise Diverged(
                        f"{name}.pth is not written, because {key} is not finite any more; {HOW_TO_GO_ON} from {last}"
                    )
        if self.classes:
            kwargs["classes"] = list(self.classes)
        super().save(name, **kwargs)

    def step_back(self, iteration: int) -> str:
        """Tag the checkpoint before the last one if the last one is of ``iteration``; return the tagged one's name.

        For a run that diverged in the next iteration: its forward pass would do the same again from those weights,
        whatever the learning rate.
        """
        name = os.path.basename(self.get_checkpoint_file())
        if name == f"model_{iteration:07d}.pth":
            earlier = [x for x in os.listdir(self.save_dir) if re.fullmatch(r"model_\d{7}\.pth", x) and x < name]
            if earlier:
                name = max(earlier)
                self.tag_last_checkpoint(name)
        return name or "the start"

    def get_checkpoint_file(self) -> str:
        try:
            return super().get_checkpoint_file()
        except ValueError as error:
            raise UserError(str(error)) from error


def classes_in(path: str) -> list[str] | None:
    """Return the names of the classes that are saved in a checkpoint; None where there are none, or no checkpoint."""
    if not os.path.isfile(path):
        return None
    try:
        return _names(read_checkpoint(path).get("classes"))
    except (OSError, ValueError):  # loading it will say what is wrong
        return None


def _names(value: Any) -> list[str] | None:
    return value if isinstance(value, list) and value and all(isinstance(name, str) for name in value) else None
