#!/usr/bin/env python3
"""Compares two outputs of bert-extract layer by layer, token by token.

    scripts/compare.py float32.jsonl bfloat16.jsonl

For each layer: the cosine of each token's two vectors (mean, 1st percentile, minimum)
and the largest difference of two values. Ends with 1 if lines or tokens differ.
"""

import argparse
import sys
from dataclasses import dataclass, field
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from bert_extract import Record, read_features


@dataclass
class Layer:
    """What is kept of one layer: a cosine for each token, and one difference."""

    cosines: list[NDArray[np.float64]] = field(default_factory=list)
    largest_difference: float = 0.0

    def add(self, a: NDArray[np.float32], b: NDArray[np.float32]) -> None:
        """Takes float32 [num_tokens, hidden_size] twice."""
        a64, b64 = a.astype(np.float64), b.astype(np.float64)
        norms = np.linalg.norm(a64, axis=1) * np.linalg.norm(b64, axis=1)
        self.cosines.append(np.sum(a64 * b64, axis=1) / norms)
        difference = float(np.abs(a64 - b64).max())
        self.largest_difference = max(self.largest_difference, difference)


def compare(a: Record | None, b: Record | None, layers: dict[str, Layer]) -> str | None:
    """Adds the vectors of one line; returns what keeps them from being compared."""
    if a is None or b is None:
        return "one file has more lines than the other"
    if a.linex_index != b.linex_index or a.tokens != b.tokens:
        return f"linex_index {a.linex_index}: the tokens differ"
    if a.indexes != b.indexes:
        return f"linex_index {a.linex_index}: the layers differ"
    for index, layer_a, layer_b in zip(a.indexes, a.layers, b.layers, strict=True):
        layers.setdefault(str(index), Layer()).add(layer_a, layer_b)
    return None


def main() -> int:
    """Prints a table, one row a layer."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs=2, help="outputs of the same text and layers")
    files = parser.parse_args().files
    layers: dict[str, Layer] = {}
    for a, b in zip_longest(read_features(files[0]), read_features(files[1])):
        problem = compare(a, b, layers)
        if problem:
            print(problem, file=sys.stderr)
            return 1
    print(f"{'layer':>10}  {'mean':>9} {'1 %':>9} {'minimum':>9}  largest difference")
    for index, layer in layers.items():
        cosines = np.concatenate(layer.cosines)
        print(
            f"{index:>10}  {cosines.mean():9.6f} {np.percentile(cosines, 1):9.6f} "
            f"{cosines.min():9.6f}  {layer.largest_difference:.6f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
