"""Records are json.dumps's bytes, whichever way they are written."""

import dataclasses
import gzip
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import bert_extract.output.json_lines
from bert_extract.errors import InputError, NotFiniteError
from bert_extract.output.json_lines import JsonFormatter, to_record
from bert_extract.output.reading import read_features
from bert_extract.output.record import Record, RecordPart
from support.nasty_records import NASTY_TOKENS, annotated, make_record, parts_of

Float32 = NDArray[np.float32]

KERNEL = bert_extract.output.json_lines._KERNEL
needs_kernel = pytest.mark.skipif(KERNEL is None, reason="the C kernel was not built")
needs_avx2 = pytest.mark.skipif(
    KERNEL is None or KERNEL.bert_extract_json_form(1) != 1,
    reason="the CPU or the compiler has no AVX2",
)
each_kernel = pytest.mark.parametrize(
    "kernel",
    [
        pytest.param("compiled", marks=needs_kernel),
        pytest.param("avx2", marks=needs_avx2),
        pytest.param("scalar", marks=needs_kernel),
        "python",
    ],
)


def original_line(record: Record) -> str:
    """The record as upstream's main() writes it: a loop over round(float(x), 6)."""
    features = []
    for position, token in enumerate(record.tokens):
        layers = []
        for index, layer in zip(record.indexes, record.layers, strict=True):
            values = [round(float(x), 6) for x in layer[position].flat]
            layers.append({"index": index, "values": values})
        entry: dict[str, Any] = {"token": token}
        if record.texts is not None:
            entry["text"] = record.texts[position]
        if record.offsets is not None:
            entry["offset"] = record.offsets[position]
        features.append({**entry, "layers": layers})
    return json.dumps({"linex_index": record.linex_index, "features": features}) + "\n"


