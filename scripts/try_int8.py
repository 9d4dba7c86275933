"""What would products in int8 cost in accuracy, and what brings the accuracy back?

    python scripts/try_int8.py HUGGINGFACE_DIR TEXT [--num_lines=100]

The mathematics of BERT in float64 NumPy, with dense products whose factors are rounded
to eight bits in several ways: none needs the instructions, so any machine gives the
same table. A row's range is its own, so a line does not depend on its neighbours; what
is chosen beforehand is chosen from other lines of the text. Printed are the cosines of
the last layer's vectors with those of float64.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from bert_extract.inputs.features import Features, to_features
from bert_extract.text.examples import parse_line
from bert_extract.tokenization.tokenizer import Tokenizer
from bert_extract.tokenization.vocab import Vocab

# The plain statement of the mathematics is the tests'; there must not be a second one.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support.make_checkpoints import read_tf1_checkpoint, write_minilm_tf1
from support.reference_model import Array, Product, run_bert

MAX_SEQ_LENGTH = 128
MOST = 127.0  # of a symmetric int8
NUM_CALIBRATION_LINES = 50
# The parts of an encoder layer, by the end of their kernels' names.
PARTS = {
    "query, key and value": ("query/kernel", "key/kernel", "value/kernel"),
    "attention's output": ("attention/output/dense/kernel",),
    "intermediate": ("intermediate/dense/kernel",),
    "output": ("output/dense/kernel",),  # behind the other one
}
OUTPUT = "output"


def part_of(name: str) -> str:
    """The part of an encoder layer that a kernel belongs to."""
    return next(part for part, ends in PARTS.items() if name.endswith(ends))


def rounded_rows(x: Array, num_pieces: int = 1) -> Array:
    """Each row in int8 and back: [T, K], with a range for each piece of K columns."""
    pieces = x.reshape(len(x), num_pieces, -1)
    scale = np.abs(pieces).max(axis=-1, keepdims=True) / MOST
    scale[scale == 0] = 1.0
    return np.asarray(np.rint(pieces / scale) * scale).reshape(x.shape)


def rounded_kernel(kernel: Array, num_pieces: int = 1) -> Array:
    """Each output's weights in int8 and back, with a range for each piece of them."""
    return rounded_rows(np.ascontiguousarray(kernel.T), num_pieces).T


@dataclass(frozen=True)
class Way:
    """How products are made, by what is done besides a range a row and an output."""

    title: str
    num_pieces: int = 1  # ranges a row, each of as many columns
    kept: tuple[str, ...] = ()  # parts that are not in int8
    share_apart: float = 0.0  # of the columns: the widest ones, not in int8
    evens_out: bool = False  # columns and kernels share their ranges (SmoothQuant)


WAYS = (
    Way("a range a row"),
    *(
        Way(f"the same, {part} alone", kept=tuple(p for p in PARTS if p != part))
        for part in PARTS
    ),
    Way("output not in int8", kept=(OUTPUT,)),
    Way("ranges in halves", num_pieces=2),
    Way("ranges in eighths", num_pieces=8),
    Way("one column in 64 apart", share_apart=1 / 64),
    Way("one column in 16 apart", share_apart=1 / 16),
    Way("evened out", evens_out=True),
    Way("evened out, in halves", evens_out=True, num_pieces=2),
    Way("evened out, in halves, output not in int8", 2, (OUTPUT,), evens_out=True),
    Way("evened out, in eighths", evens_out=True, num_pieces=8),
    Way("evened out, one in 64 apart", share_apart=1 / 64, evens_out=True),
    Way("evened out, in eighths, output not in int8", 8, (OUTPUT,), evens_out=True),
)


@dataclass
class Calibration:
    """How large each column of each product's input was, at most."""

    largest: dict[str, Array] = field(default_factory=dict)  # by kernel, [K]

    def watch(self, x: Array, kernel: Array, name: str) -> Array:
        """Multiplies, and takes note."""
        own = np.abs(x).max(axis=0)
        self.largest[name] = np.maximum(self.largest.get(name, own), own)
        return np.asarray(x @ kernel)


