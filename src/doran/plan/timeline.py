"""A played training step as a picture: one row a device, forward, backward and weight halves in colour, gaps white.

SVG, or the same inside an HTML page with a word about how to read it. No scripts, nothing loaded from elsewhere.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from doran.base.errors import ConfigError, UsageError
from doran.base.files import write_atomic
from doran.plan.cluster import Step
from doran.plan.layout import Layout
from doran.plan.simulate import Durations, Op, Played, play
from doran.plan.table import clock

WIDTH, ROW, LEFT, TOP = 1200, 22, 64, 34
COLOURS = {"F": "#5b8def", "B": "#e8883a", "W": "#7cb06b", "FB": "#9a6fb8"}
WORDS = {"F": "forward", "B": "backward", "W": "weight half", "FB": "forward and backward together"}
MOST = 32  # micro-batches drawn; more are too thin to see


def svg(played: Played, title: str) -> str:
    """The drawing of a played step, 1200 points wide."""
    rows = 1 + max(event.device for event in played.events)
    scale = (WIDTH - LEFT - 10) / played.seconds
    height = TOP + rows * ROW + 44
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"'
        f' aria-label="{escape(title)}"'
        ' font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="{LEFT}" y="20" font-size="13">{escape(title)}</text>',
    ]
    for row in range(rows):
        parts.append(f'<text x="{LEFT - 6}" y="{TOP + row * ROW + 14}" text-anchor="end">stage {row}</text>')
    for device, start, end, op in played.events:
        x, wide = LEFT + start * scale, max(0.4, (end - start) * scale)
        label = _label(op) if wide > 13 else ""
        fill = COLOURS["FB" if len(op) == 2 else op[0].kind]
        y = TOP + device * ROW
        parts.append(f'<rect x="{x:.2f}" y="{y}" width="{wide:.2f}" height="{ROW - 3}" fill="{fill}" stroke="#fff"/>')
        if label:
            parts.append(f'<text x="{x + wide / 2:.2f}" y="{y + 13}" text-anchor="middle" fill="#fff">{label}</text>')
    x, y = float(LEFT), TOP + rows * ROW + 18
    for kind, word in WORDS.items():
        parts.append(f'<rect x="{x:.0f}" y="{y - 10}" width="12" height="12" fill="{COLOURS[kind]}"/>')
        parts.append(f'<text x="{x + 17:.0f}" y="{y}">{word}</text>')
        x += 40 + 6.2 * len(word)
    parts.append(f'<text x="{x + 10:.0f}" y="{y}">{clock(played.seconds)}, idle {played.bubble:.1%}</text></svg>')
    return "\n".join(parts) + "\n"


def _label(op: Op) -> str:
    return "/".join(str(piece.micro) for piece in op)


def html(played: Played, title: str) -> str:
    """The drawing in a page."""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        '<body style="max-width:1240px;margin:2em auto;font-family:sans-serif">\n'
        f"{svg(played, title)}<p>A row is a pipeline stage, time runs to the right, a number names the micro-batch. "
        "White is idle. Under DualPipe micro-batches enter from both ends.</p></body></html>\n"
    )


def write_timeline(path: Path, layout: Layout, step: Step, title: str, micro_batches: int | None = None) -> Played:
    """Play the layout's schedule with the step's own times and draw it to `path` (.svg or .html)."""
    if path.suffix not in (".svg", ".html"):
        raise UsageError(f"{path}: a timeline is .svg or .html", hint="name the file so")
    if layout.pp == 1:
        raise ConfigError(
            "there is no pipeline to draw: this layout has pp 1",
            hint="give --layout with pp, such as pp=8,schedule=dualpipe",
        )
    wanted = micro_batches or max(2 * layout.pp, MOST)
    count = -(-wanted // layout.pp) * layout.pp
    f = (step.compute + step.tensor_parallel + step.experts) / step.micro_batches / 3
    played = play(layout.schedule, layout.pp, count, Durations(f, 2 * f, f), chunks=layout.chunks)
    write_atomic(path, html(played, title) if path.suffix == ".html" else svg(played, title))
    return played
