"""--resume, signals and full disks, seen from outside the process."""

import contextlib
import fcntl
import gzip
import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bert_extract import InputError, Job, Options, OptionsError, OutputError
from bert_extract.inputs import batching
from bert_extract.jobs import run_job
from bert_extract.loaded_model import OpenedModel
from bert_extract.output import append_file
from bert_extract.progress import Summary
from support.job_runs import (
    TIME_LIMIT,
    Command,
    content_digest,
    sha256,
    summary_of,
    write_input,
)
from support.running import options_for

NUM_LINES = 3000
STARTED_LATE = 60.0  # a busy machine may need so many seconds to begin


@pytest.fixture(scope="module")
def options(tiny_bert: Path) -> Options:
    return options_for(tiny_bert, layers="-1")


@pytest.fixture(scope="module")
def model(options: Options) -> OpenedModel:
    return OpenedModel(options)


def run(model: OpenedModel, **fields: Any) -> Summary:
    """Does a job in this process."""
    summaries: list[Summary] = []
    run_job(
        model,
        Job(**{name: _text(option) for name, option in fields.items()}),
        summaries,
    )
    (summary,) = summaries
    return summary


def _text(option: Any) -> Any:
    return str(option) if isinstance(option, Path) else option


@dataclass(frozen=True)
class Files:
    input_file: Path
    output_file: Path

    @property
    def partial(self) -> Path:
        return Path(f"{self.output_file}.partial")

    def fields(self, **others: Any) -> dict[str, Any]:
        return {
            "input_file": self.input_file,
            "output_file": self.output_file,
            **others,
        }


NAMES = (
    "out.jsonl",
    "out.jsonl.gz",
    "out.parquet",
    pytest.param("out.jsonl.zst", marks=pytest.mark.slow),
    pytest.param("out.h5", marks=pytest.mark.slow),
)


@pytest.fixture(params=NAMES)
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    (tmp_path / "out").mkdir()
    return Files(
        write_input(tmp_path / "in.txt", NUM_LINES), tmp_path / "out" / request.param
    )


# ------------------------------------------------------------------- in one process


def test_a_bad_line_in_the_middle_keeps_what_came_before(
    model: OpenedModel, files: Files
) -> None:
    lines = files.input_file.read_bytes().split(b"\n")
    good = files.input_file.stat()
    bad_line = 1234
    broken = lines[bad_line]
    with open(files.input_file, "r+b") as writer:
        writer.seek(len(b"\n".join(lines[:bad_line])) + 1)
        writer.write(b"\xff" * len(broken))
    os.utime(files.input_file, ns=(good.st_atime_ns, good.st_mtime_ns))
    with pytest.raises(Exception, match=f"line {bad_line + 1} is not UTF-8"):
        run(model, **files.fields())
    assert not files.output_file.exists()
    files.input_file.write_bytes(b"\n".join(lines))
    # As if it had been repaired without anyone noticing: same size, same time.
    os.utime(files.input_file, ns=(good.st_atime_ns, good.st_mtime_ns))
    summary = run(model, **files.fields(resume=True))
    # Whole groups of records, so that members of .gz are cut where they always are.
    assert summary.resumed_lines == bad_line // 8 * 8
    resumed = content_digest(files.output_file)
    run(model, **files.fields())
    assert content_digest(files.output_file) == resumed


def test_gzip_members_hold_eight_records_and_no_name_or_time(
    model: OpenedModel, tmp_path: Path
) -> None:
    input_file = write_input(tmp_path / "in.txt", 21)
    run(model, input_file=input_file, output_file=tmp_path / "out.jsonl.gz")
    content = (tmp_path / "out.jsonl.gz").read_bytes()
    header = b"\x1f\x8b\x08\0\0\0\0\0"  # flags 0: no name; time 0
    assert content.startswith(header)
    assert content.count(header) == 3
    first_two = content[: content.rindex(header)]
    assert gzip.decompress(first_two).count(b"\n") == 16


