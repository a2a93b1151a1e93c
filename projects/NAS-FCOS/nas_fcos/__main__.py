"""The verbs of ``python -m adet_ext`` with the project's models and keys, and its own: ``python -m nas_fcos VERB``."""

import sys

from adet_ext.cli import project_main

_OWN = {
    "table": "Table 7.2: what every row costs, and by how much that differs from the thesis",
    "correlate": "how the proxy's rewards rank architectures beside a longer training (Figure 7.6)",
    "convert": "a published NAS-FCOS checkpoint, or torchvision's MobileNetV2, into one for this project",
}


def main(argv: list[str]) -> int:
    """Run a verb and return its exit status."""
    return project_main("nas_fcos", _OWN, argv)


if __name__ == "__main__":  # worker processes import this module again
    sys.exit(main(sys.argv[1:]))
