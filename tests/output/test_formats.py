"""Every format holds what was computed, and is read back without loss."""

import dataclasses
import importlib.util
import json
import os
import tracemalloc
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas
import pyarrow
import pyarrow.json
import pyarrow.parquet
import pytest

from bert_extract import InputError, NotFiniteError, Record, formats
from bert_extract.errors import OptionsError, OutputError
from bert_extract.formats import FORMATS, JSONL, PARQUET, Format, format_of
from bert_extract.options import Job
from bert_extract.output.limits import text_size
from bert_extract.output.reading import load_features, read_features
from bert_extract.output.record import RecordPart, RecordSchema
from bert_extract.output.writers import (
    OutputSpec,
    encoder_for,
    fingerprint_of,
    open_writer,
)
from support.nasty_records import NASTY_LINES, make_record, parts_of, with_lines

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".h5", ".parquet")
each_suffix = pytest.mark.parametrize("suffix", SUFFIXES)


def kind_of(
    path: Path, records: Sequence[Record], vector_dtype: str = "float32"
) -> OutputSpec:
    return OutputSpec(
        format_of(str(path)),
        RecordSchema(
            records[0].indexes if records else (-1, "embeddings"),
            records[0].layers[0].shape[1] if records else 12,
            has_texts=any(record.texts is not None for record in records),
            has_offsets=any(record.offsets is not None for record in records),
        ),
        vector_dtype,
    )


def write(
    path: Path,
    records: Sequence[Record],
    parts: Iterable[RecordPart] | None = None,
    vector_dtype: str = "float32",
) -> Path:
    """Writes records as a job does, in groups of up to three parts."""
    kind = kind_of(path, records, vector_dtype)
    encode, _ = encoder_for(kind)
    writer = open_writer(str(path), kind, {}, resume=False)
    group: list[RecordPart] = []
    num_records = 0
    for part in with_lines(records) if parts is None else parts:
        group.append(part)
        num_records += part.is_last
        if len(group) == 3:
            writer.write(encode(group), num_records, part.is_last)
            group, num_records = [], 0
    writer.write(encode(group), num_records, is_whole=True)
    writer.finish()
    assert sorted(os.listdir(path.parent)) == [path.name, f"{path.name}.run.json"]
    assert writer.num_bytes == path.stat().st_size
    return path


def nasty_records(is_annotated: bool = False) -> list[Record]:
    """Ten lines of 0 to 40 entries, as a shard would have them: from 7 on."""
    sizes = (0, 3, 22, 0, 1, 40, 2, 2, 17, 0)
    return [
        make_record(7 + number, size, is_annotated=is_annotated)
        for number, size in enumerate(sizes)
    ]


def check_equal(found: Record, expected: Record, atol: float = 0.0) -> None:
    assert found.linex_index == expected.linex_index
    assert found.tokens == expected.tokens
    assert found.texts == expected.texts
    assert found.offsets == expected.offsets
    for layer in found.layers:
        assert layer.dtype == np.float32
    if found.tokens:
        assert found.indexes == expected.indexes
        np.testing.assert_allclose(found.vectors, expected.vectors, rtol=0, atol=atol)


def without_surrogates(record: Record) -> Record:
    """Parquet's strings are UTF-8, as the lines are that words come from."""
    tokens = tuple(token.replace("\ud800", "?") for token in record.tokens)
    return dataclasses.replace(record, tokens=tokens)


# ------------------------------------------------------------------- round trips


@each_suffix
@pytest.mark.parametrize("is_annotated", [False, True])
def test_nasty_records_are_read_back(
    tmp_path: Path, suffix: str, is_annotated: bool
) -> None:
    records = nasty_records(is_annotated)
    if suffix == ".parquet":
        records = [*map(without_surrogates, records)]
    path = write(tmp_path / f"out{suffix}", records)
    atol = 5.1e-7 if "json" in suffix else 0.0
    found = load_features(path)
    assert len(found) == 10
    for record, expected in zip(found, records, strict=True):
        if not expected.tokens and suffix != ".h5":
            # Without entries nothing tells whether they would have had offsets.
            expected = dataclasses.replace(expected, texts=None, offsets=None)
        check_equal(record, expected, atol)


