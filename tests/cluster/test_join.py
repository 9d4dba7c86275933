"""Parts become one output, in order, whatever was joined before."""

import dataclasses
import errno
import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bert_extract import OutputError, read_features
from bert_extract.cluster import join
from bert_extract.cluster.join import Joiner, join_parts
from bert_extract.output import append_file
from bert_extract.output.append_file import BUFFER_SIZE
from bert_extract.output.checksum import crc32
from bert_extract.output.parts import Part
from bert_extract.output.writers import Writer, open_writer
from support.parts_folders import (
    ARITHMETIC,
    NUM_LINES,
    kind_of,
    make_folder,
    records_of,
    write_output,
)
from support.ray_nodes import wait_for


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_the_parts_of_json_lines_are_joined_in_order(
    tmp_path: Path, suffix: str
) -> None:
    folder, parts = make_folder(tmp_path / "out.parts", suffix)
    output = tmp_path / f"out{suffix}"
    writer = open_writer(str(output), kind_of(suffix), {"a": 1}, resume=True)
    join_parts(folder.path, parts, writer)
    paths = [os.path.join(folder.path, part.name) for part in parts]
    pieces = [Path(path).read_bytes() for path in paths]
    assert output.read_bytes() == b"".join(pieces)
    whole = write_output(tmp_path / f"whole{suffix}", records_of(0, NUM_LINES))
    assert list(read_features(output)) == list(
        read_features(tmp_path / f"whole{suffix}")
    )
    if suffix == ".jsonl":
        assert output.read_bytes() == whole
    folder.remove()
    assert not os.path.exists(folder.path)
    again = open_writer(str(output), kind_of(suffix), {"a": 1}, resume=True)
    assert again.is_complete
    assert again.num_records_kept == NUM_LINES


class Interrupting:
    """A writer that fails after some calls of write, as a full disk does."""

    def __init__(self, writer: Writer, num_calls: int) -> None:
        self._writer = writer
        self._num_calls = num_calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def write(self, *args: Any, **fields: Any) -> None:
        if self._num_calls == 0:
            raise OutputError("full")
        self._num_calls -= 1
        self._writer.write(*args, **fields)


@pytest.mark.parametrize("num_calls", range(6))
def test_a_join_that_was_stopped_goes_on(tmp_path: Path, num_calls: int) -> None:
    folder, parts = make_folder(tmp_path / "out.parts")
    output = tmp_path / "out.jsonl"
    kind = kind_of(".jsonl")
    writer = open_writer(str(output), kind, {}, resume=True)
    with pytest.raises(OutputError, match="full"):
        join_parts(folder.path, parts, Interrupting(writer, num_calls))
    writer = open_writer(str(output), kind, {}, resume=True)
    # Whole parts only, each of which takes two calls.
    assert writer.num_records_kept == [0, 0, 3, 3, 6, 6][num_calls]
    join_parts(folder.path, parts, writer)
    assert output.read_bytes() == write_output(
        tmp_path / "whole.jsonl", records_of(0, NUM_LINES)
    )
    run = json.loads((tmp_path / "out.jsonl.run.json").read_bytes())
    assert run["num_records"] == NUM_LINES


def test_a_damaged_part_is_not_joined(tmp_path: Path) -> None:
    folder, parts = make_folder(tmp_path / "out.parts")
    path = Path(folder.path) / parts[1].name
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    writer = open_writer(
        str(tmp_path / "out.jsonl"), kind_of(".jsonl"), {}, resume=True
    )
    with pytest.raises(OutputError, match=f"{parts[1].name}: damaged"):
        join_parts(folder.path, parts, writer)
    assert not (tmp_path / "out.jsonl").exists()


# ------------------------------------------------------------- while they are made

OTHER = {"arithmetic": "oneDNN, AVX2"}


