"""Stop strings, whatever the pieces."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from doran.engine import StopStrings


@settings(derandomize=True, max_examples=200)
@given(st.lists(st.text("ab\n", max_size=4)), st.lists(st.text("ab\n", min_size=1, max_size=3), max_size=3))
def test_pieces_do_not_matter(pieces: list[str], strings: list[str]) -> None:
    whole, stops, out, found = "".join(pieces), StopStrings(strings), "", False
    for piece in pieces:
        text, found = stops.feed(piece)
        out += text
        if found:
            break
    else:
        out += stops.close()
    assert found == any(s in whole for s in strings)
    assert whole.startswith(out)
    if not found:
        assert out == whole
    else:
        assert not any(s in out for s in strings)
