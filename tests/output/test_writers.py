"""An output appears whole or not at all, and what was done is found again."""

import contextlib
import errno
import fcntl
import gzip
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from absl import logging

from bert_extract.errors import OptionsError, OutputError
from bert_extract.formats import GZIP, format_of
from bert_extract.output import append_file, compression, writers
from bert_extract.output.record import RecordSchema
from bert_extract.output.run_file import _crc_of
from bert_extract.output.writers import OutputSpec, Writer, find_complete

FINGERPRINT = {"layers": (-1, "embeddings"), "input": [["in.txt", 7, 8]]}
BUFFER_SIZE = append_file.BUFFER_SIZE


def open_writer(output_file: str, fingerprint: dict[str, Any], resume: bool) -> Writer:
    """For outputs of one layer of three numbers."""
    kind = OutputSpec(format_of(output_file), RecordSchema((-1,), 3))
    return writers.open_writer(output_file, kind, fingerprint, resume)


class Crash(BaseException):
    """The process ends here, as if by SIGKILL, but for the descriptors."""


def records(num_records: int, seed: int = 1, size: int = 200) -> list[bytes]:
    """Lines of random lengths."""
    rng = random.Random(seed)
    return [
        b'{"%d": "%s"}\n' % (number, b"x" * rng.randrange(size))
        for number in range(num_records)
    ]


def member(lines: Sequence[bytes]) -> bytes:
    compressor = zlib.compressobj(1, zlib.DEFLATED, 31)
    return compressor.compress(b"".join(lines)) + compressor.flush()


def write_all(writer: Writer, lines: Sequence[bytes], commit_every: int = 10) -> None:
    """What a job does with the records that the writer does not have."""
    for number in range(writer.num_records_kept, len(lines)):
        writer.write([lines[number]], 1, is_whole=True)
        if number % commit_every == commit_every - 1:
            writer.commit()


