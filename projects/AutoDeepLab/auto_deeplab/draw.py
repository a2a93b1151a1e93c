"""Draw an architecture: the path over strides and layers, and the cell, as the paper's figures do."""

import os
from collections.abc import Mapping, Sequence

import torch

from adet_ext.report.charts import CHART_STYLE, FAINT, INK, SERIES, drawing, line_chart, themed_svg
from adet_ext.report.graphs import draw_graph
from adet_ext.report.page import page, section
from adet_ext.utils.files import make_folder, written_beside

from .genotype import LEVELS, Genotype, state_name
from .space import STEPS

__all__ = ["draw_cell", "draw_path", "draw_search"]


def draw_cell(genotype: Genotype) -> str:
    """Return the cell as an ``<svg>`` element; an edge is an operation, a block the sum of two."""
    blocks = [state_name(i + 2) for i in range(len(genotype.blocks))]
    nodes = [[name, name] for name in ("before", "previous", *blocks)] + [["output", "concatenation"]]
    edges = [
        [state_name(state), name, operation]
        for name, block in zip(blocks, genotype.blocks)
        for state, operation in zip(block.inputs, block.operations)
    ]
    return draw_graph(nodes, edges + [[name, "output", ""] for name in blocks])


def draw_path(path: Sequence[int], beta: torch.Tensor | None = None) -> str:
    """Return the trellis of strides and layers with a path as an ``<svg>`` element.

    Args:
        path: the level of each layer.
        beta: (L, LEVELS, 3) probabilities, which make the other lines wide or thin.
    """
    from matplotlib.figure import Figure

    with drawing(repr((tuple(path), None if beta is None else beta.tolist()))):
        figure = Figure(figsize=(9.5, 2.6), layout="constrained")
        axes = figure.add_subplot()
        reached = {0}
        for layer in range(len(path)):
            targets = set()
            for level in reached:
                for k, step in enumerate(STEPS):
                    if 0 <= level + step < LEVELS:
                        targets.add(level + step)
                        wide = 1.0 if beta is None else 4 * float(beta[layer, level, k])
                        axes.plot([layer, layer + 1], [level, level + step], color=FAINT, linewidth=wide, zorder=1)
            reached = targets
            axes.scatter([layer + 1] * len(reached), sorted(reached), color=FAINT, s=30, zorder=2)
        axes.plot(range(len(path) + 1), [0, *path], color=SERIES[0], linewidth=2.5, marker="o", zorder=3)
        axes.set_yticks(range(LEVELS), [str(4 * 2**level) for level in range(LEVELS)])
        axes.set_xticks(range(len(path) + 1), ["stem", *map(str, range(1, len(path) + 1))])
        axes.invert_yaxis()
        axes.set_xlabel("layer", color=INK)
        axes.set_ylabel("stride", color=INK)
        axes.tick_params(colors=INK, length=0)
        for side in axes.spines.values():
            side.set_visible(False)
        return themed_svg(figure)


def draw_search(
    folder: str, genotype: Genotype, beta: torch.Tensor, entropies: Mapping[str, tuple[list[int], list[float]]]
) -> str:
    """Write ``search.html`` with the decoded path and cell, and return its path.

    Args:
        entropies: for the chart: iterations and mean entropies of alpha and beta, in nats.
    """
    body = section("Path", draw_path(genotype.path, beta), "The likeliest path; other lines are as wide as likely.")
    body += section("Cell", draw_cell(genotype), "Each block adds two operations; the output joins the blocks.")
    if entropies:
        chart = line_chart(entropies, x_label="iteration", y_label="mean entropy (nats)", bottom=0)
        body += section("How decided alpha and beta are", chart)
    title = f"Auto-DeepLab, {len(genotype.path)} layers of {len(genotype.blocks)} blocks"
    make_folder(folder)
    path = os.path.join(folder, "search.html")
    with written_beside(path) as beside, open(beside, "w", encoding="utf-8") as file:
        file.write(page(title, "decoded from the relaxed network", body, CHART_STYLE))
    return path
