"""On one CPU a line's record depends on the line alone: not on a bit of anything else.

float32 sums depend on their order, and kernels choose the order by the shape. So this
holds only because `batching` and `engine` see to it.
"""

import itertools
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_extract import FeatureExtractor, Record
from bert_extract.model.arithmetic import has_bfloat16
from bert_extract.output.json_lines import JsonFormatter
from bert_extract.output.record import RecordPart
from support.nasty_text import nasty_lines
from support.running import options_for, real_lines, write_random_model


def content_of(record: Record) -> bytes:
    """The bytes of a record, but for its number in the input."""
    numbered = Record(0, record.tokens, record.indexes, record.layers)
    return bytes(JsonFormatter(record.indexes).format(RecordPart(numbered)))


def contents(
    model_dir: Path, lines: Iterable[str], layers: str = "all,embeddings", **fields: Any
) -> list[bytes]:
    options = options_for(model_dir, layers=layers, **fields)
    return [content_of(record) for record in FeatureExtractor(options).extract(lines)]


def shuffled(lines: Sequence[str]) -> tuple[list[int], list[str]]:
    order = list(range(len(lines)))
    random.Random(3).shuffle(order)
    return order, [lines[place] for place in order]


@pytest.fixture(scope="module")
def tiny_lines(golden_dir: Path) -> list[str]:
    golden = (golden_dir / "input.txt").read_bytes().decode().split("\n")[:-1]
    return golden + list(nasty_lines(seed=1, num_lines=60))


@pytest.fixture(scope="module")
def tiny_contents(tiny_bert: Path, tiny_lines: list[str]) -> list[bytes]:
    return contents(tiny_bert, tiny_lines)


@pytest.mark.parametrize(
    "fields",
    [
        {"batch_size": 1},
        {"batch_size": 3},
        {"batch_size": 1000},
        {"num_threads": 1},
        {"num_threads": 5},
        {"batch_size": 2, "num_threads": 3},
    ],
    ids=str,
)
def test_batch_size_and_threads_change_no_byte(
    tiny_bert: Path,
    tiny_lines: list[str],
    tiny_contents: list[bytes],
    fields: dict[str, Any],
) -> None:
    assert contents(tiny_bert, tiny_lines, **fields) == tiny_contents


def test_the_order_of_the_lines_changes_no_byte(
    tiny_bert: Path, tiny_lines: list[str], tiny_contents: list[bytes]
) -> None:
    order, lines = shuffled(tiny_lines)
    assert contents(tiny_bert, lines) == [tiny_contents[place] for place in order]


def test_the_other_lines_change_no_byte(
    tiny_bert: Path, tiny_lines: list[str], tiny_contents: list[bytes]
) -> None:
    extractor = FeatureExtractor(options_for(tiny_bert, layers="all,embeddings"))
    for line, content in zip(tiny_lines, tiny_contents, strict=True):
        (alone,) = extractor.extract([line])
        assert content_of(alone) == content
    rng = random.Random(0)
    for place in (0, 4, 20):
        # Beside distinct lines: what says the same is computed once.
        words = tiny_lines[place].split()
        others = [" ".join(rng.sample(words, len(words))) for _ in range(350)]
        lines = [line for other in others for line in (tiny_lines[place], other)]
        copies = list(extractor.extract(lines))[::2]
        assert {content_of(copy) for copy in copies} == {tiny_contents[place]}


def test_the_layers_that_are_asked_for_change_no_bit(
    tiny_bert: Path, tiny_lines: list[str]
) -> None:
    """A layer is the same whether or not others are computed above it."""
    every = FeatureExtractor(options_for(tiny_bert, layers="all")).extract(tiny_lines)
    second = FeatureExtractor(options_for(tiny_bert, layers="1")).extract(tiny_lines)
    for record, record_of_one in zip(every, second, strict=True):
        np.testing.assert_array_equal(record.layers[1], record_of_one.layers[0])


def test_a_longer_max_seq_length_changes_no_byte_of_a_short_line(
    tiny_bert: Path, tiny_lines: list[str]
) -> None:
    short = [line for line in tiny_lines if len(line) < 20]
    assert len(short) > 20
    assert contents(tiny_bert, short) == contents(tiny_bert, short, max_seq_length=64)


def test_real_weights_and_real_lines(minilm_tf1: Path) -> None:
    english = [line.strip() for line in real_lines()]
    pairs = [f"{a} ||| {b}" for a, b in itertools.pairwise(english)]
    lines = english[:100] + pairs[:30] + [" ".join(english[i:]) for i in (20, 80)]
    fields: dict[str, Any] = {"layers": "-1,0", "max_seq_length": 128}
    expected = contents(minilm_tf1, lines, **fields)
    order, others = shuffled(lines)
    found = contents(minilm_tf1, others, batch_size=2, num_threads=3, **fields)
    assert found == [expected[place] for place in order]


# ------------------------------------------------------------ the rule behind it all


