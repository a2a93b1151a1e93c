"""``draw``: cells as graphs, on one HTML page."""

import argparse
import html
import os
from collections.abc import Sequence

from adet_ext.report.charts import CHART_STYLE
from adet_ext.report.graphs import draw_graph
from adet_ext.report.page import page, section
from adet_ext.utils.files import make_folder, written_beside

from .decoder_genotype import LAYERS, DecoderGenotype
from .genotype import CellGenotype, kind_of, load_genotype
from .search_space import draw_cell

__all__ = ["build_parser", "draw_context", "draw_decoder", "main"]


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of ``draw``."""
    parser = argparse.ArgumentParser(prog="python -m video_cells draw", description=__doc__)
    parser.add_argument("genotypes", nargs="+", metavar="GENOTYPE", help="JSON files, or names such as arch2")
    parser.add_argument("--output", default="cells.html", metavar="FILE", help="the page to write (cells.html)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page and say where it is."""
    arguments = build_parser().parse_args(argv)
    parts = []
    for name in arguments.genotypes:
        figures = "".join(_figure(graph, caption) for caption, graph in _graphs(name))
        parts.append(section(os.path.basename(name), figures))
    make_folder(os.path.dirname(arguments.output))
    with written_beside(arguments.output) as beside, open(beside, "w", encoding="utf-8") as file:
        file.write(page("Cells", f"{len(parts)} drawn", "".join(parts), CHART_STYLE))
    print(f"wrote {arguments.output}")
    return 0


def _graphs(name: str) -> list[tuple[str, dict]]:
    """Return captions and graphs of a genotype of either kind."""
    if kind_of(name) == DecoderGenotype.kind:
        decoder = load_genotype(name, DecoderGenotype)
        return [("The cell of its blocks.", draw_context(decoder)), ("Its blocks.", draw_decoder(decoder))]
    return [("From the frame before and this one to dec of this one.", draw_cell(load_genotype(name, CellGenotype)))]


def _figure(graph: dict, caption: str) -> str:
    drawing = draw_graph(graph["nodes"], graph["edges"])
    return f"<figure class='chart graph'>{drawing}<figcaption>{html.escape(caption)}</figcaption></figure>"


def draw_context(decoder: DecoderGenotype) -> dict:
    """Return nodes and edges of the cell of a static decoder, as thesis Figure 6.2 draws arch2's."""
    nodes, edges = [["0", "input"], ["1", "1"]], [["0", "1", decoder.first]]
    for e, entry in enumerate(decoder.sums):
        for k, (number, operation) in enumerate(zip(entry.inputs, entry.operations)):
            edges.append([str(number), str(2 + 3 * e + k), operation])
            edges.append([str(2 + 3 * e + k), str(4 + 3 * e), ""])
        nodes += [[str(2 + 3 * e), str(2 + 3 * e)], [str(3 + 3 * e), str(3 + 3 * e)], [str(4 + 3 * e), "+"]]
    edges += [[str(number), "output", ""] for number in decoder.outputs]
    return {"nodes": [*nodes, ["output", "+"]], "edges": edges}


def draw_decoder(decoder: DecoderGenotype) -> dict:
    """Return nodes and edges of the blocks of a static decoder; features that no block takes do not appear."""
    names = [*LAYERS, *(f"block{b + 1}" for b in range(len(decoder.blocks)))]
    edges = [[names[number], names[len(LAYERS) + b], ""] for b, pair in enumerate(decoder.blocks) for number in pair]
    edges += [[names[number], "dec", ""] for number in decoder.collected] + [["dec", "pred", ""]]
    used = {name for source, target, _ in edges for name in (source, target)}
    return {"nodes": [[name, name] for name in [*names, "dec", "pred"] if name in used], "edges": edges}
