"""Record a network once for each shape of its inputs, and replay it: no time is lost on launching kernels.

N images, H x W a frame of the network.
"""

from collections.abc import Callable

import torch

__all__ = ["CudaGraphs"]

Network = Callable[[torch.Tensor, torch.Tensor], dict[str, torch.Tensor]]

_WARM_UPS = 3  # passes before recording, in which libraries choose their algorithms and get their memory


class CudaGraphs:
    """A function of images (N, 3, H, W) and sizes (N, 2), as a CUDA graph for each (N, H, W).

    The graphs share their memory, so that what one returns is valid until the next call. Calls must take turns.
    """

    def __init__(self, network: Network):
        """
        Args:
            network: must not wait for the device, and must not make tensors whose sizes depend on values.
        """
        self.network = network
        self.pool = torch.cuda.graph_pool_handle()
        self.recorded: dict[tuple[int, ...], tuple[torch.cuda.CUDAGraph, tuple, dict[str, torch.Tensor]]] = {}

    def __call__(self, images: torch.Tensor, sizes: torch.Tensor) -> dict[str, torch.Tensor]:
        shape = tuple(images.shape)
        if shape not in self.recorded:
            self.recorded[shape] = self._record(images, sizes)
        graph, inputs, results = self.recorded[shape]
        for mine, given in zip(inputs, (images, sizes)):
            mine.copy_(given, non_blocking=True)
        graph.replay()
        return results

    def _record(self, images: torch.Tensor, sizes: torch.Tensor):
        inputs = (images.clone(memory_format=torch.channels_last), sizes.clone())
        device = images.device
        with torch.cuda.device(device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(_WARM_UPS):
                    self.network(*inputs)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool):
                results = self.network(*inputs)
        return graph, inputs, results
