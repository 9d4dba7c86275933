#!/usr/bin/env python3
"""Measures how long `bert-inspect` looks at a large file, and in how much memory.

    .venv/bin/python scripts/check_inspect.py --gigabytes=5 --folder=/tmp

Makes a file of each format, of one record again and again under other numbers, in a
folder of its own that is gone afterwards; looks at it; prints seconds and peak memory.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bert_extract import Record
from bert_extract.output.json_lines import JsonFormatter
from bert_extract.output.record import RecordPart

_SUFFIXES = (".jsonl", ".jsonl.gz", ".h5", ".parquet")
_LAYERS = (-1, -2, -3, -4)
_NUM_TOKENS, _SIZE = 64, 384  # of MiniLM
# A program of its own. Its ru_maxrss would be that of whoever started it, if greater.
_PROGRAM = """
import re, sys, time
from bert_extract import inspect
code = inspect.main(["bert-inspect", *sys.argv[1:]])
with open("/proc/self/status") as status:
    peak = 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read())[1])
print("peak", time.process_time(), peak)
sys.exit(code)
"""


@dataclass(frozen=True)
class Measured:
    """What looking at a file took, and what it told."""

    seconds: float  # for the summary, with the start of Python
    line_seconds: float  # for the last record
    cpu_seconds: float  # for the summary
    peak_bytes: int  # of the greater of both
    summary: str
    record: str

    @property
    def estimated_tokens(self) -> int:
        """The tokens that the summary tells."""
        match = re.search(r"tokens +(?:about )?([\d,]+)", self.summary)
        assert match is not None
        return int(match[1].replace(",", ""))


def make_file(path: Path, num_bytes: int) -> tuple[int, int]:
    """Makes a file of at least so many bytes; the suffix is its format.

    Returns:
      The lines and the tokens that are in it.
    """
    rng = np.random.default_rng(14)
    vectors = rng.normal(size=(len(_LAYERS), _NUM_TOKENS, _SIZE)).astype(np.float32)
    record = Record(0, ("token",) * _NUM_TOKENS, _LAYERS, tuple(vectors))
    makers = {".h5": _make_hdf5, ".parquet": _make_parquet}
    num_lines = makers.get(path.suffix, _make_json)(path, num_bytes, record)
    return num_lines, num_lines * _NUM_TOKENS


def _make_json(path: Path, num_bytes: int, record: Record) -> int:
    line = JsonFormatter(_LAYERS).format(RecordPart(record))
    start = b'{"linex_index": '
    rest = bytes(line)[len(start) + 1 :]

    def pack(text: bytes) -> bytes:
        packer = zlib.compressobj(1, zlib.DEFLATED, 31)
        return packer.compress(text) + packer.flush()

    is_packed = path.suffix == ".gz"
    if is_packed:
        rest = pack(rest)  # a member of its own, behind that of the number
    num_lines = 0
    with path.open("wb") as file:
        while file.tell() < num_bytes:
            beginning = start + str(num_lines).encode()
            file.write(pack(beginning) if is_packed else beginning)
            file.write(rest)
            num_lines += 1
    return num_lines


def _make_hdf5(path: Path, num_bytes: int, record: Record) -> int:
    import h5py

    vectors = record.vectors
    num_lines = -(-num_bytes // vectors.nbytes)
    with h5py.File(path, "w", libver=("v108", "v108")) as file:
        file.attrs["layers"] = str(list(_LAYERS))
        for number in range(num_lines):
            dataset = file.create_dataset(str(number), data=vectors)
            dataset.attrs["tokens"] = str([*record.tokens]).replace("'", '"')
        file.create_dataset("sentence_to_index", (1,), h5py.string_dtype(), data=["{}"])
    return num_lines


def _make_parquet(path: Path, num_bytes: int, record: Record) -> int:
    import pyarrow
    import pyarrow.parquet

    num_lines = -(-num_bytes // record.vectors.nbytes)
    vector = pyarrow.list_(pyarrow.field("element", pyarrow.float32(), False), _SIZE)
    layers = [
        pyarrow.FixedSizeListArray.from_arrays(
            pyarrow.array(layer.reshape(-1)), type=vector
        )
        for layer in record.layers
    ]
    positions = pyarrow.array(np.arange(_NUM_TOKENS, dtype=np.int32))
    tokens = pyarrow.array(record.tokens)
    names = ["linex_index", "position", "token", *(f"layer_{n}" for n in _LAYERS)]

    def table(number: int) -> pyarrow.Table:
        numbers = pyarrow.array(np.full(_NUM_TOKENS, number, np.int64))
        return pyarrow.table([numbers, positions, tokens, *layers], names=names)

    with pyarrow.parquet.ParquetWriter(
        path, table(0).schema, compression="none", use_dictionary=["token"]
    ) as writer:
        for number in range(0, num_lines, 32):
            numbers = range(number, min(number + 32, num_lines))
            writer.write_table(pyarrow.concat_tables([*map(table, numbers)]))
        writer.add_key_value_metadata(
            {
                "bert_extract": f'{{"layers": {list(_LAYERS)}, "first_line": 0, '
                f'"num_lines": {num_lines}}}'
            }
        )
    return num_lines


def measure(path: Path, line: int) -> Measured:
    """Looks at a file as the command does, and at one record of it."""
    outputs, seconds, cpu_seconds, peaks = [], [], [], []
    for flags in ([], [f"--line={line}"]):
        start = time.monotonic()
        completed = subprocess.run(
            [sys.executable, "-c", _PROGRAM, str(path), *flags],
            capture_output=True,
            text=True,
            check=True,
        )
        seconds.append(time.monotonic() - start)
        output, _, peak = completed.stdout.rpartition("peak ")
        outputs.append(output)
        cpu_seconds.append(float(peak.split()[0]))
        peaks.append(int(peak.split()[1]))
    return Measured(
        seconds[0], seconds[1], cpu_seconds[0], max(peaks), outputs[0], outputs[1]
    )


def main() -> int:
    """Measures all formats and prints a line for each; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=5.0)
    parser.add_argument("--folder", default=None)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for suffix in _SUFFIXES:
            path = Path(folder) / f"output{suffix}"
            num_lines, _ = make_file(path, int(args.gigabytes * 10**9))
            found = measure(path, num_lines - 1)
            print(
                f"{suffix:10} {path.stat().st_size:>14,} bytes  "
                f"{num_lines:>7,} lines  summary {found.seconds:.2f} s  "
                f"last line {found.line_seconds:.2f} s  "
                f"CPU {found.cpu_seconds:.2f} s  "
                f"peak {found.peak_bytes / 10**6:.0f} MB",
                flush=True,
            )
            path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