def one_layer(values: Float32, hidden_size: int) -> Record:
    """All the values as rows of hidden_size, the last row filled up with 0.5."""
    rows = -(-values.size // hidden_size)
    filled = np.full(rows * hidden_size, 0.5, dtype=np.float32)
    filled[: values.size] = values
    return Record(7, ("a",) * rows, (-1,), (filled.reshape(rows, hidden_size),))


def check(values: Float32, kernel: str, hidden_size: int = 768) -> None:
    record = one_layer(values, hidden_size)
    line = bytes(JsonFormatter((-1,), kernel=kernel).format(RecordPart(record))).decode(
        "ascii"
    )
    if line != original_line(record):  # a diff of megabytes helps nobody
        found = line.replace("]", ",").split(", ")
        expected = original_line(record).replace("]", ",").split(", ")
        pairs = zip(found, expected, strict=False)
        pytest.fail(f"{[pair for pair in pairs if pair[0] != pair[1]][:5]}")


def with_neighbours(values: list[float]) -> Float32:
    """The values, their float32 neighbours on both sides, and all of these negated."""
    middle = np.array(values, dtype=np.float32)
    with np.errstate(over="ignore"):
        around = np.concatenate(
            [
                np.nextafter(middle, np.float32(-np.inf)),
                middle,
                np.nextafter(middle, np.float32(np.inf)),
            ]
        )
    around = around[np.isfinite(around)]
    return np.concatenate([around, -around])


# --- repeated lines -------------------------------------------------------------


@each_kernel
def test_what_is_repeated_has_the_bytes_that_it_has_alone(kernel: str) -> None:
    names = (-1, "embeddings")
    one, other = make_record(7, 5), make_record(8, 5)
    tokens = ("other", *one.tokens[1:])
    records = [
        one,
        replace(one, linex_index=123),
        replace(one, linex_index=8, tokens=tokens),  # the arrays are the same
        replace(other, tokens=tokens),
        replace(one, layers=(one.layers[0], other.layers[1])),
        annotated(one),
        replace(annotated(one), linex_index=9),
        one,
        replace(one, linex_index=0),
        make_record(4, 0),
        make_record(5, 0),
        # Alike but for one thing.
        one,
        replace(one, layers=(one.layers[0], other.layers[1])),
        one,
        annotated(one),
        one,
        replace(one, tokens=tokens),
    ]
    parts = [RecordPart(record) for record in records]
    parts += [
        RecordPart(one),
        RecordPart(one, is_last=False),
        RecordPart(one),
        RecordPart(one, is_first=False, position=5),
        RecordPart(one),
        RecordPart(one, is_last=False),
        RecordPart(one, is_first=False, position=5),
        RecordPart(replace(one, linex_index=99)),
    ]
    formatter = JsonFormatter(names, kernel=kernel)
    alone = [bytes(formatter.format(part)) for part in parts]
    assert [bytes(line) for line in formatter.format_all(parts)] == alone
    assert formatter.format_all([]) == []
    # The same, group by group.
    for size in (1, 2, 3):
        groups = [parts[i : i + size] for i in range(0, len(parts), size)]
        lines = [line for group in groups for line in formatter.format_all(group)]
        assert [bytes(line) for line in lines] == alone


def test_what_is_repeated_is_formatted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    formatter = JsonFormatter((-1, "embeddings"))
    formatted: list[int] = []
    format_one = formatter.format

    def count(part: RecordPart) -> memoryview:
        formatted.append(part.record.linex_index)
        return format_one(part)

    monkeypatch.setattr(formatter, "format", count)
    record = make_record(3, 2)
    same = [RecordPart(replace(record, linex_index=number)) for number in range(5)]
    formatter.format_all([*same, RecordPart(make_record(6, 2)), *same])
    assert formatted == [0, 6, 0]
    formatter.format_all(same)
    formatter.format_all(same)
    assert formatted == [0, 6, 0]


# --- values ---------------------------------------------------------------------


@each_kernel
def test_a_line_letter_by_letter(kernel: str) -> None:
    record = Record(
        3,
        ("[CLS]", 'a"\\'),
        (-1, "embeddings"),
        (
            np.array([[0.5, -1.0, 1e-6], [12.25, -0.0, 9.9e-5]], dtype=np.float32),
            np.array([[1e-4, 3e9, 2e-7], [0, -2e-7, 1234.56789]], dtype=np.float32),
        ),
    )
    line = JsonFormatter((-1, "embeddings"), kernel=kernel).format(RecordPart(record))
    assert bytes(line) == (
        b'{"linex_index": 3, "features": ['
        b'{"token": "[CLS]", "layers": ['
        b'{"index": -1, "values": [0.5, -1.0, 1e-06]}, '
        b'{"index": "embeddings", "values": [0.0001, 3000000000.0, 0.0]}]}, '
        b'{"token": "a\\"\\\\", "layers": ['
        b'{"index": -1, "values": [12.25, -0.0, 9.9e-05]}, '
        b'{"index": "embeddings", "values": [0.0, -0.0, 1234.567871]}]}]}\n'
    )


@each_kernel
def test_every_exponent(kernel: str) -> None:
    rng = np.random.default_rng(0)
    exponents = np.repeat(np.arange(255, dtype=np.uint32), 200)
    mantissas = rng.integers(0, 1 << 23, exponents.size, dtype=np.uint32)
    signs = rng.integers(0, 2, exponents.size, dtype=np.uint32)
    values = (signs << 31 | exponents << 23 | mantissas).view(np.float32)
    check(values, kernel)
    # below 1e9, where no record takes the slow way as a whole
    check(values[np.abs(values) < 1e9], kernel)


@each_kernel
def test_two_million_usual_values(kernel: str) -> None:
    rng = np.random.default_rng(1)
    check(rng.normal(0, 0.6, 2_000_000).astype(np.float32), kernel)


@each_kernel
def test_ties_at_the_sixth_decimal(kernel: str) -> None:
    # (2k + 1) / 2 * 1e-6 is a float32 only if (2k + 1) is a multiple of 5^6 = 15625:
    # the ties are the odd multiples of 1/128.
    ties = (2 * np.arange(300_000, dtype=np.float64) + 1) / 128
    held = ties.astype(np.float32)
    held = held[held == ties]
    assert held.size == 300_000
    check(np.concatenate([held, -held]), kernel)
    check(with_neighbours(held[:20_000].tolist()), kernel)


@each_kernel
def test_zeros_and_denormals(kernel: str) -> None:
    bits = np.array([0, 1, 2, 3, 1 << 22, (1 << 23) - 1, 1 << 23], dtype=np.uint32)
    values = bits.view(np.float32)
    check(np.concatenate([values, -values]), kernel, hidden_size=16)


@each_kernel
def test_where_the_exponent_form_begins_and_ends(kernel: str) -> None:
    dense = np.geomspace(1e-7, 2e-4, 200_000, dtype=np.float32)
    check(np.concatenate([dense, -dense]), kernel)
    halves = [n / 2e6 for n in range(500)]
    check(with_neighbours(halves), kernel)


@each_kernel
def test_powers_of_ten_and_two_and_their_neighbours(kernel: str) -> None:
    powers = [10.0**n for n in range(-12, 39)] + [2.0**n for n in range(-149, 128)]
    check(with_neighbours(powers), kernel)
    below = [10.0**n for n in range(-12, 9)] + [2.0**n for n in range(-149, 29)]
    check(with_neighbours(below), kernel)


@each_kernel
def test_large_values(kernel: str) -> None:
    rng = np.random.default_rng(2)
    for top in (20.0, 1e3, 1e6, 9.99e8):
        check(rng.uniform(-top, top, 20_000).astype(np.float32), kernel)
    largest = float(np.finfo(np.float32).max)
    check(with_neighbours([1e9, 1e15, 1e16, 1e17, largest]), kernel)
    check(np.array([999999936.0, -999999936.0] * 8, dtype=np.float32), kernel, 16)


@pytest.mark.parametrize(
    "kernel",
    [
        pytest.param("compiled", marks=needs_kernel),
        pytest.param("avx2", marks=needs_avx2),
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_vectors_and_scalars_agree_on_every_usual_number(
    kernel: str, sign: int
) -> None:
    vectors = JsonFormatter((-1,), kernel=kernel)
    scalars = JsonFormatter((-1,), kernel="scalar")
    for first in range(0, 10_000_000, 1_000_000):
        n = np.arange(first, first + 1_000_000)
        record = one_layer((sign * n / 1e6).astype(np.float32), 1000)
        assert vectors.format(RecordPart(record)) == scalars.format(RecordPart(record))


@each_kernel
@pytest.mark.parametrize("value", [10.0, 2147.5, 4294.967, 9.9e-5, 0.0, 1e30])
def test_one_unusual_value_at_each_place(kernel: str, value: float) -> None:
    rows = np.full((16, 16), -0.5, dtype=np.float32)
    np.fill_diagonal(rows, value)
    check(rows.ravel(), kernel, 16)
    check(-rows.ravel(), kernel, 16)


@pytest.mark.slow
@each_kernel
def test_every_usual_number(kernel: str) -> None:
    for first in range(0, 10_000_000, 1_000_000):
        n = np.arange(first, first + 1_000_000)
        check((n / 1e6).astype(np.float32), kernel, 1000)


@each_kernel
@pytest.mark.parametrize("hidden_size", [*range(1, 41), 128, 384, 768])
def test_every_hidden_size(kernel: str, hidden_size: int) -> None:
    rng = np.random.default_rng(hidden_size)
    values = rng.normal(0, 0.6, 5 * hidden_size).astype(np.float32)
    check(values, kernel, hidden_size)
    values[:: max(1, hidden_size - 1)] *= 30  # an outlier or two in each row
    check(values, kernel, hidden_size)


@each_kernel
@pytest.mark.parametrize("value", [-99999992.0, -999999936.0, -123456.789, -9.9e-5])
def test_the_longest_texts_stay_within_the_bound(kernel: str, value: float) -> None:
    for hidden_size in (1, 7, 8, 64, 1024):
        check(np.full(hidden_size * 3, value, dtype=np.float32), kernel, hidden_size)


@each_kernel
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("column", [0, 3, 7, 8, 15, 16, 18])
def test_a_value_that_is_not_finite_is_named(
    kernel: str, value: float, column: int
) -> None:
    layers = [np.full((3, 19), 0.25, dtype=np.float32) for _ in range(2)]
    layers[1][2, column] = value
    layers[0][2, 0] = 1e30  # finite: not what is looked for
    record = Record(41, ("[CLS]", "what", "[SEP]"), (-1, -2), tuple(layers))
    with pytest.raises(
        NotFiniteError, match=r"linex_index 41, token 2 .*SEP.*layer -2"
    ):
        JsonFormatter((-1, -2), kernel=kernel).format(RecordPart(record))


# --- structure ------------------------------------------------------------------


@each_kernel
def test_nasty_tokens(kernel: str) -> None:
    values = np.zeros((len(NASTY_TOKENS), 3), dtype=np.float32)
    record = Record(0, NASTY_TOKENS, (0,), (values,))
    formatter = JsonFormatter((0,), kernel=kernel)
    for _ in range(2):  # the second time from the cache
        line = bytes(formatter.format(RecordPart(record))).decode("ascii")
        assert line == original_line(record)
    assert to_record(json.loads(line)).tokens == NASTY_TOKENS


@each_kernel
@pytest.mark.parametrize("num_tokens", [0, 1, 2])
@pytest.mark.parametrize("indexes", [(), (-1,), (0, "embeddings", -12)])
@pytest.mark.parametrize("hidden_size", [0, 1, 9])
def test_few_of_everything(
    kernel: str, num_tokens: int, indexes: tuple[int | str, ...], hidden_size: int
) -> None:
    layer = np.full((num_tokens, hidden_size), -0.125, dtype=np.float32)
    record = Record(12, ("a", "b")[:num_tokens], indexes, (layer,) * len(indexes))
    line = bytes(
        JsonFormatter(indexes, kernel=kernel).format(RecordPart(record))
    ).decode("ascii")
    assert line == original_line(record)


@each_kernel
@pytest.mark.parametrize("kind", ["plain", "text", "offset", "both"])
def test_texts_and_offsets(kernel: str, kind: str) -> None:
    values = np.arange(len(NASTY_TOKENS) * 3, dtype=np.float32).reshape(-1, 3)
    record = annotated(Record(5, NASTY_TOKENS, (0, -1), (values, values)))
    if kind in ("plain", "offset"):
        record = dataclasses.replace(record, texts=None)
    if kind in ("plain", "text"):
        record = dataclasses.replace(record, offsets=None)
    formatter = JsonFormatter((0, -1), kernel=kernel)
    line = bytes(formatter.format(RecordPart(record))).decode("ascii")
    assert line == original_line(record)
    found = to_record(json.loads(line))
    assert (found.texts, found.offsets) == (record.texts, record.offsets)
    assert found.tokens == NASTY_TOKENS


@each_kernel
@pytest.mark.parametrize("is_annotated", [False, True])
@pytest.mark.parametrize(
    "cuts", [[], [1], [0], [0, 0, 3], [7], [7, 7], [1, 2, 3, 4, 5, 6], [3, 3, 5]]
)
@pytest.mark.parametrize("num_tokens", [7, 0])
def test_parts_are_the_bytes_of_the_whole(
    kernel: str, is_annotated: bool, cuts: list[int], num_tokens: int
) -> None:
    rng = np.random.default_rng(4)
    layers = tuple(rng.normal(size=(num_tokens, 9)).astype(np.float32) for _ in "ab")
    record = Record(3, NASTY_TOKENS[:num_tokens], (-1, "embeddings"), layers)
    if is_annotated:
        record = annotated(record)
    formatter = JsonFormatter(record.indexes, kernel=kernel)
    parts = parts_of(record, cuts)
    line = b"".join(bytes(formatter.format(part)) for part in parts)
    assert line.decode("ascii") == original_line(record)
    # Layers that were not asked for, as in --layers of no use: entries all the same.
    bare = dataclasses.replace(record, indexes=(), layers=())
    formatter = JsonFormatter((), kernel=kernel)
    parts = parts_of(bare, cuts)
    line = b"".join(bytes(formatter.format(part)) for part in parts)
    assert line.decode("ascii") == original_line(bare)


def test_a_part_names_the_place_in_its_line() -> None:
    layer = np.full((4, 3), 0.25, dtype=np.float32)
    layer[3, 1] = math.nan
    record = Record(41, ("a", "b", "c", "d"), (-1,), (layer,))
    with pytest.raises(NotFiniteError, match=r"linex_index 41, token 3 \('d'\)"):
        JsonFormatter((-1,)).format(parts_of(record, [2])[1])


@each_kernel
def test_layers_that_are_views(kernel: str) -> None:
    rng = np.random.default_rng(5)
    batch = rng.normal(size=(2, 6, 20)).astype(np.float32)
    record = Record(1, ("a", "b", "c"), (-1, 0), (batch[1, :3], batch[0, ::2]))
    line = bytes(
        JsonFormatter((-1, 0), kernel=kernel).format(RecordPart(record))
    ).decode("ascii")
    assert line == original_line(record)


@each_kernel
@pytest.mark.parametrize(
    "layers",
    [
        (np.zeros((2, 4)),),
        (np.zeros((2, 4), np.float16),),
        (np.zeros((3, 4), np.float32),),
        (np.zeros(8, np.float32),),
        (np.zeros((2, 4), np.float32), np.zeros((2, 5), np.float32)),
        (),
    ],
)
def test_what_c_must_never_see_is_refused(
    kernel: str, layers: tuple[Float32, ...]
) -> None:
    indexes = tuple(range(len(layers)))
    with pytest.raises(ValueError, match="record 9 has"):
        JsonFormatter(indexes or (0,), kernel=kernel).format(
            RecordPart(Record(9, ("a", "b"), indexes, layers))
        )


@each_kernel
def test_four_threads_write_the_same_bytes(kernel: str) -> None:
    rng = np.random.default_rng(6)
    formatter = JsonFormatter((-1, -2), kernel=kernel)
    records = [
        Record(
            number,
            tuple(f"t{number}{position}" for position in range(size)),
            (-1, -2),
            (
                rng.normal(size=(size, 64)).astype(np.float32),
                rng.normal(size=(size, 64)).astype(np.float32),
            ),
        )
        # The last ones have more values than are written under Python's lock.
        for number, size in enumerate([*rng.integers(1, 40, 30).tolist(), 200, 300])
    ]
    expected = [original_line(record).encode("ascii") for record in records]
    found: list[list[bytes]] = [[] for _ in range(4)]

    def work(lines: list[bytes]) -> None:
        held = [formatter.format(RecordPart(record)) for record in records]
        lines.extend(bytes(line) for line in held)

    threads = [threading.Thread(target=work, args=(lines,)) for lines in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4


@each_kernel
def test_a_line_owns_its_memory(kernel: str) -> None:
    formatter = JsonFormatter((-1,), kernel=kernel)
    record = one_layer(np.arange(48, dtype=np.float32), 16)
    line = formatter.format(RecordPart(record))
    record.layers[0][:] = 9
    formatter.format(RecordPart(record))
    assert b"[0.0, 1.0, 2.0, " in bytes(line)
    assert len(line) == len(bytes(line))


def test_an_unknown_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="expected compiled, avx2, scalar or python"):
        JsonFormatter((-1,), kernel="fortran")


@needs_kernel
@pytest.mark.skipif(
    platform.machine() != "x86_64" or not Path("/proc/cpuinfo").exists(),
    reason="asks Linux on x86-64 what the CPU has",
)
def test_the_avx2_form_is_there_where_the_cpu_has_avx2() -> None:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = next(line for line in lines if line.startswith("flags")).split()
    if {"avx2", "bmi1"} <= set(flags):
        assert JsonFormatter((-1,), kernel="avx2").kernel == "avx2"
    else:
        with pytest.raises(ValueError, match="no AVX2"):
            JsonFormatter((-1,), kernel="avx2")


def test_without_the_compiled_kernels_the_package_works_all_the_same(
    tmp_path: Path,
) -> None:
    package = Path(bert_extract.__file__).parent
    shutil.copytree(
        package,
        tmp_path / "bert_extract",
        ignore=shutil.ignore_patterns("_*_kernel*", "__pycache__"),
    )
    code = (
        "import numpy as np, sys\n"
        "from bert_extract.output.json_parser import JsonParser\n"
        "from bert_extract.output.json_lines import JsonFormatter\n"
        "from bert_extract.output.record import Record, RecordPart\n"
        "formatter = JsonFormatter((0,))\n"
        "layer = np.array([[1e-6, 2.5]], dtype=np.float32)\n"
        "record = Record(0, ('a',), (0,), (layer,))\n"
        "line = formatter.format(RecordPart(record))\n"
        "parser = JsonParser()\n"
        "assert parser.kernel == 'python' and parser.parse(bytes(line)) == record\n"
        "assert 'tensorflow' not in sys.modules\n"
        "print(formatter.kernel, bytes(line).decode(), end='')\n"
    )
    # -S leaves out the path of an editable install, which would win otherwise.
    numpy_path = str(Path(np.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{numpy_path}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == (
        'python {"linex_index": 0, "features": [{"token": "a", "layers": '
        '[{"index": 0, "values": [1e-06, 2.5]}]}]}\n'
    )


# --- reading back ---------------------------------------------------------------


def some_records() -> list[Record]:
    rng = np.random.default_rng(8)
    return [
        Record(
            number,
            tuple(f"{number}😀{position}" for position in range(number + 1)),
            (-1, "embeddings"),
            tuple(
                rng.normal(size=(number + 1, 12)).astype(np.float32) for _ in range(2)
            ),
        )
        for number in range(4)
    ]


@each_kernel
@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
def test_records_read_back(tmp_path: Path, kernel: str, name: str) -> None:
    formatter = JsonFormatter((-1, "embeddings"), kernel=kernel)
    path = tmp_path / name
    with gzip.open(path, "wb") if name.endswith(".gz") else open(path, "wb") as file:
        for record in some_records():
            file.write(formatter.format(RecordPart(record)))
    found = list(read_features(str(path)))
    assert len(found) == 4
    for record, expected in zip(found, some_records(), strict=True):
        assert record.linex_index == expected.linex_index
        assert record.tokens == expected.tokens
        assert record.indexes == expected.indexes
        for layer, expected_layer in zip(record.layers, expected.layers, strict=True):
            assert layer.dtype == np.float32
            assert layer.shape == expected_layer.shape
            np.testing.assert_allclose(layer, expected_layer, rtol=0, atol=1e-6)


def test_a_record_without_tokens_reads_back() -> None:
    record = to_record({"linex_index": 5, "features": []})
    assert record == Record(5, (), (), ())


@pytest.mark.parametrize(
    "line",
    [
        "",
        "[]",
        "7",
        "{}",
        '{"linex_index": 1}',
        '{"linex_index": 1, "features": [{"token": "a"}]}',
        '{"linex_index": 1, "features": [{"token": "a", "layers": [{"index": 0}]}]}',
        '{"linex_index": 1, "features": [{"token": "a", "layers": '
        '[{"index": 0, "values": 3}]}]}',
        '{"linex_index": 1, "features": [{"token": "a", "layers": '
        '[{"index": 0, "values": ["x"]}]}]}',
        '{"linex_index": 1, "features": ['
        '{"token": "a", "layers": [{"index": 0, "values": [1.0]}]}, '
        '{"token": "b", "layers": [{"index": 0, "values": [1.0, 2.0]}]}]}',
        '{"linex_index": 1, "features": ['
        '{"token": "a", "layers": [{"index": 0, "values": [1.0]}]}, '
        '{"token": "b", "layers": [{"index": 1, "values": [1.0]}]}]}',
        '{"linex_index": 1, "features": [{"tok',
        '{"linex_index": 1, "features": [{"token": "a", "text": "a", "layers": []}, '
        '{"token": "b", "layers": []}]}',
        '{"linex_index": 1, "features": [{"token": "a", "offset": [1], "layers": []}]}',
        '{"linex_index": 1, "features": [{"token": "a", "offset": 1, "layers": []}]}',
    ],
)
def test_a_line_that_is_no_record(tmp_path: Path, line: str) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text('{"linex_index": 0, "features": []}\n' + line + "\n")
    with pytest.raises(InputError, match=r"out\.jsonl: .*line 2") as raised:
        list(read_features(str(path)))
    assert "expected" in str(raised.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.jsonl: cannot be read"):
        next(read_features(str(tmp_path / "none.jsonl")))
    whole = gzip.compress(b'{"linex_index": 0, "features": []}\n' * 1000)
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(whole[:-12])
    with pytest.raises(InputError, match=r"cut\.jsonl\.gz: cannot be read after line"):
        list(read_features(str(cut)))
    plain = tmp_path / "plain.gz"
    plain.write_bytes(b"{}\n")
    with pytest.raises(InputError, match=r"plain\.gz: cannot be read after line 0"):
        list(read_features(str(plain)))
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(b'{"linex_index": 0, "features": []}\n\xe9\n')
    with pytest.raises(InputError, match="line 2"):
        list(read_features(str(latin)))


def test_dropping_the_reader_closes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text('{"linex_index": 0, "features": []}\n' * 3)
    reader = read_features(str(path))
    assert next(reader).linex_index == 0
    del reader  # an open file would end in a ResourceWarning, which fails the test