class Driver:
    """What a driver has while parts are made: some are there, others will be."""

    def __init__(self, tmp_path: Path) -> None:
        self.output = tmp_path / "out.jsonl"
        self.folder, self.parts = make_folder(tmp_path / "out.parts")
        self.there: dict[str, Part] = {}

    def begin(self, *numbers: int, resume: bool = False) -> Joiner:
        """Begins to join when so many parts are there."""
        self.there = {self.parts[number].name: self.parts[number] for number in numbers}
        joiner = Joiner(
            str(self.output),
            kind_of(".jsonl"),
            {"layers": [-1, 0]},
            self.folder,
            [part.name for part in self.parts],
            self.there,
            resume,
        )
        joiner.start()
        return joiner

    def add(self, joiner: Joiner, number: int) -> None:
        """A part has come."""
        self.there[self.parts[number].name] = self.parts[number]
        joiner.wake()

    def make_anew(self, number: int, **fields: Any) -> None:
        """Changes what is told of a part."""
        part = dataclasses.replace(self.parts[number], **fields)
        told = Path(self.folder.path) / "_told" / f"{part.name}.json"
        told.write_text(json.dumps(dataclasses.asdict(part)))
        self.parts[number] = part

    def join_two(self, joiner: Joiner) -> None:
        """Waits until two parts are joined, and ends there."""
        wait_for("two parts", lambda: joiner._num_joined == 2)
        joiner.close()
        assert self.partial()["num_records"] == 6

    def partial(self) -> dict[str, Any]:
        content = Path(f"{self.output}.partial.run.json").read_bytes()
        return dict(json.loads(content))

    def check(self) -> None:
        """The output is what one process writes."""
        whole = self.output.with_name("whole.jsonl")
        assert self.output.read_bytes() == write_output(whole, records_of(0, NUM_LINES))
        assert not list(self.output.parent.glob("*.partial*"))


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    return Driver(tmp_path)


