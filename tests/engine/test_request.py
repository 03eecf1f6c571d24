"""Bad values are refused where they enter, with the mend in the message."""

from __future__ import annotations

import numpy as np
import pytest

from doran.base.errors import UsageError
from doran.engine.request import Request, SamplingParams, token_ids


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0), ("max_new_tokens", -1), ("max_new_tokens", 1.5), ("max_new_tokens", True),
        ("temperature", -0.1), ("temperature", float("nan")), ("temperature", float("inf")), ("temperature", "hot"),
        ("top_p", 0.0), ("top_p", 1.1), ("top_p", -0.5), ("top_k", -1), ("top_k", 2.5), ("min_p", -0.1), ("min_p", 1.5),
        ("seed", 0.5), ("stop_token_ids", "ab"), ("stop_token_ids", 3), ("stop_token_ids", (-1,)),
        ("stop_token_ids", (1.0,)),
    ],
)  # fmt: skip
def test_a_bad_value_is_a_usage_error_that_names_it_and_the_mend(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=name) as caught:
        SamplingParams(**{"max_new_tokens": 4, name: value})  # type: ignore[arg-type]
    assert any(word in str(caught.value) for word in ("use ", "give ", "are 0 or more"))
    assert "\n" not in str(caught.value)


def test_numpy_numbers_and_lists_become_plain_values() -> None:
    params = SamplingParams(np.int64(3), temperature=1, stop_token_ids=[np.int32(7)])  # type: ignore[arg-type]
    assert params == SamplingParams(3, temperature=1.0, stop_token_ids=(7,))
    assert type(params.max_new_tokens) is int and type(params.stop_token_ids[0]) is int


@pytest.mark.parametrize(("settings", "cuts"), [
    ({}, False), ({"top_k": 2}, True), ({"top_p": 0.9}, True), ({"min_p": 0.1}, True),
    ({"top_k": 2, "temperature": 0}, False),
])  # fmt: skip
def test_params_know_whether_they_cut(settings: dict[str, float], cuts: bool) -> None:
    assert SamplingParams(4, **settings).cuts is cuts  # type: ignore[arg-type]


def test_a_request_reserves_no_cache_for_its_last_token() -> None:
    assert Request(0, 0, (5, 6, 7), SamplingParams(1)).max_length == 3


def test_token_ids_accepts_any_iterable_of_whole_numbers() -> None:
    assert token_ids("prompt", np.array([1, 2])) == (1, 2)
