"""Maps in memory that is not dense: what vector accesses of the kernels must not take for aligned."""

import torch

__all__ = ["STRIDES_OF_LAYOUTS", "laid_out"]

# Numbers that are added to the strides of channels-last maps beyond a multiple of eight, for images, rows and columns;
# and the numbers before the first.
STRIDES_OF_LAYOUTS = {
    "aligned": (0, 0, 0, 0),
    "columns apart": (0, 0, 1, 0),
    "rows apart": (0, 1, 0, 0),
    "images apart": (1, 0, 0, 0),
    "off alignment": (0, 0, 0, 1),
}


def laid_out(x: torch.Tensor, images: int, rows: int, columns: int, first: int) -> torch.Tensor:
    """Return (N, C, H, W) in memory with these strides. What lies between its numbers is NaN."""
    n, c, h, w = x.shape

    def beyond(size: int, more: int) -> int:
        return -(-size // 8) * 8 + more

    column = beyond(c, columns)
    row = beyond(w * column, rows)
    image = beyond(h * row, images)
    room = x.new_full((first + n * image,), torch.nan)
    return room.as_strided((n, c, h, w), (image, 1, row, column), first).copy_(x)
