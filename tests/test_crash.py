"""A run that is killed anywhere is gone on with, to the byte."""

import json
import os
import random
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bert_extract.formats import format_of
from support.job_runs import (
    TIME_LIMIT,
    Command,
    content_digest,
    summary_of,
    write_input,
)

NUM_LINES = 12_000
WINDOW_LINES = 512  # crash_driver.py's


@dataclass(frozen=True)
class Whole:
    """An uninterrupted run."""

    digest: str
    seconds: float  # from the start of the process to its end


@pytest.fixture(scope="module")
def input_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_input(tmp_path_factory.mktemp("input") / "in.txt", NUM_LINES)


@pytest.fixture(scope="module")
def wholes(
    tiny_bert: Path, input_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Whole]:
    """What each format's uninterrupted run writes; made when first asked for."""
    folder = tmp_path_factory.mktemp("whole")

    class Wholes(dict[str, Whole]):
        def __missing__(self, name: str) -> Whole:
            start = time.monotonic()
            completed = Command(tiny_bert).run(
                input_file=input_file, output_file=folder / name
            )
            assert completed.returncode == 0, completed.stderr
            self[name] = Whole(content_digest(folder / name), time.monotonic() - start)
            (folder / name).unlink()
            return self[name]

    return Wholes()


def kill_after(process: "subprocess.Popen[str]", seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
    process.communicate(timeout=TIME_LIMIT)


def check_resumed(
    command: Command, flags: dict[str, Any], whole: Whole, folder: Path
) -> int:
    """Resumes what was killed; returns the lines that were kept."""
    output_file = folder / flags["output_file"].name
    num_durable = durable_lines(output_file)
    partial = Path(f"{output_file}.partial")
    num_partial_bytes = partial.stat().st_size if partial.exists() else 0
    summary_file = folder.parent / f"{folder.name}.json"
    completed = command.run(**flags, resume=True, summary_file=summary_file)
    assert completed.returncode == 0, completed.stderr
    assert sorted(os.listdir(folder)) == [
        output_file.name,
        f"{output_file.name}.run.json",
    ]
    assert content_digest(output_file) == whole.digest
    summary = summary_of(summary_file)
    kept = summary["resumed_lines"]
    assert kept + summary["num_lines"] == NUM_LINES
    assert summary["output_bytes"] == output_file.stat().st_size
    # Of what had reached the file, nothing vouches for the rest.
    assert kept == num_durable
    if num_partial_bytes and format_of(str(output_file)).is_json:
        share = num_partial_bytes / output_file.stat().st_size
        assert kept >= share * NUM_LINES - 2 * WINDOW_LINES
    assert isinstance(kept, int)
    return kept


def durable_lines(output_file: Path) -> int:
    """What the run file promises; it is renamed after the output."""
    for path in (f"{output_file}.partial.run.json", f"{output_file}.run.json"):
        if os.path.exists(path):
            promised = json.loads(Path(path).read_bytes())["num_records"]
            assert isinstance(promised, int)
            return promised
    return 0


FIRST = [("write", 4), ("rename", 1)]
MORE = [
    *[("write", 1), ("write", 17), ("write", 40)],
    *[("flush", 1), ("flush", 3), ("flush", 9), ("rename", 2)],
]
# Where an output is made of frames at the end, the flushes are as many as before.
CONVERTED = [("convert", 1), ("convert", 5000), ("convert", NUM_LINES), ("rename", 3)]
SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".h5", ".parquet")


@pytest.mark.parametrize(
    ("suffix", "name", "number"),
    [
        *((".jsonl", *point) for point in FIRST),
        *(pytest.param(".jsonl", *p, marks=pytest.mark.slow) for p in MORE),
        *(
            pytest.param(suffix, *point, marks=pytest.mark.slow)
            for suffix in SUFFIXES[1:]
            # Both compressed forms end their members in the same places.
            for point in (FIRST if suffix == ".jsonl.gz" else FIRST + MORE)
        ),
        *(
            pytest.param(suffix, *point, marks=pytest.mark.slow)
            for suffix in (".h5", ".parquet")
            for point in CONVERTED
        ),
    ],
)
def test_a_run_that_dies_at_a_chosen_point(
    tiny_bert: Path,
    tmp_path: Path,
    input_file: Path,
    wholes: dict[str, Whole],
    suffix: str,
    name: str,
    number: int,
) -> None:
    folder = tmp_path / "output"
    folder.mkdir()
    command = Command(tiny_bert)
    flags: dict[str, Any] = {
        "input_file": input_file,
        "output_file": folder / f"out{suffix}",
    }
    whole = wholes[f"out{suffix}"]
    completed = command.run(**flags, crash={"name": name, "number": number})
    assert completed.returncode == -9
    kept = check_resumed(command, flags, whole, folder)
    if name in ("rename", "convert"):
        assert kept == NUM_LINES
    if name == "flush":  # at the end of a stretch; those before it are durable
        assert kept >= (number - 1) * WINDOW_LINES


def kill_at_random(
    seed: int,
    suffix: str,
    tiny_bert: Path,
    folder: Path,
    input_file: Path,
    wholes: dict[str, Whole],
) -> None:
    command = Command(tiny_bert)
    flags: dict[str, Any] = {
        "input_file": input_file,
        "output_file": folder / f"out{suffix}",
    }
    whole = wholes[f"out{suffix}"]
    # Spread over loading, computing and the end.
    share = random.Random(seed).random()
    kill_after(command.start(**flags), share * whole.seconds)
    check_resumed(command, flags, whole, folder)


def test_a_run_that_is_killed_at_a_random_moment(
    tiny_bert: Path, tmp_path: Path, input_file: Path, wholes: dict[str, Whole]
) -> None:
    folder = tmp_path / "output"
    folder.mkdir()
    kill_at_random(0, ".jsonl", tiny_bert, folder, input_file, wholes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "seed"),
    [
        # Each moment costs two processes and more.
        *((SUFFIXES[0], seed) for seed in range(1, 31)),
        *(
            (suffix, 100 * number + seed)
            for number, suffix in enumerate(SUFFIXES[1:], 1)
            for seed in range(5)
        ),
    ],
)
def test_runs_that_are_killed_at_random_moments(
    tiny_bert: Path,
    tmp_path: Path,
    input_file: Path,
    wholes: dict[str, Whole],
    suffix: str,
    seed: int,
) -> None:
    folder = tmp_path / "output"
    folder.mkdir()
    kill_at_random(seed, suffix, tiny_bert, folder, input_file, wholes)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".jsonl", ".h5"])
def test_a_run_that_is_killed_again_and_again_ends(
    tiny_bert: Path,
    tmp_path: Path,
    input_file: Path,
    wholes: dict[str, Whole],
    suffix: str,
) -> None:
    folder = tmp_path / "output"
    folder.mkdir()
    command = Command(tiny_bert)
    flags: dict[str, Any] = {
        "input_file": input_file,
        "output_file": folder / f"out{suffix}",
    }
    for number in range(3, 9):
        crash = {"name": "write", "number": number}
        assert command.run(**flags, resume=True, crash=crash).returncode == -9
    check_resumed(command, flags, wholes[f"out{suffix}"], folder)
