"""What a person is told: the counts, the log lines, the summary file."""

import contextlib
import dataclasses
import importlib.metadata
import io
import json
import os
import re
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from absl import logging

from bert_extract import progress
from bert_extract.errors import OutputError
from bert_extract.options import Job, Options
from bert_extract.progress import (
    OutputForecast,
    Progress,
    Summary,
    summarizing,
    total,
)
from bert_extract.version import __version__
from support.parts import line_of


class LogLines:
    """What absl's logger was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[LogLines]:
    log = LogLines()
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.INFO)

    def remember(record: Any) -> bool:
        log.lines.append(f"{record.levelname}: {record.getMessage()}")
        return False

    logger = logging.get_absl_logger()
    logger.addFilter(remember)
    yield log
    logger.removeFilter(remember)
    logging.set_verbosity(verbosity)


def test_the_summary_says_all_that_was_counted(log: LogLines) -> None:
    summary = Summary(
        output_file="out.jsonl",
        num_lines=1234,
        num_pairs=56,
        num_tokens=30_000,
        num_slots=40_000,
        num_truncated=7,
        num_unsplit=8,
        output_bytes=5_000_000,
        seconds=2.0,
        peak_memory_bytes=700 << 20,
        json_kernel="compiled",
    )
    summary.log()
    assert log.lines == [
        "INFO: out.jsonl: 1,234 lines (56 pairs, 7 truncated), 30,000 tokens, 2.0 s, "
        "15,000 tokens/s, padding 25.0 %, 5,000,000 bytes, peak memory 700 MB, "
        "compiled JSON kernel",
        "WARNING: lines longer than --max_seq_length, which were truncated: 7",
        "WARNING: lines with '|||' that were read as one text: 8; a pair is separated "
        "by exactly ' ||| ', one space on each side; if they are text, say "
        "--pairs=false",
    ]


def test_an_empty_run_has_a_summary(log: LogLines) -> None:
    summary = Summary(output_file="out.jsonl", json_kernel="python")
    assert (summary.tokens_per_second, summary.padding) == (0.0, 0.0)
    summary.log()
    (line,) = log.lines
    assert line.startswith("INFO: out.jsonl: 0 lines (0 pairs, 0 truncated), 0 tokens")


def test_one_of_anything_is_no_plural(log: LogLines) -> None:
    Summary(
        "o", num_lines=1, num_pairs=1, num_tokens=1, output_bytes=1, resumed_lines=1
    ).log()
    assert log.text.startswith(
        "INFO: o: 1 line after 1 kept one (1 pair, 0 truncated), 1 token, 0.0 s, "
        "0 tokens/s, padding 0.0 %, 1 byte, "
    )


def test_standard_output_is_called_so(log: LogLines) -> None:
    Summary("-").log()
    assert log.text.startswith("INFO: standard output: 0 lines")


def test_kept_lines_are_told(log: LogLines) -> None:
    Summary(num_lines=2, resumed_lines=1000).log()
    assert "2 lines after 1,000 kept ones (0 pairs" in log.text


def test_nothing_but_errors_is_said_when_that_was_asked_for(log: LogLines) -> None:
    logging.set_verbosity(logging.ERROR)
    Summary(num_truncated=1, num_unsplit=1).log()
    assert log.lines == []


def test_several_outputs_have_one_summary(log: LogLines) -> None:
    summaries = [
        Summary("out/a.jsonl", num_lines=5, num_tokens=50, seconds=2.0),
        Summary("out/b.jsonl", resumed_lines=3, peak_memory_bytes=9 << 20),
        Summary("out/c.jsonl", num_lines=1, num_truncated=1, error="full"),
    ]
    for summary in summaries:
        summary.log(is_one_of_many=True)
    assert log.lines == []
    total("out", summaries).log()
    assert log.lines == [
        "INFO: out: 2 of 3 outputs: 6 lines after 3 kept ones (0 pairs, 1 truncated), "
        "50 tokens, 2.0 s, 25 tokens/s, padding 0.0 %, 0 bytes, peak memory 9 MB",
        "WARNING: lines longer than --max_seq_length, which were truncated: 1",
    ]
    assert summaries[0].num_lines == 5


def test_the_summary_of_several_outputs_adds_up_every_number() -> None:
    """The threads of a run are no sum, nor is what a failed one left."""
    names = [
        field.name
        for field in dataclasses.fields(Summary)
        if field.type in ("int", "float")
        and field.name not in ("num_threads", "peak_memory_bytes", "resumable_lines")
    ]
    one = Summary("a")
    for number, name in enumerate(names):
        setattr(one, name, number)
    whole = total("out", [one, one])
    assert [getattr(whole, name) for name in names] == [
        2 * number for number in range(len(names))
    ]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock whose hands the test moves."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


class Run:
    """A run of lines of 10 tokens and 40 bytes each, as its threads tell of it."""

    def __init__(self, shown: Progress, clock: list[float]) -> None:
        self.shown = shown
        self.clock = clock
        self.num_read = 0  # lines, kept ones included
        self.num_lines: int | None = None

    def begin(self, num_lines: int | None, num_kept: int = 0) -> None:
        """Begins an output."""
        self.num_read, self.num_lines = num_kept, num_lines
        self.shown.work.is_all_read = False
        size = None if num_lines is None else 40 * num_lines
        self.shown.begin(size, num_kept, lambda number: 40 * min(number, self.num_read))

    def read(self, num_lines: int) -> None:
        """The reader has so many more."""
        self.num_read += num_lines
        self.shown.work.is_all_read = self.num_read == self.num_lines
        for _ in range(num_lines):
            self.shown.work.read(line_of(10))

    def compute(self, num_lines: int, seconds: float) -> None:
        """So many lines are computed, and encoded, in so long."""
        lines = [line_of(10)] * num_lines
        self.shown.work.computed(lines, 0.9 * seconds)
        self.shown.work.encoded(lines, 0.1 * seconds)
        self.clock[0] += seconds
        self.shown.tick()


def test_a_log_that_nobody_watches_gets_a_line_a_minute(
    log: LogLines, clock: list[float]
) -> None:
    run = Run(Progress(), clock)
    run.begin(900)
    for _ in range(18):
        run.read(10)
        run.compute(10, seconds=10)
    assert log.lines == [
        "INFO: 60 lines, 10 tokens/s, 6 % done, about 14 minutes left",
        "INFO: 120 lines, 10 tokens/s, 13 % done, about 13 minutes left",
        "INFO: 180 lines, 10 tokens/s, 20 % done, about 12 minutes left",
    ]


def test_a_log_line_of_a_run_of_82_seconds_is_true(
    log: LogLines, clock: list[float]
) -> None:
    run = Run(Progress(), clock)
    run.begin(820)
    run.read(820)  # one window has all of it, and nothing is written before its end
    for _ in range(82):
        run.shown.work.computed([line_of(10)] * 10, 1.0)
        clock[0] += 1
        run.shown.tick()
    (line,) = log.lines
    seconds = int(line.split("about ")[1].removesuffix(" seconds left"))
    assert 22 <= seconds <= 32


def test_without_a_size_no_time_is_promised(log: LogLines, clock: list[float]) -> None:
    run = Run(Progress(), clock)
    run.begin(None)
    run.read(60)
    run.compute(60, seconds=60)
    assert log.lines == ["INFO: 60 lines, 10 tokens/s"]


def test_kept_lines_are_done_but_say_nothing_of_the_speed(
    log: LogLines, clock: list[float]
) -> None:
    run = Run(Progress(), clock)
    run.begin(900, num_kept=800)
    run.read(100)
    for _ in range(60):
        run.compute(1, seconds=1)
    assert log.lines == [
        "INFO: 860 lines, 10 tokens/s, 95 % done, about 40 seconds left"
    ]


def test_several_files_are_one_job(log: LogLines, clock: list[float]) -> None:
    run = Run(Progress(4, 40 * 400), clock)
    run.shown.end(40 * 100)  # it was complete, and is not begun
    for _ in range(2):
        run.begin(100)
        for _ in range(100):
            run.read(1)
            run.compute(1, seconds=1)
        run.shown.end(40 * 100)
    assert log.lines == [
        "INFO: file 2 of 4, 60 lines, 10 tokens/s, 40 % done, about 4 minutes left",
        "INFO: file 3 of 4, 120 lines, 10 tokens/s, 55 % done, about 3 minutes left",
        "INFO: file 3 of 4, 180 lines, 10 tokens/s, 70 % done, about 2 minutes left",
    ]


def test_a_small_compressed_file_is_not_done_when_it_is_read(
    log: LogLines, clock: list[float]
) -> None:
    shown = Progress()
    # All its bytes come with the first block.
    shown.begin(100, 0, lambda number: 100 if number else 0)
    run = Run(shown, clock)
    run.read(60)
    run.compute(60, seconds=60)
    assert log.lines == ["INFO: 60 lines, 10 tokens/s"]
    run.num_lines = 120
    run.read(60)
    for _ in range(30):
        run.compute(1, seconds=2)
    assert log.lines[1].endswith(" 75 % done, about 60 seconds left")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("num_lines", "parts"),
    [
        (20, [" 50% |#", "10 lines, 0:10, 0:10 left, 10 tokens/s"]),
        (None, ["\r10 lines, 0:10, 10 tok"]),
    ],
)
def test_a_terminal_gets_a_bar(
    monkeypatch: pytest.MonkeyPatch,
    log: LogLines,
    clock: list[float],
    num_lines: int | None,
    parts: list[str],
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    run = Run(Progress(), clock)
    run.shown.tick()
    assert "\rstarting, 0:00" in terminal.getvalue()
    run.begin(num_lines)
    for _ in range(10):
        run.read(1)
        run.compute(1, seconds=1)
    run.shown.close()
    for part in parts:
        assert part in terminal.getvalue()
    assert log.lines == []


def test_the_clock_goes_on_while_nothing_else_does(
    monkeypatch: pytest.MonkeyPatch, log: LogLines
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress() as shown:
        shown.begin(40, 0, lambda number: 40 * number)
        shown.convert()
        deadline = time.monotonic() + 20
        while not re.search("\rwriting the file, 0:0[2-9]", terminal.getvalue()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert terminal.getvalue().endswith("\r")  # and nothing in that line


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """What IPython is in the process of a notebook."""
    shell = types.SimpleNamespace(config={"IPKernelApp": {}})
    ipython = types.SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", ipython)


@pytest.mark.usefixtures("notebook")
def test_a_notebook_gets_a_bar(
    monkeypatch: pytest.MonkeyPatch, log: LogLines, clock: list[float]
) -> None:
    screen = io.StringIO()  # no terminal
    monkeypatch.setattr(sys, "stderr", screen)
    logging.set_verbosity(logging.WARNING)  # as it is in Python
    run = Run(Progress(), clock)
    run.begin(20)
    for _ in range(10):
        run.read(1)
        run.compute(1, seconds=1)
    run.shown.close()
    assert "10 lines, 0:10, 0:10 left, 10 tokens/s" in screen.getvalue()
    assert " 50%|" in screen.getvalue()


@pytest.mark.parametrize(
    ("is_wanted", "shell", "shown"),
    [
        (None, {"IPKernelApp": {}}, True),
        (None, {"TerminalIPythonApp": {}}, False),
        (None, None, False),
        (True, None, True),
        (False, {"IPKernelApp": {}}, False),
    ],
)
def test_a_bar_of_records_is_for_notebooks(
    monkeypatch: pytest.MonkeyPatch,
    is_wanted: bool | None,
    shell: dict[str, Any] | None,
    shown: bool,
) -> None:
    ipython = types.SimpleNamespace(
        get_ipython=lambda: shell and types.SimpleNamespace(config=shell)
    )
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setattr(progress, "_BAR_SECONDS", 0)
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    bar = progress.RecordBar(2, is_wanted)
    bar.count()
    bar.count()
    bar.close()
    assert ("2/2" in screen.getvalue()) == shown


def test_what_is_done_at_once_shows_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    bar = progress.RecordBar(None, True)
    bar.count()
    bar.close()
    assert screen.getvalue() == ""


@pytest.mark.parametrize(
    ("free", "told"), [(12_671, True), (12_672, False), (None, False)]
)
def test_an_output_that_will_not_fit_is_told_once(
    log: LogLines, free: int | None, told: bool
) -> None:
    forecast = OutputForecast("out.jsonl", input_bytes=1000)
    # 12.8 bytes of the output are written for each of the input.
    forecast.update(127, num_bytes_read=10, num_bytes=127, free=free)
    forecast.update(128, num_bytes_read=9, num_bytes=128, free=free)
    assert log.lines == []  # too early to tell
    for _ in range(2):
        forecast.update(128, num_bytes_read=10, num_bytes=128, free=free)
    assert len(log.lines) == told
    if told:
        assert log.text == (
            "WARNING: out.jsonl: the output will be about 12,800 bytes, and its disk "
            "has room for 12,671 more"
        )


@pytest.mark.parametrize(("free", "told"), [(25_471, True), (25_472, False)])
def test_an_output_that_is_there_twice_before_it_is_complete(
    log: LogLines, free: int, told: bool
) -> None:
    forecast = OutputForecast("out.h5", input_bytes=1000)
    forecast.update(128, 10, num_bytes=128, free=free, num_copies=2)
    assert len(log.lines) == told
    if told:
        assert log.text.endswith("room for 25,471 more; making it takes 25,472")


def test_an_enormous_output_is_told(log: LogLines) -> None:
    forecast = OutputForecast("out.jsonl", input_bytes=10**9)
    forecast.update(10, 10**7, num_bytes=2 * 10**10, free=None)
    (line,) = log.lines
    assert line.startswith(
        "WARNING: out.jsonl: the output will be about 2,000,000,000,000 bytes; fewer"
    )


def test_the_summary_file_tells_what_ran(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    options = Options(vocab_file="v", bert_config_file="b", init_checkpoint="i")
    job = Job(input_file="i", output_file="o", summary_file=str(path))
    summary = Summary("o", num_lines=3, num_tokens=10, num_slots=16, seconds=4.0)
    with contextlib.suppress(ValueError), summarizing(options, job) as summaries:
        summaries.append(summary)
        raise ValueError("broken")
    story = json.loads(path.read_bytes())
    assert story["bert_extract"] == __version__
    assert story["tensorflow"] == importlib.metadata.version("tensorflow")
    assert story["options"]["batch_size"] == 32
    assert story["job"]["input_file"] == "i"
    assert story["error"] == "broken"
    assert story["outputs"][0]["num_lines"] == 3
    assert story["outputs"][0]["tokens_per_second"] == 2.5
    assert story["outputs"][0]["padding"] == 0.375
    assert [entry.name for entry in tmp_path.iterdir()] == ["summary.json"]


def test_a_summary_file_without_a_folder_is_refused_before_the_job(
    tmp_path: Path,
) -> None:
    path = tmp_path / "none" / "summary.json"
    job = Job(input_file="i", output_file="o", summary_file=str(path))
    with (
        pytest.raises(OutputError, match=f"--summary_file: {path}: expected a file"),
        summarizing(Options(), job),
    ):
        pytest.fail("the job ran")


def test_a_special_summary_file_is_not_renamed_over(tmp_path: Path) -> None:
    link = tmp_path / "null"
    link.symlink_to(os.devnull)
    with summarizing(Options(), Job(summary_file=str(link))):
        pass
    assert link.is_symlink()
    assert Path(os.devnull).is_char_device()
    assert not Path(os.devnull + ".tmp").exists()


def test_a_minute_is_what_the_log_waits() -> None:
    assert progress._LOG_SECONDS == 60.0
