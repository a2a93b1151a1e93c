import re

import pytest

from adet_ext.report.graphs import _columns, draw_graph

NODES = [("c3", "C3"), ("c5", "C5"), ("n4", "concat"), ("p3", "P3")]
EDGES = [("c5", "n4", "deformable"), ("c5", "n4", "skip"), ("c3", "p3", ""), ("n4", "p3", "")]


def texts(svg):
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_every_node_and_every_label_of_an_edge_is_drawn():
    assert sorted(filter(None, texts(draw_graph(NODES, EDGES)))) == sorted(
        ["C3", "C5", "concat", "P3", "deformable", "skip"]
    )


def test_two_edges_between_the_same_nodes_are_two_lines():
    def lines(edges):
        return draw_graph(NODES, edges).count("<path")

    one, two = lines(EDGES[1:]), lines(EDGES)
    assert two > one


def test_colors_come_from_the_page():
    svg = draw_graph(NODES, EDGES)
    assert "var(--series-0)" in svg and "var(--series-3)" in svg and "#0102" not in svg


def test_a_node_stands_right_of_all_that_lead_to_it():
    import networkx

    graph = networkx.MultiDiGraph([(a, b) for a, b, _ in EDGES])
    assert _columns(graph) == [["c5", "c3"], ["n4"], ["p3"]] or _columns(graph) == [["c3", "c5"], ["n4"], ["p3"]]


def test_the_same_graph_is_drawn_the_same():
    assert draw_graph(NODES, EDGES) == draw_graph(NODES, EDGES)


@pytest.mark.parametrize("edge, sentence", [(("n4", "x", ""), "join nodes"), (("p3", "c5", ""), "no circle")])
def test_what_is_no_such_graph_is_refused(edge, sentence):
    with pytest.raises(ValueError, match=sentence):
        draw_graph(NODES, [*EDGES, edge])
