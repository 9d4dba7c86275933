"""Layer outputs -> the vectors asked for: layers mixed, wordpieces -> words, sentences.

Layers are mixed first, then wordpieces. Everything is float32, and a sum is made from
the first summand to the last, one after another: ((x0 + x1) + x2) + ... So it is the
same however a line was divided for speed, and the same as NumPy's `sum(axis=0)` of
the rows.

    L layers asked for   T tokens of a model input   W words   H hidden_size
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Layers = tuple[NDArray[np.float32], ...]  # float32 [num_rows, size] each

# A vector that is shorter is divided by it: nothing is divided by zero.
_LEAST_LENGTH = 1e-12


@dataclass(frozen=True, slots=True)
class PoolingState:
    """A word or a sentence so far, which goes on in the next part of its line."""

    num_wordpieces: int  # how many were pooled
    vectors: Layers  # what they gave, float32 [size] each; () if there were none


@dataclass(frozen=True)
class SentencePooling:
    """How a line gets one vector."""

    mode: str = "mean"  # "mean" or "max" over its wordpieces; "cls" or "pooler"
    has_special_tokens: bool = False  # [CLS] and [SEP] are pooled as wordpieces are
    is_normalized: bool = False  # the vector is made one of length 1


def mix_layers(layers: Sequence[NDArray[np.float32]], layer_pooling: str) -> Layers:
    """Makes one layer of those asked for.

    Args:
      layers: L of them, float32 [..., H], in the order asked for.
      layer_pooling: "mean", "sum", or "concat".

    Returns:
      One array: float32 [..., H], or [..., L * H] for "concat".
    """
    if layer_pooling == "concat":
        return (np.concatenate(layers, axis=-1),)
    total = layers[0]
    for layer in layers[1:]:
        total = total + layer
    if layer_pooling == "mean":
        total = total / np.float32(len(layers))
    return (total,)


def pool_words(
    layers: Layers,
    ranges: NDArray[np.int64],
    word_pooling: str,
    before: PoolingState | None = None,
    *,
    last_word_continues: bool = False,
) -> tuple[Layers, PoolingState | None]:
    """Makes one vector of each word's wordpieces.

    Args:
      layers: float32 [T, size] each.
      ranges: int64 [W, 2], from which row on to which row each word has its
        wordpieces. A word without any gets zeros.
      word_pooling: "first", "last" or "mean" (the sum divided by their number).
      before: the word so far that the first range continues; None if it begins one.
      last_word_continues: the last range goes on in the next part.

    Returns:
      float32 [W, size] each, and None; if last_word_continues, [W - 1, size] each, and
      the last word so far.
    """
    starts, ends = ranges[:, 0], ranges[:, 1]
    counts = ends - starts
    filled = np.flatnonzero(counts)
    rows = ends[filled] - 1 if word_pooling == "last" else starts[filled]
    steps = []
    if word_pooling == "mean":
        for step in range(1, int(counts.max(initial=0))):
            longer = np.flatnonzero(counts > step)
            steps.append((longer, starts[longer] + step))
    if before is not None:
        counts = counts.copy()
        counts[0] += before.num_wordpieces
    pooled = []
    for number, layer in enumerate(layers):
        vectors = np.zeros((len(ranges), layer.shape[1]), np.float32)
        vectors[filled] = layer[rows]
        if before is not None:
            has_more = ends[0] > starts[0]
            so_far = before.vectors[number]
            vectors[0] = _go_on(so_far, vectors[0], has_more, word_pooling)
        for longer, more in steps:
            vectors[longer] += layer[more]
        pooled.append(vectors)
    after = None
    if last_word_continues:
        so_far_each = tuple(vectors[-1].copy() for vectors in pooled)
        after = PoolingState(int(counts[-1]), so_far_each)
        pooled = [vectors[:-1] for vectors in pooled]
        counts = counts[:-1]
    if word_pooling == "mean" and counts.max(initial=0) > 1:
        divisors = np.maximum(counts, 1).astype(np.float32)[:, np.newaxis]
        pooled = [vectors / divisors for vectors in pooled]
    return tuple(pooled), after


def _go_on(
    before: NDArray[np.float32],
    vector: NDArray[np.float32],
    has_more: bool,
    word_pooling: str,
) -> NDArray[np.float32]:
    """What a word has so far, and its first wordpiece in this part: float32 [size]."""
    if word_pooling == "first" or not has_more:
        return before
    return vector if word_pooling == "last" else before + vector


def pool_sentence(
    layers: Layers,
    wordpieces: Sequence[slice],
    sentence_pooling: str,
    before: PoolingState | None = None,
    *,
    is_last: bool = True,
) -> tuple[Layers, PoolingState | None]:
    """Makes one vector of a line.

    Args:
      layers: float32 [T, size] each, [CLS] in row 0; for "pooler" [1, size].
      wordpieces: the rows that are pooled.
      sentence_pooling: "mean" (the sum divided by their number) or "max", over these
        rows; "cls" or "pooler", row 0.
      before: the line so far; None if it begins with this part.
      is_last: whether the line ends with this part.

    Returns:
      float32 [1, size] each, zeros if there was nothing to pool, and None; if not
      is_last, [0, size] each, and the line so far.
    """
    if sentence_pooling in ("cls", "pooler"):
        return tuple(layer[:1] for layer in layers), None
    combine = np.maximum if sentence_pooling == "max" else np.add
    num_wordpieces = sum(rows.stop - rows.start for rows in wordpieces)
    so_far: Sequence[NDArray[np.float32] | None] = [None] * len(layers)
    if before is not None:
        num_wordpieces += before.num_wordpieces
        so_far = before.vectors or so_far
    vectors = tuple(
        _combined(combine, layer, wordpieces, vector)
        for layer, vector in zip(layers, so_far, strict=True)
    )
    if not is_last:
        after = PoolingState(num_wordpieces, vectors if num_wordpieces else ())
        nothing = (np.zeros((0, layer.shape[1]), np.float32) for layer in layers)
        return tuple(nothing), after
    if sentence_pooling == "mean":
        divisor = np.float32(max(num_wordpieces, 1))
        vectors = tuple(vector / divisor for vector in vectors)
    return tuple(vector[np.newaxis] for vector in vectors), None


def normalize(layers: Layers) -> Layers:
    """Makes vectors that have the length 1, as sentence-transformers does.

    Args:
      layers: float32 [num_rows, size] each.

    Returns:
      The same rows, divided by their lengths; a row of zeros stays one.
    """
    normalized = []
    for layer in layers:
        squares = np.square(layer, dtype=np.float64)
        lengths = np.sqrt(squares.sum(axis=1, keepdims=True))
        divided = layer / np.maximum(lengths, _LEAST_LENGTH)
        normalized.append(divided.astype(np.float32))
    return tuple(normalized)


def _combined(
    combine: np.ufunc,
    layer: NDArray[np.float32],
    wordpieces: Sequence[slice],
    before: NDArray[np.float32] | None,
) -> NDArray[np.float32]:
    """Combines what there was with rows of a layer: float32 [size]."""
    rows = [layer[span] for span in wordpieces]
    if before is not None:
        rows.insert(0, before[np.newaxis])
    together = rows[0] if len(rows) == 1 else np.concatenate(rows or [layer[:0]])
    if not len(together):
        return np.zeros(layer.shape[1], np.float32)
    # Row by row, since rows are what lies together in the memory.
    combined: NDArray[np.float32] = combine.reduce(together, axis=0)
    return combined
