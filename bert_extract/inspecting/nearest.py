"""A word -> the words whose vectors are closest to its own, anywhere in a file."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bert_extract.errors import InputError, OptionsError
from bert_extract.inspecting.lookup import read_line
from bert_extract.inspecting.summary import inspect_features
from bert_extract.inspecting.words import (
    Place,
    Words,
    as_readable,
    unit_vectors,
    words_of,
)
from bert_extract.output.reading import read_features

# One entry a line: what a sentence's is called.
_SENTENCES = ("[MEAN]",), ("[MAX]",), ("[CLS]",), ("[POOLER]",), ("[MODEL]",)
_SUGGESTED = 3


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A word that is close to another."""

    similarity: float  # the cosine of the angle between their vectors
    place: Place


@dataclass(frozen=True, slots=True)
class Nearest:
    """The words that are closest to one; `str` makes a text for people of them."""

    place: Place  # of the word that was asked for
    layer: int | str
    # The closest first, each word once, where it is closest; the word itself too, if it
    # stands somewhere else.
    neighbours: tuple[Neighbour, ...]
    num_compared: int  # words of the file

    def __str__(self) -> str:
        rows = [
            f"closest to {self.place} (line {self.place.linex_index:,}) by cosine, "
            f"layer {self.layer}, of {self.num_compared:,} words:"
        ]
        shown = [as_readable(each.place.word) for each in self.neighbours]
        width = max(map(len, shown), default=0)
        for each, word in zip(self.neighbours, shown, strict=True):
            rows.append(
                f"  {each.similarity:6.3f}  {word:{width}}  "
                f"line {each.place.linex_index:,}: {each.place}"
            )
        return "\n".join(rows)


def nearest_words(
    path: str | os.PathLike[str],
    word: str,
    *,
    layer: int | str | None = None,
    line: int | None = None,
    num: int = 10,
) -> Nearest:
    """Looks for the words that mean most nearly the same as one does where it stands.

    The file is read once from its beginning to its end, record by record.

    Args:
      path: a file that `read_features` can read.
      word: as it stands among the file's tokens; of wordpieces, what they make
        together: "puppeteer" for puppet ##eer. Its vector is their mean.
      layer: the layer to compare, as the file calls it; its first by default.
      line: the line in which the word stands; the first that has it by default.
      num: how many are wanted.

    Raises:
      InputError: the word is not there, or the file cannot be read.
      OptionsError: fewer than one word is wanted.
    """
    if num < 1:
        raise OptionsError(f"expected a number of words from 1 on, found {num}")
    path = os.fspath(path)
    if layer is None:
        layer = first_layer(path)
    words, number = _find(path, word, layer, line)
    best = _Best(words, number, num)
    for other in words_in(path, layer):
        best.add(other)
    return Nearest(words.place(number), layer, best.neighbours(), best.num_compared)


def first_layer(path: str) -> int | str:
    """Names the first layer of a file.

    Raises:
      InputError: it has none, or no words.
    """
    summary = inspect_features(path)
    if not summary.layers:
        raise InputError(f"{path}: expected vectors, found no entry with a layer")
    if summary.first_tokens in _SENTENCES:
        raise InputError(
            f"{path}: expected words or wordpieces, found one vector a line "
            f"({summary.first_tokens[0]}): make a file with --unit=word of the text"
        )
    return summary.layers[0]


def words_in(path: str, layer: int | str) -> Iterator[Words]:
    """Yields the words of each line that has any, with the vectors of one layer."""
    for record in read_features(path, layers=[layer]):
        if record.layers:
            yield words_of(record)


def _find(
    path: str, word: str, layer: int | str, line: int | None
) -> tuple[Words, int]:
    """Finds a line with the word, and which of its words that is."""
    similar: dict[str, None] = {}
    if line is not None:
        lines = iter([words_of(read_line(path, line, layers=[layer]))])
    else:
        lines = words_in(path, layer)
    for words in lines:
        if word in words.texts:
            return words, words.texts.index(word)
        if len(similar) < _SUGGESTED:
            similar.update(
                (text, None) for text in words.texts if text.lower() == word.lower()
            )
    raise missing_word(path, word, line, [*similar])


def missing_word(
    path: str, word: str, line: int | None, similar: list[str]
) -> InputError:
    """Says that a word is not in a file, and what is there."""
    where = "" if line is None else f" in line {line:,}"
    hint = f"; there is {', '.join(similar[:_SUGGESTED])}" if similar else ""
    return InputError(f"{path}: expected the word {word!r}{where}, found none{hint}")


class _Best:
    """The closest words so far, each where it is closest; no more than are wanted."""

    def __init__(self, words: Words, number: int, num_words: int) -> None:
        self.num_compared = -1  # to itself it is not
        self._vector = unit_vectors(words.layers[0][number])
        self._own = (words.linex_index, words.positions[number])
        self._num_words = num_words
        self._found: dict[str, Neighbour] = {}
        self._least = -np.inf  # what a word that is not there yet has to surpass

    def add(self, words: Words) -> None:
        """Compares the words of a line."""
        similarities: NDArray[np.float32] = unit_vectors(words.layers[0]) @ self._vector
        self.num_compared += len(similarities)
        for number in np.flatnonzero(similarities > self._least).tolist():
            text, similarity = words.texts[number], float(similarities[number])
            held = self._found.get(text)
            is_own = (words.linex_index, words.positions[number]) == self._own
            if not is_own and similarity > (
                self._least if held is None else held.similarity
            ):
                self._take(Neighbour(similarity, words.place(number)))

    def _take(self, neighbour: Neighbour) -> None:
        self._found[neighbour.place.word] = neighbour
        if len(self._found) > self._num_words:
            del self._found[min(self._found, key=self._similarity)]
        if len(self._found) == self._num_words:
            self._least = min(map(self._similarity, self._found))

    def _similarity(self, word: str) -> float:
        return self._found[word].similarity

    def neighbours(self) -> tuple[Neighbour, ...]:
        """The closest first."""
        ordered = sorted(self._found.values(), key=lambda each: -each.similarity)
        return tuple(ordered)
