"""Memory does not grow with the corpus."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.running import flags_for

LINES = (
    "The river bank was wet .",
    "Who was Jim Henson ? ||| Jim Henson was a puppeteer",
    "",
    "Deposits at the bank were low , said the bank .",
)


def peak_memory(
    model_dir: Path, input_file: Path, output_file: Path | str, **options: Any
) -> int:
    """The most memory of a run of the command, as the system counted it."""
    flags = flags_for(
        model_dir,
        input_file=input_file,
        output_file=output_file,
        layers="-1",
        num_threads=2,
        verbosity=-1,
        **options,
    )
    process = subprocess.Popen([sys.executable, "-m", "bert_extract", *flags])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss


def write_lines(path: Path, num_lines: int) -> Path:
    path.write_text("".join(f"{LINES[i % 4]}\n" for i in range(num_lines)))
    return path


@pytest.mark.parametrize(
    "output_name",
    [pytest.param("/dev/null", marks=pytest.mark.slow), "output.jsonl"],
)
def test_twenty_times_the_lines_take_no_more_memory(
    tiny_bert: Path, tmp_path: Path, output_name: str
) -> None:
    short = write_lines(tmp_path / "short.txt", 3_000)
    long = write_lines(tmp_path / "long.txt", 60_000)
    output_file = tmp_path / output_name  # an absolute name stays itself
    of_short = peak_memory(tiny_bert, short, output_file)
    of_long = peak_memory(tiny_bert, long, output_file)
    assert of_long < 1.10 * of_short
    if output_name != "/dev/null":
        with output_file.open("rb") as output:
            assert sum(1 for _ in output) == 60_000
        output_file.unlink()


@pytest.mark.slow
def test_nor_do_they_where_a_vector_is_longer(minilm_tf1: Path, tmp_path: Path) -> None:
    short = write_lines(tmp_path / "short.txt", 3_000)
    long = write_lines(tmp_path / "long.txt", 60_000)
    of_short = peak_memory(minilm_tf1, short, "/dev/null")
    assert peak_memory(minilm_tf1, long, "/dev/null") < 1.10 * of_short


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["wordpiece", "word", "sentence"])
def test_a_long_line_takes_no_more_memory_but_for_its_text(
    tiny_bert: Path, tmp_path: Path, unit: str
) -> None:
    """A single line of 2 MB and one of 20 MB, in windows: 0.3 and 3 GB of vectors."""
    peaks = []
    for num_bytes in (2_000_000, 20_000_000):
        line = tmp_path / f"{num_bytes}.txt"
        text = "The river bank was wet . Who was Jim Henson ? unaffable "
        line.write_text(text * (num_bytes // len(text)))
        options = {"long_text": "window", "unit": unit, "max_seq_length": 64}
        peaks.append(peak_memory(tiny_bert, line, "/dev/null", **options))
    # Kilobytes; three times the text that is more.
    assert peaks[1] < 1.05 * peaks[0] + 3 * 18_000
