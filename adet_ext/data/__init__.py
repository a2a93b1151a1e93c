"""Data sets, what checks and registers them, the mapper, and the loaders of training and evaluation."""
