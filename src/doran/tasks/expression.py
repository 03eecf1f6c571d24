"""Sums written as text: a parser of our own for + - * / and brackets, exact values, and steps to show.

Not here: powers, signs, decimals, functions, names. What is not understood is refused, never guessed and never
given to Python's own evaluator: `9**9**9` must cost nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_CHARS = 200
MAX_DEPTH = 20

_SPELLINGS = str.maketrans("０１２３４５６７８９＋－＊／（）＝×÷−·∙⋅✕✖　", "0123456789+-*/()=*/-***** ")
_LATEX = {"\\times": "*", "\\cdot": "*", "\\div": "/", "\\left": "", "\\right": ""}
_TOKEN = re.compile(r"\s*([0-9]+|[-+*/()])")


class ExpressionError(ValueError):
    """The text is no expression this parser accepts; the message says why."""


@dataclass(frozen=True)
class Binary:
    """`left op right`."""

    op: str
    left: Tree
    right: Tree


Tree = int | Binary


def normalise(text: str) -> str:
    """Full-width and typographic digits and operators as ASCII, LaTeX's times and div too."""
    for name, plain in _LATEX.items():
        text = re.sub(re.escape(name) + r"(?![A-Za-z])", plain, text)
    return text.translate(_SPELLINGS).strip()


def parse(text: str) -> Tree:
    """The tree of an expression. Raises ExpressionError beyond MAX_CHARS, MAX_DEPTH or the grammar.

    sum := product (("+" | "-") product)*;  product := atom (("*" | "/") atom)*;  atom := number | "(" sum ")"
    """
    if len(text) > MAX_CHARS:
        raise ExpressionError("too long")
    tokens, position = [], 0
    text = normalise(text)
    while position < len(text):
        match = _TOKEN.match(text, position)
        if not match:
            raise ExpressionError(f"cannot read {text[position:].strip()[:10]!r}")
        tokens.append(match[1])
        position = match.end()
    parser = _Parser(tokens)
    tree = parser.sum(0)
    if parser.peek():
        raise ExpressionError(f"unexpected {parser.peek()!r}")
    return tree


class _Parser:
    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.position = tokens, 0

    def peek(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.position += 1
        return token

    def sum(self, depth: int) -> Tree:
        tree = self.product(depth)
        while self.peek() in ("+", "-"):
            tree = Binary(self.take(), tree, self.product(depth))
        return tree

    def product(self, depth: int) -> Tree:
        tree = self.atom(depth)
        while self.peek() in ("*", "/"):
            tree = Binary(self.take(), tree, self.atom(depth))
        return tree

    def atom(self, depth: int) -> Tree:
        token = self.take()
        if token == "(":
            if depth == MAX_DEPTH:
                raise ExpressionError("brackets too deep")
            tree = self.sum(depth + 1)
            if self.take() != ")":
                raise ExpressionError("a bracket is not closed")
            return tree
        if not token.isdigit():
            raise ExpressionError(f"a number is missing before {token!r}" if token else "it ends too early")
        if len(token) > 1 and token[0] == "0":
            raise ExpressionError(f"{token} starts with 0")
        return int(token)


def numbers(tree: Tree) -> list[int]:
    """The numbers as written, left to right."""
    return [tree] if isinstance(tree, int) else numbers(tree.left) + numbers(tree.right)


def value(tree: Tree) -> Fraction:
    """The exact value. Raises ExpressionError for a division by zero."""
    if isinstance(tree, int):
        return Fraction(tree)
    return combine(tree.op, value(tree.left), value(tree.right))


def combine(op: str, left: Fraction, right: Fraction) -> Fraction:
    """`left op right`, exactly. Raises ExpressionError for a division by zero."""
    if op == "/" and right == 0:
        raise ExpressionError("division by zero")
    return {"+": left.__add__, "-": left.__sub__, "*": left.__mul__, "/": left.__truediv__}[op](right)


def steps(tree: Tree) -> list[tuple[str, int]]:
    """The working, innermost first: `(3 + 4) * 2` gives [("3+4", 7), ("7*2", 14)].

    Raises ExpressionError where a result is not a whole number or is below zero.
    """
    out: list[tuple[str, int]] = []

    def walk(node: Tree) -> int:
        if isinstance(node, int):
            return node
        left, right = walk(node.left), walk(node.right)
        result = combine(node.op, Fraction(left), Fraction(right))
        if result.denominator != 1 or result < 0:
            raise ExpressionError(f"{left} {node.op} {right} is no whole number from 0 up")
        out.append((f"{left}{node.op}{right}", int(result)))
        return int(result)

    walk(tree)
    return out


def render(tree: Tree) -> str:
    """The expression with spaces and only the brackets its value needs: 6 + (7 - 2) is written 6 + 7 - 2."""
    if isinstance(tree, int):
        return str(tree)
    rank = _rank(tree)
    left = render(tree.left) if _rank(tree.left) >= rank else f"({render(tree.left)})"
    bare = _rank(tree.right) > rank or (_rank(tree.right) == rank and tree.op in "+*")
    right = render(tree.right) if bare else f"({render(tree.right)})"
    return f"{left} {tree.op} {right}"


def _rank(tree: Tree) -> int:
    return 3 if isinstance(tree, int) else 2 if tree.op in "*/" else 1


def canonical(tree: Tree) -> str:
    """One text for all ways to order the terms of a sum and the factors of a product. For keys, not for reading."""
    if isinstance(tree, int):
        return str(tree)
    return f"({' '.join(sorted(_terms(tree, _rank(tree))))})"


def _terms(tree: Tree, rank: int, inverse: bool = False) -> list[str]:
    if isinstance(tree, int) or _rank(tree) != rank:
        return ["*/+-"[2 * (rank == 1) + inverse] + canonical(tree)]
    flipped = inverse != (tree.op in "-/")
    return _terms(tree.left, rank, inverse) + _terms(tree.right, rank, flipped)
