"""scripts/benchmark_int8.py: do the ways that it times compute the same product?"""

import numpy as np
import pytest

import benchmark_int8
from bert_extract.model import arithmetic, onednn

pytestmark = pytest.mark.skipif(
    not (arithmetic.has_bfloat16() and onednn.has_prepacked_dense()),
    reason="nothing to compare int8 with",
)


def test_both_ways_are_the_same_product_within_their_digits() -> None:
    ways = benchmark_int8.ways_of(40, 64, 256)
    half = np.asarray(ways["bfloat16"]()).astype(np.float32)
    whole = np.asarray(ways["int8, a range a row"]())
    assert half.std() > 0.1
    np.testing.assert_allclose(whole, half, rtol=0, atol=0.02)


def test_a_row_is_printed_for_each_product(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--hidden_sizes=32", "--num_rows=8", "--rounds=1"]
    assert benchmark_int8.main(flags) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines[3:]] == [
        "| 32 to 32",
        "| 32 to 128",
        "| 128 to 32",
    ]
