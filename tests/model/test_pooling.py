"""Pooling against a loop that says what is meant."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from bert_extract.model.pooling import (
    Layers,
    PoolingState,
    mix_layers,
    pool_sentence,
    pool_words,
)

Matrix = NDArray[np.float32]


def random_layers(num_tokens: int, size: int = 5, num_layers: int = 2) -> Layers:
    rng = np.random.default_rng(num_tokens)
    # Of very different sizes: the order of a sum shows.
    scale = 10.0 ** rng.integers(-6, 7, (num_layers, num_tokens, size))
    layers = (rng.standard_normal((num_layers, num_tokens, size)) * scale).astype("f4")
    return tuple(layers)


def mean(rows: Sequence[Matrix] | Matrix) -> Matrix:
    """The sum from the first to the last, in float32, divided by their number."""
    total = rows[0].copy()
    for row in rows[1:]:
        total += row
    total /= np.float32(len(rows))
    return total


def word(rows: Matrix, pooling: str) -> Matrix:
    if not len(rows):
        return np.zeros(rows.shape[1], np.float32)
    vector: Matrix = {"first": rows[0], "last": rows[-1]}.get(pooling, mean(rows))
    return vector


def check_same(found: Layers, expected: Sequence[Sequence[Matrix]]) -> None:
    assert len(found) == len(expected)
    for layer, rows in zip(found, expected, strict=True):
        assert layer.dtype == np.float32
        assert layer.tolist() == [row.tolist() for row in rows]


@pytest.mark.parametrize("pooling", ["first", "mean", "last"])
def test_words(pooling: str) -> None:
    layers = random_layers(30)
    ranges = np.array([[1, 2], [2, 2], [2, 9], [9, 11], [12, 30], [30, 30]])
    expected = [[word(layer[a:b], pooling) for a, b in ranges] for layer in layers]
    found, after = pool_words(layers, ranges, pooling)
    check_same(found, expected)
    assert after is None


@pytest.mark.parametrize("pooling", ["first", "mean", "last"])
def test_no_words(pooling: str) -> None:
    for ranges in (np.empty((0, 2), np.int64), np.array([[0, 0]] * 3)):
        found, _ = pool_words(random_layers(0), ranges, pooling)
        for layer in found:
            assert layer.tolist() == [[0.0] * 5] * len(ranges)


@pytest.mark.parametrize("pooling", ["first", "mean", "last"])
@pytest.mark.parametrize("cuts", [[4], [3, 4, 5], [2, 10, 20], [7, 8, 9, 29], [1]])
def test_a_word_over_parts_is_the_same(pooling: str, cuts: list[int]) -> None:
    """Words of 1, 2, 22 and 5 wordpieces, and the parts cut anywhere."""
    layers = random_layers(30)
    spans = [(0, 1), (1, 3), (3, 25), (25, 30)]
    whole, _ = pool_words(layers, np.array(spans), pooling)
    found: list[Layers] = []
    so_far: PoolingState | None = None
    for start, end in zip([0, *cuts], [*cuts, 30], strict=True):
        own = [
            (max(a, start) - start, min(b, end) - start)
            for a, b in spans
            if a < end and b > start
        ]
        last_word_continues = all(b != end for _, b in spans)
        part = tuple(layer[start:end] for layer in layers)
        pooled, so_far = pool_words(
            part,
            np.array(own),
            pooling,
            so_far,
            last_word_continues=last_word_continues,
        )
        assert (so_far is not None) == last_word_continues
        found.append(pooled)
    for number, expected in enumerate(whole):
        joined = np.concatenate([pooled[number] for pooled in found])
        assert joined.tolist() == expected.tolist()


@pytest.mark.parametrize("pooling", ["mean", "max"])
@pytest.mark.parametrize("cuts", [[], [4], [3, 3, 29], [10, 20]])
def test_sentences_over_parts(pooling: str, cuts: list[int]) -> None:
    layers = random_layers(30)
    rows = [layer[1:29] for layer in layers]
    expected = [mean(r) if pooling == "mean" else r.max(axis=0) for r in rows]
    so_far: PoolingState | None = None
    bounds = [0, *cuts, 30]
    for start, end in itertools.pairwise(bounds):
        part = tuple(layer[start:end] for layer in layers)
        own = slice(max(start, 1) - start, max(min(end, 29), start) - start)
        is_last = end == 30
        found, so_far = pool_sentence(part, [own], pooling, so_far, is_last=is_last)
        assert (so_far is None) == is_last
        if not is_last:
            assert [layer.shape for layer in found] == [(0, 5)] * 2
    check_same(found, [[row] for row in expected])


@pytest.mark.parametrize("num_tokens", [1, 2, 9, 130, 1000])
@pytest.mark.parametrize("size", [2, 5, 768])
def test_the_mean_is_numpys(num_tokens: int, size: int) -> None:
    """So that people can check it with one line of their own."""
    layers = random_layers(num_tokens, size)
    found, _ = pool_sentence(layers, [slice(0, num_tokens)], "mean")
    check_same(found, [[layer.mean(axis=0)] for layer in layers])
    check_same(found, [[mean(list(layer))] for layer in layers])


def test_a_pair_is_pooled_without_the_sep_between() -> None:
    layers = random_layers(9)
    found, _ = pool_sentence(layers, [slice(1, 4), slice(5, 8)], "mean")
    rows = [1, 2, 3, 5, 6, 7]
    check_same(found, [[mean([layer[i] for i in rows])] for layer in layers])


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_nothing_to_pool_gives_zeros(pooling: str) -> None:
    found, _ = pool_sentence(random_layers(2), [slice(1, 1)], pooling)
    check_same(found, [[np.zeros(5, np.float32)]] * 2)


def test_cls_is_the_first_row() -> None:
    layers = random_layers(9)
    expected = [[layer[0]] for layer in layers]
    found, _ = pool_sentence(layers, [slice(1, 8)], "cls")
    check_same(found, expected)


def test_layers_are_mixed_in_their_order() -> None:
    layers = random_layers(4, num_layers=3)
    a, b, c = layers
    assert mix_layers(layers, "sum")[0].tolist() == ((a + b) + c).tolist()
    (of_mean,) = mix_layers(layers, "mean")
    assert of_mean.tolist() == (((a + b) + c) / np.float32(3)).tolist()
    (joined,) = mix_layers([c, a], "concat")
    assert joined.tolist() == np.hstack([c, a]).tolist()
    assert mix_layers([b], "mean")[0].tolist() == b.tolist()
