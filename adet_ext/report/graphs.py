"""Draw directed graphs without circles, from left to right, as SVG that takes its colors from its page."""

from collections.abc import Sequence

import networkx

from .charts import INK, PAPER, SERIES, drawing, themed_svg

__all__ = ["draw_graph"]

_LABEL_PLACES = (0.3, 0.45, 0.62)  # of the way from the end of an edge to its beginning


def draw_graph(nodes: Sequence[Sequence[str]], edges: Sequence[Sequence[str]]) -> str:
    """Return an ``<svg>`` element of a graph.

    A node stands one column to the right of the last node that leads to it, and those that lead nowhere stand last.
    Nodes that nothing leads to have the color of inputs, nodes that lead nowhere that of outputs.

    Args:
        nodes: (id, label) each.
        edges: (from id, to id, label) each; several may join the same two nodes.

    Raises:
        ValueError: an edge joins what is no node, or there is a circle.
    """
    from matplotlib.figure import Figure

    graph = networkx.MultiDiGraph()
    graph.add_nodes_from(node for node, _ in nodes)
    known = set(graph)
    for source, target, label in edges:
        if not {source, target} <= known:
            raise ValueError(f"an edge must join nodes; got {source} -> {target}")
        graph.add_edge(source, target, label=label)
    if not networkx.is_directed_acyclic_graph(graph):
        raise ValueError("the graph must have no circle")
    columns = _columns(graph)
    places = _places(graph, columns)
    # Room for the longest label of an edge between two columns.
    step = 1.2 + 0.065 * max((len(label) for _, _, label in edges), default=0)
    width, height = step * len(columns), 0.85 * max(map(len, columns), default=1) + 0.4
    with drawing(repr((nodes, edges))):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        axes.set_axis_off()
        axes.margins(0.08)
        _draw(graph, dict(map(tuple, nodes)), places, axes)
        return themed_svg(figure)


def _columns(graph: networkx.MultiDiGraph) -> list[list[str]]:
    """Return the nodes by column, in an order in which few edges cross: by the mean row of what leads to each."""
    rank: dict[str, float] = {}
    columns = []
    generations = [[n for n in nodes if graph.out_degree(n)] for nodes in networkx.topological_generations(graph)]
    last = [node for node in graph if not graph.out_degree(node)]
    for generation in [nodes for nodes in [*generations, last] if nodes]:

        def mean_rank(node: str) -> float:
            before = [rank[p] for p in graph.predecessors(node)]
            return sum(before) / len(before) if before else 0.0

        columns.append(sorted(generation, key=mean_rank))
        rank.update({node: row - len(columns[-1]) / 2 for row, node in enumerate(columns[-1])})
    return columns


def _places(graph: networkx.MultiDiGraph, columns: list[list[str]]) -> dict[str, tuple[float, float]]:
    """Return node -> (x, y). Odd columns stand a little higher, so that edges pass beside the nodes between."""
    places = {}
    for x, column in enumerate(columns):
        for row, node in enumerate(column):
            places[node] = (float(x), len(column) / 2 - row + 0.35 * (x % 2))
    return places


def _draw(graph: networkx.MultiDiGraph, labels: dict[str, str], places: dict, axes) -> None:
    for node, place in places.items():
        color = SERIES[0] if not graph.in_degree(node) else SERIES[3] if not graph.out_degree(node) else INK
        axes.text(
            *place, labels[node], ha="center", va="center", color=color, zorder=3,
            bbox={"boxstyle": "round,pad=0.35", "facecolor": PAPER, "edgecolor": color},
        )  # fmt: skip
    bends = [f"arc3,rad={bend}" for bend in (0.12, -0.12, 0.3, -0.3)]
    drawn = {"ax": axes, "connectionstyle": bends}
    networkx.draw_networkx_edges(graph, places, edge_color=INK, node_size=1500, arrowsize=8, width=0.8, **drawn)
    # Labels of edges that leave one node stand at different distances from it, so that fewer of them overlap.
    for turn, distance in enumerate(_LABEL_PLACES):
        texts = {}
        for node in graph:
            for _, target, key, text in [*graph.out_edges(node, keys=True, data="label")][turn :: len(_LABEL_PLACES)]:
                texts[node, target, key] = text
        networkx.draw_networkx_edge_labels(
            graph, places, texts, label_pos=distance, font_size=6.5, font_color=INK,
            bbox={"boxstyle": "round,pad=0.1", "facecolor": PAPER, "edgecolor": "none"}, rotate=False, **drawn,
        )  # fmt: skip