def vectors(
    extractor: FeatureExtractor, lines: Sequence[str]
) -> list[tuple[bytes, ...]]:
    """Each line's layers, bit for bit."""
    return [
        tuple(layer.tobytes() for layer in record.layers)
        for record in extractor.extract(lines)
    ]


def vectors_in_few(
    extractor: FeatureExtractor, lines: Sequence[str]
) -> list[tuple[bytes, ...]]:
    """The same, nine lines at a time."""
    starts = range(0, len(lines), 9)
    return [own for i in starts for own in vectors(extractor, lines[i : i + 9])]


def _random_line(rng: random.Random, num_tokens: int) -> str:
    return " ".join(f"w{rng.randrange(196)}" for _ in range(num_tokens - 2))


def check_rows(model_dir: Path, lengths: Iterable[int], max_seq_length: int) -> None:
    """Lines of one length get the same bits in batches of every number of lines."""
    extractor = FeatureExtractor(
        options_for(model_dir, layers="0", max_seq_length=max_seq_length)
    )
    rng = random.Random(0)
    for length in lengths:
        lines = [_random_line(rng, length) for _ in range(9)]
        expected = vectors(extractor, lines)
        for num_lines in (1, 2, 3, 5, 8):
            assert vectors(extractor, lines[:num_lines]) == expected[:num_lines], length
            assert vectors(extractor, lines[-num_lines:]) == expected[-num_lines:]
        # Others, as lines that say the same are computed once.
        many = lines + [_random_line(rng, length) for _ in range(512 // length)]
        assert vectors(extractor, many) == vectors_in_few(extractor, many)


SIZES = {128: 2, 256: 4, 512: 8, 768: 12}  # hidden_size: num_attention_heads


@pytest.mark.parametrize(("hidden_size", "num_heads"), [(128, 2), (768, 12)])
def test_published_sizes(tmp_path: Path, hidden_size: int, num_heads: int) -> None:
    model_dir = one_layer_model(tmp_path, hidden_size, num_heads)
    check_rows(model_dir, (2, 3, 4, 5, 7, 8, 16, 17, 31, 51, 101), 128)


def test_large_products_of_few_rows_sum_in_another_order(tmp_path: Path) -> None:
    """With a hidden_size of 1024 up to 100 rows do; no batch has so few."""
    model_dir = one_layer_model(tmp_path, 1024, 16)
    check_rows(model_dir, (2, 3, 7, 9, 13, 25, 33, 50, 51, 99, 101), 128)


def test_full_batches_have_the_bits_of_small_ones(tmp_path: Path) -> None:
    model_dir = one_layer_model(tmp_path, 128, 2)
    extractor = FeatureExtractor(
        options_for(model_dir, layers="0", max_seq_length=128, num_threads=1)
    )
    rng = random.Random(0)
    # A stretch fills batches of each length.
    lines = [_random_line(rng, num) for _ in range(600) for num in (7, 13, 22)]
    assert vectors(extractor, lines) == vectors_in_few(extractor, lines)


@pytest.mark.parametrize(
    ("hidden_size", "fields"),
    [
        (768, {"layers": "0,embeddings"}),
        (768, {"unit": "sentence", "sentence_pooling": "pooler"}),
        (1024, {"layers": "0"}),
        pytest.param(
            768,
            {"layers": "0", "precision": "bfloat16"},
            marks=pytest.mark.skipif(
                not has_bfloat16(), reason="this CPU has no bfloat16"
            ),
        ),
    ],
    ids=["layers", "pooler", "wide", "bfloat16"],
)
def test_lines_of_other_lengths_in_the_same_batch_change_no_bit(
    tmp_path: Path, hidden_size: int, fields: dict[str, Any]
) -> None:
    """Lines of any lengths share their products: see `compute_packed`."""
    model_dir = one_layer_model(tmp_path, hidden_size, hidden_size // 64)
    extractor = FeatureExtractor(
        options_for(model_dir, max_seq_length=128, num_threads=1, **fields)
    )
    rng = random.Random(0)
    lines = [
        " ".join(f"w{rng.randrange(196)}" for _ in range(rng.randrange(60)))
        for _ in range(40)
    ]
    assert len({len(line.split()) for line in lines}) > 16
    together = vectors(extractor, lines)
    alone = [vector for line in lines for vector in vectors(extractor, [line])]
    assert together == alone


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hidden_size", "num_heads"), [*SIZES.items(), (384, 12), (1024, 16), (1280, 20)]
)
def test_every_length_of_every_size(
    tmp_path: Path, hidden_size: int, num_heads: int
) -> None:
    model_dir = one_layer_model(tmp_path, hidden_size, num_heads)
    check_rows(model_dir, [*range(2, 41), 50, 51, 63, 64, 65, 99, 100, 101, 160], 160)


def one_layer_model(directory: Path, hidden_size: int, num_heads: int) -> Path:
    return write_random_model(
        directory,
        hidden_size=hidden_size,
        num_attention_heads=num_heads,
        intermediate_size=4 * hidden_size,
        num_hidden_layers=1,
    )