@dataclass(frozen=True)
class _Prepared:
    """A kernel, as it is before any line comes."""

    factor: Array  # [K], by which the input's columns are divided
    is_inside: Array  # [K], 0 for the columns that are apart, else 1
    rounded: Array  # [K, N]
    apart: Array  # [K, N], zeros but for the columns that are apart


def _prepare(kernel: Array, largest: Array, way: Way) -> _Prepared:
    factor = np.ones(len(kernel))
    if way.evens_out:
        widths = np.abs(kernel).max(axis=1)
        factor = np.sqrt(np.maximum(largest, 1e-6) / np.maximum(widths, 1e-6))
        kernel, largest = kernel * factor[:, None], largest / factor
    is_inside = np.ones(len(kernel))
    num_apart = int(way.share_apart * len(kernel))
    is_inside[np.argsort(largest)[len(kernel) - num_apart :]] = 0.0
    inside = kernel * is_inside[:, None]
    return _Prepared(
        factor, is_inside, rounded_kernel(inside, way.num_pieces), kernel - inside
    )


def product_in(way: Way, calibration: Calibration) -> Product:
    """Makes the product of a way."""
    prepared: dict[str, _Prepared] = {}

    def multiply(x: Array, kernel: Array, name: str) -> Array:
        if part_of(name) in way.kept:
            return np.asarray(x @ kernel)
        own = prepared.get(name)
        if own is None:
            own = _prepare(kernel, calibration.largest[name], way)
            prepared[name] = own
        x = x / own.factor
        product = rounded_rows(x * own.is_inside, way.num_pieces) @ own.rounded
        if way.share_apart:
            product += x @ own.apart
        return np.asarray(product)

    return multiply


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("huggingface_dir", type=Path)
    parser.add_argument("text", type=Path, help="a file with one example a line")
    parser.add_argument("--num_lines", type=int, default=100)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        write_minilm_tf1(args.huggingface_dir, Path(folder))
        weights = read_tf1_checkpoint(Path(folder, "bert_model.ckpt"))
        config = json.loads(Path(folder, "bert_config.json").read_bytes())
        tokenizer = Tokenizer(Vocab.load(f"{folder}/vocab.txt"), do_lower_case=True)
    with args.text.open(encoding="utf-8") as lines:
        num_lines = args.num_lines + NUM_CALIBRATION_LINES
        examples = [
            parse_line(line, i) for i, line in enumerate(islice(lines, num_lines))
        ]
    features = to_features(examples, tokenizer, MAX_SEQ_LENGTH)
    run = _runner(weights, config)
    calibration = Calibration()
    run(features[args.num_lines :], calibration.watch)
    features = features[: args.num_lines]
    expected = run(features, lambda x, kernel, name: np.asarray(x @ kernel))
    print("| | cosine, mean | 1st percentile | least |\n|---|---|---|---|")
    for way in WAYS:
        found = run(features, product_in(way, calibration))
        cosines = (found * expected).sum(axis=1) / (
            np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
        )
        print(
            f"| {way.title} | {cosines.mean():.5f} | {np.percentile(cosines, 1):.5f} | "
            f"{cosines.min():.5f} |",
            flush=True,
        )
    return 0


def _runner(
    weights: Mapping[str, Array], config: Mapping[str, object]
) -> Callable[[Sequence[Features], Product], Array]:
    """Gives what computes the last layer of lines: [num_tokens of all, H]."""

    def run(features: Sequence[Features], product: Product) -> Array:
        rows = []
        for line in features:
            ids, types = line.input_ids.tolist(), line.token_type_ids.tolist()
            output = run_bert(weights, config, ids, types, product=product)
            rows.append(output.layers[-1])
        return np.concatenate(rows)

    return run


if __name__ == "__main__":
    sys.exit(main())
