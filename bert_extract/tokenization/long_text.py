"""Long text -> parts that give, one after the other, the words of the whole.

    "ΟΔΟΣ, ok. aaa...aaa b"   "ΟΔΟς, ok. " | "aaa" that stands for all of them | " b"

A part is as long as a piece of the text at most, however long the text is, and however
long its words are: of a word that is too long to be known, only so much is kept as
makes it too long.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bert_extract.tokenization import unicode14
from bert_extract.tokenization.alignment import BOUNDARY, COUNT, STARTER, flags
from bert_extract.tokenization.basic_tokenizer import MAX_CHARS_PER_WORD, tables

# Characters of the text that are looked at in one go.
_PIECE_SIZE = 1 << 16
# Characters without a boundary from which on they are cut down to what matters. It also
# bounds the runs of accents that NFD sorts, which takes quadratic time.
_LONG_WORD = 1000


@dataclass(frozen=True, slots=True)
class TextPiece:
    """A part of a long text, between whose words and the others' is a boundary."""

    text: str  # what to cut into words; not the text's own characters throughout
    start: int  # where it starts in the text, in characters
    end: int
    # int64 [len(text)]: where each character of `text` stands in the long text; None:
    # one after the other, from `start` on.
    positions: NDArray[np.int64] | None = None
    # Whether its end, for a capital sigma behind it, is a letter that has a case; None:
    # a sigma looks through the whole part.
    ends_cased: bool | None = None

    def starts_in_text(self, starts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions in `text` -> positions in the long text."""
        return starts + self.start if self.positions is None else self.positions[starts]

    def ends_in_text(self, ends: NDArray[np.int64]) -> NDArray[np.int64]:
        """The same for positions one behind a last character."""
        return (
            ends + self.start
            if self.positions is None
            else self.positions[ends - 1] + 1
        )


def parts(text: str, do_lower_case: bool) -> Iterator[TextPiece]:
    """Cuts a long text into parts, in order."""
    if not do_lower_case:
        yield from _cut(text, do_lower_case)
        return
    is_cased = False  # what a sigma at the start of the next part would see before it
    for part in _cut(text, do_lower_case):
        if "Σ" in part.text:
            yield replace(part, text=_with_settled_sigmas(part, text, is_cased))
        else:
            yield part
        if part.ends_cased is not None:
            is_cased = part.ends_cased


def _pieces(text: str, start: int = 0) -> Iterator[str]:
    """A text from some character on, some characters at a time."""
    for begin in range(start, len(text), _PIECE_SIZE):
        yield text[begin : begin + _PIECE_SIZE]


def _cut(text: str, do_lower_case: bool) -> Iterator[TextPiece]:
    cutter = _Cutter(do_lower_case)
    for piece in _pieces(text):
        yield from cutter.add(piece)
    yield from cutter.end()


class _Cutter:
    """Takes a text piece by piece and gives it back part by part."""

    def __init__(self, do_lower_case: bool) -> None:
        self._do_lower_case = do_lower_case
        self._position = 0  # of what comes next, in the text
        self._rest = ""  # what no boundary has ended yet, before that position
        self._word: _LongWord | None = None  # instead, if it is long

    def add(self, piece: str) -> Iterator[TextPiece]:
        if self._word is not None:
            piece = self._add_to_word(self._word, piece)
            if not piece:
                return
            yield self._word.part(self._position)
            self._word = None
        text = self._rest + piece
        start = self._position - len(self._rest)
        self._position += len(piece)
        own = flags(text, self._do_lower_case)
        # edges[i] + 1 to edges[i + 1] is a word, or nothing, and then a boundary.
        edges = np.append(-1, np.flatnonzero(own & BOUNDARY))
        done = 0
        for i in np.flatnonzero(np.diff(edges) > _LONG_WORD).tolist():
            begin, end = int(edges[i]) + 1, int(edges[i + 1])
            yield from self._plain_part(text[done:begin], start + done)
            word = _LongWord(start + begin)
            word.add(text[begin:end], own[begin:end], start + begin)
            yield word.part(start + end)
            done = end
        last = int(edges[-1]) + 1
        yield from self._plain_part(text[done:last], start + done)
        self._rest = text[last:]
        if len(self._rest) > _LONG_WORD:
            self._word = _LongWord(start + last)
            self._word.add(self._rest, own[last:], start + last)
            self._rest = ""

    def end(self) -> Iterator[TextPiece]:
        if self._word is not None:
            yield self._word.part(self._position)
        else:
            yield from self._plain_part(self._rest, self._position - len(self._rest))

    def _add_to_word(self, word: "_LongWord", piece: str) -> str:
        """Adds a piece up to the first boundary; returns what is left of it."""
        own = flags(piece, self._do_lower_case)
        boundaries = np.flatnonzero(own & BOUNDARY)
        end = int(boundaries[0]) if len(boundaries) else len(piece)
        word.add(piece[:end], own[:end], self._position)
        self._position += end
        return piece[end:]

    @staticmethod
    def _plain_part(text: str, start: int) -> Iterator[TextPiece]:
        if text:
            ends_cased = _first_cased(reversed(text))
            yield TextPiece(text, start, start + len(text), None, ends_cased)


class _LongWord:
    """Keeps of a word what its wordpieces and their positions depend on.

    What leaves nothing goes, but for one in a run of those that keep marks from being
    sorted past them. Of what leaves something, so much stays as makes the word unknown,
    and the last stands where the word's last stood, since [UNK] spans all of it.
    """

    def __init__(self, start: int) -> None:
        self._start = start
        self._characters: list[str] = []
        self._positions: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
        self._num_normalised = 0
        self._last_position = -1
        self._has_starter = False  # the last one kept is there for what it separates
        self._ends_cased: bool | None = None

    def add(self, text: str, own_flags: NDArray[np.uint8], position: int) -> None:
        ends_cased = _first_cased(reversed(text))
        if ends_cased is not None:
            self._ends_cased = ends_cased
        counts = own_flags & COUNT
        counted = np.flatnonzero(counts)
        if len(counted):
            self._last_position = position + int(counted[-1])
        num_missing = MAX_CHARS_PER_WORD + 1 - self._num_normalised
        if num_missing <= 0:
            return
        kept = np.flatnonzero(own_flags & (COUNT | STARTER))
        is_starter = counts[kept] == 0
        is_behind_one = np.append(self._has_starter, is_starter)[:-1]
        kept = kept[~(is_starter & is_behind_one)]
        totals = np.cumsum(counts[kept], dtype=np.int64)
        kept = kept[: int(np.searchsorted(totals, num_missing)) + 1]
        if len(kept):
            self._characters += [text[index] for index in kept.tolist()]
            self._positions.append(kept + position)
            self._num_normalised += int(counts[kept].sum(dtype=np.int64))
            self._has_starter = not counts[kept[-1]]

    def part(self, end: int) -> TextPiece:
        positions = np.concatenate(self._positions)
        if self._num_normalised > MAX_CHARS_PER_WORD:
            positions[-1] = self._last_position
        text = "".join(self._characters)
        return TextPiece(text, self._start, end, positions, self._ends_cased)


def _with_settled_sigmas(part: TextPiece, text: str, is_cased_before: bool) -> str:
    """Lower-cases those capital sigmas that may look beyond their part.

    One is final if a letter with a case stands before it, and none behind it, where
    accents, full stops and their like do not count. The first one may look as far as
    the parts before, the last one as far as those behind.
    """
    own = part.text
    for index in (own.find("Σ"), own.rfind("Σ")):
        if own[index] != "Σ":
            continue  # there is only one
        before = _first_cased(reversed(own[:index]))
        after = _first_cased(own[index + 1 :])
        if after is None:
            following = (c for piece in _pieces(text, part.end) for c in piece)
            after = _first_cased(following)
        is_final = (is_cased_before if before is None else before) and not after
        own = own[:index] + ("ς" if is_final else "σ") + own[index + 1 :]
    return own


def _first_cased(characters: Iterable[str]) -> bool | None:
    """Whether the first character that a sigma does not look through has a case.

    None if it looks through all of them.
    """
    kinds, clean = unicode14.sigma_classes(), tables().clean
    for character in characters:
        kind = kinds.get(character)
        # What is deleted is so before the sigma looks.
        if kind != "ignorable" and clean[ord(character)] is not None:
            return kind == "cased"
    return None