def test_a_second_resume_does_nothing_and_needs_no_weights(
    options: Options, tmp_path: Path
) -> None:
    files = Files(write_input(tmp_path / "in.txt", 50), tmp_path / "out.jsonl")
    run(OpenedModel(options), **files.fields(resume=True))
    before = files.output_file.stat()
    model = OpenedModel(options)
    summary = run(model, **files.fields(resume=True))
    assert model._loaded is None
    assert (summary.resumed_lines, summary.num_lines, summary.error) == (50, 0, None)
    assert summary.output_bytes == before.st_size
    after = files.output_file.stat()  # it was looked at, so the time of that differs
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("do_lower_case", False),
        ("layers", "-2"),
        ("layers", "-1,-1"),
        ("max_seq_length", 31),
        ("pairs", False),
    ],
)
def test_what_changes_the_bytes_is_in_the_fingerprint(
    options: Options, model: OpenedModel, tmp_path: Path, option: str, value: Any
) -> None:
    files = Files(write_input(tmp_path / "in.txt", 5), tmp_path / "out.jsonl")
    run(model, **files.fields())
    other = OpenedModel(Options(**{**vars_of(options), option: value}))
    with pytest.raises(
        OutputError, match=f"made by a different run:\n  --{option} was "
    ):
        run(other, **files.fields(resume=True))


def vars_of(options: Options) -> dict[str, Any]:
    return {name: getattr(options, name) for name in options.__dataclass_fields__}


def test_what_does_not_change_the_bytes_is_not_in_the_fingerprint(
    options: Options, model: OpenedModel, tmp_path: Path
) -> None:
    files = Files(write_input(tmp_path / "in.txt", 5), tmp_path / "out.jsonl")
    run(model, **files.fields())
    other = OpenedModel(
        Options(**{**vars_of(options), "batch_size": 3, "num_threads": 1})
    )
    assert run(other, **files.fields(resume=True)).resumed_lines == 5


def test_an_input_that_changed_is_refused(model: OpenedModel, tmp_path: Path) -> None:
    files = Files(write_input(tmp_path / "in.txt", 5), tmp_path / "out.jsonl")
    run(model, **files.fields())
    with open(files.input_file, "ab") as writer:
        writer.write(b"more\n")
    before = files.output_file.read_bytes()
    # One line: what differs in content is told by size and time.
    message = f"run:\n  the input {files.input_file} had [^\n]* now [^\n]*\nGive the"
    with pytest.raises(OutputError, match=message):
        run(model, **files.fields(resume=True))
    assert files.output_file.read_bytes() == before
    with pytest.raises(OutputError, match="\n  --errors was strict, and is now ignore"):
        run(model, **files.fields(resume=True, errors="ignore"))


def test_an_input_of_another_time_and_the_same_content_is_the_same(
    model: OpenedModel, tmp_path: Path
) -> None:
    files = Files(write_input(tmp_path / "in.txt", 80), tmp_path / "out.jsonl")
    good = files.input_file.read_bytes()
    files.input_file.write_bytes(good + b"\xff\n")
    summaries: list[Summary] = []
    job = Job(
        input_file=str(files.input_file),
        output_file=str(files.output_file),
        resume=True,
    )
    for number in range(2):
        os.utime(files.input_file, ns=(number, number))
        with pytest.raises(InputError, match="is not UTF-8"):
            run_job(model, job, summaries)
    assert [summary.resumed_lines for summary in summaries] == [0, 80]
    files.input_file.write_bytes(good)
    run(model, **files.fields())
    before = files.output_file.stat()
    os.utime(files.input_file, ns=(1, 1))
    summary = run(model, **files.fields(resume=True))
    assert (summary.num_lines, summary.resumed_lines) == (0, 80)
    assert files.output_file.stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize("option", ["resume", "shard"])
