"""What would products in int8 gain over the tool's in bfloat16, on this CPU?

    python scripts/benchmark_int8.py [--hidden_sizes=768,384] [--num_rows=1008]

TensorFlow's private `_QuantizedMatMul`, alone and with what a range for each row costs
(finding it, rounding, scaling back), beside the product that the tool computes in
bfloat16; one thread, the ways in turn, and of each the fastest of `--rounds` in
milliseconds. What int8 costs in accuracy is `try_int8.py`'s question.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bert_extract.model import arithmetic

arithmetic.choose_kernels()  # before TensorFlow is imported

import tensorflow as tf  # noqa: E402

from bert_extract.model import onednn  # noqa: E402
from bert_extract.model.devices import set_up_tensorflow  # noqa: E402

# What int8 can tell apart on each side of zero.
_STEPS = 127.0


def quantized_product(
    rows: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, ranges: tf.Tensor
) -> Any:
    """qint8 [num_rows, k], qint8 [k, n], float32 [n] -> float32 [num_rows, n].

    Args:
      rows: of a range of -127 to 127.
      kernel: of a range of its own for each output.
      bias: is added.
      ranges: float32 [n], the kernel's.
    """
    return onednn.operation(
        "_QuantizedMatMul",
        [
            *(rows, kernel, bias, tf.constant(-_STEPS), tf.constant(_STEPS)),
            *(-ranges, ranges),
        ],
        tf.float32,
        Tdevice_inputs=[tf.qint8, tf.qint8, tf.float32],
        Thost_inputs=[tf.float32] * 4,
        Tdevice_outputs=[tf.float32],
        Thost_outputs=[],
        T1=tf.qint8,
        T2=tf.qint8,
        Tbias=tf.float32,
        U=tf.float32,
        Tout=tf.float32,
        is_weight_const=True,
        is_bias_const=True,
        fused_ops=["BiasAdd", "Dequantize"],
        input_quant_mode="SCALED",
        output_quant_mode="SCALED",
    )


def ways_of(num_rows: int, k: int, n: int) -> dict[str, Callable[[], Any]]:
    """The same dense product from float32 rows, but for the one that is alone."""
    rng = np.random.default_rng(0)
    rows = tf.constant(rng.standard_normal((num_rows, k)), tf.float32)
    weights = rng.normal(0.0, 0.02, (k, n)).astype(np.float32)
    bias = tf.constant(rng.normal(0.0, 0.02, n), tf.float32)
    largest = np.abs(weights).max(axis=0)
    integers = np.rint(weights / largest * _STEPS).astype(np.int8)
    kernel, ranges = tf.bitcast(tf.constant(integers), tf.qint8), tf.constant(largest)
    half, half_bias = tf.constant(weights, tf.bfloat16), tf.cast(bias, tf.bfloat16)
    ready = tf.bitcast(tf.cast(tf.round(rows * 20.0), tf.int8), tf.qint8)

    def in_bfloat16(rows: tf.Tensor) -> Any:
        return onednn.prepacked_dense(rows, (half, half_bias))

    def alone(rows: tf.Tensor) -> Any:
        return quantized_product(rows, kernel, tf.zeros(n), ranges)

    def with_ranges(rows: tf.Tensor) -> Any:
        largest = tf.reduce_max(tf.abs(rows), axis=-1, keepdims=True)
        steps = tf.cast(tf.round(rows * (_STEPS / largest)), tf.int8)
        return alone(tf.bitcast(steps, tf.qint8)) * (largest / _STEPS) + bias

    ways = {
        "bfloat16": (in_bfloat16, rows),
        "int8 alone": (alone, ready),
        "int8, a range a row": (with_ranges, rows),
    }
    return {name: traced(function, given) for name, (function, given) in ways.items()}


def traced(function: Callable[[tf.Tensor], Any], rows: tf.Tensor) -> Callable[[], Any]:
    """The function of these rows, as a graph."""
    graph = tf.function(function, autograph=False).get_concrete_function(rows)
    return lambda: graph(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a row for each product of a layer."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--hidden_sizes", default="768,384")
    parser.add_argument("--num_rows", type=int, default=1008)
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args(argv)
    if not arithmetic.has_bfloat16():
        print("this CPU does not multiply bfloat16: there is nothing to compare with")
        return 1
    set_up_tensorflow(num_threads=1)
    print(f"{arithmetic.in_force('CPU', arithmetic.BFLOAT16).kernels}: milliseconds")
    print(
        "| product | bfloat16 | int8 alone | int8, a range a row |\n|---|---|---|---|"
    )
    for size in map(int, args.hidden_sizes.split(",")):
        for k, n in ((size, size), (size, 4 * size), (4 * size, size)):
            ways = ways_of(args.num_rows, k, n)
            fastest = dict.fromkeys(ways, math.inf)
            for _ in range(args.rounds + 1):
                for name, way in ways.items():
                    start = time.perf_counter()
                    way()
                    seconds = time.perf_counter() - start
                    fastest[name] = min(fastest[name], seconds)
            cells = [f"{1e3 * seconds:.2f}" for seconds in fastest.values()]
            print(f"| {k} to {n} | " + " | ".join(cells) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