@pytest.fixture
def paths_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which parts are read."""
    paths: list[str] = []
    blocks = join._blocks

    def tell(path: str) -> Iterator[memoryview]:
        paths.append(os.path.basename(path))
        return blocks(path)

    monkeypatch.setattr(join, "_blocks", tell)
    return paths


def test_parts_are_joined_in_order_while_others_are_made(
    driver: Driver, paths_read: list[str]
) -> None:
    joiner = driver.begin(1)
    joiner.wake()
    time.sleep(0.2)
    assert not driver.output.with_name("out.jsonl.partial").exists()
    driver.add(joiner, 0)
    wait_for("two parts", lambda: joiner._num_joined == 2)
    assert paths_read == [part.name for part in driver.parts[:2]]
    driver.add(joiner, 2)
    fingerprint, num_bytes = joiner.finish()
    joiner.close()
    driver.check()
    assert fingerprint == {"layers": [-1, 0], **ARITHMETIC}
    assert num_bytes == driver.output.stat().st_size


def test_what_was_joined_before_is_not_read_again(
    driver: Driver, paths_read: list[str]
) -> None:
    driver.join_two(driver.begin(0, 1))
    del paths_read[:]
    joiner = driver.begin(0, 1, resume=True)
    driver.add(joiner, 2)
    joiner.finish()
    joiner.close()
    driver.check()
    assert paths_read == [driver.parts[2].name]


@pytest.mark.parametrize("is_told_of_cut", [False, True])
def test_a_join_that_ended_within_a_part_goes_on_there(
    driver: Driver, is_told_of_cut: bool, caplog: pytest.LogCaptureFixture
) -> None:
    driver.join_two(driver.begin(0, 1))
    partial = driver.output.with_name("out.jsonl.partial")
    lines = partial.read_bytes().splitlines(keepends=True)
    # As it is when a full disk ended it.
    kind, told = kind_of(".jsonl"), {"layers": [-1, 0], **ARITHMETIC}
    kept = lines[:5] if is_told_of_cut else [*lines[:4], lines[3]]
    writer = open_writer(str(driver.output), kind, told, resume=False)
    writer.write([b"".join(kept)], len(kept), is_whole=True)
    writer.suspend()
    joiner = driver.begin(0, 1, 2, resume=True)
    joiner.finish()
    joiner.close()
    driver.check()
    assert ("joining them anew" in caplog.text) is not is_told_of_cut


@pytest.mark.parametrize("number", [0, 1])
def test_where_a_part_was_made_anew_all_are_joined_anew(
    driver: Driver, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    driver.join_two(driver.begin(0, 1))
    # The same numbers in more digits.
    path = Path(driver.folder.path) / driver.parts[number].name
    content = path.read_bytes().replace(b"[", b"[ ", 1)
    path.write_bytes(content)
    driver.make_anew(number, num_bytes=len(content), crc=crc32(content))
    joiner = driver.begin(0, 1, 2, resume=True)
    joiner.finish()
    joiner.close()
    assert "joining them anew" in caplog.text
    assert content in driver.output.read_bytes()
    paths = [Path(driver.folder.path) / part.name for part in driver.parts]
    assert driver.output.read_bytes() == b"".join(map(Path.read_bytes, paths))


@pytest.mark.parametrize("num_kept", [1, 2, 3])
def test_the_output_tells_of_each_arithmetic_from_its_first_part_on(
    driver: Driver, num_kept: int, caplog: pytest.LogCaptureFixture
) -> None:
    driver.make_anew(1, arithmetic=OTHER)
    joiner = driver.begin(0)
    wait_for("a part", lambda: joiner._num_joined == 1)
    both = {"layers": [-1, 0], "arithmetic": [ARITHMETIC, OTHER]}
    if num_kept > 1:
        driver.add(joiner, 1)
        driver.join_two(joiner)
        assert driver.partial()["fingerprint"] == both
    joiner.close()
    joiner = driver.begin(*range(num_kept), resume=True)
    for number in range(num_kept, 3):
        driver.add(joiner, number)
    assert joiner.finish()[0] == both
    joiner.close()
    driver.check()
    run = json.loads(driver.output.with_name("out.jsonl.run.json").read_bytes())
    assert run["fingerprint"] == both
    assert caplog.text.count("discarding") == 0


def test_an_output_that_cannot_be_opened_is_told_of_at_once(driver: Driver) -> None:
    other = open_writer(str(driver.output), kind_of(".jsonl"), {}, resume=False)
    joiner = driver.begin(0)

    wait_for("its end", lambda: joiner._work is not None and joiner._work.done())
    with pytest.raises(OutputError, match="is writing this output right now"):
        joiner.wake()
    joiner.close()
    other.suspend()


@pytest.mark.parametrize("is_mended", [False, True])
def test_a_damaged_part_is_told_of_at_once_and_tried_again_at_the_end(
    driver: Driver, is_mended: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path = Path(driver.folder.path) / driver.parts[1].name
    content = path.read_bytes()
    path.write_bytes(content.replace(b"[", b"]", 1))
    joiner = driver.begin(0, 1)
    wait_for("the word of it", lambda: "damaged" in caplog.text)
    driver.add(joiner, 2)
    if is_mended:  # as when another worker's part had just taken its place
        path.write_bytes(content)
        joiner.finish()
        driver.check()
    else:
        with pytest.raises(OutputError, match=f"{driver.parts[1].name}: damaged"):
            joiner.finish()
        assert driver.partial()["num_records"] == 3
        assert not driver.output.exists()
    joiner.close()


def test_a_full_disk_on_the_way_is_forgiven(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(name: str) -> None:
        if name == "write":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(join, "_COMMIT_BYTES", 1)
    monkeypatch.setattr(append_file, "crash_point", full)
    joiner = driver.begin(0, 1)
    wait_for("the word of it", lambda: "No space left on device" in caplog.text)
    monkeypatch.undo()
    driver.add(joiner, 2)
    joiner.finish()
    joiner.close()
    driver.check()


def test_an_error_of_ours_is_not_tried_again(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise AssertionError("ours")

    monkeypatch.setattr(join, "_new_blocks", fail)
    joiner = driver.begin(0, 1)
    wait_for("its end", lambda: joiner._work is not None and joiner._work.done())
    with pytest.raises(AssertionError, match="ours"):
        driver.add(joiner, 2)
    with pytest.raises(AssertionError, match="ours"):
        joiner.finish()
    joiner.close()


def test_a_part_that_shows_itself_later_is_waited_for(
    driver: Driver, paths_read: list[str]
) -> None:
    path = Path(driver.folder.path) / driver.parts[1].name
    hidden = path.with_name("_hidden")
    path.rename(hidden)
    joiner = driver.begin(0, 1, 2)
    wait_for("the first", lambda: paths_read)
    time.sleep(0.3)
    assert len(paths_read) == 1
    hidden.rename(path)
    joiner.finish()
    joiner.close()
    driver.check()


def test_a_part_that_never_shows_itself_is_an_error(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(join, "_PATIENCE", 0.1)
    os.unlink(os.path.join(driver.folder.path, driver.parts[1].name))
    joiner = driver.begin(0, 1, 2)
    with pytest.raises(OutputError, match=r"3.jsonl: cannot be read: No such file"):
        joiner.finish()
    joiner.close()
    assert caplog.text.count("is tried again") == 1


@pytest.mark.parametrize("numbers", [(), (0,), (1,)])
def test_it_can_be_closed_while_it_waits(
    driver: Driver, numbers: tuple[int, ...]
) -> None:
    driver.begin(*numbers).close()
    assert not driver.output.exists()
    # Nobody holds the lock any more.
    joiner = driver.begin(0, 1, 2)
    joiner.finish()
    joiner.close()
    driver.check()


def test_it_can_be_closed_within_a_part(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = join._blocks

    def slowly(path: str) -> Iterator[memoryview]:
        for block in blocks(path):
            yield block[:1]
            if path.endswith(driver.parts[1].name):
                is_within.set()
                time.sleep(0.2)  # as a large part on a slow disk
            yield block[1:]

    is_within = threading.Event()
    monkeypatch.setattr(join, "_blocks", slowly)
    joiner = driver.begin(0, 1, 2)
    assert is_within.wait(60)
    joiner.close()
    assert driver.partial()["num_records"] == 3


@pytest.mark.parametrize("num_renamed", [0, 1])
@pytest.mark.parametrize("numbers", [(0, 1, 2), (0, 2)])
def test_a_join_that_was_killed_at_its_renames_goes_on(
    driver: Driver, num_renamed: int, numbers: tuple[int, ...]
) -> None:
    joiner = driver.begin(0, 1, 2)
    joiner.finish()
    joiner.close()
    # As it was before the second rename, and before both.
    Path(f"{driver.output}.run.json").rename(f"{driver.output}.partial.run.json")
    if num_renamed == 0:
        driver.output.rename(f"{driver.output}.partial")
    joiner = driver.begin(*numbers, resume=True)
    for number in {0, 1, 2} - {*numbers}:
        driver.add(joiner, number)
    assert joiner.finish().num_bytes == driver.output.stat().st_size
    joiner.close()
    driver.check()


def test_what_is_of_another_number_of_lines_is_not_gone_on_with(
    driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    kind, told = kind_of(".jsonl"), {"layers": [-1, 0], **ARITHMETIC}
    whole = write_output(driver.output, records_of(0, 3))
    driver.output.unlink()
    writer = open_writer(str(driver.output), kind, told, resume=False)
    writer.write([whole], 2, is_whole=True)
    writer.suspend()
    joiner = driver.begin(0, 1, 2, resume=True)
    joiner.finish()
    joiner.close()
    driver.check()
    assert "joining them anew" in caplog.text


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, BUFFER_SIZE, BUFFER_SIZE + 1])
@pytest.mark.parametrize("refused", ["nothing", "fcntl", "preadv"])
def test_blocks_are_the_bytes_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, refused: str
) -> None:
    content = os.urandom(size)
    (tmp_path / "part").write_bytes(content)
    read, set_flags = os.preadv, fcntl.fcntl

    def refuse_reading(descriptor: int, *args: Any) -> int:
        if set_flags(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return read(descriptor, *args)

    def refuse_setting(descriptor: int, command: int, flag: int = 0) -> int:
        if flag:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return set_flags(descriptor, command)

    if refused == "preadv":
        monkeypatch.setattr(os, "preadv", refuse_reading)
    elif refused == "fcntl":
        monkeypatch.setattr(fcntl, "fcntl", refuse_setting)
    blocks = [bytes(block) for block in join._blocks(str(tmp_path / "part"))]
    assert b"".join(blocks) == content
    assert len(blocks) == -(-size // BUFFER_SIZE)