def test_pipes_are_not_cut_and_not_read_twice(
    model: OpenedModel, tmp_path: Path, option: str
) -> None:
    os.mkfifo(tmp_path / "fifo")
    files = Files(tmp_path / "fifo", tmp_path / "out.jsonl")
    value: Any = True if option == "resume" else "0/2"
    with pytest.raises(OptionsError, match=f"--{option}: .*fifo is not a regular file"):
        run(model, **files.fields(**{option: value}))
    with pytest.raises(OptionsError, match=f"--{option}"):
        run(model, input_file="-", output_file="x", **{option: value})


def test_nothing_is_left_of_a_run_that_failed_before_its_first_record(
    model: OpenedModel, tmp_path: Path
) -> None:
    (tmp_path / "in.txt").write_bytes(b"\xff\n")
    (tmp_path / "out").mkdir()
    with pytest.raises(Exception, match="line 1 is not UTF-8"):
        run(model, input_file=tmp_path / "in.txt", output_file=tmp_path / "out" / "o")
    assert os.listdir(tmp_path / "out") == []


# ----------------------------------------------------------------------- damage


def flip_bit(path: Path, share: float) -> None:
    with open(path, "r+b") as file:
        file.seek(int(share * path.stat().st_size))
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 4]))


def test_a_damaged_partial_file_is_computed_again_from_there(
    model: OpenedModel, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "_MAX_STRETCH_LINES", 512)
    run(model, **files.fields())
    whole = content_digest(files.output_file)
    files.output_file.unlink()
    stop_at(monkeypatch, "rename", stop)
    with pytest.raises(Stop):
        run(model, **files.fields())
    monkeypatch.setattr(append_file, "crash_point", lambda name: None)
    flip_bit(files.partial, 0.6)
    summary = run(model, **files.fields(resume=True))
    assert 1000 < summary.resumed_lines < 2000
    assert summary.resumed_lines + summary.num_lines == NUM_LINES
    assert content_digest(files.output_file) == whole


def stop() -> None:
    raise Stop


def stop_at(
    monkeypatch: pytest.MonkeyPatch, wanted: str, act: Callable[[], None]
) -> None:
    """Acts at the first crash point of a name."""
    has_passed: list[str] = []

    def crash_point(name: str) -> None:
        if name == wanted and name not in has_passed:
            has_passed.append(name)
            act()

    monkeypatch.setattr(append_file, "crash_point", crash_point)


@pytest.mark.parametrize("name", ["out.h5", "out.parquet"])
def test_damage_that_is_found_when_the_output_is_made_is_mended_by_resume(
    model: OpenedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(batching, "_MAX_STRETCH_LINES", 512)
    (tmp_path / "out").mkdir()
    files = Files(write_input(tmp_path / "in.txt", 2000), tmp_path / "out" / name)
    stop_at(monkeypatch, "convert", lambda: flip_bit(files.partial, 0.6))
    summaries: list[Summary] = []
    job = Job(input_file=str(files.input_file), output_file=str(files.output_file))
    message = r"is not what was written.*Give the same command with --resume"
    with pytest.raises(OutputError, match=message):
        run_job(model, job, summaries)
    summary = run(model, **files.fields(resume=True))
    assert summary.resumed_lines == summaries[0].resumable_lines
    assert 500 < summary.resumed_lines < 1500
    resumed = content_digest(files.output_file)
    run(model, **files.fields())
    assert content_digest(files.output_file) == resumed


# ---------------------------------------------------------------------- signals


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + STARTED_LATE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@contextlib.contextmanager
def started(process: "subprocess.Popen[str]") -> Iterator["subprocess.Popen[str]"]:
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=TIME_LIMIT)