@pytest.mark.parametrize("suffix", [".h5", ".parquet"])
def test_float16_is_read_back_as_it_was_written(tmp_path: Path, suffix: str) -> None:
    records = [*map(without_surrogates, nasty_records())]
    path = write(tmp_path / f"out{suffix}", records, vector_dtype="float16")
    for found, expected in zip(read_features(path), records, strict=True):
        layers = [layer.astype(np.float16) for layer in expected.layers]
        check_equal(
            found,
            dataclasses.replace(
                expected, layers=tuple(layer.astype(np.float32) for layer in layers)
            ),
        )


@each_suffix
@pytest.mark.parametrize("cuts", [[1], [0, 0], [5, 5, 6], [*range(1, 40)]])
def test_parts_give_the_file_of_the_whole(
    tmp_path: Path, suffix: str, cuts: list[int]
) -> None:
    records = [*map(without_surrogates, nasty_records())]
    parts = [
        part
        for record, line in zip(records, NASTY_LINES, strict=True)
        for part in parts_of(record, cuts, line)
    ]
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = write(tmp_path / "whole" / f"out{suffix}", records)
    found = write(tmp_path / "parts" / f"out{suffix}", records, parts)
    if suffix in (".jsonl", ".parquet"):
        assert found.read_bytes() == whole.read_bytes()
    for record, expected in zip(
        read_features(found), load_features(whole), strict=True
    ):
        check_equal(record, expected)


@each_suffix
def test_no_records_are_a_valid_file(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"out{suffix}", [])
    assert load_features(path) == []
    if suffix == ".parquet":
        table = pyarrow.parquet.read_table(path)
        assert table.num_rows == 0
        assert table.schema.field("layer_-1").type.list_size == 12
    if suffix == ".h5":
        with h5py.File(path) as file:
            assert json.loads(file["sentence_to_index"][0]) == {}


def test_several_files_are_read_one_after_the_other(tmp_path: Path) -> None:
    records = [*map(without_surrogates, nasty_records())]
    paths = []
    for suffix in SUFFIXES:
        (tmp_path / suffix).mkdir()
        paths.append(write(tmp_path / suffix / f"out{suffix}", records))
    found = [record.linex_index for record in read_features(map(str, paths))]
    assert found == [record.linex_index for record in records] * len(paths)


@each_suffix
def test_reading_is_lazy(tmp_path: Path, suffix: str) -> None:
    records = [make_record(number, 50, size=256) for number in range(200)]
    records = [*map(without_surrogates, records)]
    path = write(tmp_path / f"out{suffix}", records)
    assert path.stat().st_size > 15e6
    tracemalloc.start()
    reader = read_features(path)
    assert next(reader).linex_index == 0
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()
    reader.close()  # type: ignore[attr-defined]


# -------------------------------------------------- read without this package


def test_hdf5_has_elmos_layout(tmp_path: Path) -> None:
    records = nasty_records(is_annotated=True)
    path = write(tmp_path / "out.hdf5", records)
    with h5py.File(path) as file:
        assert set(file) == {"sentence_to_index", *(str(7 + n) for n in range(10))}
        assert json.loads(file.attrs["layers"]) == [-1, "embeddings"]
        assert file["sentence_to_index"].shape == (1,)
        sentences = json.loads(file["sentence_to_index"][0])
        assert sentences == {
            "": "7",
            "the river bank": "8",
            "the river bank (Occurrence 2)": "9",
            " (Occurrence 2)": "10",
            "the river bank (Occurrence 2) (Occurrence 2)": "11",
            "the river bank (Occurrence 3)": "12",
            "a/b/c": "13",
            'a "b" \\ \x00 c': "14",
            "a ||| b": "15",
            "北京 😀 \u2028": "16",
        }
        assert list(sentences.values()) == [str(7 + n) for n in range(10)]
        # What is refused is counted before anyone knows which lines come again.
        num_bytes = len(file["sentence_to_index"][0])
        assert num_bytes < sum(map(text_size, NASTY_LINES)) < num_bytes + 10 * 40
        dataset = file[sentences["the river bank (Occurrence 2)"]]
        assert (dataset.shape, dataset.dtype) == ((2, 22, 12), np.float32)
        assert (dataset[()] == records[2].vectors).all()
        assert tuple(json.loads(dataset.attrs["tokens"])) == records[2].tokens
        assert set(dataset.attrs) == {"tokens", "texts", "offsets"}
        assert json.loads(dataset.attrs["offsets"])[:3] == [None, [1, 10], [2, 100]]


