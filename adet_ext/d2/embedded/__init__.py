"""The embedded engine: Detectron2's names and behaviour, no more of them than this package uses."""