def test_a_signal_stops_in_order_and_says_how_to_go_on(
    tiny_bert: Path, tmp_path: Path
) -> None:
    """One run: stopped by SIGTERM, gone on with, stopped by SIGINT, ended."""
    command = Command(tiny_bert)
    files = Files(write_input(tmp_path / "in.txt", 60_000), tmp_path / "out.jsonl")
    summary_file = tmp_path / "summary.json"
    flags = files.fields(resume=True, summary_file=summary_file)
    num_kept = 0
    for number in (signal.SIGTERM, signal.SIGINT):
        size = size_of(files.partial)
        with started(command.start(**flags)) as process:
            wait_for(lambda size=size: size_of(files.partial) > size)  # type: ignore[misc]
            start = time.monotonic()
            process.send_signal(number)
            _, stderr = process.communicate(timeout=TIME_LIMIT)
            assert time.monotonic() - start < 10  # seconds
        assert process.returncode == -number
        assert f"bert-extract: stopped by {number.name}\n" in stderr
        summary = summary_of(summary_file)
        assert summary["error"] == f"stopped by {number.name}"
        assert summary["resumed_lines"] == num_kept
        num_kept = summary["resumable_lines"]
        assert (
            f"bert-extract: {files.partial} holds {num_kept:,} lines; the same command "
            "with --resume goes on after them\n"
        ) in stderr
        assert not files.output_file.exists()
    completed = command.run(**flags)
    assert completed.returncode == 0
    summary = summary_of(summary_file)
    assert summary["resumed_lines"] == num_kept > 0
    with open(files.output_file, "rb") as lines:
        for index, line in enumerate(lines):
            assert line.startswith(b'{"linex_index": %d, ' % index)
        assert index == 59_999


def test_a_signal_while_loading_ends_at_once_and_leaves_nothing(
    tiny_bert: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    files = Files(write_input(tmp_path / "in.txt", 10), folder / "out.jsonl")
    summary_file = tmp_path / "summary.json"
    command = Command(tiny_bert)
    flags = files.fields(summary_file=summary_file)
    with started(command.start(**flags)) as process:
        # TensorFlow's library is mapped: the import has begun.
        maps = Path(f"/proc/{process.pid}/maps")
        wait_for(lambda: "tensorflow" in maps.read_text())
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=TIME_LIMIT)
    assert process.returncode == -signal.SIGINT
    assert "Traceback" not in stderr
    assert stderr.endswith("bert-extract: stopped by SIGINT\n")
    assert os.listdir(folder) == []
    assert json.loads(summary_file.read_bytes())["error"] == "stopped by SIGINT"


def test_who_ignores_a_signal_is_not_stopped_by_it(
    tiny_bert: Path, tmp_path: Path
) -> None:
    """As a shell's background commands ignore SIGINT."""
    files = Files(write_input(tmp_path / "in.txt", 20_000), tmp_path / "out.jsonl")
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = Command(tiny_bert).start(**files.fields())
    finally:
        signal.signal(signal.SIGINT, previous)
    with started(process):
        wait_for(lambda: size_of(files.partial) > 0)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=TIME_LIMIT)
    assert process.returncode == 0
    assert files.output_file.exists()