def test_parquet_is_read_by_pandas_and_pyarrow(tmp_path: Path) -> None:
    records = [*map(without_surrogates, nasty_records(is_annotated=True))]
    path = write(tmp_path / "out.parquet", records)
    table = pyarrow.parquet.read_table(path)
    vector = pyarrow.list_(
        pyarrow.field("element", pyarrow.float32(), nullable=False), 12
    )
    assert [(field.name, field.type) for field in table.schema] == [
        ("linex_index", pyarrow.int64()),
        ("position", pyarrow.int32()),
        ("token", pyarrow.string()),
        ("text", pyarrow.string()),
        ("offset_start", pyarrow.int32()),
        ("offset_end", pyarrow.int32()),
        ("layer_-1", vector),
        ("layer_embeddings", vector),
    ]
    assert table.num_rows == sum(len(record.tokens) for record in records)
    frame = pandas.read_parquet(path)
    line = frame[frame["linex_index"] == 12]
    assert tuple(line["token"]) == records[5].tokens
    assert line["position"].tolist() == [*range(40)]
    assert (np.stack([*line["layer_embeddings"]]) == records[5].layers[1]).all()
    assert line["text"].tolist() == ["a", "b"] * 20
    assert line["offset_end"].isna().tolist() == [n % 5 == 0 for n in range(40)]
    groups = pyarrow.parquet.ParquetFile(path).metadata
    assert groups.num_row_groups == 1
    assert groups.row_group(0).column(0).compression == "ZSTD"


def test_parquet_has_only_the_columns_that_are_needed(tmp_path: Path) -> None:
    records = [make_record(0, 3, indexes=(-1, 0, -1))]
    path = write(tmp_path / "out.parquet", records)
    names = ["linex_index", "position", "token", "layer_-1", "layer_0", "layer_-1_2"]
    assert pyarrow.parquet.read_table(path).schema.names == names
    (found,) = read_features(path)
    assert found.indexes == (-1, 0, -1)


def test_row_groups_have_a_fixed_number_of_rows(tmp_path: Path) -> None:
    records = [make_record(n, 21, indexes=(-1,), size=4096) for n in range(110)]
    records = [*map(without_surrogates, records)]
    path = write(tmp_path / "out.parquet", records)
    metadata = pyarrow.parquet.ParquetFile(path).metadata
    rows = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
    assert rows == [1024, 1024, 262]  # 16 MB each
    for found, expected in zip(read_features(path), records, strict=True):
        check_equal(found, expected)


@pytest.mark.parametrize("suffix", [".h5", ".parquet"])
def test_a_long_line_takes_little_memory(tmp_path: Path, suffix: str) -> None:
    num_parts, num_tokens = 600, 250
    values = np.arange(num_tokens * 64, dtype=np.float32).reshape(num_tokens, 64)

    def parts() -> Iterable[RecordPart]:
        for number in range(num_parts):
            yield RecordPart(
                Record(0, ("token",) * num_tokens, (-1,), (values + number,)),
                line="a line" if number == 0 else None,
                position=number * num_tokens,
                is_first=number == 0,
                is_last=number == num_parts - 1,
            )

    whole = Record(0, (), (-1,), (np.zeros((0, 64), np.float32),))
    tracemalloc.start()
    path = write(tmp_path / f"out{suffix}", [whole], parts())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The file has 38 MB of vectors; a row group and the names of all tokens are held.
    assert peak < 30e6
    (found,) = read_features(path)
    assert len(found.tokens) == num_parts * num_tokens
    places = np.arange(num_parts)
    assert (found.layers[0][::num_tokens, 3] == 3 + places).all()


