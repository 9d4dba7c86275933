"""How fast records become JSON: JsonFormatter against json.dumps, Mfloat/s.

    python scripts/benchmark_json.py [--repeats=15] [--num_threads=2]

Each way writes the same record; the ways are interleaved, and medians are printed.
"compiled" is what a run takes, the best form of the C kernel that the CPU has; "avx2"
and "scalar" are the forms for lesser CPUs, "python" is for machines without a compiler.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from bert_extract.output.json_lines import JsonFormatter
from bert_extract.output.record import Record, RecordPart

INDEXES = (-1, -2, -3, -4)
SHAPES = {"MiniLM, 35 tokens": (35, 384), "BERT-Base, 128 tokens": (128, 768)}


def make_record(num_tokens: int, hidden_size: int) -> Record:
    """Makes a record of the values' usual distribution, N(0, 0.6)."""
    rng = np.random.default_rng(0)
    layers = [
        rng.normal(0, 0.6, (num_tokens, hidden_size)).astype(np.float32)
        for _ in INDEXES
    ]
    tokens = tuple(f"token{position}" for position in range(num_tokens))
    return Record(0, tokens, INDEXES, tuple(layers))


def original(part: RecordPart) -> bytes:
    """Writes the record as upstream's extract_features.py does."""
    record = part.record
    features = [
        {
            "token": token,
            "layers": [
                {"index": index, "values": [round(float(x), 6) for x in row[position]]}
                for index, row in zip(record.indexes, record.layers, strict=True)
            ],
        }
        for position, token in enumerate(record.tokens)
    ]
    line = {"linex_index": record.linex_index, "features": features}
    return (json.dumps(line) + "\n").encode("ascii")


def seconds(
    write: Callable[[RecordPart], object],
    part: RecordPart,
    num_threads: int,
    calls: int,
) -> float:
    """Measures a call's wall time when every thread makes `calls` of them."""

    def work() -> None:
        for _ in range(calls):
            write(part)

    with ThreadPoolExecutor(num_threads) as pool:
        begin = time.perf_counter()
        for future in [pool.submit(work) for _ in range(num_threads)]:
            future.result()
        return (time.perf_counter() - begin) / (calls * num_threads)


def main() -> None:
    """Prints a table for each shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--num_threads", type=int, default=2)
    arguments = parser.parse_args()

    ways: dict[str, Callable[[RecordPart], object]] = {"json.dumps": original}
    for kernel in ("python", "scalar", "avx2", "compiled"):
        try:
            ways[kernel] = JsonFormatter(INDEXES, kernel=kernel).format
        except ValueError as error:
            print(f"left out: {error}")

    for name, shape in SHAPES.items():
        part = RecordPart(make_record(*shape))
        num_values = shape[0] * shape[1] * len(INDEXES)
        expected = original(part)
        cells: dict[tuple[str, int], list[float]] = {}
        for _ in range(arguments.repeats):
            for way, write in ways.items():
                for num_threads in (1, arguments.num_threads):
                    calls = 1 if way in ("json.dumps", "python") else 50
                    spent = seconds(write, part, num_threads, calls)
                    cells.setdefault((way, num_threads), []).append(spent)
        print(
            f"{name}, {len(INDEXES)} layers: {len(expected) / num_values:.1f} B/value"
        )
        for (way, num_threads), spent_by_repeat in cells.items():
            rate = num_values / statistics.median(spent_by_repeat) / 1e6
            print(f"  {way:12} {num_threads} thread(s) {rate:8.1f} Mfloat/s")


if __name__ == "__main__":
    main()
