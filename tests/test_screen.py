"""What a person sees while the command works, in a terminal."""

import errno
import io
import logging as python_logging
import re
import signal
import sys
from pathlib import Path

import pytest
from absl import flags, logging

from bert_extract.screen import TerminalBar, bar_line, open_bar
from support.job_runs import write_input
from support.running import flags_for
from support.terminal import Screen, Session, watch_command

WORDS = ["1,234 lines", "0:12", "0:17 left", "5,012 tokens/s"]


@pytest.mark.parametrize(
    ("num_columns", "line"),
    [
        (60, " 42% |███▍    | 1,234 lines, 0:12, 0:17 left, 5,012 tokens/s"),
        (59, " 42% |█████████▋             | 1,234 lines, 0:12, 0:17 left"),
        (27, " 42% |███▍    | 1,234 lines"),
        (26, " 42% 1,234 lines"),
        (8, " 42% 1,2"),
    ],
)
def test_a_bar_has_room_for_what_matters_most(num_columns: int, line: str) -> None:
    assert bar_line(0.4219, WORDS, num_columns, is_unicode=True) == line


def test_a_bar_of_a_wide_terminal_is_not_longer_than_50() -> None:
    line = bar_line(1.0, WORDS, 197, is_unicode=True)
    assert line == f"100% |{'█' * 50}| {', '.join(WORDS)}"


@pytest.mark.parametrize(
    ("share", "line"),
    [
        (0.999, " 99% |########### | a line"),
        (0.0, "  0% |            | a line"),
        (None, "a line"),
    ],
)
def test_a_bar_in_ascii(share: float | None, line: str) -> None:
    assert bar_line(share, ["a line"], 26, is_unicode=False) == line


def test_the_model_of_a_screen() -> None:
    screen = Screen(4)
    screen.write("ab\r█\n\rwxyz".encode())
    assert screen.lines == ["█b", "wxyz"]
    screen.write(b"\rv")  # a full line is not left before the next character
    screen.write(b"abc12\r ")
    assert screen.lines == ["█b", "vabc", " 2"]
    assert screen.last_line == "vabc 2"


class Terminal(io.StringIO):
    """Eighty columns that show what a process writes."""

    encoding = "utf-8"

    def __init__(self) -> None:
        super().__init__()
        self.screen = Screen(80)

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.screen.write(text.replace("\n", "\r\n").encode())
        return len(text)


@pytest.mark.parametrize("is_whole_line", [True, False])
def test_what_is_written_meanwhile_stands_above_the_bar(
    monkeypatch: pytest.MonkeyPatch, is_whole_line: bool
) -> None:
    terminal = Terminal()
    handler = logging.get_absl_handler().python_handler
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(handler, "stream", terminal)
    monkeypatch.setattr(python_logging.root, "handlers", [logging.get_absl_handler()])
    flags.FLAGS.mark_as_parsed()
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.INFO)
    try:
        bar = open_bar()
        assert bar is not None
        logging.info("%s", "before the bar is shown")
        bar.show(0.5, ["half"])
        logging.info("%s", "long " * 20)
        sys.stderr.write("half a line" if not is_whole_line else "a line\n")
        if not is_whole_line:
            assert terminal.screen.lines[-1] == "half a line"
            sys.stderr.write(" and the rest\n")
        assert terminal.screen.lines[-1] == f" 50% |{'█' * 25}{' ' * 25}| half"
        bar.close()
        assert sys.stderr is handler.stream is terminal
        logging.info("%s", "afterwards")
    finally:
        logging.set_verbosity(verbosity)
    first, begin, end, written, last, empty = terminal.screen.lines
    assert first.endswith("before the bar is shown")
    assert f"{begin}{end}".endswith("long " * 19 + "long")
    assert written == ("a line" if is_whole_line else "half a line and the rest")
    assert last.endswith("afterwards")
    assert empty == ""


