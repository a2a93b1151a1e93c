"""ONNX files run by OpenVINO on the CPU, in float32 or in bfloat16."""

import torch

from ..errors import UserError, one_line
from .card import KEY, Card
from .exported import Runner
from .onnx_file import need

__all__ = ["OPENVINO", "OPENVINO_BF16", "OpenVinoRunner"]

# Before the name of an ONNX file.
OPENVINO, OPENVINO_BF16 = "openvino:", "openvino-bf16:"


class OpenVinoRunner(Runner):
    """A file open in OpenVINO, with as many threads as torch has."""

    def __init__(self, path: str, bf16: bool = False):
        """
        Args:
            bf16: compute in bfloat16 up to the last convolutions and products; boxes, suppression and masks stay in
                float32. Fast on CPUs that have AMX or AVX512-BF16.

        Raises:
            UserError: OpenVINO is missing, does not read the file, the CPU has no bfloat16, or it is not one of ours.
        """
        need("onnx", "openvino")
        import onnx
        import openvino

        core = openvino.Core()
        if bf16 and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise UserError(f"this CPU has no bfloat16; write {OPENVINO} in place of {OPENVINO_BF16}")
        try:
            block = {x.key: x.value for x in onnx.load(path, load_external_data=False).metadata_props}.get(KEY)
            # Always said, as OpenVINO's own choice depends on the CPU.
            options = {
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            }
            self.model = core.compile_model(core.read_model(path), "CPU", options)
        except Exception as error:  # protobuf's and OpenVINO's exceptions have no common base
            raise UserError(f"{path} cannot be opened by OpenVINO: {one_line(error)}") from error
        self.card = Card.loads(block, path)

    def __call__(self, images: torch.Tensor, sizes: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        feed = {"images": images.numpy()}
        if sizes is not None:
            feed["sizes"] = sizes.numpy()
        found = self.model(feed)
        return {name: torch.from_numpy(found[name].copy()) for name in self.card.outputs}