def test_hdf5_takes_a_record_of_5000_tokens_and_a_name_of_10_mb(tmp_path: Path) -> None:
    record = make_record(0, 5000, size=2)
    part = RecordPart(record, line="x" * 10_000_000)
    path = write(tmp_path / "out.h5", [record], [part])
    (found,) = read_features(path)
    assert found.tokens == record.tokens
    with h5py.File(path) as file:
        assert len(json.loads(file["sentence_to_index"][0]).popitem()[0]) == 10_000_000


# ------------------------------------------------------------------ what is refused


@each_suffix
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(
    tmp_path: Path, suffix: str, value: float
) -> None:
    record = make_record(3, 4)
    record.layers[1][2, 5] = value
    encode, _ = encoder_for(kind_of(Path(f"out{suffix}"), [record]))
    with pytest.raises(NotFiniteError, match=r"linex_index 3, token 2 .*embeddings"):
        encode(parts_of(record, [1]))


def test_values_that_float16_has_no_room_for_are_refused() -> None:
    record = make_record(3, 4)
    record.layers[1][2, 5] = 65519.0
    encode, _ = encoder_for(kind_of(Path("out.h5"), [record], "float16"))
    encode([RecordPart(record)])
    record.layers[1][2, 5] = -65520.0
    with pytest.raises(
        NotFiniteError, match=r"token 2 .*embeddings.*found -65520\.0; .*=float32"
    ):
        encode(parts_of(record, [1]))


@pytest.mark.parametrize("suffix", [".h5", ".parquet"])
@pytest.mark.parametrize("name", ["/dev/null", "ram://out", "fifo"])
def test_a_stream_does_not_take_every_format(
    tmp_path: Path, suffix: str, name: str
) -> None:
    if name == "fifo":
        os.mkfifo(tmp_path / name)
        name = str(tmp_path / name)
    kind = kind_of(Path(f"out{suffix}"), [])
    with pytest.raises(OptionsError, match=f"{name}: .*needs a file on a disk"):
        open_writer(name, kind, {}, resume=False)


def job(**options: Any) -> Job:
    return Job(**{"input_file": "in.txt", "output_file": "out.jsonl", **options})


def test_options_that_do_not_go_together_are_refused() -> None:
    job(output_format="parquet", vector_dtype="float16").check()
    job(output_file="-", output_format="jsonl.zst").check()
    with pytest.raises(OptionsError, match=r"standard output takes jsonl, jsonl\.gz"):
        job(output_file="-", output_format="hdf5").check()
    with pytest.raises(OptionsError, match="--output_format must be one of jsonl, "):
        job(output_format="h5").check()
    with pytest.raises(OptionsError, match="--vector_dtype must be one of float32, "):
        job(vector_dtype="bfloat16").check()
    for options in ({}, {"output_file": "out.h5", "output_format": "jsonl"}):
        with pytest.raises(OptionsError, match="the format jsonl writes six decimals"):
            job(vector_dtype="float16", **options).check()


def test_the_suffix_or_the_name_says_the_format() -> None:
    found = {name: format_of(name).name for name in ("x", "x.json", "-", "x.jsonl")}
    assert set(found.values()) == {"jsonl"}
    assert [
        format_of(f"x{suffix}").name for suffix in (".gz", ".jsonl.zst", ".h5")
    ] == [
        "jsonl.gz",
        "jsonl.zst",
        "hdf5",
    ]
    assert format_of("x.h5", "jsonl") is JSONL
    assert format_of("x", "parquet") is PARQUET
    assert [format_of(f"x{e.suffixes[0]}") for e in FORMATS] == list(FORMATS)


