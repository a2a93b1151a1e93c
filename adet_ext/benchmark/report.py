"""What a benchmark of models found, as numbers for a file and as a table."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..utils.table import text_table
from .paired import Partner, ratios, spread

__all__ = ["partner_rows", "render"]


def partner_rows(
    partners: Sequence[Partner], baselines: Mapping[str, Partner], parts: Sequence[str]
) -> list[dict[str, Any]]:
    """Return one entry for each contestant.

    Args:
        baselines: by label, whom a contestant's times are divided by, round by round.
        parts: names of the times that the total consists of.
    """
    rows = []
    for partner in partners:
        baseline = baselines[partner.label]
        times = [result["total"] for result in partner.rounds]
        rows.append(
            {
                "label": partner.label,
                "config": partner.config,
                "opts": partner.opts,
                "engine": partner.facts["engine"],
                "trained": partner.facts["trained"],
                "ms": vars(spread(times)),
                "stages": {part: spread([result[part] for result in partner.rounds]).median for part in parts},
                "detections": partner.rounds[-1]["detections"],
                "box_side": partner.rounds[-1].get("box"),
                "compared_with": baseline.label,
                "ratio": vars(ratios(times, [result["total"] for result in baseline.rounds])),
            }
        )
    return rows


def render(report: Mapping[str, Any]) -> str:
    """Return the table of a report and what it was made with."""
    rows, parts = report["rows"], list(report["rows"][0]["stages"])
    sides = rows[0]["box_side"] is not None
    head = ["model", "ms", "quartiles", "p90", "p99", *parts, "found", *["box side"] * sides, "ratio", "quartiles"]
    table = [head]
    for row in rows:
        ms, ratio = row["ms"], row["ratio"]
        table.append(
            [
                row["label"],
                f"{ms['median']:.1f}",
                f"{ms['lower']:.1f}-{ms['upper']:.1f}",
                f"{ms['p90']:.1f}",
                f"{ms['p99']:.1f}",
                *(f"{row['stages'][part]:.1f}" for part in parts),
                f"{row['detections']:g}",
                *([f"{row['box_side']:.0f}"] if sides else []),
                f"{ratio['median']:.3f}",
                f"{ratio['lower']:.3f}-{ratio['upper']:.3f}",
            ]
        )
    lines = [
        text_table(table),
        "",
        f"{report['height']} x {report['width']}, batch {report['batch']}, {report['images']}; "
        f"{report['rounds']} paired rounds after {report['warmup']}; {report['machine']}, {report['threads']} threads, "
        f"torch {report['torch']}",
        "medians; 'found' is detections an image, 'box side' the mean square root of their areas in pixels; 'ratio' is "
        "the median over rounds of the time to that of the first model (of the same config); a part of 0 is in "
        "another, where the model is one graph",
    ]
    return "\n".join([*lines, *([report["note"]] if report["note"] else [])])
