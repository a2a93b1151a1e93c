"""Timing of models in paired rounds; ``adet_ext.cli.bench`` is its face."""
