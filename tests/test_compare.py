"""scripts/compare.py: two outputs, layer by layer."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from bert_extract.output.json_lines import JsonFormatter
from bert_extract.output.record import Record, RecordPart

COMPARE = Path(__file__).parent.parent / "scripts" / "compare.py"


def write(path: Path, rows: list[list[float]], tokens: tuple[str, ...]) -> Path:
    layer = np.array(rows, np.float32)
    record = Record(0, tokens, (-1,), (layer,))
    line = JsonFormatter([-1]).format(RecordPart(record))
    path.write_bytes(line)
    return path


def run(*files: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(COMPARE), *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_cosines_and_the_largest_difference_are_those_of_the_vectors(
    tmp_path: Path,
) -> None:
    a = write(tmp_path / "a.jsonl", [[1.0, 0.0], [3.0, 4.0]], ("[CLS]", "[SEP]"))
    b = write(tmp_path / "b.jsonl", [[1.0, 0.0], [4.0, 3.0]], ("[CLS]", "[SEP]"))
    result = run(a, b)
    # cos((3, 4), (4, 3)) = 24 / 25; the mean of it and 1 is 0.98.
    assert result.stdout.splitlines()[1].split() == [
        *("-1", "0.980000", "0.960400", "0.960000", "1.000000")
    ]
    assert result.returncode == 0


def test_other_tokens_end_with_1(tmp_path: Path) -> None:
    a = write(tmp_path / "a.jsonl", [[1.0]], ("x",))
    b = write(tmp_path / "b.jsonl", [[1.0]], ("y",))
    result = run(a, b)
    assert result.returncode == 1
    assert result.stderr == "linex_index 0: the tokens differ\n"
