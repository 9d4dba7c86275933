"""Words in their contexts -> what is drawn or printed of them.

One word's vectors, compared with each other layer by layer; and the vectors of several
words, to be drawn as points. Of a file only as much is read as has what is wanted.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bert_extract.errors import InputError, OptionsError
from bert_extract.inspecting.nearest import first_layer, missing_word, words_in
from bert_extract.inspecting.words import Place, unit_vectors, words_of
from bert_extract.output.reading import read_features
from bert_extract.output.selection import Layers


@dataclass(frozen=True, slots=True)
class Contexts:
    """One word in several places, compared; `str` makes a text for people of it."""

    word: str
    layers: tuple[int | str, ...]  # from the lowest to the highest, where that is known
    places: tuple[Place, ...]  # the first is the one that the others are compared with
    # The cosine of the angle between the vectors of any two of the places, layer by
    # layer: float32 [num_layers, num_places, num_places].
    similarities: NDArray[np.float32]

    def __str__(self) -> str:
        head = [*map(str, self.layers), f"cosine to {self.places[0]}, layer by layer"]
        rows = [head]
        for number, place in enumerate(self.places):
            values = self.similarities[:, 0, number].tolist()
            text = f"line {place.linex_index:,}: {place}"
            rows.append([*(f"{value:.3f}" for value in values), text])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(
                [
                    *(
                        cell.rjust(width)
                        for cell, width in zip(row[:-1], widths, strict=False)
                    ),
                    row[-1],
                ]
            )
            for row in rows
        )


@dataclass(frozen=True, slots=True)
class WordVectors:
    """Some words of a file with their vectors of one layer."""

    layer: int | str
    places: tuple[Place, ...]
    vectors: NDArray[np.float32]  # [num_places, size]


def word_contexts(
    path: str | os.PathLike[str],
    word: str,
    *,
    layers: Layers | None = None,
    num: int = 8,
) -> Contexts:
    """Compares the vectors that one word has in different places.

    Args:
      path: a file that `read_features` can read; it is read until there are enough.
      word: as in `nearest_words`.
      layers: the layers to compare, as the file calls them; all of them by default.
      num: how many places are taken, the first ones of the file.

    Raises:
      InputError: the word is there in fewer than two places, or the file cannot be
        read.
      OptionsError: fewer than two places are wanted.
    """
    if num < 2:
        raise OptionsError(f"expected a number of places from 2 on, found {num}")
    path = os.fspath(path)
    layer_names, places, vectors = _find_places(path, word, layers, num)
    if len(places) == 1:
        raise InputError(
            f"{path}: expected {word!r} in two places at least, to compare them; found "
            f"it in line {places[0].linex_index:,} alone"
        )
    order = _from_the_lowest(layer_names)
    units = unit_vectors(np.stack(vectors, axis=1))[order]
    return Contexts(
        word=word,
        layers=tuple(layer_names[place] for place in order),
        places=tuple(places),
        similarities=units @ units.transpose(0, 2, 1),
    )


def _find_places(
    path: str, word: str, layers: Layers | None, num: int
) -> tuple[tuple[int | str, ...], list[Place], list[NDArray[np.float32]]]:
    """Finds the first places of a word.

    Returns:
      The layers; the places; the vectors at each of them, float32 [num_layers, size].

    Raises:
      InputError: there is none, or there are no layers.
    """
    places: list[Place] = []
    vectors: list[NDArray[np.float32]] = []
    layer_names: tuple[int | str, ...] = ()
    similar: dict[str, None] = {}
    for record in read_features(path, layers=layers):
        words = words_of(record)
        if words.texts and not words.layers:
            raise InputError(f"{path}: expected vectors, found entries without a layer")
        for number, text in enumerate(words.texts):
            if text == word and len(places) < num:
                layer_names = words.layer_names
                places.append(words.place(number))
                vectors += [np.stack([layer[number] for layer in words.layers])]
            elif text.lower() == word.lower() and text != word:
                similar[text] = None
        if len(places) == num:
            break
    if not places:
        raise missing_word(path, word, None, [*similar])
    return layer_names, places, vectors


def word_vectors(
    path: str | os.PathLike[str],
    words: Sequence[str] = (),
    *,
    layer: int | str | None = None,
    num: int = 60,
) -> WordVectors:
    """Takes the vectors of some words, where they stand.

    Args:
      path: a file that `read_features` can read; it is read until there are enough.
      words: which words are taken; by default all, from the beginning of the file.
      layer: the layer, as the file calls it; its first by default.
      num: how many places are taken.

    Raises:
      InputError: there are fewer than three, or the file cannot be read.
      OptionsError: fewer than three are wanted.
    """
    if num < 3:
        raise OptionsError(f"expected a number of points from 3 on, found {num}")
    path = os.fspath(path)
    layer = first_layer(path) if layer is None else layer
    places: list[Place] = []
    vectors: list[NDArray[np.float32]] = []
    for line in words_in(path, layer):
        for number, text in enumerate(line.texts):
            if (not words or text in words) and len(places) < num:
                places.append(line.place(number))
                vectors.append(line.layers[0][number])
        if len(places) == num:
            break
    missing = [word for word in words if not any(word == each.word for each in places)]
    if missing and len(places) < num:
        raise missing_word(path, missing[0], None, [])
    if len(places) < 3:
        raise InputError(f"{path}: expected three words at least, found {len(places)}")
    return WordVectors(layer, tuple(places), np.stack(vectors))


def _from_the_lowest(layer_names: tuple[int | str, ...]) -> list[int]:
    """Puts layers into the model's order, where their names tell it.

    (-1, "embeddings", -2) -> [1, 2, 0]
    """
    numbers = [index for index in layer_names if isinstance(index, int)]
    names = [index for index in layer_names if isinstance(index, str)]
    places = list(range(len(layer_names)))
    # Nobody knows whether -1 is above 3.
    if len({number < 0 for number in numbers}) > 1 or set(names) - {"embeddings"}:
        return places
    depths = [
        float("-inf") if isinstance(index, str) else float(index)
        for index in layer_names
    ]
    return sorted(places, key=depths.__getitem__)
