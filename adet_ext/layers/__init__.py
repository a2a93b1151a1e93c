"""Operators and layers. Importing this loads the compiled operators, if they were built.

Each operator has one name: ``layers/<operator>.py`` is its Python face, ``csrc/<operator>.{cpp,h}`` its schema and
checks, ``csrc/cpu`` and ``csrc/cuda`` its kernels, ``tests/layers/test_<operator>.py`` its tests.

Letters of shapes, in all modules of this package and in csrc:

====  =============================================
N     images
C     channels; O: output channels of a convolution
H, W  height and width
L     locations, over all levels
B     boxes
D     detections
K     bases
M     side of an attention map
R     side of a merged mask
r     rank of a factored attention
====  =============================================
"""

from .extension import native_operators, serves, status

__all__ = ["native_operators", "serves", "status"]

status()

from . import deform_conv  # noqa: E402, F401  (registers the gradients of what embedded layers call)
