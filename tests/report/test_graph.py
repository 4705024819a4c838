from __future__ import annotations

import random

from surgeline.report.graph import HEIGHT, WIDTH, draw_graph


def test_a_stage_stands_below_all_that_it_needs() -> None:
    needs = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"], "e": ["a", "d"]}
    drawing = draw_graph(needs)
    at = {node.name: node for node in drawing.nodes}
    assert all(at[name].y > at[needed].y for name, others in needs.items() for needed in others)
    assert at["b"].y == at["c"].y
    assert {(edge.needed, edge.by) for edge in drawing.edges} == {
        (o, n) for n, others in needs.items() for o in others
    }


def test_no_box_lies_on_another_and_all_are_inside() -> None:
    chosen = random.Random(5)
    names = [f"stage {number}" for number in range(40)]
    needs = {name: chosen.sample(names[:number], min(number, 3)) for number, name in enumerate(names)}
    drawing = draw_graph(needs)
    boxes = [(node.x, node.y) for node in drawing.nodes]
    for place, (x, y) in enumerate(boxes):
        assert 0 <= x <= drawing.width - WIDTH and 0 <= y <= drawing.height - HEIGHT
        assert all(abs(x - other) >= WIDTH or abs(y - high) >= HEIGHT for other, high in boxes[place + 1 :])


def test_branches_that_need_not_cross_do_not() -> None:
    drawing = draw_graph({"a": [], "b": [], "a2": ["b"], "b2": ["a"]})
    at = {node.name: node.x for node in drawing.nodes}
    assert (at["a"] < at["b"]) == (at["b2"] < at["a2"])


def test_what_is_out_of_order_is_drawn_all_the_same() -> None:
    assert draw_graph({}).nodes == []
    drawing = draw_graph({"a": ["b", "gone"], "b": ["a"], "c": ["c"]})
    assert {node.name for node in drawing.nodes} == {"a", "b", "c"}
