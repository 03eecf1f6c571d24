"""The report is one whole, safe page whatever a model wrote into it."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from doran.base.errors import ConfigError
from doran.evals.metrics import Interval, Outcome, wilson
from doran.evals.report import cell, duration, eval_table, render, write_report
from doran.evals.run import EvalResult, ItemResult

VOID = {"meta", "br", "hr", "img", "link", "input"}
EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)>\"'&</details></article></body>"


class Page(HTMLParser):
    """Checks nesting and notes what the page would load or run."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(markup)
        self.close()
        assert self.open == [], f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        self.text += data


def full(text: str = "fine") -> dict:
    """A report with something in every place, all strings being `text`."""
    curve = [
        (i, {"reward": 0.1 * i, "loss": float("nan") if i == 2 else 1.0, text: 3.0, "eval/pass@1": None})
        for i in range(5)
    ]
    return {
        "title": text,
        "subtitle": text,
        "headline": [{"label": text, "value": text, "note": text}],
        "tables": [
            {"title": text, "columns": [text, text, "c"], "rows": [[text, text, cell(wilson(0.5, 9))]], "note": text}
        ],
        "curves": {text: curve},
        "comparisons": [{"title": text, "metric": "reward", "stages": {text: text, "gone": "no such stage"}}],
        "stages": [{"name": text, "seconds": 61.0, "tokens": 1_500_000, "parameters": 900_000, "steps": 5}],
        "samples": [
            {"stage": text, "prompt": text, "thought": text, "answer": text, "reward": 1.0, "language": text},
            {"stage": text, "prompt": text, "thought": None, "answer": "", "reward": None, "language": "ko"},
        ],
        "recipe": text,
        "command": text,
        "machine": {text: text, "memory": 2**33, "isa": [text, "avx2"]},
        "notes": [text],
    }


def test_the_page_is_well_formed_and_shows_everything():
    page = Page(render(full()))
    for word in (
        "Results",
        "Curves",
        "Samples",
        "Stages",
        "Recipe",
        "Machine",
        "8.0 GiB",
        "1 min 01 s",
        "1.5M",
        "no answer",
    ):
        assert word in page.text


def test_model_output_cannot_inject_anything():
    page, plain = Page(render(full(EVIL))), Page(render(full()))
    assert page.tags == plain.tags
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    assert EVIL in page.text


def test_nothing_is_loaded_or_run():
    markup = render(full())
    page = Page(markup)
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert not any(name in ("src", "srcset") for _, name, _ in page.attributes)
    assert all(value.startswith("#") for _, name, value in page.attributes if name == "href")
    assert "url(" not in markup and "@import" not in markup and "default-src 'none'" in markup


def test_every_chart_and_link_has_its_target():
    page = Page(render(full()))
    ids = {value for _, name, value in page.attributes if name == "id"}
    assert {value[1:] for _, name, value in page.attributes if name == "href"} <= ids
    svgs, labels = page.tags.count("svg"), sum(tag == "svg" and name in ("aria-label", "aria-hidden")
                                               for tag, name, _ in page.attributes)  # fmt: skip
    assert svgs == labels > 3


def test_a_bare_title_is_a_page_and_empty_sections_are_left_out():
    page = Page(render({"title": "nothing yet"}))
    assert "Curves" not in page.text and "nothing yet" in page.text


def test_unknown_keys_are_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="tables"):
        render({"title": "t", "table": []})


def test_known_metrics_get_charts_and_the_rest_is_folded():
    markup = render({"title": "t", "curves": {"zero": [(0, {"reward": 0, "step_seconds": 2.0})]}})
    before, after = markup.split("More curves")
    assert '<figcaption><span class="en">Reward' in before and "<figcaption>step_seconds" in after


def test_the_page_is_english_and_korean_with_a_switch_and_without_script():
    markup = render({"title": "t", "tables": [{"title": "Cost", "columns": ["model", "x"], "rows": [["Results", 1.0]]}],
                     "samples": [{"prompt": "Results", "answer": "Cost"}]})  # fmt: skip
    page = Page(markup)
    assert "결과" in page.text and "비용" in page.text and '<label for="lang-ko" lang="ko">한국어</label>' in markup
    assert '<p class="prompt">Results</p>' in markup  # what people and models wrote stays as it is
    assert "<script" not in markup


def test_figures_at_the_top_and_sentences_with_numbers_are_korean_too():
    said = ("12 questions, 4 replies each. Intervals are 95% and count questions, not replies; "
            "what was cut off counts as no answer.")  # fmt: skip
    markup = render({"title": "t", "subtitle": said, "samples": [{"prompt": "p", "thought": "a b", "answer": ""}],
                     "headline": [{"label": "sums, Korean", "value": "5%", "note": "pass@1, was 4.0%"}]})  # fmt: skip
    text = Page(markup).text
    for korean in ("질문 12개, 질문마다 답 4개.", "sums, 한국어", "pass@1, 처음에는 4.0%", "생각, 2단어", "답 없음"):
        assert korean in text


def test_the_file_is_written_whole(tmp_path):
    write_report(tmp_path / "report.html", full("도란 <&>"))
    assert "도란 &lt;&amp;&gt;" in (tmp_path / "report.html").read_text("utf-8")


def test_eval_table_has_a_row_per_model_and_dashes_where_nothing_was_measured():
    def result(correct: bool, k: int) -> EvalResult:
        outcomes = [Outcome("7", correct, 12, False, True, "en", None)] * k
        return EvalResult("t", k, {}, [ItemResult("a", "en", "p", "7", outcomes)])

    table = eval_table("T", {"base": result(False, 1), "R1": result(True, 2)})
    assert [row[0] for row in table["rows"]] == ["base", "R1"]
    assert table["rows"][0][table["columns"].index("cons@2")] is None
    assert table["rows"][1][table["columns"].index("pass@1")]["value"] == 1.0
    Page(render({"title": "t", "tables": [table]}))


def test_cells_and_durations():
    assert cell(Interval(118.0, 115.0, 121.0), percent=False)["percent"] is False
    assert [duration(s) for s in (4.23, 200, 7500, None)] == ["4.2 s", "3 min 20 s", "2 h 05 min", "–"]
