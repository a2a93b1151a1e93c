"""ONNX files run by OpenVINO on the CPU."""

import torch

from ..errors import UserError, one_line
from .card import KEY, Card
from .exported import Runner
from .onnx_file import need

__all__ = ["OpenVinoRunner"]


class OpenVinoRunner(Runner):
    """A file open in OpenVINO, with as many threads as torch has."""

    def __init__(self, path: str):
        """
        Raises:
            UserError: OpenVINO is missing, does not read the file, or it is not one of ours.
        """
        need("onnx", "openvino")
        import onnx
        import openvino

        try:
            block = {x.key: x.value for x in onnx.load(path, load_external_data=False).metadata_props}.get(KEY)
            core = openvino.Core()
            # float32 all through, as its default may be bfloat16 where the CPU has it
            options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
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