def die(writer: Writer) -> None:
    """Lets go as a killed process does: no flush, no suspend."""
    descriptor = writer._descriptor  # type: ignore[attr-defined]
    os.close(descriptor)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.fixture(params=["disk", "tmpfs"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system with O_DIRECT, and on one that may have none."""
    if request.param == "disk":
        yield tmp_path
        return
    shared_memory = Path("/dev/shm")
    if not os.access(shared_memory, os.W_OK):
        pytest.skip("no /dev/shm")
    path = shared_memory / f"bert-extract-{os.getpid()}-{random.random()}"
    path.mkdir()
    yield path
    shutil.rmtree(path)


# ------------------------------------------------------------------ appearing whole


def test_an_output_appears_when_it_is_finished(folder: Path) -> None:
    path = folder / "out.jsonl"
    lines = records(100)
    writer = open_writer(str(path), FINGERPRINT, resume=False)
    write_all(writer, lines)
    assert names(folder) == ["out.jsonl.partial", "out.jsonl.partial.run.json"]
    writer.finish()
    assert names(folder) == ["out.jsonl", "out.jsonl.run.json"]
    assert path.read_bytes() == b"".join(lines)
    run = json.loads((folder / "out.jsonl.run.json").read_bytes())
    assert run["fingerprint"] == json.loads(json.dumps(FINGERPRINT))
    assert (run["num_records"], run["num_bytes"]) == (100, len(b"".join(lines)))
    assert run["is_complete"] is True


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
def test_an_output_has_the_permissions_that_the_umask_gives(
    tmp_path: Path, umask: int
) -> None:
    before = os.umask(umask)
    try:
        writer = open_writer(str(tmp_path / "out"), FINGERPRINT, resume=False)
        writer.finish()
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_link_is_followed_and_its_target_replaced(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    target, link = tmp_path / "data" / "target", tmp_path / "out.jsonl"
    target.write_bytes(b"old")
    link.symlink_to(target)
    writer = open_writer(str(link), FINGERPRINT, resume=False)
    writer.write([b"new\n"], 1, is_whole=True)
    assert target.read_bytes() == b"old"
    writer.finish()
    assert link.is_symlink()
    assert target.read_bytes() == b"new\n"
    assert names(tmp_path / "data") == ["target", "target.run.json"]


def test_an_existing_output_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(b"old\n")
    writer = open_writer(str(path), FINGERPRINT, resume=False)
    write_all(writer, records(20))
    assert writer.suspend() == 20
    assert path.read_bytes() == b"old\n"


def test_a_run_that_wrote_nothing_leaves_nothing(tmp_path: Path) -> None:
    writer = open_writer(str(tmp_path / "out.jsonl"), FINGERPRINT, resume=False)
    assert writer.suspend() == 0
    assert names(tmp_path) == []


def test_an_output_of_no_records_is_whole_too(tmp_path: Path) -> None:
    for name in ("out.jsonl", "out.jsonl.gz"):
        open_writer(str(tmp_path / name), FINGERPRINT, resume=False).finish()
        assert (tmp_path / name).read_bytes() == b""
        writer = open_writer(str(tmp_path / name), FINGERPRINT, resume=True)
        assert writer.is_complete


@pytest.mark.parametrize("resume", [False, True])
def test_what_cannot_be_an_output_is_named(tmp_path: Path, resume: bool) -> None:
    with pytest.raises(OutputError, match="expected a file to write; found a folder"):
        open_writer(str(tmp_path), FINGERPRINT, resume)
    with pytest.raises(OutputError, match=f"the folder {tmp_path}/no is not there"):
        open_writer(str(tmp_path / "no" / "out"), FINGERPRINT, resume)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="is not there; make it first"):
        open_writer(str(tmp_path / "file" / "out"), FINGERPRINT, resume)


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/null", "fifo", "ram://x"])
def test_what_cannot_be_gone_on_with_refuses_resume(tmp_path: Path, name: str) -> None:
    if name == "fifo":
        name = str(tmp_path / name)
        os.mkfifo(name)
    with pytest.raises(OptionsError, match=f"--resume: {name}: .*; run without it"):
        open_writer(name, FINGERPRINT, resume=True)


def test_a_device_is_written_through(tmp_path: Path) -> None:
    writer = open_writer("/dev/null", FINGERPRINT, resume=False)
    write_all(writer, records(20))
    writer.finish()
    assert Path("/dev/null").is_char_device()
    writer = open_writer("/dev/full", FINGERPRINT, resume=False)
    with pytest.raises(OutputError, match=r"/dev/full: .*No space left"):
        writer.write([b"x"], 1, is_whole=True)
    assert writer.suspend() == 0


# -------------------------------------------------------------------- going on


@pytest.mark.parametrize("num_written", [1, 9, 10, 11, 57, 100])
def test_a_suspended_run_is_gone_on_with(folder: Path, num_written: int) -> None:
    path = folder / "out.jsonl"
    lines = records(100)
    writer = open_writer(str(path), FINGERPRINT, resume=False)
    write_all(writer, lines[:num_written])
    assert writer.suspend() == num_written
    writer = open_writer(str(path), FINGERPRINT, resume=True)
    assert writer.num_records_kept == num_written
    write_all(writer, lines)
    writer.finish()
    assert path.read_bytes() == b"".join(lines)
    assert names(folder) == ["out.jsonl", "out.jsonl.run.json"]


@pytest.mark.parametrize("suffix", [".jsonl", ".gz"])
def test_a_killed_run_keeps_all_that_was_committed(folder: Path, suffix: str) -> None:
    path = folder / f"out{suffix}"
    lines = records(100)
    pieces = lines if suffix == ".jsonl" else [member([line]) for line in lines]
    writer = open_writer(str(path), FINGERPRINT, resume=False)
    write_all(writer, pieces[:57])
    die(writer)  # 50 are durable, 7 are in the buffer
    writer = open_writer(str(path), FINGERPRINT, resume=True)
    assert writer.num_records_kept == 50
    write_all(writer, pieces)
    writer.finish()
    assert path.read_bytes() == b"".join(pieces)


@pytest.mark.parametrize("suffix", [".jsonl", ".gz"])
@pytest.mark.parametrize("end", ["suspend", "die"])
def test_a_run_that_stops_within_a_record_goes_on_after_the_last_whole_one(
    folder: Path, suffix: str, end: str
) -> None:
    path = folder / f"out{suffix}"
    # Groups: two records, a record and a third of one, a third, the last third and
    # a record.
    groups = [b"a\nb\n", b"c\nd1", b"d2", b"d3\ne\n"]
    counts = [2, 1, 0, 2]
    pieces = groups if suffix == ".jsonl" else [member([group]) for group in groups]
    for stop in range(1, 5):
        writer = open_writer(str(path), FINGERPRINT, resume=False)
        for piece, group, count in zip(pieces, groups, counts, strict=True):
            if piece == pieces[stop - 1]:
                writer.commit()
            writer.write([piece], count, is_whole=group.endswith(b"\n"))
            if piece == pieces[stop - 1]:
                break
        writer.commit()
        journal = json.loads(Path(f"{path}.partial.run.json").read_bytes())
        assert journal["num_records"] == [2, 2, 2, 5][stop - 1]
        assert journal["num_bytes"] == len(b"".join(pieces[: [1, 1, 1, 4][stop - 1]]))
        kept = [2, 2, 2, 5][stop - 1]
        if end == "suspend":
            assert writer.suspend() == kept
        else:
            die(writer)
        writer = open_writer(str(path), FINGERPRINT, resume=True)
        assert writer.num_records_kept == kept
        writer.suspend()
        text = b"".join(groups)
        lines = text.splitlines(keepends=True)[:kept]
        left = Path(f"{path}.partial").read_bytes()
        assert (left if suffix == ".jsonl" else gzip.decompress(left)) == b"".join(
            lines
        )


def test_what_a_killed_run_left_of_a_long_line_is_not_held_in_memory(
    tmp_path: Path,
) -> None:
    path = tmp_path / "partial"
    with open(path, "wb") as file:
        file.write(b"a\n")
        file.truncate(40 * BUFFER_SIZE)
        for number in range(40):  # no NUL anywhere
            file.write(b"x" * (BUFFER_SIZE if number else BUFFER_SIZE - 2))
    tracemalloc.start()
    with open(path, "rb") as file:
        assert writers._scan_lines(file.fileno(), 0) == (2, 1)
    assert tracemalloc.get_traced_memory()[1] < 3 * BUFFER_SIZE
    tracemalloc.stop()


# The parts of the buffer's edge at which a run may stop.
@pytest.mark.parametrize("past", [-4097, -4096, -1, 0, 1, 4095, 4096])
@pytest.mark.parametrize("num_buffers", [1, 2])
def test_outputs_around_multiples_of_the_buffer_are_whole(
    folder: Path, num_buffers: int, past: int
) -> None:
    path = folder / "out.jsonl"
    total = num_buffers * BUFFER_SIZE + past
    lines = records(100, seed=total, size=total // 60)
    lines[-1] = b"y" * (total - sum(map(len, lines[:-1])) - 1) + b"\n"
    expected = b"".join(lines)
    assert len(expected) == total
    for stop in (3, 98, 100):
        writer = open_writer(str(path), FINGERPRINT, resume=True)
        write_all(writer, lines[:stop])
        assert writer.suspend() == stop
        assert (folder / "out.jsonl.partial").stat().st_size == sum(
            map(len, lines[:stop])
        )
    writer = open_writer(str(path), FINGERPRINT, resume=True)
    assert writer.num_records_kept == 100
    writer.finish()
    assert path.read_bytes() == expected


def test_stops_anywhere_give_the_same_bytes(folder: Path) -> None:
    rng = random.Random(3)
    path = folder / "out.jsonl"
    lines = records(400, size=120_000)  # 24 MB
    expected = b"".join(lines)
    num_done = 0
    while num_done < len(lines):
        writer = open_writer(str(path), FINGERPRINT, resume=True)
        assert writer.num_records_kept >= num_done - 10  # commit_every
        num_done = writer.num_records_kept
        stop = min(len(lines), num_done + rng.randrange(5, 80))
        write_all(writer, lines[:stop])
        if rng.randrange(2):
            writer.suspend()
        else:
            die(writer)
        num_done = stop
    writer = open_writer(str(path), FINGERPRINT, resume=True)
    write_all(writer, lines)
    writer.finish()
    assert path.read_bytes() == expected


@pytest.mark.parametrize("suffix", [".jsonl", ".gz"])
@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"half a li",
        b"\0" * 9000,
        b"\0" * 9000 + b"a later block\n",
        b"\x1f\x8b\x08",
    ],
)
def test_what_stands_behind_the_last_whole_record_is_cut_off(
    tmp_path: Path, suffix: str, garbage: bytes
) -> None:
    path = tmp_path / f"out{suffix}"
    lines = records(40)
    pieces = lines if suffix == ".jsonl" else [member([line]) for line in lines]
    writer = open_writer(str(path), FINGERPRINT, resume=False)
    write_all(writer, pieces[:20])
    die(writer)
    # Five more reached the disk, but the run did not live to say what they are.
    with open(f"{path}.partial", "ab") as resumable:
        resumable.write(b"".join(pieces[20:25]) + garbage)
    writer = open_writer(str(path), FINGERPRINT, resume=True)
    assert writer.num_records_kept == 20
    write_all(writer, pieces)
    writer.finish()
    assert path.read_bytes() == b"".join(pieces)


def test_a_member_cut_at_every_byte_is_not_whole(tmp_path: Path) -> None:
    pieces = [member([b"a\n", b"b\n"]), member([b"c\n"] * 8)]
    path = tmp_path / "file"
    for end in range(len(pieces[0]), len(b"".join(pieces))):
        path.write_bytes(b"".join(pieces)[:end])
        with open(path, "rb") as file:
            assert compression.scanner_for(GZIP)(file.fileno(), 0) == (
                len(pieces[0]),
                2,
            )
    path.write_bytes(b"".join(pieces))
    with open(path, "rb") as file:
        assert compression.scanner_for(GZIP)(file.fileno(), 0)[1] == 10
    assert len(gzip.decompress(path.read_bytes())) == 20


def flip_bit(path: Path, position: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    told: list[str] = []
    monkeypatch.setattr(
        logging, "warning", lambda text, *args: told.append(text % args)
    )
    return told


@pytest.mark.parametrize("suffix", [".jsonl", ".gz", ".parquet"])
@pytest.mark.parametrize("damaged", [0, 9, 10, 31, 56])
def test_a_flipped_bit_costs_what_stands_behind_it(
    tmp_path: Path, suffix: str, damaged: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"out{suffix}"
    lines = records(57)
    pieces = [member([line]) for line in lines] if suffix == ".gz" else lines
    writer = open_writer(str(path), FINGERPRINT, resume=False)
    write_all(writer, pieces)
    assert writer.suspend() == 57
    ends = [len(b"".join(pieces[:number])) for number in (0, 10, 20, 30, 40, 50, 57)]
    flip_bit(Path(f"{path}.partial"), len(b"".join(pieces[:damaged])) + 3)
    told = warnings(monkeypatch)
    writer = open_writer(str(path), FINGERPRINT, resume=True)
    window = damaged // 10
    kept = 10 * window
    assert writer.num_records_kept == kept
    assert told == [
        f"{path}.partial: damaged between its bytes {ends[window]:,} and "
        f"{ends[window + 1]:,}: not what was written. The {kept} lines before are "
        f"kept, the {57 - kept} from there on are computed again"
    ]
    write_all(writer, pieces)
    writer.suspend()
    assert Path(f"{path}.partial").read_bytes() == b"".join(pieces)
    told.clear()
    assert open_writer(str(path), FINGERPRINT, resume=True).num_records_kept == 57
    assert told == []


def test_a_bit_flipped_anywhere_is_found(tmp_path: Path) -> None:
    path, partial_file = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    lines = records(12, size=9)
    writer = open_writer(str(path), FINGERPRINT, resume=False)
    write_all(writer, lines, commit_every=4)
    writer.suspend()
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    for position in range(len(b"".join(lines))):
        for name, content in before.items():
            (tmp_path / name).write_bytes(content)
        flip_bit(partial_file, position, position % 8)
        writer = open_writer(str(path), FINGERPRINT, resume=True)
        good = b"".join(lines[: writer.num_records_kept])
        assert partial_file.read_bytes() == good
        assert position - 4 * 17 < len(good) <= position
        die(writer)


def test_what_is_damaged_again_and_again_ends_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    rng = random.Random(5)
    lines = records(200)
    for stop in range(10, 210, 10):
        writer = open_writer(str(path), FINGERPRINT, resume=True)
        write_all(writer, lines[:stop], commit_every=3)
        die(writer) if rng.randrange(2) else writer.suspend()
        size = Path(f"{path}.partial").stat().st_size
        if size and rng.randrange(3) == 0:
            flip_bit(Path(f"{path}.partial"), rng.randrange(size), rng.randrange(8))
    writer = open_writer(str(path), FINGERPRINT, resume=True)
    write_all(writer, lines)
    writer.finish()
    assert path.read_bytes() == b"".join(lines)


def test_a_run_of_many_windows_has_a_small_run_file(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    partial_file = Path(f"{path}.partial")
    lines = records(1000)
    writer = open_writer(str(path), FINGERPRINT, resume=False)
    write_all(writer, lines, commit_every=1)
    writer.suspend()
    assert Path(f"{partial_file}.run.json").stat().st_size < 5000
    flip_bit(partial_file, len(b"".join(lines[:500])))
    writer = open_writer(str(path), FINGERPRINT, resume=True)
    assert 500 - 1000 // 32 <= writer.num_records_kept <= 500
    write_all(writer, lines, commit_every=1)
    writer.finish()
    assert path.read_bytes() == b"".join(lines)


def test_what_must_not_stay_goes_when_a_run_is_suspended(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    lines = records(20)
    writer = open_writer(str(path), FINGERPRINT, resume=False)
    write_all(writer, lines[:17])
    assert writer.suspend(keeps_last=False) == 10
    assert Path(f"{path}.partial").read_bytes() == b"".join(lines[:10])
    writer = open_writer(str(path), FINGERPRINT, resume=False)
    write_all(writer, lines[:7])
    assert writer.suspend(keeps_last=False) == 0
    assert names(tmp_path) == []


def test_a_disk_that_lost_what_it_confirmed_is_believed(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    lines = records(40)
    writer = open_writer(str(path), FINGERPRINT, resume=False)
    write_all(writer, lines[:30])
    die(writer)
    os.truncate(f"{path}.partial", len(b"".join(lines[:12])) + 3)
    writer = open_writer(str(path), FINGERPRINT, resume=True)
    assert writer.num_records_kept == 10  # the last checkpoint before its end
    writer.suspend()


def test_with_nothing_to_resume_it_starts_from_the_beginning(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    writer = open_writer(str(path), FINGERPRINT, resume=True)
    assert (writer.num_records_kept, writer.is_complete) == (0, False)
    writer.suspend()


def test_a_complete_output_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    assert find_complete(str(path), FINGERPRINT) is None
    writer = open_writer(str(path), FINGERPRINT, resume=False)
    write_all(writer, records(30))
    writer.finish()
    before = path.stat()
    assert find_complete(str(path), FINGERPRINT) == (30, before.st_size)
    assert find_complete(str(path), {"layers": [0]}) is None
    writer = open_writer(str(path), FINGERPRINT, resume=True)
    assert writer.is_complete
    assert (writer.num_records_kept, writer.num_bytes) == (30, before.st_size)
    assert path.stat() == before
    assert names(tmp_path) == ["out.jsonl", "out.jsonl.run.json"]


@pytest.mark.parametrize("is_complete", [False, True])
def test_another_fingerprint_is_refused_with_the_difference(
    tmp_path: Path, is_complete: bool
) -> None:
    path = tmp_path / "out.jsonl"
    writer = open_writer(str(path), FINGERPRINT, resume=False)
    write_all(writer, records(30))
    if is_complete:
        writer.finish()
    else:
        writer.suspend()
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    other = {**FINGERPRINT, "layers": [-2], "precision": "bfloat16"}
    with pytest.raises(OutputError) as caught:
        open_writer(str(path), other, resume=True)
    message = str(caught.value)
    assert "  --layers was -1,embeddings, and is now -2\n" in message
    assert "  --precision was not given, and is now bfloat16\n" in message
    assert "input" not in message.split("different run:")[1].split("Give")[0]
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert names(tmp_path) == sorted(before)


@pytest.mark.parametrize("run_file", [None, b"", b"{", b"[]", b'{"fingerprint": {}}'])
@pytest.mark.parametrize("is_complete", [False, True])
def test_what_nobody_knows_the_origin_of_is_refused(
    tmp_path: Path, run_file: bytes | None, is_complete: bool
) -> None:
    path = tmp_path / "out.jsonl"
    file = path if is_complete else tmp_path / "out.jsonl.partial"
    file.write_bytes(b"{}\n")
    if run_file is not None:
        Path(f"{file}.run.json").write_bytes(run_file)
    with pytest.raises(OutputError, match=f"{file}.run.json is missing or\\s+broken"):
        open_writer(str(path), FINGERPRINT, resume=True)
    assert file.read_bytes() == b"{}\n"


NONSENSE: dict[str, tuple[Any, ...]] = {
    "num_bytes": ("40", -5, 40.0, None, True, []),
    "num_records": ("3", -1, 2.5, {}),
    "fingerprint": (None, [], "x"),
    "is_complete": (0, "yes", None),
    "checkpoints": ([1], [[1, 2]], [["1", 2, 3]], 7, "abc", [[-5, 1, 0]]),
    "process_id": ("1",),
    "host": (1,),
    "another": (1,),
}


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in NONSENSE.items() for value in values],
)
@pytest.mark.parametrize("is_complete", [False, True])
@pytest.mark.parametrize("has_right_crc", [False, True])
def test_a_run_file_with_nonsense_is_broken_and_the_advice_works(
    tmp_path: Path, name: str, value: Any, is_complete: bool, has_right_crc: bool
) -> None:
    path = tmp_path / "out.jsonl"
    writer = open_writer(str(path), FINGERPRINT, resume=False)
    write_all(writer, records(20))
    writer.finish() if is_complete else writer.suspend()
    file = path if is_complete else Path(f"{path}.partial")
    run_file = Path(f"{file}.run.json")
    content = {**json.loads(run_file.read_bytes()), name: value}
    if has_right_crc:
        del content["crc"]
        content["crc"] = _crc_of(content)
    run_file.write_text(json.dumps(content))
    with pytest.raises(OutputError, match=f"{file}.run.json is missing or\\s+broken"):
        open_writer(str(path), FINGERPRINT, resume=True)
    file.unlink()
    writer = open_writer(str(path), FINGERPRINT, resume=True)
    write_all(writer, records(20))
    writer.finish()
    assert path.read_bytes() == b"".join(records(20))
    assert names(tmp_path) == ["out.jsonl", "out.jsonl.run.json"]


def test_a_run_file_with_a_flipped_bit_is_never_believed(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    lines = records(20)
    writer = open_writer(str(path), FINGERPRINT, resume=False)
    write_all(writer, lines)
    writer.suspend()
    run_file = Path(f"{path}.partial.run.json")
    content = run_file.read_bytes()
    for position in range(len(content)):
        run_file.write_bytes(content)
        flip_bit(run_file, position, position % 7)
        try:
            writer = open_writer(str(path), FINGERPRINT, resume=True)
        except OutputError:
            continue
        assert writer.num_records_kept == 20  # white space was hit
        die(writer)
    assert Path(f"{path}.partial").read_bytes() == b"".join(lines)


def test_what_a_version_without_checksums_left(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    for is_complete in (False, True):
        writer = open_writer(str(path), FINGERPRINT, resume=False)
        write_all(writer, records(20))
        writer.finish() if is_complete else writer.suspend()
        file = path if is_complete else Path(f"{path}.partial")
        run_file = Path(f"{file}.run.json")
        content = json.loads(run_file.read_bytes())
        del content["crc"], content["checkpoints"]
        run_file.write_text(json.dumps(content))
        if is_complete:
            assert open_writer(str(path), FINGERPRINT, resume=True).is_complete
            continue
        with pytest.raises(OutputError, match=r"an earlier version .*without --resume"):
            open_writer(str(path), FINGERPRINT, resume=True)
        assert file.read_bytes() == b"".join(records(20))


def test_a_fingerprint_whose_output_is_gone_counts_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    writer = open_writer(str(path), {"layers": [0]}, resume=False)
    write_all(writer, records(30))
    writer.finish()
    path.unlink()
    writer = open_writer(str(path), FINGERPRINT, resume=True)
    assert (writer.num_records_kept, writer.is_complete) == (0, False)
    write_all(writer, records(30))
    writer.suspend()
    (tmp_path / "out.jsonl.partial").unlink()
    writer = open_writer(str(path), {"layers": [5]}, resume=True)
    assert writer.num_records_kept == 0
    writer.suspend()


def test_an_output_that_was_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    writer = open_writer(str(path), FINGERPRINT, resume=False)
    write_all(writer, records(30))
    writer.finish()
    os.truncate(path, 100)
    with pytest.raises(OutputError, match="has 100 bytes and had"):
        open_writer(str(path), FINGERPRINT, resume=True)


def test_a_run_that_was_to_replace_an_output_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    writer = open_writer(str(path), {"layers": [0]}, resume=False)
    write_all(writer, records(30))
    writer.finish()
    die(open_writer(str(path), FINGERPRINT, resume=False))  # before its first record
    writer = open_writer(str(path), FINGERPRINT, resume=True)
    assert not writer.is_complete
    write_all(writer, records(10))
    writer.finish()
    assert path.read_bytes() == b"".join(records(10))


@pytest.mark.parametrize("place", ["flush", "first rename", "second rename"])
@pytest.mark.parametrize("lines", [records(30), []])
def test_death_while_finishing(
    tmp_path: Path, place: str, lines: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.jsonl"
    if lines:
        path.write_bytes(b"old\n")
    writer = open_writer(str(path), FINGERPRINT, resume=False)
    write_all(writer, lines, commit_every=100)
    passed: list[str] = []

    def crash_point(name: str) -> None:
        passed.append(name)
        if place == {1: "flush", 2: "first rename", 3: "second rename"}.get(
            len([name for name in passed if name != "write"])
        ):
            raise Crash

    monkeypatch.setattr(append_file, "crash_point", crash_point)
    with pytest.raises(Crash):
        writer.finish()
    die(writer)
    monkeypatch.undo()
    writer = open_writer(str(path), FINGERPRINT, resume=True)
    # What was flushed is there, but nothing says what it was.
    assert writer.num_records_kept == (0 if place == "flush" else len(lines))
    assert writer.is_complete == (place == "second rename")
    if not writer.is_complete:
        write_all(writer, lines)
        writer.finish()
    assert path.read_bytes() == b"".join(lines)
    assert names(tmp_path) == ["out.jsonl", "out.jsonl.run.json"]


@pytest.mark.parametrize("num_calls", range(1, 6))
def test_an_interruption_between_the_renames_loses_nothing(
    tmp_path: Path, num_calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a signal interrupts a run, which then suspends its writer."""
    path = tmp_path / "out.jsonl"
    lines = records(30)
    writer = open_writer(str(path), FINGERPRINT, resume=False)
    num_left = num_calls

    def crash_point(name: str) -> None:
        nonlocal num_left
        num_left -= 1
        if num_left == 0:
            raise Crash

    monkeypatch.setattr(append_file, "crash_point", crash_point)
    with contextlib.suppress(Crash):
        write_all(writer, lines, commit_every=100)
        writer.finish()
    monkeypatch.undo()
    if num_calls <= 4:
        assert writer.suspend() == (0 if num_calls == 1 else 30)
    writer = open_writer(str(path), FINGERPRINT, resume=True)
    if not writer.is_complete:
        write_all(writer, lines)
        writer.finish()
    assert path.read_bytes() == b"".join(lines)
    assert names(tmp_path) == ["out.jsonl", "out.jsonl.run.json"]


# ------------------------------------------------------------------ starting over


@pytest.mark.parametrize("suffix", [".jsonl", ".gz"])
def test_a_leftover_is_discarded_with_a_warning(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"out{suffix}"
    lines = records(57)
    pieces = lines if suffix == ".jsonl" else [member([line]) for line in lines]
    writer = open_writer(str(path), FINGERPRINT, resume=False)
    write_all(writer, pieces)
    writer.suspend()
    told: list[str] = []
    monkeypatch.setattr(
        logging, "warning", lambda text, *args: told.append(text % args)
    )
    for fingerprint in (FINGERPRINT, {"layers": [3]}):
        writer = open_writer(str(path), fingerprint, resume=False)
        assert writer.num_records_kept == 0
        if fingerprint is FINGERPRINT:
            write_all(writer, pieces)
            writer.suspend()
    what = f"{path}.partial: discarding what a stopped run left, 57 lines"
    assert told == [f"{what}; with --resume it would have gone on after them", what]
    write_all(writer, pieces[:5])
    writer.finish()
    assert path.read_bytes() == b"".join(pieces[:5])


def test_a_leftover_of_which_nothing_is_known_is_discarded_without_a_promise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.jsonl"
    Path(f"{path}.partial").write_bytes(b"{}\n")
    told = warnings(monkeypatch)
    open_writer(str(path), FINGERPRINT, resume=False).suspend()
    assert told == [f"{path}.partial: discarding what a stopped run left"]


# ---------------------------------------------------------------------- overlap


def test_a_second_run_is_refused_with_the_first_ones_name(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    writer = open_writer(str(path), FINGERPRINT, resume=False)
    who = f"process {os.getpid()} on {socket.gethostname()} is writing this output"
    for resume in (False, True):
        with pytest.raises(OutputError, match=who):
            open_writer(str(path), FINGERPRINT, resume)
    write_all(writer, records(10))
    writer.finish()
    assert path.read_bytes() == b"".join(records(10))


def test_a_second_run_is_refused_between_the_renames_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.jsonl"
    writer = open_writer(str(path), FINGERPRINT, resume=False)
    write_all(writer, records(10))
    refused: list[str] = []

    def crash_point(name: str) -> None:
        if name == "rename":
            with pytest.raises(OutputError, match="is writing this output") as caught:
                open_writer(str(path), FINGERPRINT, resume=False)
            refused.append(str(caught.value))

    monkeypatch.setattr(append_file, "crash_point", crash_point)
    writer.finish()
    assert len(refused) == 2
    assert names(tmp_path) == ["out.jsonl", "out.jsonl.run.json"]


_HOLD = """
import sys, time
from bert_extract.formats import JSONL
from bert_extract.output.record import RecordSchema
from bert_extract.output.writers import OutputSpec, open_writer
kind = OutputSpec(JSONL, RecordSchema((-1,), 3))
writer = open_writer(sys.argv[1], kind, {}, resume=False)
writer.write([b"{}\\n"], 1, is_whole=True)
writer.commit()
print("locked", flush=True)
time.sleep(600)
"""


def test_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, path], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(OutputError, match=f"process {holder.pid} on"):
            open_writer(str(path), {}, resume=True)
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    writer = open_writer(str(path), {}, resume=True)
    assert writer.num_records_kept == 1
    writer.suspend()


def test_a_file_system_without_locks_is_told_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    told: list[str] = []
    monkeypatch.setattr(
        logging, "warning", lambda text, *args: told.append(text % args)
    )
    writer = open_writer(str(tmp_path / "out.jsonl"), FINGERPRINT, resume=False)
    writer.finish()
    assert "cannot lock it (No locks available)" in told[0]


# -------------------------------------------------------------------- full disks


@pytest.mark.parametrize("error_number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("num_calls", [1, 2, 3])
def test_a_disk_that_fills_up_is_told_and_gone_on_with(
    folder: Path,
    error_number: int,
    num_calls: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = folder / "out.jsonl"
    lines = records(300, size=120_000)  # 18 MB
    expected = b"".join(lines)
    writer = open_writer(str(path), FINGERPRINT, resume=False)
    real_pwrite = os.pwrite
    num_left = num_calls

    def pwrite(descriptor: int, view: Any, offset: int) -> int:
        nonlocal num_left
        num_left -= 1
        if num_left == 0:
            return real_pwrite(descriptor, view[: len(view) // 8192 * 4096], offset)
        if num_left < 0:
            raise OSError(error_number, os.strerror(error_number))
        return real_pwrite(descriptor, view, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(OutputError) as caught:
        write_all(writer, lines, commit_every=1000)
    message = str(caught.value)
    assert message.startswith(f"{path}.partial: cannot write it: ")
    if error_number != errno.EIO:
        needed = int(message.split("needed ")[1].split(" bytes")[0].replace(",", ""))
        assert num_calls * BUFFER_SIZE < needed < (num_calls + 1) * BUFFER_SIZE
        assert message.endswith("give the same command with --resume to go on")
    num_kept = writer.suspend()
    assert num_kept > 0
    monkeypatch.undo()
    writer = open_writer(str(path), FINGERPRINT, resume=True)
    assert writer.num_records_kept == num_kept
    write_all(writer, lines)
    writer.finish()
    assert path.read_bytes() == expected
    assert names(folder) == ["out.jsonl", "out.jsonl.run.json"]


def test_a_disk_that_is_full_from_the_start_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OutputError, match="cannot write it: No space left"):
        open_writer(str(tmp_path / "out.jsonl"), FINGERPRINT, resume=False)
    assert names(tmp_path) == []
