"""How far from float64 are the tool's layers, and those of the original's algorithm?

    python scripts/measure_accuracy.py HUGGINGFACE_DIR TEXT [--num_lines=100]

The same weights and lines go through the tool in float32, through the original's graph,
op for op, on the TensorFlow of today, and through the mathematics in float64 NumPy.
Printed is what the two are from the last: the root mean square and the largest of the
differences, for each of the four highest layers. Lines are cut at 128 wordpieces. The
exit code is 1 if the tool is less exact than the original in a layer, by the first.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import benchmark_tensorflow
from benchmark_worker import LAYERS, MAX_SEQ_LENGTH
from bert_extract import FeatureExtractor
from bert_extract.inputs.features import Features, to_features
from bert_extract.text.examples import parse_line
from bert_extract.tokenization.tokenizer import Tokenizer
from bert_extract.tokenization.vocab import Vocab

# The plain statement of the mathematics is the tests'; there must not be a second one.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support.make_checkpoints import read_tf1_checkpoint
from support.reference_model import run_bert

# One line's layers: [num_tokens, hidden_size] for each of LAYERS.
Layers = Sequence[NDArray[Any]]


@dataclass(frozen=True)
class Distance:
    """How far one layer is from float64, over all lines."""

    root_mean_square: float
    largest: float


def measure(tf1_dir: Path, lines: Sequence[str]) -> dict[str, list[Distance]]:
    """The distances of "bert-extract" and of "the original", one for each of LAYERS.

    Args:
      tf1_dir: bert_config.json, bert_model.ckpt.*, vocab.txt, uncased.
      lines: of text.
    """
    extractor = FeatureExtractor(
        model_dir=str(tf1_dir),
        layers=",".join(map(str, LAYERS)),
        max_seq_length=MAX_SEQ_LENGTH,
    )
    tokenizer = Tokenizer(Vocab.load(f"{tf1_dir}/vocab.txt"), do_lower_case=True)
    examples = [parse_line(line, number) for number, line in enumerate(lines)]
    features = to_features(examples, tokenizer, MAX_SEQ_LENGTH)
    expected = _in_float64(tf1_dir, features)
    ours = [record.layers for record in extractor.extract(lines)]
    return {
        "bert-extract": _distances(ours, expected),
        "the original": _distances(_by_the_original(tf1_dir, features), expected),
    }


def _in_float64(tf1_dir: Path, features: Sequence[Features]) -> list[Layers]:
    config = json.loads((tf1_dir / "bert_config.json").read_bytes())
    stored = read_tf1_checkpoint(tf1_dir / "bert_model.ckpt")
    weights = {name: values.astype(np.float64) for name, values in stored.items()}
    outputs = (
        run_bert(weights, config, line.input_ids.tolist(), line.token_type_ids.tolist())
        for line in features
    )
    return [[output.layers[layer] for layer in LAYERS] for output in outputs]


def _by_the_original(tf1_dir: Path, features: Sequence[Features]) -> list[Layers]:
    encode = benchmark_tensorflow.original_encoder(str(tf1_dir))
    found: list[Layers] = []
    for line in features:
        outputs = encode(*benchmark_tensorflow.padded([line]))
        num_tokens = len(line.input_ids)
        found.append([output.numpy()[0, :num_tokens] for output in outputs])
    return found


def _distances(found: Sequence[Layers], expected: Sequence[Layers]) -> list[Distance]:
    distances = []
    for place in range(len(LAYERS)):
        difference = np.concatenate(
            [
                ours[place] - theirs[place]
                for ours, theirs in zip(found, expected, strict=True)
            ]
        )
        distances.append(
            Distance(
                root_mean_square=float(np.sqrt(np.square(difference).mean())),
                largest=float(np.abs(difference).max()),
            )
        )
    return distances


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("huggingface_dir")
    parser.add_argument("text")
    parser.add_argument("--num_lines", type=int, default=100)
    args = parser.parse_args(argv)
    with open(args.text, encoding="utf-8") as reader:
        lines = [line.rstrip("\n") for line in islice(reader, args.num_lines)]
    with tempfile.TemporaryDirectory() as tf1_dir:
        benchmark_tensorflow.write_tf1_dir(args.huggingface_dir, tf1_dir)
        found = measure(Path(tf1_dir), lines)
    print("| layer | " + " | ".join(f"{name}: rms, largest" for name in found) + " |")
    print("|---|" + "---|" * len(found))
    for place, layer in enumerate(LAYERS):
        cells = [
            f"{distances[place].root_mean_square:.2e}, {distances[place].largest:.1e}"
            for distances in found.values()
        ]
        print(f"| {layer} | " + " | ".join(cells) + " |")
    pairs = zip(found["bert-extract"], found["the original"], strict=True)
    return int(any(a.root_mean_square > b.root_mean_square for a, b in pairs))


if __name__ == "__main__":
    sys.exit(main())
