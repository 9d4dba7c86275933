"""Of a file only those layers and lines are read that are asked for."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bert_extract.errors import ArgumentTypeError, InputError
from bert_extract.formats import format_of
from bert_extract.output import json_parser
from bert_extract.output.reading import load_features, read_features
from bert_extract.output.record import Record, RecordSchema
from bert_extract.output.writers import OutputSpec, encoder_for, open_writer
from support.nasty_records import make_record, with_lines

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".h5", ".parquet")
INDEXES = (-1, "embeddings", 0, -1)
FIRST_LINE = 5  # it is a shard's output


def some_records() -> list[Record]:
    """Twenty lines, some without entries; enough rows for several row groups."""
    sizes = [3, 0, 40, 0, 0, 1, 70, 2, 0, 25, 9, 100, 0, 4, 4, 4, 60, 5, 0, 0]
    return [
        make_record(FIRST_LINE + number, size, indexes=INDEXES, is_annotated=True)
        for number, size in enumerate(sizes)
    ]


def without_surrogates(record: Record) -> Record:
    tokens = tuple(token.replace("\ud800", "?") for token in record.tokens)
    return dataclasses.replace(record, tokens=tokens)


def write(path: Path, records: list[Record]) -> Path:
    kind = OutputSpec(
        format_of(str(path)), RecordSchema(INDEXES, 12, True, True), "float32"
    )
    encode, _ = encoder_for(kind)
    writer = open_writer(str(path), kind, {}, resume=False)
    writer.write(encode(with_lines(records)), len(records), is_whole=True)
    writer.finish()
    return path


@pytest.fixture(scope="module", params=[*SUFFIXES, "spaced.jsonl"])
def path(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A file of each format, and JSON that only Python's parser reads."""
    made = tmp_path_factory.mktemp("selection") / f"out{request.param}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bert_extract.output.parquet._ROW_GROUP_BYTES", 1)
        write(made, [*map(without_surrogates, some_records())])
    if request.param == "spaced.jsonl":
        lines = made.read_text().splitlines()
        made.write_text(
            "".join(
                json.dumps(json.loads(line), indent=None, separators=(",", ":")) + "\n"
                for line in lines
            )
        )
    return made


def chosen(record: Record, layers: list[int | str]) -> Record:
    if not record.indexes:
        return record
    return dataclasses.replace(
        record,
        indexes=tuple(layers),
        layers=tuple(record.layers[record.indexes.index(layer)] for layer in layers),
    )


@pytest.mark.parametrize(
    "layers", [[-1], ["embeddings"], [0, -1], [-1, -1, 0], [*INDEXES], []]
)
def test_layers_come_as_they_are_asked_for(path: Path, layers: list[int | str]) -> None:
    found = load_features(path, layers=layers)
    assert found == [chosen(record, layers) for record in load_features(path)]
    assert all(len(record.layers) == len(layers) for record in found if record.tokens)


@pytest.mark.parametrize(
    "lines",
    [
        range(0),
        range(7, 7),
        range(6),
        range(6, 7),
        range(7, 12),
        range(10, 1000),
        range(0, 100, 3),
        range(20, 4, -2),
        range(23, 25),
        range(25, 40),
        range(-3, 8),
        range(2**62),
        range(-(2**80), 2**80),
    ],
)
def test_lines_are_found_by_their_index(path: Path, lines: range) -> None:
    everything = load_features(path)
    assert len(everything) == 20
    expected = [record for record in everything if record.linex_index in lines]
    assert load_features(path, lines=lines) == expected
    both = load_features(path, lines=lines, layers=[0])
    assert both == [chosen(record, [0]) for record in expected]


def test_a_single_layer_and_a_text_will_do(path: Path) -> None:
    expected = load_features(path, layers=[0, "embeddings"])
    assert load_features(path, layers=" 0 , embeddings") == expected
    assert load_features(path, layers=-1) == load_features(path, layers=[-1])
    assert load_features(path, layers=0) == load_features(path, layers="0")


def test_several_files_are_searched_one_after_the_other(path: Path) -> None:
    lines = range(7, 9)
    once = load_features(path, lines=lines)
    assert load_features([path, path], lines=lines) == once * 2
    assert len(once) == 2


