"""The trained models of a zoo's folder as rows of a table in Markdown."""

import json
from pathlib import Path

__all__ = ["trained_rows"]


def trained_rows(folder: Path) -> list[list[str]]:
    """Return for each trained model: card, task, training data, evaluation data, figures, size, config."""
    index = folder / "zoo.json"
    entries = json.loads(index.read_text(encoding="utf-8")) if index.is_file() else {}
    rows = []
    for name, entry in entries.items():
        record = json.loads((folder / name / "record.json").read_text(encoding="utf-8"))
        figures = ", ".join(f"{figure} **{value:.1f}**" for figure, value in entry["figures"].items())
        size = f"{entry['bytes'] / 1e6:.1f} MB, {record['parameters'] / 1e6:.1f} M"
        evaluated, config = record["evaluated_on"]["name"], record["config"]
        card, recipe = f"[{name}](weights/{name}/README.md)", f"[{config}]({config})"
        rows.append([card, record["task"], record["data"], evaluated, figures, size, recipe])
    return rows
