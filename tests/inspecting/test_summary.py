"""What is in a file is told for every format, whole or not, small or large."""

import dataclasses
import gzip
import json
import os
import re
from pathlib import Path

import pytest

from bert_extract import InputError, Record
from bert_extract.inspecting import json_contents, members, seeking
from bert_extract.inspecting.summary import FileSummary, inspect_features
from bert_extract.output import hdf5
from support.nasty_records import make_record
from support.record_files import SUFFIXES, write_records

FIRST_LINE = 7  # it is a shard's output
NUM_LINES = 60
INDEXES = (-1, "embeddings")
FINGERPRINT = {
    "layers": list(INDEXES),
    "max_seq_length": 64,
    "offsets": True,
    "do_lower_case": True,
    "input": [["corpus/a.txt", 12, 34], ["b.txt", 5, 6]],
    "bert_extract": "0.2.0",
    "tensorflow": "2.21.0",
    "device": "CPU",
    "checkpoint_sha256": "0123456789abcdef",
}


def plain(record: Record) -> Record:
    """Without what UTF-8 has no bytes for."""
    tokens = tuple(token.replace("\ud800", "?") for token in record.tokens)
    return dataclasses.replace(record, tokens=tokens)


@pytest.fixture(scope="module")
def records() -> list[Record]:
    """Lines of 0 to 12 entries, the first of none."""
    return [
        plain(make_record(FIRST_LINE + n, n * 5 % 13, indexes=INDEXES))
        for n in range(NUM_LINES)
    ]


@pytest.fixture(scope="module")
def num_tokens(records: list[Record]) -> int:
    return sum(len(record.tokens) for record in records)


@pytest.fixture(params=SUFFIXES)
def path(request: pytest.FixtureRequest, records: list[Record], tmp_path: Path) -> Path:
    made = tmp_path / f"output{request.param}"
    return write_records(made, records, fingerprint=FINGERPRINT)


