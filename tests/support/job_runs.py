"""The real command, started as people start it."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from bert_extract.formats import format_of
from bert_extract.output.reading import read_features

# Dies in bert_extract.output.append_file.crash_point where it is told to.
DRIVER = Path(__file__).parent / "crash_driver.py"
# No run of the tiny checkpoint takes longer, in seconds, on a machine that is busy.
TIME_LIMIT = 180


class Command:
    """The command with a checkpoint; calls add what differs."""

    def __init__(self, checkpoint_dir: Path) -> None:
        self._flags = {
            "vocab_file": checkpoint_dir / "vocab.txt",
            "bert_config_file": checkpoint_dir / "bert_config.json",
            "init_checkpoint": checkpoint_dir / "bert_model.ckpt",
            "max_seq_length": 32,
            "layers": "-1",
        }

    def line(self, **flags: Any) -> list[str]:
        """The command line."""
        every = {**self._flags, **flags}
        return [f"--{name}={value}" for name, value in every.items()]

    def start(
        self, *, crash: dict[str, Any] | None = None, **flags: Any
    ) -> "subprocess.Popen[str]":
        """Starts the command with short stretches, so that much can happen in a run."""
        environment = {**os.environ, "CRASH": json.dumps(crash or {})}
        return subprocess.Popen(
            [sys.executable, str(DRIVER), *self.line(**flags)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def run(
        self, *, crash: dict[str, Any] | None = None, **flags: Any
    ) -> "subprocess.CompletedProcess[str]":
        """Runs the command to its end, whatever that is."""
        process = self.start(crash=crash, **flags)
        try:
            stdout, stderr = process.communicate(timeout=TIME_LIMIT)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        assert "Traceback" not in stderr, stderr
        return subprocess.CompletedProcess(
            process.args, process.returncode, stdout, stderr
        )


def sha256(*paths: Path) -> str:
    """Of the files, concatenated."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def content_digest(path: Path) -> str:
    """Of what an output holds: its bytes, or the records of one that was converted."""
    if format_of(str(path)).is_json:
        return sha256(path)
    digest = hashlib.sha256()
    for record in read_features(path):
        digest.update(
            repr((record.linex_index, record.tokens, record.indexes)).encode()
        )
        digest.update(record.vectors.tobytes())
    return digest.hexdigest()


def summary_of(summary_file: Path) -> dict[str, Any]:
    """What a summary file says of its only output."""
    (output,) = json.loads(summary_file.read_bytes())["outputs"]
    assert isinstance(output, dict)
    return output


def write_input(path: Path, num_lines: int) -> Path:
    """Writes short lines, no two of them alike; some are blank, some are pairs."""
    words = ("the", "dog", "is", "hairy", ".", "who", "was", "jim", "henson", "?")
    with open(path, "w", encoding="utf-8") as writer:
        for number in range(num_lines):
            line = " ".join(words[number * k % 10] for k in range(number % 9))
            pair = " ||| a puppeteer" * (number % 5 == 0)
            writer.write(f"{line} {number}{pair}\n" if number % 11 else "\n")
    return path
