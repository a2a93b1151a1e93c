"""Where inference would make the host wait for the device."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode


class CountSyncs(TorchDispatchMode):
    """Counts operators whose result the host has to wait for: values, sizes that depend on data, copies to the host."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal", "repeat_interleave")

    def __init__(self):
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        if any(f"aten.{w}" in name for w in self.WAITS) or "torchvision.nms" in name:
            self.seen.append(name)
        if name.startswith("aten.index.") and any(x is not None and x.dtype == torch.bool for x in args[1]):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def until_results_leave(model, images):
    """Inference from the normalised batch up to the point where detections of fixed number become lists."""
    features = model.backbone(images)
    output, locations = model.proposal_generator.head_output(features)
    detections = model.proposal_generator.detect(output, locations)
    return detections, model.branch_fields(features, output, detections)


def counted_waits(model, batch):
    """What :func:`until_results_leave` gives for a batch, as tensors without values, and the waits on the way.

    A fake tensor has no values: whatever needs one raises.
    """
    images = model.preprocess_image(batch).tensor
    count = CountSyncs()
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = mode.from_tensor(images)
        with count:
            results = until_results_leave(model, fake)
    return results, count.seen
