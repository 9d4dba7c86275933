"""Does a line's vector depend on its neighbours on this machine, and what mends it?

    python scripts/check_arithmetic.py [--hidden_sizes=128,384] [--precision=bfloat16]

One encoder layer of random weights is computed for lines of many lengths in batches of
many sizes, and bits are compared: first as the tool does it here, then with simpler
rules and stricter ones. What it prints last is the row for the table in
bert_extract/model/arithmetic.py. It takes some minutes; the exit code is 1 if the
tool's way does not keep the bits. `TF_ENABLE_ONEDNN_OPTS=0 ONEDNN_MAX_CPU_ISA=AVX2` in
the environment shows the kernels of a CPU without AVX-512 on one that has it.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from bert_extract.model import arithmetic
from bert_extract.model.arithmetic import Arithmetic, RowRule

arithmetic.choose_kernels()  # before TensorFlow is imported

import tensorflow as tf  # noqa: E402

from bert_extract.model.config import BertConfig  # noqa: E402
from bert_extract.model.devices import set_up_tensorflow  # noqa: E402
from bert_extract.model.self_check import differing_companies, layer_graph  # noqa: E402

HEADS = {128: 2, 256: 4, 384: 12, 512: 8, 768: 12, 1024: 16}
LENGTHS = (2, 3, 4, 5, 7, 8, 9, 12, 13, 16, 17, 19, 20, 28, 31, 33, 51, 64, 68, 101)
MOST_ROWS = 1024
# From what costs nothing to what costs most: (multiple, least).
ROWS = (
    *((1, 1), (1, 2), (4, 4), (8, 8), (12, 12), (16, 16), (24, 24), (48, 48)),
    *((1, 128), (12, 132), (48, 144), (48, 864)),
)


def random_weights(config: BertConfig) -> dict[str, tf.Tensor]:
    """Makes what one layer needs; as spread as a trained model's."""
    rng = np.random.default_rng(0)
    hidden, intermediate = config.hidden_size, config.intermediate_size
    layer = "bert/encoder/layer_0"
    shapes: dict[str, tuple[int, ...]] = {
        "bert/embeddings/word_embeddings": (config.vocab_size, hidden),
        "bert/embeddings/token_type_embeddings": (2, hidden),
        "bert/embeddings/position_embeddings": (128, hidden),
    }
    for part, size in (
        *((f"attention/self/{name}", (hidden, hidden)) for name in ("query", "key")),
        ("attention/self/value", (hidden, hidden)),
        ("attention/output/dense", (hidden, hidden)),
        ("intermediate/dense", (hidden, intermediate)),
        ("output/dense", (intermediate, hidden)),
    ):
        shapes[f"{layer}/{part}/kernel"] = size
        shapes[f"{layer}/{part}/bias"] = size[1:]
    for scope in ("bert/embeddings", f"{layer}/attention/output", f"{layer}/output"):
        shapes[f"{scope}/LayerNorm/gamma"] = (hidden,)
        shapes[f"{scope}/LayerNorm/beta"] = (hidden,)
    return {
        name: tf.constant(rng.normal(0, 0.05, shape).astype(np.float32))
        for name, shape in shapes.items()
    }


def first_difference(
    config: BertConfig,
    weights: Mapping[str, tf.Tensor],
    precision: str,
    rule: Arithmetic,
) -> str:
    """Says where bits differ first, or "" if they never do."""
    graph = layer_graph(config, weights, precision, rule)
    for length in LENGTHS:
        most = MOST_ROWS // length
        companies = sorted({1, 2, 3, 5, 8, 9, 13, 31, most // 2, most})
        companies = [size for size in companies if 0 < size <= most]
        differing = differing_companies(graph, config, length, companies)
        if differing:
            return f"lines of {length} tokens in batches of {differing}"
    return ""


def check_size(hidden_size: int, precision: str, in_force: Arithmetic) -> bool:
    """Prints what a width asks for; returns whether the tool's way keeps the bits."""
    config = BertConfig(
        vocab_size=1000,
        hidden_size=hidden_size,
        num_hidden_layers=1,
        num_attention_heads=HEADS[hidden_size],
        intermediate_size=4 * hidden_size,
        hidden_act="gelu",
        max_position_embeddings=128,
        type_vocab_size=2,
    )
    weights = random_weights(config)
    found = first_difference(config, weights, precision, in_force)
    print(f"hidden_size {hidden_size}: the tool's way: {found or 'all the same'}")
    for rows in ROWS:
        for is_steady in (True, False):
            rule = RowRule(*rows)
            tried = replace(
                in_force, rows=rule, wide_rows=rule, has_steady_softmax=is_steady
            )
            if not first_difference(config, weights, precision, tried):
                print(f"  the least that does: {rule}, has_steady_softmax={is_steady}")
                return not found
    print("  none of the rules that this script knows does", flush=True)
    return not found


def main(argv: Sequence[str] | None = None) -> int:
    """Checks the widths; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--hidden_sizes", default=",".join(map(str, HEADS)))
    parser.add_argument("--precision", default=arithmetic.FLOAT32)
    args = parser.parse_args(argv)
    device = set_up_tensorflow(num_threads=1)[0]
    kind = device.kind if device.kind == "CPU" else device.description
    in_force = arithmetic.in_force(kind, args.precision)
    print(
        f"{in_force.kernels}, {args.precision}: "
        f"{'in' if in_force.is_known else 'not in'} the table: {in_force.rows}, from "
        f"1,024 on {in_force.wide_rows}, "
        f"has_steady_softmax={in_force.has_steady_softmax}"
    )
    sizes = [int(size) for size in args.hidden_sizes.split(",")]
    return int(not all([check_size(s, args.precision, in_force) for s in sizes]))


if __name__ == "__main__":
    sys.exit(main())