@pytest.mark.parametrize(
    "second", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_second_signal_ends_at_once(
    tiny_bert: Path, tmp_path: Path, second: signal.Signals
) -> None:
    """It comes while the run cleans up after the first one, and cannot end."""
    command = Command(tiny_bert)
    files = Files(write_input(tmp_path / "in.txt", 60_000), tmp_path / "out.jsonl")
    summary_file = tmp_path / "summary.json"
    crash = {"name": "suspend", "number": 1, "hangs": True}
    flags = files.fields(summary_file=summary_file)
    with started(command.start(crash=crash, **flags)) as process:
        wait_for(lambda: size_of(files.partial) > 0)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        said = ""
        while "hangs at suspend\n" not in said:
            line = process.stderr.readline()
            assert line, said  # else it has ended
            said += line
        time.sleep(0.5)
        assert process.poll() is None
        start = time.monotonic()
        process.send_signal(second)
        _, said = process.communicate(timeout=10)
        assert time.monotonic() - start < 5  # seconds
    assert process.returncode == -second
    assert said == ""
    # Nothing of the end was done, and what is there can be gone on with.
    assert not summary_file.exists()
    assert sorted(os.listdir(tmp_path)) == [
        *("in.txt", "out.jsonl.partial", "out.jsonl.partial.run.json")
    ]


# ---------------------------------------------------------------------- full disks


@contextlib.contextmanager
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "none", folder],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_disk_that_fills_up(tiny_bert: Path, tmp_path: Path) -> None:
    command = Command(tiny_bert)
    input_file = write_input(tmp_path / "in.txt", NUM_LINES)
    whole = tmp_path / "whole.jsonl"
    assert command.run(input_file=input_file, output_file=whole).returncode == 0
    with small_disk(tmp_path) as disk:
        (disk / "other").write_bytes(b"x" * (6 << 20))
        output_file = disk / "out.jsonl"
        flags: dict[str, Any] = {"input_file": input_file, "output_file": output_file}
        completed = command.run(**flags)
        assert completed.returncode == 1
        assert f"WARNING: {output_file}: the output will be about" in completed.stderr
        message = f"{output_file}.partial: cannot write it: No space left on device. "
        assert message in completed.stderr
        needed = completed.stderr.split("The output needed ")[1].split(" bytes")[0]
        assert 1 << 20 < int(needed.replace(",", "")) < 3 << 20
        assert "make room and give the same command with --resume" in completed.stderr
        (disk / "other").unlink()
        subprocess.run(["mount", "-o", "remount,size=99m", disk], check=True)
        summary_file = tmp_path / "summary.json"
        completed = command.run(**flags, resume=True, summary_file=summary_file)
        assert completed.returncode == 0, completed.stderr
        assert summary_of(summary_file)["resumed_lines"] > 100
        assert sha256(output_file) == sha256(whole)
        assert sorted(os.listdir(disk)) == ["out.jsonl", "out.jsonl.run.json"]


def shut_down(disk: Path) -> None:
    """From now on the disk says to everything that it cannot."""
    descriptor = os.open(disk, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, _EXT4_IOC_SHUTDOWN, struct.pack("I", 1))
    finally:
        os.close(descriptor)


# Of Linux' fs/ext4/ext4.h; 1 is to write the journal before.
_EXT4_IOC_SHUTDOWN = 0x8004587D


@contextlib.contextmanager
def mounted_image(tmp_path: Path) -> Iterator[Callable[[], Path]]:
    """Gives what mounts a disk, an image of one, wherever it was mounted before."""
    image, folder = tmp_path / "image", tmp_path / "disk"
    folder.mkdir()
    with open(image, "wb") as file:
        file.truncate(256 << 20)
    # Where the administrator's commands are not on the PATH of everybody.
    mkfs = shutil.which("mkfs.ext4") or shutil.which(
        "mkfs.ext4", path="/sbin:/usr/sbin"
    )
    if mkfs is None or subprocess.run([mkfs, "-q", image], check=False).returncode:
        pytest.skip("no file system can be made here")

    def mount() -> Path:
        subprocess.run(["umount", folder], capture_output=True, check=False)
        completed = subprocess.run(
            ["mount", "-o", "loop", image, folder], capture_output=True, check=False
        )
        if completed.returncode:
            pytest.skip("no file system can be mounted here")
        return folder

    try:
        yield mount
    finally:
        subprocess.run(["umount", folder], capture_output=True, check=False)


