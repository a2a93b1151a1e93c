"""The embedded engine: the names and the behavior of Detectron2 that this package uses."""
