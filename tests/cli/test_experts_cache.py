"""--experts-cache: sizes, the same tokens as without, what the JSON tells, refusals in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from doran.base.errors import UsageError
from doran.cli import app
from doran.cli.experts_cache import parse_size

ASK = ("--prompt", "3 + 4", "--max-new-tokens", "12", "--temperature", "0", "--json")


@pytest.mark.parametrize(
    ("text", "size"), [("8G", 8 * 2**30), ("512M", 2**29), ("1.5 GiB", 3 * 2**29), ("100", 100), ("2kb", 2048)]
)
def test_sizes_are_read_in_powers_of_1024(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1G", "8X", "0", "1e9", "0.0M"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size"):
        parse_size(text)


def test_generate_gives_the_same_tokens_and_tells_what_it_read(
    foreign_deepseek: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = []
    for extra in ((), ("--experts-cache", "20K")):
        assert app.run(["generate", "--model", str(foreign_deepseek), *ASK, *extra]) == 0
        records.append(json.loads(capsys.readouterr().out))
    told = records[1].pop("experts_cache")
    assert records[0]["token_ids"] == records[1]["token_ids"]
    assert told["experts_held"] == 3 and told["experts"] == 8 and told["limit_bytes"] <= 20 * 1024
    assert told["prefill"]["passes"] == 1 and told["decode"]["tokens"] == 11
    assert told["decode"]["bytes_read_per_token"] > 0 and 0 <= told["decode"]["hit_rate"] <= 1


@pytest.mark.parametrize(
    ("size", "code", "word"), [("1K", 2, "too small"), ("lots", 2, "is not a size"), ("900T", 4, "are free")]
)
def test_a_size_that_cannot_work_is_one_line(
    foreign_deepseek: Path, capsys: pytest.CaptureFixture[str], size: str, code: int, word: str
) -> None:
    assert app.run(["generate", "--model", str(foreign_deepseek), *ASK, "--experts-cache", size]) == code
    out, err = capsys.readouterr()
    assert out == "" and word in err and "Traceback" not in err


def test_drafts_are_refused(foreign_deepseek: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["generate", "--model", str(foreign_deepseek), *ASK, "--experts-cache", "1M", "--speculate", "ngram"]
    assert app.run(args) == 2
    assert "--speculate ngram does not work with --experts-cache" in capsys.readouterr().err


def test_a_model_without_experts_is_refused(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["generate", "--model", str(tiny_model), *ASK, "--experts-cache", "1M"]) == 2
    assert "no experts" in capsys.readouterr().err
