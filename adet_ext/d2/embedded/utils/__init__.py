"""Utilities of the embedded engine: processes, logs, events, files, seeds, pictures."""