def test_a_bar_does_not_mind_that_its_terminal_has_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    bar = TerminalBar(terminal)
    bar.show(0.5, ["half"])
    monkeypatch.setattr(terminal, "write", gone)
    bar.show(0.6, ["more"])
    bar.close()
    assert sys.stderr is terminal


def test_a_bar_that_is_closed_stays_away_and_nothing_written_hides_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    bar = TerminalBar(terminal)
    bar.show(0.5, ["half"])
    assert bar.write("") == 0
    bar.show(0.6, ["more"])
    assert terminal.screen.lines[-1].endswith("| more")
    bar.close()
    bar.show(0.7, ["too late"])
    bar.write("afterwards\n")
    assert terminal.screen.lines == ["afterwards", ""]


def test_two_jobs_at_once_have_one_bar_and_standard_error_is_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(logging, "level_info", lambda: True)
    first, second = open_bar(), open_bar()
    assert first is not None
    assert second is None
    first.close()
    assert sys.stderr is terminal


def gone(text: str) -> int:
    raise OSError(errno.EIO, "the terminal has gone")


def test_nobody_is_shown_a_bar_who_wants_errors_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(logging, "level_info", lambda: False)
    assert open_bar() is None


# ------------------------------------------------------------- the real command

# Some seconds' work for the tiny BERT.
NUM_LINES = 30_000
# All that may stand in the last line, whatever comes between.
BAR = re.compile(
    r"( {0,2}\d+% \|[ ▏▎▍▌▋▊▉█]+\| )?(file \d of \d, )?"
    r"(starting|writing the file|[\d,]+ lines?), \d+:\d\d"
    r"(, \d+:\d\d left)?(, [\d,]+ tokens/s)?"
)


def shares(session: Session) -> list[int]:
    """How much was done, in per cent, in each state of the bar that told it."""
    found = [re.match(r" *(\d+)%", line) for _, line in session.bars]
    return [int(match[1]) for match in found if match]


def test_log_lines_and_one_bar_for_all_files(tmp_path: Path, tiny_bert: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    # With one thread the last file is some seconds' work, however many cores there are.
    for name, num_lines in (("a", 3000), ("c", 3000), ("e", NUM_LINES - 6000)):
        write_input(folder / f"{name}.txt", num_lines)
    for name in "bd":
        (folder / f"{name}.txt").write_bytes(b"\xff\n")
    session = watch_command(
        flags_for(
            tiny_bert,
            input_file=folder / "*.txt",
            output_dir=tmp_path / "out",
            output_format="parquet",
            layers="-1",
            num_threads=1,
        ),
        num_columns=80,
    )
    assert session.exit_code == 1
    for _, line in session.bars:
        assert BAR.fullmatch(line) or line.startswith("bert-extract: "), line
    seen = shares(session)
    assert seen == sorted(seen)
    assert len({*seen}) > 1
    assert any("file 5 of 5" in line for _, line in session.bars)
    # A log line for the whole, and one each for the two that failed.
    # Without spaces: where a line was full, nobody sees the one that it ended with.
    left = "".join(session.lines).replace(" ", "")
    assert not re.search("[▏▎▍▌▋▊▉█|]", left)
    assert left.count("notUTF-8") == 2
    assert left.count(f"{tmp_path}/out:3of5outputs:30,000lines") == 1
    assert sum(line.startswith("bert-extract: ") for line in session.lines) <= 8


def test_nothing_is_left_of_the_bar_when_it_is_stopped(
    tmp_path: Path, tiny_bert: Path
) -> None:
    session = watch_command(
        flags_for(
            tiny_bert,
            input_file=write_input(tmp_path / "in.txt", 4 * NUM_LINES),
            output_file=tmp_path / "out.h5",
        ),
        num_columns=200,
        press_when=lambda line: "tokens/s" in line,
    )
    assert session.exit_code == -signal.SIGINT
    assert "bert-extract: stopped by SIGINT" in session.lines
    assert not any("^" in line or "█" in line for line in session.lines)
    assert any(line.endswith("^C") for _, line in session.bars)