def test_a_layer_that_is_not_there(path: Path) -> None:
    with pytest.raises(InputError, match="expected the layer 3, found the layers -1, "):
        load_features(path, layers=[-1, 3])
    with pytest.raises(InputError, match='expected the layer "x"') as raised:
        load_features(path, layers="x")
    assert str(raised.value).startswith(str(path))


@pytest.mark.parametrize("layers", [[1.5], [True], [None], [[-1]]])
def test_what_is_no_layer(path: Path, layers: Any) -> None:
    with pytest.raises(ArgumentTypeError, match=r"layers must be layers of the file"):
        read_features(path, layers=layers)


@pytest.mark.parametrize("lines", [5, [1, 2], slice(3), "1-2"])
def test_what_is_no_range(path: Path, lines: Any) -> None:
    with pytest.raises(ArgumentTypeError, match=r"lines must be a range"):
        read_features(path, lines=lines)


# ----------------------------------------------- what is not asked for is not read


def bytes_read(read: Callable[[], object]) -> int:
    """How much the process reads meanwhile, from files or their cache."""

    def so_far() -> int:
        with open("/proc/self/io") as file:
            return int(file.readline().split()[1])

    before = so_far()
    read()
    return so_far() - before


@pytest.fixture(scope="module", params=[".jsonl", ".h5", ".parquet"])
def large(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Several MB, of which a layer is a fourth and a line a fiftieth."""
    made = tmp_path_factory.mktemp("large") / f"out{request.param}"
    records = [
        dataclasses.replace(
            make_record(n, 100, indexes=(0, 1, 2, 3), size=128), tokens=("a",) * 100
        )
        for n in range(50)
    ]
    kind = OutputSpec(format_of(str(made)), RecordSchema((0, 1, 2, 3), 128), "float32")
    encode, _ = encoder_for(kind)
    writer = open_writer(str(made), kind, {}, resume=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bert_extract.output.parquet._ROW_GROUP_BYTES", 1 << 18)
        writer.write(encode(with_lines(records)), len(records), is_whole=True)
        writer.finish()
    return made


needs_proc = pytest.mark.skipif(
    not os.path.exists("/proc/self/io"), reason="only Linux counts what is read"
)


@needs_proc
def test_few_lines_take_little_reading(large: Path) -> None:
    load_features(large)  # imports what is needed
    size = large.stat().st_size
    assert bytes_read(lambda: load_features(large)) > size * 0.9
    found = bytes_read(lambda: load_features(large, lines=range(3, 5)))
    # JSON is read from its beginning, in blocks of a megabyte.
    assert found < size * 0.1 + (2 << 20)


@needs_proc
def test_a_layer_takes_little_reading_where_layers_stand_apart(large: Path) -> None:
    if large.suffix == ".jsonl":
        pytest.skip("its layers stand side by side in a line")
    load_features(large, layers=[2])
    found = bytes_read(lambda: load_features(large, layers=[2]))
    assert found < large.stat().st_size * 0.5


@pytest.mark.skipif(
    json_parser._load_kernel() is None, reason="the C kernel was not built"
)
def test_values_of_other_layers_are_not_looked_at(tmp_path: Path) -> None:
    path = write(tmp_path / "out.jsonl", some_records())
    text = path.read_text()
    # The first entry tells what the lines of a file are like.
    begin = text.rindex('"index": "embeddings", "values": [') + 34
    path.write_text(text[:begin] + "?" + text[begin + 1 :])
    with pytest.raises(InputError, match="line 18"):
        load_features(path)
    assert len(load_features(path, layers=[-1])) == 20


def test_lines_that_are_not_asked_for_are_not_looked_at(tmp_path: Path) -> None:
    path = write(tmp_path / "out.jsonl", some_records())
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0][:-9] + "\n", *lines[1:7], "no JSON\n"]))
    found = load_features(path, lines=range(6, 11))
    assert [record.linex_index for record in found] == [6, 7, 8, 9, 10]
    with pytest.raises(InputError, match="line 1"):
        load_features(path)
    with pytest.raises(InputError, match="line 8"):
        load_features(path, lines=range(6, 13))
