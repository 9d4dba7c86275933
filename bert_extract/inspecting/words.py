"""Record -> its words, each with a vector a layer and with what stands around it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bert_extract.output.record import Record

_SPECIAL = ("[CLS]", "[SEP]")
_CONTINUED = "##"  # what a wordpiece begins with that goes on with a word
_NUM_AROUND = 6  # words on each side
_MOST_CHARS = 30  # of a word that are shown: words may be long


@dataclass(frozen=True, slots=True)
class Place:
    """One occurrence of a word."""

    word: str
    linex_index: int
    position: int  # of its first entry in the record
    before: tuple[str, ...]  # some words that stand before it in the line
    after: tuple[str, ...]

    def __str__(self) -> str:
        """Gives "we sat on the [bank] of the river"."""
        return " ".join(
            [
                *map(as_readable, self.before),
                f"[{as_readable(self.word)}]",
                *map(as_readable, self.after),
            ]
        )


def as_readable(token: str) -> str:
    """A token as people see it: cut where it is long, no controls for a terminal."""
    start = token[:_MOST_CHARS]
    shown = start if start.isprintable() else repr(start)[1:-1]
    return shown if start == token else f"{shown}.."


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a line."""

    linex_index: int
    texts: tuple[str, ...]
    positions: tuple[int, ...]  # of the first entry of each in the record
    layer_names: tuple[int | str, ...]  # the layers
    layers: tuple[NDArray[np.float32], ...]  # each float32 [num_words, size]

    def place(self, number: int) -> Place:
        """Tells where a word stands."""
        start = max(0, number - _NUM_AROUND)
        end = number + 1 + _NUM_AROUND
        return Place(
            word=self.texts[number],
            linex_index=self.linex_index,
            position=self.positions[number],
            before=self.texts[start:number],
            after=self.texts[number + 1 : end],
        )


def words_of(record: Record) -> Words:
    """Puts the words of a record together; [CLS] and [SEP] are none.

    A word's vector is the mean of its wordpieces'. A record whose entries are words
    already, or sentences, is taken as it is.

    ("[CLS]", "puppet", "##eer", "[SEP]") -> ("puppeteer",)
    """
    tokens = record.tokens
    if tokens[:1] != ("[CLS]",) or len(tokens) == 1:
        positions = [*range(len(tokens))]
        return Words(
            record.linex_index,
            tokens,
            tuple(positions),
            record.indexes,
            record.layers,
        )
    starts = [n for n, token in enumerate(tokens) if not token.startswith(_CONTINUED)]
    ends = [*starts[1:], len(tokens)]
    kept = [
        number for number, start in enumerate(starts) if tokens[start] not in _SPECIAL
    ]
    return Words(
        linex_index=record.linex_index,
        texts=tuple(
            "".join(
                token.removeprefix(_CONTINUED)
                for token in tokens[starts[number] : ends[number]]
            )
            for number in kept
        ),
        positions=tuple(starts[number] for number in kept),
        layer_names=record.indexes,
        layers=tuple(_means(layer, starts, ends)[kept] for layer in record.layers),
    )


def _means(
    layer: NDArray[np.float32], starts: list[int], ends: list[int]
) -> NDArray[np.float32]:
    """The mean of each word's wordpieces: float32 [num_words, size]."""
    if len(starts) == len(layer):
        return layer
    counts = np.subtract(ends, starts).astype(np.float32)
    sums = np.add.reduceat(layer, starts, axis=0)
    means: NDArray[np.float32] = np.divide(sums, counts[:, None], dtype=np.float32)
    return means


def unit_vectors(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Makes vectors of length 1, float32 [..., size]; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: NDArray[np.float32] = vectors / np.maximum(lengths, np.float32(1e-12))
    return scaled
