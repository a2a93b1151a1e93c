"""The embedded engine: Detectron2's names and behavior, no more of them than this package uses."""
