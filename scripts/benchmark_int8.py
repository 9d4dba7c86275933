"""What would products in int8 gain over the tool's in bfloat16, on this CPU?

    python scripts/benchmark_int8.py [--hidden_sizes=768,384] [--num_rows=1008]

TensorFlow's private `_QuantizedMatMul`, alone and with what a range for each row costs
(finding it, rounding, scaling back), beside the product that the tool computes in
bfloat16; one thread, the ways in turn, and of each the fastest of `--rounds` in
milliseconds. What int8 costs in accuracy is `try_int8.py`'s question.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bert_extract.model import arithmetic

arithmetic.choose_kernels()  # before TensorFlow is imported

import tensorflow as tf  # noqa: E402
from tensorflow.core.framework import attr_value_pb2  # noqa: E402

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

    def types(*dtypes: tf.DType) -> attr_value_pb2.AttrValue:
        numbers = [dtype.as_datatype_enum for dtype in dtypes]
        return attr_value_pb2.AttrValue(
            list=attr_value_pb2.AttrValue.ListValue(type=numbers)
        )

    def a_type(dtype: tf.DType) -> attr_value_pb2.AttrValue:
        return attr_value_pb2.AttrValue(type=dtype.as_datatype_enum)

    yes = attr_value_pb2.AttrValue(b=True)
    scaled = attr_value_pb2.AttrValue(s=b"SCALED")
    fused = attr_value_pb2.AttrValue.ListValue(s=[b"BiasAdd", b"Dequantize"])
    operation = tf.compat.v1.get_default_graph().create_op(
        "_QuantizedMatMul",
        [
            *(rows, kernel, bias, tf.constant(-_STEPS), tf.constant(_STEPS)),
            *(-ranges, ranges),
        ],
        [tf.float32],
        attrs={
            "Tdevice_inputs": types(tf.qint8, tf.qint8, tf.float32),
            "Thost_inputs": types(*[tf.float32] * 4),
            "Tdevice_outputs": types(tf.float32),
            "Thost_outputs": types(),
            "T1": a_type(tf.qint8),
            "T2": a_type(tf.qint8),
            **{name: a_type(tf.float32) for name in ("Tbias", "U", "Tout")},
            "is_weight_const": yes,
            "is_bias_const": yes,
            "fused_ops": attr_value_pb2.AttrValue(list=fused),
            "input_quant_mode": scaled,
            "output_quant_mode": scaled,
        },
        name="product",
    )
    return operation.outputs[0]


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
        return onednn.packed_dense(rows, half, half_bias)

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
    names = ("bfloat16", "int8 alone", "int8, a range a row")
    print("| product | " + " | ".join(names) + " |\n|---|---|---|---|")
    for size in map(int, args.hidden_sizes.split(",")):
        for k, n in ((size, size), (size, 4 * size), (4 * size, size)):
            ways = ways_of(args.num_rows, k, n)
            times: dict[str, list[float]] = {name: [] for name in names}
            for _ in range(args.rounds + 1):
                for name in names:
                    start = time.perf_counter()
                    ways[name]()
                    times[name].append(time.perf_counter() - start)
            cells = [f"{1e3 * min(times[name]):.2f}" for name in names]
            print(f"| {k} to {n} | " + " | ".join(cells) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