def test_what_the_bytes_depend_on_is_in_the_fingerprint() -> None:
    kinds = [kind_of(Path(f"x{suffix}"), []) for suffix in SUFFIXES]
    fingerprints = [fingerprint_of(kind) for kind in kinds]
    libraries = [
        fingerprint.get("library", "").split()[:1] for fingerprint in fingerprints
    ]
    assert libraries == [[], ["zlib"], ["zstd"], ["h5py"], ["pyarrow"]]
    assert [f.get("vector_dtype") for f in fingerprints] == [None] * 3 + ["float32"] * 2
    assert len({f["output_format"] for f in fingerprints}) == 5


@pytest.mark.parametrize("output_format", [e for e in FORMATS if e.package])
def test_a_package_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output_format: Format
) -> None:
    path = write(tmp_path / f"out{output_format.suffixes[0]}", [make_record(0, 2)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = (
        f"out.* the format {output_format.name} needs the package "
        f"{output_format.package}, .*: pip install {output_format.package}"
    )
    with pytest.raises(InputError, match=message):
        load_features(path)
    with pytest.raises(OutputError, match=message):
        formats.check_installed(output_format, OutputError, str(path))


# ------------------------------------------------------- files that are not whole


@each_suffix
@pytest.mark.parametrize("share", [0.0, 0.3, 0.97])
def test_a_file_that_was_cut_off_is_an_input_error(
    tmp_path: Path, suffix: str, share: float
) -> None:
    records = [*map(without_surrogates, nasty_records())]
    path = write(tmp_path / f"out{suffix}", records)
    os.truncate(path, int(path.stat().st_size * share))
    if share == 0.0 and "json" in suffix:
        assert load_features(path) == []
        return
    with pytest.raises(
        InputError, match=f"out{suffix}: .*(written to its end|cut off)"
    ):
        load_features(path)


@pytest.mark.parametrize("suffix", [".h5", ".parquet", ".zst", ".gz"])
def test_a_name_that_is_wrong_is_an_input_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    path.write_bytes(b'{"linex_index": 0, "features": []}\n')
    with pytest.raises(InputError, match=f"out{suffix}: cannot be read"):
        load_features(path)


def test_the_content_says_the_format(tmp_path: Path) -> None:
    for suffix in SUFFIXES[1:]:
        records = [make_record(0, 3)]
        (tmp_path / suffix).mkdir()
        path = write(tmp_path / suffix / f"out{suffix}", records)
        path = path.rename(tmp_path / "any name")
        (found,) = load_features(path)
        check_equal(found, records[0], 5.1e-7)


def test_files_of_others_are_input_errors(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "elmo.h5", "w") as file:
        file.create_dataset("0", data=np.zeros((1, 2, 3)))
    with pytest.raises(InputError, match=r"elmo\.h5: expected HDF5 as bert-extract"):
        load_features(tmp_path / "elmo.h5")
    pandas.DataFrame({"a": [1]}).to_parquet(tmp_path / "any.parquet")
    with pytest.raises(InputError, match=r"any\.parquet: expected Parquet as bert-ext"):
        load_features(tmp_path / "any.parquet")
    with pytest.raises(InputError, match=r"none\.h5: cannot be read"):
        load_features(tmp_path / "none.h5")
    with pytest.raises(InputError, match=f"{tmp_path}: .*found a folder of something"):
        load_features(tmp_path)


@pytest.mark.parametrize(
    ("indexes", "is_read"),
    [((-1, 0), True), (("embeddings",), True), ((-1, "embeddings"), False)],
)
def test_what_arrow_makes_of_json_lines(
    tmp_path: Path, indexes: tuple[int | str, ...], is_read: bool
) -> None:
    """As output/README.md says; json itself and pandas take all of them."""
    record = make_record(0, 1, indexes=indexes)
    output_file = write(tmp_path / "out.jsonl", [record])
    if is_read:
        features = pyarrow.json.read_json(output_file)["features"].to_pylist()[0]
        found = [layer["index"] for layer in features[0]["layers"]]
    else:
        with pytest.raises(pyarrow.ArrowInvalid, match="changed from number to string"):
            pyarrow.json.read_json(output_file)
        (features,) = pandas.read_json(output_file, lines=True)["features"]
        found = [layer["index"] for layer in features[0]["layers"]]
    assert found == [*indexes]
