"""Damaged TensorFlow checkpoints: one message, no crash, no hang, no wasted memory."""

import subprocess
import sys
from pathlib import Path

import pytest

TESTS_DIR = Path(__file__).parents[1]
GOLDEN_DIR = TESTS_DIR / "golden"
# The folder of a small checkpoint -> its config. TF1, and both object-based layouts.
CHECKPOINTS = {
    "tiny_bert": "tiny_bert/bert_config.json",
    "model_garden/bert_encoder": "model_garden/bert_config.json",
    "model_garden/pretrainer": "model_garden/bert_config.json",
}


def fuzz(checkpoint: str, work_dir: Path, num_copies: int) -> dict[str, str]:
    """What became of each damaged copy, by its seed; and what it took."""
    completed = subprocess.run(
        [
            *(sys.executable, "-m", "support.fuzz_bundles"),
            str(GOLDEN_DIR / CHECKPOINTS[checkpoint]),
            str(GOLDEN_DIR / checkpoint / "bert_model.ckpt"),
            *(str(work_dir), "0", str(num_copies)),
        ],
        cwd=TESTS_DIR,
        capture_output=True,
        text=True,
        timeout=60 + num_copies,
        check=False,
    )
    lines = [line.split() for line in completed.stdout.splitlines()]
    # A crash is seen by the last seed, which has no word behind it.
    assert completed.returncode == 0, (lines[-1:], completed.stderr[-2000:])
    return dict(lines)


def check_outcomes(outcomes: dict[str, str], num_copies: int) -> None:
    assert float(outcomes.pop("slowest")) < 10
    # Of a checkpoint of 0.3 MB at most; what TensorFlow keeps for itself varies.
    assert int(outcomes.pop("memory")) < 64 << 20
    assert len(outcomes) == num_copies
    words = list(outcomes.values())
    # Some damage lies where nothing is read, in ignored variables or paddings.
    assert words.count("refused") > 0.6 * num_copies
    assert words.count("refused") + words.count("loaded") == num_copies


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_damaged_checkpoints(checkpoint: str, tmp_path: Path) -> None:
    check_outcomes(fuzz(checkpoint, tmp_path, 100), 100)


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_many_damaged_checkpoints(checkpoint: str, tmp_path: Path) -> None:
    check_outcomes(fuzz(checkpoint, tmp_path, 2000), 2000)
