"""Text -> words, as the original's basic tokenizer cuts them.

In Python, which is exact where tensorflow-text's own normaliser is not: that one folds
case by NFKC, keeps other controls, and takes the Unicode of its own libraries.
"""

import functools
import unicodedata
from collections.abc import Container, Sequence
from typing import NamedTuple

from bert_extract.tokenization import unicode14, unicode14_tables

# Upstream's limit, in characters of the normalised word; a longer word is unknown.
MAX_CHARS_PER_WORD = 200


def basic_tokens(text: str, do_lower_case: bool) -> list[str]:
    """Cuts a text into words, before wordpieces.

    "Ça va,\u00a0中国?", True -> ["ca", "va", ",", "中", "国", "?"]
    """
    return _lower_words(text) if do_lower_case else _cased_words(text)


def _lower_words(text: str) -> list[str]:
    if text.isascii():
        return _ascii_words(text.lower())
    text = text.translate(tables().clean)
    if tables().differing.isdisjoint(text):
        text = unicodedata.normalize("NFD", text.lower())
    else:
        text = unicode14.nfd(unicode14.lower(text))
    return text.translate(tables().strip_and_split).split()


def _cased_words(text: str) -> list[str]:
    if text.isascii():
        return _ascii_words(text)
    return text.translate(tables().clean_and_split).split()


def _ascii_words(text: str) -> list[str]:
    """The same as the tables do, in a fifth of the time."""
    if not text:
        return []  # there are files full of blank lines
    if not text.isprintable():
        text = text.translate(tables().clean)
    for mark, spaced in _ASCII_PUNCTUATION:
        if mark in text:
            text = text.replace(mark, spaced)
    return text.split()


# Upstream's: every ASCII character but letters, digits, the space and controls.
_ASCII_PUNCTUATION = tuple(
    (chr(code), f" {chr(code)} ")
    for code in range(0x21, 0x7F)
    if not chr(code).isalnum()
)

# Upstream's: the blocks of ideographs, not Hangul, Hiragana or Katakana.
_CJK_BLOCKS = (
    range(0x4E00, 0xA000),
    range(0x3400, 0x4DC0),
    range(0x20000, 0x2A6E0),
    range(0x2A700, 0x2B740),
    range(0x2B740, 0x2B820),
    range(0x2B820, 0x2CEB0),
    range(0xF900, 0xFB00),
    range(0x2F800, 0x2FA20),
)


class TranslateTable(dict[int, int | str | None]):
    """A table for str.translate that fills itself with the characters it meets.

    A full one would hold a million entries, and a missing entry costs str.translate
    an exception each time.
    """

    def __init__(
        self,
        deleted: Container[int],
        spaced: Sequence[Container[int]],
        blank: Container[int],
    ) -> None:
        self._deleted, self._spaced, self._blank = deleted, spaced, blank

    def __missing__(self, code: int) -> int | str | None:
        self[code] = entry = self._entry(code)
        return entry

    def _entry(self, code: int) -> int | str | None:
        if code in self._deleted:
            return None
        if code in self._blank:
            return " "
        if any(code in block for block in self._spaced):
            return f" {chr(code)} "
        return code


class Tables(NamedTuple):
    """What becomes of a character, in the order in which it becomes so."""

    strip: TranslateTable  # accents go
    clean: TranslateTable  # controls go, spaces become " ", ideographs are words
    strip_and_split: TranslateTable  # accents go, punctuation characters are words
    clean_and_split: TranslateTable  # both at once, but accents stay
    differing: frozenset[str]  # Python's own lower or NFD is not Unicode 14.0.0's


@functools.cache
def tables() -> Tables:
    """Makes the tables; they are empty at first and then cost next to nothing."""
    code_points = unicode14.code_points
    blank = code_points(unicode14_tables.SPACE) | frozenset(map(ord, "\t\n\r"))
    # U+FFFD is what a broken byte became; upstream drops it with the controls.
    controls = code_points(unicode14_tables.CONTROL) | {0xFFFD}
    marks = frozenset(ord(mark) for mark, _ in _ASCII_PUNCTUATION)
    punctuation = code_points(unicode14_tables.PUNCTUATION) | marks
    nonspacing_marks = code_points(unicode14_tables.NONSPACING_MARK)
    return Tables(
        strip=TranslateTable(nonspacing_marks, [], frozenset()),
        clean=TranslateTable(controls - blank, _CJK_BLOCKS, blank),
        strip_and_split=TranslateTable(nonspacing_marks, [punctuation], frozenset()),
        clean_and_split=TranslateTable(
            controls - blank, [*_CJK_BLOCKS, punctuation], blank
        ),
        differing=unicode14.differing_characters(),
    )
