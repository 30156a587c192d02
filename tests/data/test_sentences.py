"""The sentence splitter: its sentences are the text, and their ends are where readers put them."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longspan.data import split_sentences


def _split(text: str) -> list[str]:
    return [text[start:stop].strip() for start, stop in split_sentences(text)]


@pytest.mark.parametrize(
    "sentences",
    [
        ["It rained.", "Nobody came!", "Why?", "Who knows…", "The end"],
        ["Dr. Weber met Mr. J. R. Smith at 3.15 p.m. near St. Mary.", "He left."],
        ["The U.S. Supreme Court relied on Art. 6 and No. 12.", "It said no.", "Then it rose."],
        ["See Fig. 3, e.g. the left part, cf. Sec. 2.", "It shows 3.5 percent."],
        ['"Why?" he asked.', '"Because!"', "(It was late.)", "She slept."],
        ["The parties (A. and B.) agree.", "[They sign.]", "«Fin.»", "¿Qué?", "¡Nada!"],
        ["彼は来た。", "「なぜ？」", "わからない！", "終わり"],
        ["1. Scope of this text.", "It applies.", "2. Terms"],
        ["Weber et al. 2020 say so.", "12 people came."],
    ],
)
def test_ends(sentences: list[str]) -> None:
    joined = "".join(s if "。" in s or "」" in s or "！" in s else s + " " for s in sentences)
    assert _split(joined) == sentences


def test_a_wrapped_line_is_no_end_and_an_empty_line_is() -> None:
    assert _split("one\ntwo\n\nthree\n  \n\n four.") == ["one\ntwo", "three", "four."]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([*"aA1.!?… \n\t\"')(。「」", "Dr", "No", "e.g", ". "]), max_size=60))
def test_sentences_join_to_the_text(pieces: list[str]) -> None:
    text = "".join(pieces)
    spans = split_sentences(text)
    assert "".join(text[start:stop] for start, stop in spans) == text
    assert all(start < stop for start, stop in spans)
    assert [stop for _, stop in spans[:-1]] == [start for start, _ in spans[1:]]


@pytest.mark.parametrize("piece", [".", ". ", "A. ", "\n", " ", '."', "。", "a", "No. 1 "])
def test_time_is_linear_in_the_text(piece: str) -> None:
    started = time.process_time()
    split_sentences(piece * 200_000)
    assert time.process_time() - started < 5


def test_only_strings() -> None:
    with pytest.raises(TypeError, match="text must be a string, got list"):
        split_sentences(["one"])  # type: ignore[arg-type]
