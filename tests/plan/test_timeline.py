"""The drawing: well-formed, nothing left out, refused where there is nothing to draw."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from doran.arch import presets
from doran.base.errors import ConfigError, UsageError
from doran.plan.cluster import train_step
from doran.plan.layout import Layout
from doran.plan.profiles import find_hardware
from doran.plan.simulate import Durations, play
from doran.plan.timeline import svg, write_timeline


def test_every_operation_is_drawn_and_the_title_is_escaped():
    played = play("zb1p", 4, 8, Durations(1, 2, 1))
    root = ET.fromstring(svg(played, "a < b"))
    boxes = [e for e in root.iter() if e.tag.endswith("rect") and e.get("stroke") == "#fff"]
    assert len(boxes) == len(played.events) == 4 * 8 * 3


def test_a_file_is_svg_or_html_and_needs_a_pipeline(tmp_path):
    hardware, config = find_hardware("h800"), presets.tiny()
    layout = Layout(pp=2, schedule="dualpipe")
    step = train_step(config, hardware, layout, sequences=8, length=64)
    write_timeline(tmp_path / "a.svg", layout, step, "t")
    write_timeline(tmp_path / "a.html", layout, step, "t")
    assert "<svg" in (tmp_path / "a.html").read_text() and (tmp_path / "a.svg").read_text().startswith("<svg")
    with pytest.raises(UsageError, match="svg or .html"):
        write_timeline(tmp_path / "a.png", layout, step, "t")
    with pytest.raises(ConfigError, match="no pipeline"):
        write_timeline(tmp_path / "b.svg", Layout(), step, "t")
