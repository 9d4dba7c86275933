"""An input that changes while it is read ends the run, and leaves what can be kept."""

import gzip
import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from bert_extract import InputError, Job, engine
from bert_extract.inputs import batching
from bert_extract.jobs import run_job
from bert_extract.loaded_model import OpenedModel
from bert_extract.output.resumable import PartialWriter
from bert_extract.progress import Summary
from bert_extract.text import examples
from bert_extract.text.splits import SplitReader, plan_splits
from bert_extract.text.stamps import InputWatch
from support.job_runs import sha256, write_input
from support.running import options_for

NUM_LINES = 900


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 9 // 10)


def grow(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"one more line\n" * 100)


def touch(path: Path) -> None:
    os.utime(path, ns=(1, 1_000_000_001))


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"another text\n")
    other.replace(path)


CHANGES = (cut, grow, touch, replace)
each_change = pytest.mark.parametrize("change", CHANGES)

# ------------------------------------------------------------------ looking


@each_change
@pytest.mark.parametrize("when", ["before it is opened", "while it is read"])
def test_a_change_is_seen(
    tmp_path: Path, change: Callable[[Path], None], when: str
) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(b"a line\n" * 100)
    watch = InputWatch([str(path)])
    lines = iter(SplitReader(plan_splits([str(path)]), "strict", watch=watch))
    if when == "while it is read":
        next(lines)
        watch.check()
        assert watch.is_sound()
    change(path)
    message = f"{path}: changed while it was read: had 700 bytes, last modified 2"
    with pytest.raises(InputError, match=message):
        list(lines)
    with pytest.raises(InputError, match=message):
        watch.check()  # still, for whoever writes what was read before
    assert not watch.is_sound()


def test_both_sizes_and_times_are_told(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(b"x" * 1234)
    os.utime(path, ns=(0, 1_700_000_000_000_000_001))
    watch = InputWatch([str(path)])
    path.write_bytes(b"x" * 5678)
    os.utime(path, ns=(0, 10**18 * 9))  # the year 2255
    then = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(1_700_000_000))
    with pytest.raises(InputError) as caught:
        watch.check_all()
    assert (
        f"had 1,234 bytes, last modified {then}.000000001; has 5,678 bytes, last "
        "modified 2255-"
    ) in str(caught.value)


def test_what_is_wrong_with_half_a_file_is_that_it_changed(tmp_path: Path) -> None:
    path = tmp_path / "in.txt.gz"
    path.write_bytes(gzip.compress(os.urandom(9000).hex().encode(), 1))
    watch = InputWatch([str(path)])
    cut(path)
    with pytest.raises(InputError, match="changed while it was read"):
        list(SplitReader(plan_splits([str(path)]), "strict", watch=watch))
    with pytest.raises(InputError, match="not a whole gzip file"):
        list(SplitReader(plan_splits([str(path)]), "strict"))


def test_who_was_read_whole_may_change(tmp_path: Path) -> None:
    paths = [str(write_input(tmp_path / name, 10)) for name in ("a", "b", "c")]
    watch = InputWatch(paths)
    lines = iter(SplitReader(plan_splits(paths), "strict", watch=watch))
    for _ in range(15):
        next(lines)
    grow(tmp_path / "a")
    watch.check()
    grow(tmp_path / "c")
    watch.check()  # it was not opened so far
    with pytest.raises(InputError, match="c: changed while it was read"):
        list(lines)


def test_who_is_removed_does_not_change(tmp_path: Path) -> None:
    path = write_input(tmp_path / "in.txt", 10)
    watch = InputWatch([str(path)])
    lines = iter(SplitReader(plan_splits([str(path)]), "strict", watch=watch))
    next(lines)
    path.unlink()
    assert len(list(lines)) == 9


