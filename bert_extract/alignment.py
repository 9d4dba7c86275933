"""Text, wordpieces -> positions: which characters of the text a wordpiece came from.

    "Ça  va"   normalised characters   c a v a      (accents, spaces and controls go)
     012345    their sources           0 1 4 5

The wordpieces of a text, one after the other, spell all of its normalised characters.
So their lengths say which of these each one has, and the sources say where they stood.
"""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bert_extract import unicode14, unicode14_tables
from bert_extract.words import basic_tokens, tables

# What the original's tokenizer sees as whitespace. Other controls that Python strips
# and splits at, such as U+0085, it deletes: they do not separate.
_WORD = re.compile("[^ \t\n\r\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")


@dataclass(frozen=True, slots=True)
class AlignedWordpieces:
    """The wordpieces of a text and the characters of it that each came from."""

    ids: NDArray[np.int32]  # [num_wordpieces]
    starts: NDArray[np.int64]  # [num_wordpieces], in characters of the text
    ends: NDArray[np.int64]  # [num_wordpieces], one behind the last character


def word_spans(text: str) -> NDArray[np.int64]:
    r"""Finds the words of a text as its writer sees them: what spaces separate.

    Every wordpiece lies in exactly one of them. One that the tokenizer drops as a whole
    has no wordpiece.

    "don't  a\u200bb" -> [[0, 5], [7, 10]]

    Returns:
        int64 [num_words, 2]: start and end of each, in characters of the text.
    """
    spans = [match.span() for match in _WORD.finditer(text)]
    return np.array(spans, np.int64).reshape(-1, 2)


def sources(texts: Sequence[str], do_lower_case: bool) -> NDArray[np.int64]:
    """Finds where the normalised characters of texts stood.

    Returns:
        int64 [num_normalised_characters]: for each character of the words of all
        texts, in order, its position in the texts laid end to end.
    """
    table = _counts(do_lower_case)
    # One byte a character: how many normalised ones it gives. The table has no
    # context, and needs none: what depends on it (the final sigma) is still one.
    flags = np.frombuffer(
        b"".join(
            text.encode("ascii").translate(_ASCII_COUNTS)
            if text.isascii()
            else text.translate(table).encode("latin-1")
            for text in texts
        ),
        np.uint8,
    )
    if not flags.size or flags.max() <= 1:
        return np.flatnonzero(flags)
    is_sorted = flags & _IS_SORTED
    counts = flags & ~np.uint8(_IS_SORTED)
    places = np.repeat(np.arange(len(flags)), counts)
    if is_sorted.any():
        _sort(places, texts, counts, np.flatnonzero(is_sorted))
    return places


def align(
    piece_lengths: NDArray[np.int64], places: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Finds the positions of wordpieces.

    Args:
        piece_lengths: int64 [num_wordpieces], in normalised characters, 1 or more.
        places: as `sources` gives them, for the same texts.

    Returns:
        Starts and ends, int64 [num_wordpieces] each, in the texts laid end to end.
    """
    stops = np.cumsum(piece_lengths)
    assert stops[-1:].tolist() == places[-1:].size * [len(places)]
    if not len(stops):
        return stops, stops
    begins = stops - piece_lengths
    # Not the first and the last: where accents were sorted, they need not be the
    # outermost.
    starts = np.minimum.reduceat(places, begins)
    ends = np.maximum.reduceat(places, begins) + 1
    return starts, ends


# A bit above any count: the character, or a part of it, is one of the marks that
# lower-casing leaves but sorts.
_IS_SORTED = 0x80

# The counts of ASCII characters, for bytes.translate: nothing of spaces and controls.
_ASCII_COUNTS = bytes(0x20 < code < 0x7F for code in range(256))


class _Counts(dict[int, int]):
    """A table for str.translate: a character to how many normalised ones it gives.

    It fills itself with the characters it meets.
    """

    def __init__(self, do_lower_case: bool) -> None:
        self._do_lower_case = do_lower_case

    def __missing__(self, code: int) -> int:
        character = chr(code)
        count = sum(map(len, basic_tokens(character, self._do_lower_case)))
        if self._do_lower_case and _sorted_part(character):
            count |= _IS_SORTED
        self[code] = count
        return count


@functools.cache
def _counts(do_lower_case: bool) -> _Counts:
    return _Counts(do_lower_case)


@functools.cache
def _nonspacing_marks() -> frozenset[str]:
    return frozenset(map(chr, unicode14.code_points(unicode14_tables.NONSPACING_MARK)))


def _sorted_part(character: str) -> str:
    """What NFD sorts of a character and lower-casing leaves."""
    classes, marks = unicode14.combining_classes(), _nonspacing_marks()
    decomposed = unicode14.nfd(character)
    return "".join(c for c in decomposed if c in classes and c not in marks)


def _sort(
    places: NDArray[np.int64],
    texts: Sequence[str],
    counts: NDArray[np.uint8],
    sorted_places: NDArray[np.int64],
) -> None:
    """Puts the places of the few texts with sorted marks into NFD's order."""
    text_ends = np.cumsum([len(text) for text in texts])
    numbers = np.searchsorted(text_ends, sorted_places, side="right")
    for number in np.unique(numbers).tolist():
        text = texts[number]
        end = int(text_ends[number])
        begin = end - len(text)
        first = int(counts[:begin].sum())
        own = np.array(_sorted_sources(text), np.int64)
        places[first : first + len(own)] = own + begin


def _sorted_sources(text: str) -> list[int]:
    """The plain way, a character at a time."""
    clean = tables().clean
    classes, marks = unicode14.combining_classes(), _nonspacing_marks()
    found: list[int] = []
    run: list[tuple[int, int]] = []  # class and position of marks that get sorted
    for place, character in enumerate(text):
        cleaned = clean[ord(character)]
        if cleaned is None:
            continue  # deleted before anything is sorted: it does not end a run
        for part in unicode14.nfd(unicode14.lower(character)):
            if part in classes:
                # What is taken off later matters to no other one's place.
                if part not in marks:
                    run.append((classes[part], place))
                continue
            found += [place for _, place in sorted(run, key=lambda mark: mark[0])]
            run.clear()
            if part not in marks and cleaned != " " and not part.isspace():
                found.append(place)
    return found + [place for _, place in sorted(run, key=lambda mark: mark[0])]
