"""What does a token cost, by the size of the batch that it is computed in?

    python scripts/benchmark_batches.py [--hidden_sizes=128,768] [--precision=bfloat16]

One encoder layer of random weights computes batches of several numbers of rows, each as
often as it takes for the same number of tokens, in turn, with one thread. Printed are
microseconds of CPU time a token, medians of the rounds, so that other work on the
machine disturbs little, and the fewest rows that come within 2 % of the best.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence

import numpy as np

from bert_extract.model import arithmetic

arithmetic.choose_kernels()  # before TensorFlow is imported

import tensorflow as tf  # noqa: E402

import check_arithmetic  # noqa: E402
from bert_extract.model.config import BertConfig  # noqa: E402
from bert_extract.model.devices import set_up_tensorflow  # noqa: E402
from bert_extract.model.self_check import Graph, layer_graph  # noqa: E402

# Like English sentences; with it all counts of rows are multiples of 12.
SEQ_LENGTH = 24
ROWS = (120, 264, 504, 1008, 2016, 4032, 8064)
NEARLY = 1.02  # of the best: what more rows gain is not worth their memory


def make_graph(hidden_size: int, precision: str) -> Graph:
    """Traces one layer of a published width."""
    config = BertConfig(
        vocab_size=1000,
        hidden_size=hidden_size,
        num_hidden_layers=1,
        num_attention_heads=check_arithmetic.HEADS[hidden_size],
        intermediate_size=4 * hidden_size,
        hidden_act="gelu",
        max_position_embeddings=128,
        type_vocab_size=2,
    )
    weights = check_arithmetic.random_weights(config)
    in_force = arithmetic.in_force("CPU", precision)
    return layer_graph(config, weights, precision, in_force)


def microseconds(graph: Graph, num_rows: int, num_tokens: int) -> float:
    """CPU time a token, in batches of so many rows."""
    ids = tf.constant(np.full((num_rows // SEQ_LENGTH, SEQ_LENGTH), 7, np.int32))
    mask, types = tf.ones_like(ids), tf.zeros_like(ids)
    num_batches = max(1, num_tokens // num_rows)
    start = time.process_time()
    for _ in range(num_batches):
        graph(ids, mask, types)
    return (time.process_time() - start) / (num_batches * num_rows) * 1e6


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a row for each width."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--hidden_sizes", default="128,256,384,512,768,1024")
    parser.add_argument("--precision", default=arithmetic.FLOAT32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--num_tokens", type=int, default=ROWS[-1])
    args = parser.parse_args(argv)
    set_up_tensorflow(num_threads=1)
    kernels = arithmetic.in_force("CPU", args.precision).kernels
    print(f"{kernels}, {args.precision}: microseconds a token and layer")
    print("| width | " + " | ".join(f"{n} rows" for n in ROWS) + " | enough |")
    print("|---|" + "---|" * (len(ROWS) + 1))
    for hidden_size in map(int, args.hidden_sizes.split(",")):
        graph = make_graph(hidden_size, args.precision)
        times: dict[int, list[float]] = {num_rows: [] for num_rows in ROWS}
        for round_number in range(args.rounds + 1):
            for num_rows in ROWS:
                found = microseconds(graph, num_rows, args.num_tokens)
                if round_number:  # the first one of a shape costs more
                    times[num_rows].append(found)
        medians = {num_rows: statistics.median(times[num_rows]) for num_rows in ROWS}
        best = min(medians.values())
        enough = next(n for n in ROWS if medians[n] <= NEARLY * best)
        cells = [f"{medians[num_rows]:.2f}" for num_rows in ROWS]
        print(f"| {hidden_size} | " + " | ".join(cells) + f" | {enough} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
