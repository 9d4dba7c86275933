"""What loading costs: BERT-Large's shape from a Hugging Face directory.

    python scripts/benchmark_load.py

Writes random weights of that shape, 1.3 GB, to a folder of its own, and then, in turn
and each time in a process of its own, since a process gets its memory but once:

    read    reads the file's bytes from the page cache into a buffer, and copies them
            from there into new memory: the least that can be done
    load    loads them as the tool does

Prints the seconds of each round, and the ratio of the medians.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
# 24 layers of 1024, as BERT-Large has them.
SHAPE = (30522, 1024, 24, 16, 4096, "gelu_erf", 512, 2)
_BLOCK_BYTES = 16 << 20


def write_model(directory: Path) -> None:
    """Writes config.json and model.safetensors with weights that mean nothing."""
    # The tests know how; there must not be a second way.
    sys.path.insert(0, str(ROOT / "tests"))
    from bert_extract.model.config import BertConfig, variable_shapes
    from support.make_checkpoints import write_huggingface_model

    config = BertConfig(*SHAPE)
    # Repeated values: random ones for 1.3 GB take longer than all the rest.
    some = np.random.default_rng(1).standard_normal(1 << 20, dtype=np.float32)
    weights = {
        name: np.resize(some, shape) for name, shape in variable_shapes(config).items()
    }
    write_huggingface_model(directory, config, weights)


def seconds_of_reading(directory: Path) -> float:
    """Reads the weights' bytes and copies them once."""
    path = directory / "model.safetensors"
    size = path.stat().st_size
    start = time.perf_counter()
    block, copy = np.empty(_BLOCK_BYTES, np.uint8), np.empty(size, np.uint8)
    num_read = 0
    with path.open("rb", buffering=0) as reader:
        while num_read < size:
            count = reader.readinto(block.data)
            copy[num_read : num_read + count] = block[:count]
            num_read += count
    return time.perf_counter() - start


def seconds_of_loading(directory: Path) -> float:
    """Loads the weights; what TensorFlow sets up at its first call is not counted."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    from bert_extract.checkpoints.loading import load_weights
    from bert_extract.checkpoints.opened import open_checkpoint
    from bert_extract.model.config import BertConfig, Dialect
    from bert_extract.model.devices import set_up_tensorflow, usable_cores

    set_up_tensorflow(usable_cores())
    tiny = str(ROOT / "sample_data" / "tiny_bert")
    load_weights(
        open_checkpoint(tiny), BertConfig.from_json_file(f"{tiny}/bert_config.json")
    )
    config_file = str(directory / "config.json")
    config = BertConfig.from_json_file(config_file, Dialect.HUGGING_FACE)
    start = time.perf_counter()
    load_weights(open_checkpoint(str(directory)), config)
    return time.perf_counter() - start


def measure(what: str, directory: Path) -> float:
    """Runs this file for one measurement, in a process of its own."""
    command = [sys.executable, __file__, "--measure", what, str(directory)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return float(done.stdout)


def main() -> None:
    """Measures, or with --measure is measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="of each, in turn")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    measures = {"read": seconds_of_reading, "load": seconds_of_loading}
    if arguments.measure:
        what, directory = arguments.measure
        print(measures[what](Path(directory)))
        return
    seconds: dict[str, list[float]] = {what: [] for what in measures}
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder))
        for number in range(arguments.rounds):
            for what, rounds in seconds.items():
                rounds.append(measure(what, Path(folder)))
            shown = ", ".join(
                f"{what} {rounds[-1]:.2f} s" for what, rounds in seconds.items()
            )
            print(f"round {number + 1}: {shown}", flush=True)
    read, load = (statistics.median(rounds) for rounds in seconds.values())
    print(f"medians: read {read:.2f} s, load {load:.2f} s, {load / read:.2f} times")


if __name__ == "__main__":
    main()