def test_pipes_are_not_watched(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    watch = InputWatch([str(path)])
    os.utime(path, ns=(1, 1))
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.write(descriptor, b"a\nb\n")
        lines = iter(SplitReader(plan_splits([str(path)]), "strict", watch=watch))
        assert next(lines).text_a == "a"
        watch.check()
        watch.check_all()
    finally:
        os.close(descriptor)
    assert InputWatch(["-"]).fingerprint() == [["-"]]


@pytest.mark.parametrize("change", [cut, grow, touch])
def test_standard_input_is_watched_where_it_is_a_file(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    path = write_input(tmp_path / "in.txt", 10)
    own = os.dup(0)
    try:
        with open(path, "rb") as file:
            os.dup2(file.fileno(), 0)
        watch = InputWatch(["-"])
        lines = iter(SplitReader(plan_splits(["-"]), "strict", watch=watch))
        next(lines)
        watch.check()
        assert watch.checksums() == [None]
        change(path)
        message = "^standard input: changed while it was read: had"
        with pytest.raises(InputError, match=message):
            watch.check()
        with pytest.raises(InputError, match=message):
            list(lines)
    finally:
        os.dup2(own, 0)
        os.close(own)


def test_remote_files_are_watched() -> None:
    path = "ram://changing/in.txt"
    tf.io.gfile.makedirs("ram://changing")
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(b"a line\n" * 100)
    watch = InputWatch([path])
    lines = iter(SplitReader(plan_splits([path]), "strict", watch=watch))
    next(lines)
    watch.check()
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(b"a line\n")  # behind the others, whatever "wb" says
    message = f"{path}: changed while it was read: had 700 bytes; has 707 bytes"
    with pytest.raises(InputError, match=message):
        watch.check()
    with pytest.raises(InputError, match=f"{path}: changed while it was read"):
        list(lines)


# ------------------------------------------------------------------- whole jobs


@pytest.fixture(scope="module")
def model(tiny_bert: Path) -> OpenedModel:
    return OpenedModel(options_for(tiny_bert, layers="-1"))


@dataclass(frozen=True)
class Case:
    """A job, and which of its inputs changes."""

    options: dict[str, Any]
    changing: Path
    output_file: Path


KINDS = ("plain", "gz", "several", "output_dir", "shard")
QUICK = (
    *(("plain", grow), ("gz", cut), ("several", touch), ("output_dir", replace)),
    ("shard", cut),
)


@pytest.fixture
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    path = write_input(tmp_path / "in.txt", NUM_LINES)
    output_file = tmp_path / "out" / "in.jsonl"
    output_file.parent.mkdir()
    options: dict[str, Any] = {"output_file": str(output_file)}
    if request.param == "gz":
        zipped = tmp_path / "in.txt.gz"
        # So little compressed that the end is not read ahead.
        zipped.write_bytes(gzip.compress(path.read_bytes(), 0, mtime=0))
        path = zipped
    if request.param == "output_dir":
        options = {"output_dir": str(output_file.parent)}
    if request.param == "shard":
        options["shard"] = "0/2"
    inputs = [str(path)]
    if request.param == "several":
        inputs = [str(write_input(tmp_path / "first.txt", 70)), *inputs]
    return Case({**options, "input_file": ",".join(inputs)}, path, output_file)


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "_MAX_STRETCH_LINES", 64)
    monkeypatch.setattr(examples, "_BLOCK_SIZE", 512)
    monkeypatch.setattr(engine, "_TOKENIZED_AT_ONCE", 64)


@pytest.mark.parametrize(
    ("case", "change"),
    [
        pytest.param(*both, marks=() if both in QUICK else pytest.mark.slow)
        for both in itertools.product(KINDS, CHANGES)
    ],
    indirect=["case"],
)
def test_a_run_whose_input_changes_fails_and_keeps_what_is_sound(
    model: OpenedModel,
    case: Case,
    change: Callable[[Path], None],
    small_steps: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content, status = case.changing.read_bytes(), case.changing.stat()
    run_job(model, Job(**case.options), [])
    whole = case.output_file.read_bytes()
    case.output_file.unlink()
    num_commits = 0
    commit = PartialWriter.commit

    def commit_and_change(writer: PartialWriter) -> None:
        nonlocal num_commits
        num_commits += 1
        commit(writer)
        if num_commits == 1:
            change(case.changing)

    monkeypatch.setattr(PartialWriter, "commit", commit_and_change)
    summaries: list[Summary] = []
    message = f"{case.changing}: changed while it was read: had {len(content):,} bytes"
    if "output_dir" in case.options:
        run_job(model, Job(**case.options), summaries)
    else:
        with pytest.raises(InputError, match=message):
            run_job(model, Job(**case.options), summaries)
    (summary,) = summaries
    assert summary.error is not None
    assert message in summary.error
    assert summary.needs_same_input
    assert not case.output_file.exists()
    kept = Path(f"{case.output_file}.partial").read_bytes()
    assert whole.startswith(kept)
    assert kept.count(b"\n") == summary.resumable_lines > 0
    # It is as it was again; a copy from a backup, most likely.
    case.changing.write_bytes(content)
    os.utime(case.changing, ns=(status.st_atime_ns, status.st_mtime_ns))
    run_job(model, Job(**case.options, resume=True), summaries)
    assert summaries[1].resumed_lines == summary.resumable_lines
    assert case.output_file.read_bytes() == whole


def test_a_shard_whose_lines_were_counted_before_is_refused(
    model: OpenedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [write_input(tmp_path / name, 50) for name in ("a.txt", "b.txt")]

    def plan_and_change(*args: Any) -> Any:
        splits = plan_splits(*args)
        grow(paths[0])
        return splits

    monkeypatch.setattr("bert_extract.jobs.plan_splits", plan_and_change)
    job = Job(
        input_file=",".join(map(str, paths)),
        output_file=str(tmp_path / "out.jsonl"),
        shard="1/2",
    )
    with pytest.raises(InputError, match=r"a\.txt: changed while it was read"):
        run_job(model, job, [])


@pytest.mark.parametrize("case", ["plain", "gz", "shard"], indirect=True)
def test_an_input_that_stays_is_no_trouble(
    model: OpenedModel, case: Case, small_steps: None
) -> None:
    summaries: list[Summary] = []
    run_job(model, Job(**case.options), summaries)
    first = sha256(case.output_file)
    run_job(model, Job(**case.options), summaries)
    assert sha256(case.output_file) == first
    assert [summary.error for summary in summaries] == [None, None]
