"""The expression parser against Python's own arithmetic, and the forms derived from a tree."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doran.tasks.expression import (
    MAX_DEPTH,
    Binary,
    ExpressionError,
    Tree,
    canonical,
    numbers,
    parse,
    render,
    steps,
    value,
)

trees = st.recursive(
    st.integers(0, 99),
    lambda inner: st.builds(Binary, st.sampled_from("+-*/"), inner, inner),
    max_leaves=7,
)


def reference(tree: Tree) -> Fraction | None:
    """Python's arithmetic on the tree; None for a division by zero."""
    if isinstance(tree, int):
        return Fraction(tree)
    left, right = reference(tree.left), reference(tree.right)
    if left is None or right is None or (tree.op == "/" and right == 0):
        return None
    return {"+": left + right, "-": left - right, "*": left * right, "/": left / right if right else None}[tree.op]


@settings(max_examples=80, deadline=None)
@given(trees)
def test_what_is_rendered_reads_back_with_the_same_numbers_and_value(tree: Tree) -> None:
    again = parse(render(tree))
    assert numbers(again) == numbers(tree)
    expected = reference(tree)
    if expected is not None:
        assert value(again) == value(tree) == expected
    else:
        with pytest.raises(ExpressionError, match="zero"):
            value(tree)


@settings(max_examples=120, deadline=None)
@given(st.text(alphabet="0123456789+-*/() .,=eE_x^!²×", max_size=30))
def test_any_text_gives_a_tree_or_an_expression_error(text: str) -> None:
    try:
        value(parse(text))
    except ExpressionError:
        pass


def test_operators_bind_as_at_school() -> None:
    assert parse("2 + 3 * 4") == Binary("+", 2, Binary("*", 3, 4))
    assert parse("10 - 4 - 3") == Binary("-", Binary("-", 10, 4), 3)
    assert value(parse("16 / 4 / 2")) == 2


def test_only_needed_brackets_are_written() -> None:
    assert render(parse("((1 + 2) + (3 - 4))")) == "1 + 2 + 3 - 4"
    assert render(parse("5 - (3 - 1)")) == "5 - (3 - 1)"
    assert render(parse("8 / (4 / 2) * (1 + 1)")) == "8 / (4 / 2) * (1 + 1)"


def test_steps_show_the_working_innermost_first() -> None:
    assert steps(parse("(3 + 4) * 2")) == [("3+4", 7), ("7*2", 14)]
    assert steps(parse("7")) == []
    for text in ("3 - 4", "7 / 2", "1 / 0"):
        with pytest.raises(ExpressionError):
            steps(parse(text))


def test_the_canonical_form_ignores_order_and_grouping() -> None:
    same = ["1 + 2 + 3 * 4", "4 * 3 + (2 + 1)", "2 + (3 * 4 + 1)"]
    assert len({canonical(parse(text)) for text in same}) == 1
    assert canonical(parse("8 / 4 * 2")) == canonical(parse("2 * 8 / 4")) != canonical(parse("8 / (4 * 2)"))
    assert canonical(parse("5 - 3")) != canonical(parse("3 - 5"))


def test_depth_and_length_are_bounded() -> None:
    deep = "(" * MAX_DEPTH + "1" + ")" * MAX_DEPTH
    assert value(parse(deep)) == 1
    with pytest.raises(ExpressionError, match="deep"):
        parse(f"({deep})")
    with pytest.raises(ExpressionError, match="long"):
        parse("1" + "+1" * 100)
