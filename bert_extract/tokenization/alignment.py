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

from bert_extract.tokenization import unicode14, unicode14_tables
from bert_extract.tokenization.basic_tokenizer import basic_tokens, tables

# What the original's tokenizer sees as whitespace. Other controls that Python strips
# and splits at, such as U+0085, it deletes: they do not separate.
_WORD = re.compile("[^ \t\n\r\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")


@dataclass(frozen=True, slots=True)
class Wordpieces:
    """Consecutive wordpieces of a text, and the characters of it that each came from.

    Starts and ends are None if nobody asks for them.
    """

    ids: NDArray[np.int32]  # [num_wordpieces]
    starts: NDArray[np.int64] | None = None  # [num_wordpieces], characters of the text
    ends: NDArray[np.int64] | None = None  # [num_wordpieces], one behind the last one

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, start: int, end: int | None = None) -> "Wordpieces":
        """Those from `start` on, up to `end`."""
        return Wordpieces(
            self.ids[start:end],
            None if self.starts is None else self.starts[start:end],
            None if self.ends is None else self.ends[start:end],
        )


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


# What `flags` says of a character.
COUNT = 0x1F  # these bits: how many characters of words it gives
STARTER = 0x20  # it gives none, but keeps marks from being sorted past it
BOUNDARY = 0x40  # a word ends before it and one begins behind it
_IS_SORTED = 0x80  # it is, or becomes, a mark that lower-casing leaves but sorts


def flags(text: str, do_lower_case: bool) -> NDArray[np.uint8]:
    """Says of each character of a text what becomes of it: uint8 [len(text)].

    No context is needed: what depends on it, such as the final sigma, is still one
    character.
    """
    return np.frombuffer(_flag_bytes(text, _flag_tables(do_lower_case)), np.uint8)


def sources(texts: Sequence[str], do_lower_case: bool) -> NDArray[np.int64]:
    """Finds where the normalised characters of texts stood.

    Returns:
      int64 [num_normalised_characters]: for each character of the words of all
      texts, in order, its position in the texts laid end to end.
    """
    flag_tables = _flag_tables(do_lower_case)
    own = np.frombuffer(
        b"".join(_flag_bytes(text, flag_tables) for text in texts), np.uint8
    )
    counts: NDArray[np.uint8] = own & np.uint8(COUNT)
    if not counts.size or counts.max() == 1:
        positions = np.flatnonzero(counts)
    else:
        positions = np.repeat(np.arange(len(counts)), counts)
    is_sorted = own & _IS_SORTED
    if is_sorted.any():
        _sort(positions, texts, counts, np.flatnonzero(is_sorted))
    return positions


def align(
    piece_lengths: NDArray[np.int64], positions: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Finds the positions of wordpieces.

    Args:
      piece_lengths: int64 [num_wordpieces], in normalised characters, 1 or more.
      positions: as `sources` gives them, for the same texts.

    Returns:
      Starts and ends, int64 [num_wordpieces] each, in the texts laid end to end.
    """
    stops = np.cumsum(piece_lengths)
    assert stops[-1:].tolist() == positions[-1:].size * [len(positions)]
    if not len(stops):
        return stops, stops
    begins = stops - piece_lengths
    # Not the first and the last: where accents were sorted, they need not be the
    # outermost.
    starts = np.minimum.reduceat(positions, begins)
    ends = np.maximum.reduceat(positions, begins) + 1
    return starts, ends


class _Flags(dict[int, int]):
    """A table for str.translate: a character to the one whose code are its flags.

    It fills itself with the characters it meets.
    """

    def __init__(self, do_lower_case: bool) -> None:
        self._do_lower_case = do_lower_case

    def __missing__(self, code: int) -> int:
        character = chr(code)
        found = sum(map(len, basic_tokens(character, self._do_lower_case)))
        if len(basic_tokens(f"a{character}a", self._do_lower_case)) > 1:
            found |= BOUNDARY
        if self._do_lower_case:
            found |= self._order_flags(character, found)
        self[code] = found
        return found

    @staticmethod
    def _order_flags(character: str, count: int) -> int:
        classes, marks = unicode14.combining_classes(), _nonspacing_marks()
        if tables().clean[ord(character)] is None:
            return 0
        decomposed = unicode14.nfd(character)
        if any(c in classes and c not in marks for c in decomposed):
            return _IS_SORTED
        is_starter = not count and any(c not in classes for c in decomposed)
        return STARTER if is_starter else 0


@functools.cache
def _flag_tables(do_lower_case: bool) -> tuple[bytes, _Flags]:
    """The flags of ASCII characters, for bytes.translate, and those of all."""
    table = _Flags(do_lower_case)
    return bytes(table[code] for code in range(128)) + bytes(128), table


def _flag_bytes(text: str, flag_tables: tuple[bytes, _Flags]) -> bytes:
    ascii_table, table = flag_tables
    if text.isascii():
        return text.encode("ascii").translate(ascii_table)
    return text.translate(table).encode("latin-1")


@functools.cache
def _nonspacing_marks() -> frozenset[str]:
    return frozenset(map(chr, unicode14.code_points(unicode14_tables.NONSPACING_MARK)))


def _sort(
    positions: NDArray[np.int64],
    texts: Sequence[str],
    counts: NDArray[np.uint8],
    sorted_positions: NDArray[np.int64],
) -> None:
    """Puts the positions of the few texts with sorted marks into NFD's order."""
    text_ends = np.cumsum([len(text) for text in texts])
    numbers = np.searchsorted(text_ends, sorted_positions, side="right")
    for number in np.unique(numbers).tolist():
        text = texts[number]
        end = int(text_ends[number])
        begin = end - len(text)
        first = int(counts[:begin].sum())
        own = np.array(_sorted_sources(text), np.int64)
        positions[first : first + len(own)] = own + begin


def _sorted_sources(text: str) -> list[int]:
    """The plain way, a character at a time."""
    clean = tables().clean
    classes, marks = unicode14.combining_classes(), _nonspacing_marks()
    found: list[int] = []
    run: list[tuple[int, int]] = []  # class and position of marks that get sorted
    for position, character in enumerate(text):
        cleaned = clean[ord(character)]
        if cleaned is None:
            continue  # deleted before anything is sorted: it does not end a run
        for part in unicode14.nfd(unicode14.lower(character)):
            if part in classes:
                # What is taken off later matters to no other one's position.
                if part not in marks:
                    run.append((classes[part], position))
                continue
            found += [position for _, position in sorted(run, key=lambda mark: mark[0])]
            run.clear()
            if part not in marks and cleaned != " " and not part.isspace():
                found.append(position)
    return found + [position for _, position in sorted(run, key=lambda mark: mark[0])]