@pytest.mark.parametrize(
    ("vanish", "reason"),
    [
        pytest.param(
            lambda disk: subprocess.run(["umount", "-l", disk], check=True),
            "No such file or directory",
            id="unmounted",
        ),
        pytest.param(
            shut_down, "Input/output error", id="dead", marks=pytest.mark.slow
        ),
    ],
)
def test_a_disk_that_vanishes(
    model: OpenedModel,
    tiny_bert: Path,
    tmp_path: Path,
    vanish: Callable[[Path], None],
    reason: str,
) -> None:
    command = Command(tiny_bert)
    input_file = write_input(tmp_path / "in.txt", 20_000)
    with mounted_image(tmp_path) as mount:
        disk = mount()
        files = Files(input_file, disk / "out.jsonl")
        with started(command.start(**files.fields())) as process:
            wait_for(lambda: size_of(files.partial) > 8 << 20)
            vanish(disk)
            start = time.monotonic()
            _, stderr = process.communicate(timeout=TIME_LIMIT)
            # It does not go on for hours, at most to the end of the stretch.
            assert time.monotonic() - start < 20  # seconds
        assert process.returncode == 1
        assert f"{files.partial}: cannot write it: {reason}. The output has " in stderr
        assert (
            "bytes so far; find out what became of its disk and give the same command "
            "with --resume to go on\n"
        ) in stderr
        assert "Traceback" not in stderr
        if os.path.ismount(disk):
            subprocess.run(["umount", disk], check=True)
        assert os.listdir(disk) == []  # nothing was written beside the disk
        mount()
        summary_file = tmp_path / "summary.json"
        completed = command.run(**files.fields(resume=True, summary_file=summary_file))
        assert completed.returncode == 0, completed.stderr
        assert summary_of(summary_file)["resumed_lines"] > 1000
        whole = tmp_path / "whole.jsonl"
        run(model, input_file=input_file, output_file=whole)
        assert sha256(files.output_file) == sha256(whole)
        assert sorted(os.listdir(disk)) == [
            *("lost+found", "out.jsonl", "out.jsonl.run.json")
        ]


def test_a_file_size_limit(model: OpenedModel, files: Files) -> None:
    """Where no file system can be mounted; Python ignores SIGXFSZ."""
    run(model, **files.fields())
    whole = content_digest(files.output_file)
    before = files.output_file.read_bytes()
    with (
        file_size_limit(len(before) // 2),
        pytest.raises(OutputError, match="File too large"),
    ):
        run(model, **files.fields())
    assert files.output_file.read_bytes() == before  # the old one
    summary = run(model, **files.fields(resume=True))
    assert 0 < summary.resumed_lines < NUM_LINES
    assert content_digest(files.output_file) == whole


@contextlib.contextmanager
def file_size_limit(num_bytes: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


class Stop(BaseException):
    """What a test stops a run with."""


@pytest.mark.parametrize("name", ["out.h5", "out.parquet"])
def test_a_disk_that_fills_up_when_the_output_is_made_of_its_parts(
    model: OpenedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def stop(crash_point: str) -> None:
        if crash_point == "convert":
            raise Stop

    (tmp_path / "out").mkdir()
    files = Files(write_input(tmp_path / "in.txt", 1000), tmp_path / "out" / name)
    with monkeypatch.context() as patch:
        patch.setattr(append_file, "crash_point", stop)
        with pytest.raises(Stop):
            run(model, **files.fields())
    partial_size = files.partial.stat().st_size
    assert run(model, **files.fields(resume=True)).resumed_lines == 1000
    whole = content_digest(files.output_file)
    final_size = files.output_file.stat().st_size
    with small_disk(tmp_path) as disk:
        on_disk = Files(files.input_file, disk / name)
        # So much room that every frame is there, and half of the output is not.
        other = disk / "other"
        other.write_bytes(b"x" * ((8 << 20) - partial_size - final_size // 2))
        with pytest.raises(OutputError, match=rf"{name}: .*No space left.*make room"):
            run(model, **on_disk.fields())
        names = [f"{name}.partial", f"{name}.partial.run.json", "other"]
        assert sorted(os.listdir(disk)) == sorted(names)
        other.unlink()
        summary = run(model, **on_disk.fields(resume=True))
        assert (summary.resumed_lines, summary.num_lines) == (1000, 0)
        assert summary.output_bytes == on_disk.output_file.stat().st_size
        assert sorted(os.listdir(disk)) == [name, f"{name}.run.json"]
        assert content_digest(on_disk.output_file) == whole
