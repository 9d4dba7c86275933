"""Real weights and real lines: no farther from float64 than the original is."""

from pathlib import Path

import pytest

import measure_accuracy
from support.running import real_lines


@pytest.mark.slow
def test_no_layer_is_less_exact_than_the_originals(minilm_tf1: Path) -> None:
    lines = [line.strip() for line in real_lines() if line.strip()][:40]
    found = measure_accuracy.measure(minilm_tf1, lines)
    pairs = zip(found["bert-extract"], found["the original"], strict=True)
    for ours, originals in pairs:
        assert 1e-8 < ours.root_mean_square <= originals.root_mean_square
        # One element of a million says little of which of the two is better.
        assert ours.largest < 1e-5
