"""The verbs of ``python -m adet_ext`` with the project's models and keys, and its own: ``python -m nas_fcos VERB``."""

import sys

from adet_ext import cli

_OWN = {
    "table": "Table 7.2: what every row costs, and by how much that differs from the thesis",
    "correlate": "how the proxy's rewards rank architectures beside a longer training (Figure 7.6)",
    "convert": "a published NAS-FCOS checkpoint, or torchvision's MobileNetV2, into one for this project",
}


def main(argv: list[str]) -> int:
    """Run a verb and return its exit status."""
    if argv[:1] and argv[0] in _OWN:
        return cli.run(argv[0], argv[1:], package="nas_fcos")
    status = cli.main(argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print("\nverbs of the project:", *(f"  {verb:<9}{what}" for verb, what in _OWN.items()), sep="\n")
    return status


if __name__ == "__main__":  # worker processes import this module again
    sys.exit(main(sys.argv[1:]))
