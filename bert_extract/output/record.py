"""What becomes of a line: a Record; and RecordPart, as writers take it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bert_extract.errors import NotFiniteError

# What a record's repr has of it.
_MOST_TOKENS_SHOWN = 16
_MOST_CHARS_SHOWN = 40


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Record:
    """The vectors of one input line.

    Records are equal if all they hold is, and their vectors are bit for bit. Their
    repr says what they are, and not each number.
    """

    linex_index: int  # the line's number; upstream's spelling, which readers know
    tokens: tuple[str, ...]  # one an entry: [CLS] .. [SEP], words, or "[MEAN]"
    # The layers as asked for: -1, 0, "embeddings", or what pooling made of them.
    indexes: tuple[int | str, ...]
    layers: tuple[NDArray[np.float32], ...]  # each float32 [num_tokens, size]
    texts: tuple[str, ...] | None = None  # "a" or "b" for each word of a pair
    # Where each entry stands in the line, in characters; None for [CLS] and [SEP].
    offsets: tuple[tuple[int, int] | None, ...] | None = None

    @property
    def vectors(self) -> NDArray[np.float32]:
        """All layers in one array, float32 [num_layers, num_tokens, size]."""
        if not self.layers:
            return np.zeros((0, len(self.tokens), 0), np.float32)
        return np.stack(self.layers)

    def __repr__(self) -> str:
        """<Record 1: layers=-1,-2 shape=(2, 5, 32) tokens=[CLS] the bank [SEP]>."""
        shape = (len(self.layers), *(self.layers[0].shape if self.layers else ()))
        tokens = [_shown(token) for token in self.tokens[:_MOST_TOKENS_SHOWN]]
        if len(self.tokens) > _MOST_TOKENS_SHOWN:
            tokens += ["..", _shown(self.tokens[-1])]
        layer_names = ",".join(map(str, self.indexes))
        return (
            f"<Record {self.linex_index}: layers={layer_names} shape={shape} "
            f"tokens={' '.join(tokens)}>"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Record):
            return NotImplemented
        return _plain_fields(self) == _plain_fields(other) and all(
            map(_are_same_bits, self.layers, other.layers)
        )


def _shown(token: str) -> str:
    """A token as the repr has it, on one line: words may be long, and hold controls."""
    start = token[:_MOST_CHARS_SHOWN]
    shown = start if start.isprintable() else repr(start)[1:-1]
    return shown if start == token else f"{shown}.."


def _plain_fields(record: Record) -> list[object]:
    """All but the vectors, and how many arrays of these there are."""
    names = [each.name for each in dataclasses.fields(record) if each.name != "layers"]
    return [len(record.layers), *(getattr(record, name) for name in names)]


def _are_same_bits(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    """Not ==, for which 0.0 is -0.0, and NaN not itself."""
    is_alike = one.shape == other.shape and one.dtype == other.dtype
    return is_alike and one.tobytes() == other.tobytes()


class RecordPart(NamedTuple):
    """The record of a line, or a part of that of a long one: what writers take.

    The parts of a line come in order, and their entries together are the line's. A
    part may have no entries at all. A tuple, as `Features` is and for the same reason.
    """

    record: Record  # the entries of this part
    line: str | None = None  # the line's text with its first part, for some formats
    position: int = 0  # entries of the line in the parts before this one
    is_first: bool = True  # this part begins the line's record
    is_last: bool = True  # this part ends it


@dataclass(frozen=True, slots=True)
class RecordSchema:
    """What all records of a run have in common."""

    layer_names: tuple[int | str, ...]  # their `indexes`
    size: int  # of one vector
    has_texts: bool = False  # whether some may have texts
    has_offsets: bool = False


def join_records(records: Sequence[Record]) -> Record:
    """Makes one record of those of consecutive parts of a line."""
    if len(records) == 1:
        return records[0]
    texts = [record.texts for record in records if record.texts is not None]
    offsets = [record.offsets for record in records if record.offsets is not None]
    layers = zip(*(record.layers for record in records), strict=True)
    return dataclasses.replace(
        records[0],
        tokens=tuple(itertools.chain.from_iterable(each.tokens for each in records)),
        layers=tuple(np.concatenate(pieces) for pieces in layers),
        texts=tuple(itertools.chain.from_iterable(texts)) if texts else None,
        offsets=tuple(itertools.chain.from_iterable(offsets)) if offsets else None,
    )


def check_finite(part: RecordPart) -> None:
    """Checks that a part holds numbers only.

    Raises:
      NotFiniteError: it does not; the message names the first token and layer.
    """
    record = part.record
    if all(np.isfinite(layer).all() for layer in record.layers):
        return
    for number, token in enumerate(record.tokens):
        for layer_name, layer in zip(record.indexes, record.layers, strict=True):
            if not np.isfinite(layer[number]).all():
                raise NotFiniteError(
                    f"linex_index {record.linex_index}, token "
                    f"{part.position + number} ({token!r}), layer {layer_name}: "
                    "expected finite values, found NaN or infinity. "
                    "The weights may be broken, or the precision too low for them."
                )