@pytest.fixture
def large_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets every file be a large one."""
    monkeypatch.setattr(json_contents, "_SMALL_FILE", 0)
    monkeypatch.setattr(json_contents, "_SMALL_COMPRESSED", 0)
    monkeypatch.setattr(json_contents, "_COMPRESSED_HEAD", 0)
    monkeypatch.setattr(json_contents, "_SAMPLE_BYTES", 4000)
    monkeypatch.setattr(members, "_READ_BYTES", 4000)
    monkeypatch.setattr(hdf5, "_MOST_SHAPES", 20)


def lines_of(summary: FileSummary) -> tuple[int | None, int | None, int | None]:
    return summary.num_lines, summary.first_line, summary.last_line


def test_what_is_in_a_file(path: Path, num_tokens: int) -> None:
    summary = inspect_features(path)
    assert summary.path == str(path)
    assert path.name.endswith(summary.format.replace("hdf5", "h5"))
    assert summary.num_bytes == path.stat().st_size
    assert summary.is_whole is True
    assert lines_of(summary) == (NUM_LINES, FIRST_LINE, FIRST_LINE + NUM_LINES - 1)
    assert (summary.num_tokens, num_tokens) == (361, 361)
    assert summary.tokens_from in ("counted", "metadata")
    assert (summary.layers, summary.size) == (INDEXES, 12)
    is_json = ".jsonl" in path.name
    assert summary.vector_dtype == ("six decimals" if is_json else "float32")
    assert summary.first_tokens == ("", " ", "?", '"', "\\")  # of the second line
    assert not summary.has_offsets
    assert not summary.has_texts


def test_how_a_file_was_made(path: Path) -> None:
    text = str(inspect_features(path))
    assert "from     corpus/a.txt, b.txt\n" in text
    assert (
        "made by  bert-extract 0.2.0, TensorFlow 2.21.0, on CPU, "
        "checkpoint 0123456789ab...\n"
    ) in text
    assert (
        "with     --layers=-1,embeddings --max_seq_length=64 --offsets=true "
        "--do_lower_case=true\n"
    ) in text
    assert f"yes: it has as many bytes as {path}.run.json says\n" in text


def test_what_only_the_run_file_knows(path: Path) -> None:
    os.unlink(f"{path}.run.json")
    summary = inspect_features(path)
    assert summary.made_with == {}
    assert summary.is_whole is (None if ".jsonl" in path.name else True)
    assert lines_of(summary) == (NUM_LINES, FIRST_LINE, FIRST_LINE + NUM_LINES - 1)


@pytest.mark.usefixtures("large_files")
@pytest.mark.parametrize("has_run_file", [True, False])
def test_what_is_in_a_large_file(
    path: Path, num_tokens: int, has_run_file: bool
) -> None:
    if not has_run_file:
        os.unlink(f"{path}.run.json")
    summary = inspect_features(path)
    assert lines_of(summary) == (NUM_LINES, FIRST_LINE, FIRST_LINE + NUM_LINES - 1)
    assert summary.is_whole is (
        None if not has_run_file and path.suffix[1:] in ("jsonl", "gz", "zst") else True
    )
    if path.suffix == ".parquet":
        assert summary.num_tokens == num_tokens
    else:
        assert summary.tokens_from == "estimated"
        # No more than the large tokens among a few make of it.
        assert summary.num_tokens == pytest.approx(num_tokens, rel=0.5)
        assert "(estimated from samples)" in str(summary)
    if has_run_file:
        assert summary.lines_from == "run file"


@pytest.mark.usefixtures("large_files")
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_an_estimate_is_close_where_entries_are_alike(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "_READ_BYTES", 1 << 16)
    records = [
        Record(n, ("token",) * size, (-1,), make_record(n, size, size=64).layers[:1])
        for n, size in enumerate([9, 1, 30, 4] * 40)
    ]
    path = write_records(tmp_path / f"output{suffix}", records)
    summary = inspect_features(path)
    assert summary.num_tokens == pytest.approx(44 * 40, rel=0.01)
    assert summary.num_lines == 160


@pytest.mark.usefixtures("large_files")
def test_one_member_of_somebody_elses_gzip_is_told_as_far_as_it_can_be(
    records: list[Record], tmp_path: Path
) -> None:
    plain_file = write_records(tmp_path / "output.jsonl", records)
    path = tmp_path / "theirs.gz"
    with gzip.open(path, "wb") as file:
        file.write(plain_file.read_bytes())
    summary = inspect_features(path)
    assert (summary.num_lines, summary.lines_from) == (None, "unknown")
    assert summary.first_line == FIRST_LINE
    assert "lines    unknown\n" in str(summary)
    assert inspect_features(path, exact=True).num_lines == NUM_LINES


def test_a_file_that_was_cut_is_not_whole(path: Path) -> None:
    size = path.stat().st_size
    os.truncate(path, size - 20)
    if ".jsonl" not in path.name:
        with pytest.raises(InputError, match=r"Was it written to its end\?"):
            inspect_features(path)
        return
    summary = inspect_features(path)
    assert summary.is_whole is False
    assert "cut off" in summary.why
    os.truncate(path, size)  # with NULs at its end
    assert inspect_features(path).is_whole is False


@pytest.mark.usefixtures("large_files")
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_a_large_file_that_was_cut_is_not_whole(
    suffix: str, records: list[Record], tmp_path: Path
) -> None:
    path = write_records(tmp_path / f"output{suffix}", records)
    os.unlink(f"{path}.run.json")
    os.truncate(path, path.stat().st_size - 20)
    summary = inspect_features(path)
    assert summary.is_whole is False
    assert "cut off" in summary.why


@pytest.mark.usefixtures("large_files")
def test_numbers_that_begin_anew_tell_no_number_of_lines(
    records: list[Record], tmp_path: Path
) -> None:
    path = write_records(tmp_path / "output.jsonl", records)
    both = tmp_path / "both.jsonl"
    both.write_bytes(path.read_bytes() * 2)
    summary = inspect_features(both)
    assert (summary.num_lines, summary.lines_from) == (None, "unknown")
    assert inspect_features(both, exact=True).num_lines == 2 * NUM_LINES


@pytest.mark.usefixtures("large_files")
def test_a_last_line_that_is_too_long_to_look_for(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seeking, "MOST_BACKWARDS", 100)
    path = write_records(tmp_path / "output.jsonl", records)
    assert inspect_features(path).num_lines == NUM_LINES
    os.unlink(f"{path}.run.json")
    assert inspect_features(path).num_lines is None


def test_a_run_file_is_none_of_records(path: Path) -> None:
    with pytest.raises(InputError, match=f"inspect {re.escape(str(path))}$"):
        inspect_features(f"{path}.run.json")


def test_whole_lines_that_are_missing_are_missed(
    records: list[Record], tmp_path: Path
) -> None:
    path = write_records(tmp_path / "output.jsonl", records)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    summary = inspect_features(path)
    assert summary.is_whole is False
    assert summary.num_lines == NUM_LINES - 1
    assert summary.why == (
        f"it had {sum(map(len, lines)):,} bytes when it was complete, as "
        f"{path}.run.json says"
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_work_of_a_run_that_is_not_done(
    suffix: str, records: list[Record], tmp_path: Path
) -> None:
    output = tmp_path / f"output{suffix}"
    partial = write_records(output, records, is_done=False, fingerprint=FINGERPRINT)
    summary = inspect_features(partial)
    assert summary.is_whole is False
    assert "the same command with --resume goes on with it" in summary.why
    assert (summary.num_lines, summary.layers, summary.size) == (NUM_LINES, INDEXES, 12)
    is_json = ".jsonl" in suffix
    assert summary.format == (suffix[1:] if is_json else "frames")
    assert summary.made_with["max_seq_length"] == 64
    with pytest.raises(InputError, match=r"but .*\.partial is there: the run that"):
        inspect_features(output)


def test_exact_reads_every_record(path: Path, num_tokens: int) -> None:
    summary = inspect_features(path, exact=True)
    assert (summary.num_tokens, summary.tokens_from) == (num_tokens, "counted")
    assert (summary.num_lines, summary.lines_from) == (NUM_LINES, "counted")
    assert summary.is_whole is True


def test_exact_finds_what_cannot_be_read(records: list[Record], tmp_path: Path) -> None:
    path = write_records(tmp_path / "output.jsonl", records)
    content = bytearray(path.read_bytes())
    place = content.index(b'{"linex_index": 30')
    content[place] = ord("!")
    path.write_bytes(content)
    assert inspect_features(path).is_whole is True  # for all that its size tells
    summary = inspect_features(path, exact=True)
    assert summary.is_whole is False
    assert summary.why.startswith("line 24: expected a record in JSON")
    assert summary.num_lines == 23


def test_offsets_and_texts_are_told(tmp_path: Path) -> None:
    record = plain(make_record(0, 5, is_annotated=True))
    for suffix in SUFFIXES:
        path = write_records(tmp_path / f"output{suffix}", [record])
        summary = inspect_features(path)
        assert summary.has_offsets
        assert summary.has_texts
        assert "offsets" in str(summary)
    path = write_records(tmp_path / "half.h5", [record], vector_dtype="float16")
    assert inspect_features(path).vector_dtype == "float16"
    path = write_records(tmp_path / "half.parquet", [record], vector_dtype="float16")
    assert inspect_features(path).vector_dtype == "float16"


def test_files_of_the_original(golden_dir: Path) -> None:
    summary = inspect_features(golden_dir / "expected_default.jsonl")
    assert (summary.num_lines, summary.num_tokens) == (37, 487)
    assert (summary.layers, summary.size) == ((-1, -2, -3, -4), 32)
    assert summary.is_whole is None
    assert str(summary).splitlines()[-1] == (
        "  begins   [CLS] who was jim henson ? [SEP] jim henson was a puppet ##eer "
        "[SEP]"
    )


def test_json_with_other_spacing(golden_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "compact.jsonl"
    with (golden_dir / "expected_default.jsonl").open() as reader:
        compact = [
            json.dumps(json.loads(line), separators=(",", ":")) for line in reader
        ]
    path.write_text("\n".join(compact) + "\n")
    summary = inspect_features(path)
    assert (summary.num_lines, summary.num_tokens) == (37, 487)


def test_a_first_line_of_any_length_is_shown_from_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_contents, "_HEAD_BYTES", 2000)
    path = write_records(tmp_path / "output.jsonl", [plain(make_record(0, 40))])
    summary = inspect_features(path)
    assert 1 < len(summary.first_tokens) < 24
    assert summary.num_tokens == 40


def test_an_empty_output_is_of_no_lines(tmp_path: Path) -> None:
    path = tmp_path / "output.jsonl"
    path.touch()
    summary = inspect_features(path)
    assert (summary.num_lines, summary.num_tokens, summary.is_whole) == (0, 0, None)
    assert "no file says" not in str(summary)
    for suffix in SUFFIXES[1:3]:
        empty = tmp_path / f"empty{suffix}"
        empty.write_bytes(gzip.compress(b"") if suffix == ".jsonl.gz" else b"")
        assert inspect_features(empty).num_lines == 0


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"Jim Henson\n", "a file that begins with b'Jim Henson"),
        (b"{}\n", "expected records in JSON lines"),
        (b"\x1f\x8b\x08rest", "it is broken at byte 7"),
        (gzip.compress(b"Jim Henson\n", mtime=0), "expected records in JSON lines"),
        (b"PAR1rest", "cannot be read as Parquet"),
        (b"\x89HDF\r\n\x1a\n", "cannot be read as HDF5"),
        (b"BXF1rest", "not what was written"),
        (b"\x00" * 100, "expected records in JSON lines"),
    ],
)
def test_a_file_that_is_none_of_ours(
    content: bytes, expected: str, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(InputError, match=expected) as caught:
        inspect_features(path)
    assert str(path) in str(caught.value)


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found a folder"):
        inspect_features(tmp_path)
    with pytest.raises(InputError, match=r"there is no such file$"):
        inspect_features(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="no regular file"):
        inspect_features(tmp_path / "pipe")
