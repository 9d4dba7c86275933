"""One record is found by its line's number, in any format."""

import gzip
import json
import os
import zlib
from pathlib import Path

import pytest

from bert_extract import InputError, load_features
from bert_extract.inspecting import members, seeking
from bert_extract.inspecting.lookup import read_line
from bert_extract.inspecting.summary import inspect_features
from support.nasty_records import make_record
from support.record_files import SUFFIXES, write_records

SIZES = [3, 0, 40, 0, 0, 1, 70, 2, 0, 25]
FIRST_LINE = 95  # so that numbers of two digits and of three are there
LINES = range(FIRST_LINE, FIRST_LINE + len(SIZES))


@pytest.fixture(params=SUFFIXES)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    records = [
        make_record(number, min(size, 14))
        for number, size in zip(LINES, SIZES, strict=True)
    ]
    return write_records(tmp_path / f"output{request.param}", records)


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_every_line_is_found(
    path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seeking, "BLOCK_BYTES", block)
    records = load_features(path)
    assert [read_line(path, number) for number in LINES] == records
    for missing in (0, FIRST_LINE - 1, LINES.stop, 10**9):
        with pytest.raises(InputError, match=rf"the record of line {missing:,}, found"):
            read_line(path, missing)


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst"])
@pytest.mark.parametrize("group", [1, 3])
def test_every_line_is_found_in_small_steps_of_a_compressed_file(
    suffix: str, group: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "_NEAR_BYTES", 1)
    monkeypatch.setattr(members, "_READ_BYTES", 100)
    made = [make_record(number, number % 4) for number in range(95, 120)]
    path = write_records(tmp_path / f"output{suffix}", made, group=group)
    for record in load_features(path):
        assert read_line(path, record.linex_index) == record
    for missing in (94, 120):
        with pytest.raises(InputError, match=f"of line {missing}, found none"):
            read_line(path, missing)


def test_lines_of_several_members_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "_NEAR_BYTES", 1)
    made = [make_record(number, 5) for number in range(20)]
    plain = write_records(tmp_path / "output.jsonl", made).read_bytes()
    path = tmp_path / "parts.gz"
    pieces = [plain[start : start + 700] for start in range(0, len(plain), 700)]
    packed = []
    for piece in pieces:
        packer = zlib.compressobj(1, zlib.DEFLATED, 31)
        packed.append(packer.compress(piece) + packer.flush())
    path.write_bytes(b"".join(packed))
    for number in range(20):
        assert read_line(path, number).tokens == made[number].tokens
    assert inspect_features(path).num_lines == 20


def test_somebody_elses_gzip_is_read_from_the_beginning(
    golden_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "_NEAR_BYTES", 1)
    path = tmp_path / "theirs.gz"
    content = (golden_dir / "expected_short.jsonl").read_bytes()
    path.write_bytes(gzip.compress(content))
    assert read_line(path, 36).linex_index == 36
    path.write_bytes(gzip.compress(content.replace(b'": ', b'":')))
    assert read_line(path, 36).linex_index == 36
    path.write_bytes(gzip.compress(content)[:-2000])
    with pytest.raises(InputError, match="cannot be read: it is cut off"):
        read_line(path, 36)


def test_some_of_its_layers_are_read(path: Path) -> None:
    record = read_line(path, FIRST_LINE, layers="embeddings")
    assert record.indexes == ("embeddings",)
    with pytest.raises(InputError, match="expected the layer 7") as caught:
        read_line(path, FIRST_LINE, layers=[7])
    assert str(path) in str(caught.value)


def test_little_is_read_of_a_long_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [make_record(number, 14) for number in range(400)]
    path = write_records(tmp_path / "output.jsonl", records, group=400)
    original = os.pread
    places = []

    def pread(descriptor: int, num_bytes: int, start: int) -> bytes:
        places.append(start)
        return original(descriptor, num_bytes, start)

    monkeypatch.setattr(os, "pread", pread)
    monkeypatch.setattr(seeking, "BLOCK_BYTES", 4096)
    record = read_line(path, 321)
    assert (record.linex_index, record.tokens) == (321, records[321].tokens)
    assert len(places) < 3 * 21  # the file has 2**21 bytes


def test_lines_that_are_not_spaced_as_ours_are_read_from_the_beginning(
    golden_dir: Path, tmp_path: Path
) -> None:
    path = tmp_path / "compact.jsonl"
    with (golden_dir / "expected_default.jsonl").open() as reader:
        compact = [
            json.dumps(json.loads(line), separators=(",", ":")) for line in reader
        ]
    path.write_text("\n".join(compact) + "\n")
    assert read_line(path, 20).linex_index == 20
    with pytest.raises(InputError, match="the record of line 37, found none"):
        read_line(path, 37)
