"""A sentence splitter of rules, for languages written with ``.``, ``!``, ``?`` or their East Asian forms.

It needs no model and no download, is linear in the length of the text, and its sentences join to the text again.
It is meant for laying out text, where a missed boundary costs nothing, so in doubt it doesn't split.
"""

import re

_CLOSERS = "\"'”’»)\\]}」』"
_OPENERS = re.compile("[\"'“‘«(\\[{„¿¡—–-]*")
# Each run of marks is tried once, from its beginning, and never given back: linear on any text.
_CANDIDATE = re.compile(
    rf"(?P<marks>(?<![.!?…])[.!?…]++)[{_CLOSERS}]*+(?=\s)"
    rf"|(?P<wide>[。！？｡]++[{_CLOSERS}]*+)"
    r"|(?P<blank>\n[^\S\n]*+\n)"
)
_SPACE = re.compile(r"\s*+")
_WORD = re.compile(r"[\w.]+$")

_TITLES = (
    "mr mrs ms dr prof st rev hon gen col capt lt sgt sen rep gov messrs mme mlle m vs v cf viz eg ie etc al approx ca"
)
_BEFORE_NUMBERS = (
    "no nos art arts fig figs eq eqs sec secs ch chap para paras p pp vol vols nr abs cap app ref refs tab"
)
_NEVER_LAST = frozenset(_TITLES.split())
_NOT_LAST_BEFORE_A_NUMBER = frozenset(_BEFORE_NUMBERS.split())


def split_sentences(text: str) -> list[tuple[int, int]]:
    """Find the sentences of a text.

    A sentence ends at ``.``, ``!``, ``?`` or ``…`` and closing quotes or brackets, before white space and
    something other than a small letter; at ``。``, ``！`` or ``？``; and at an empty line. Not at the full stop of
    a title ("Dr. Weber"), of initials ("J. Weber", "U.S. law", "e.g. this"), of a reference ("Art. 6") or
    of a number in front ("1. Scope").

    Args:
        text: any text.

    Returns:
        ``(start, stop)`` of each sentence in characters, in order, each with the white space that follows it.
        They are never empty and cover the text: joining their slices gives it back. An empty text has none.

    Raises:
        TypeError: not a string.
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be a string, got {type(text).__name__}")
    spans: list[tuple[int, int]] = []
    # White space before the first word belongs to the first sentence.
    start, first_word = 0, _SPACE.match(text).end()  # type: ignore[union-attr]  # it matches everywhere
    for candidate in _CANDIDATE.finditer(text, first_word):
        if candidate.end() <= start:
            continue
        stop = _SPACE.match(text, candidate.end()).end()  # type: ignore[union-attr]
        if stop >= len(text):
            break
        if candidate.lastgroup != "marks" or _ends_sentence(text, start, candidate, stop):
            spans.append((start, stop))
            start = stop
    if start < len(text):
        spans.append((start, len(text)))
    return spans


def _ends_sentence(text: str, start: int, candidate: re.Match[str], following: int) -> bool:
    """Whether marks before white space end the sentence from ``start``, by the words on both sides."""
    # Only a few characters are looked at, in either direction.
    after = text[following : following + 8]
    after = after[_OPENERS.match(after).end() :]  # type: ignore[union-attr]  # it matches the empty string
    if after[:1].islower():
        return False
    if candidate["marks"] != ".":
        return True
    word = _WORD.search(text[max(0, candidate.start() - 24) : candidate.start()])
    if word is None:
        return True
    if word[0].isdigit() and text[start : candidate.start()].lstrip() == word[0]:
        return False  # the number of a heading or of a list's entry
    last = word[0].lower()
    if "." in last or last.replace(".", "") in _NEVER_LAST or (len(word[0]) == 1 and word[0].isupper()):
        return False
    return not (last in _NOT_LAST_BEFORE_A_NUMBER and after[:1].isdigit())
