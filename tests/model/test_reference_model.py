"""The reference that others are measured with agrees with what the original wrote."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.make_checkpoints import Weights, read_tf1_checkpoint
from support.reference_model import (
    ACTIVATIONS,
    ReferenceOutput,
    gelu_erf,
    gelu_tanh,
    pool,
    run_bert,
)


@pytest.fixture(scope="module")
def tiny_weights(tiny_bert: Path) -> Weights:
    return read_tf1_checkpoint(tiny_bert / "bert_model.ckpt")


@pytest.fixture(scope="module")
def tiny_config(tiny_bert: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((tiny_bert / "bert_config.json").read_bytes())
    return config


def segments(tokens: list[str]) -> list[int]:
    """[CLS] a [SEP] b [SEP] -> 0 0 0 1 1."""
    len_a = tokens.index("[SEP]") + 1
    return [0] * len_a + [1] * (len(tokens) - len_a)


@pytest.mark.parametrize(
    "golden_file",
    ["expected_default.jsonl", "expected_cased.jsonl", "expected_short.jsonl"],
)
def test_every_golden_vector(
    golden_dir: Path,
    tiny_bert: Path,
    tiny_weights: Weights,
    tiny_config: dict[str, Any],
    golden_file: str,
) -> None:
    vocab = (tiny_bert / "vocab.txt").read_text(encoding="utf-8").split("\n")
    ids = {token: id_ for id_, token in enumerate(vocab)}
    lines = (golden_dir / golden_file).read_bytes().splitlines()
    assert len(lines) == 37
    for line in lines:
        features = json.loads(line)["features"]
        tokens = [feature["token"] for feature in features]
        output = run_bert(
            tiny_weights,
            tiny_config,
            [ids[token] for token in tokens],
            segments(tokens),
        )
        for position, layer in enumerate(features[0]["layers"]):
            expected = [feature["layers"][position]["values"] for feature in features]
            found = output.layers[layer["index"]]
            np.testing.assert_allclose(found, expected, rtol=0, atol=5e-6)


def run_line(weights: Weights, config: dict[str, Any], act: str) -> ReferenceOutput:
    return run_bert(weights, config, [2, 100, 200, 3, 300, 3], [0, 0, 0, 0, 1, 1], act)


@pytest.mark.parametrize("hidden_act", ACTIVATIONS)
def test_vectors_are_normalised_whatever_the_activation(
    tiny_weights: Weights, tiny_config: dict[str, Any], hidden_act: str
) -> None:
    output = run_line(tiny_weights, tiny_config, hidden_act)
    assert [layer.shape for layer in output.layers] == [(6, 32)] * 5
    scope = "bert/encoder/layer_4/output/LayerNorm"
    last = output.layers[-1] - tiny_weights[f"{scope}/beta"]
    last = last / tiny_weights[f"{scope}/gamma"]
    np.testing.assert_allclose(last.mean(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(last.std(axis=1), 1, rtol=1e-9)


def test_the_activations_differ(
    tiny_weights: Weights, tiny_config: dict[str, Any]
) -> None:
    outputs = [
        run_line(tiny_weights, tiny_config, act).layers[-1] for act in ACTIVATIONS
    ]
    for number, output in enumerate(outputs):
        for other in outputs[:number]:
            assert np.abs(output - other).max() > 1e-5


def test_gelu_at_points_from_tables() -> None:
    x = np.array([-3.0, -1.0, 0.0, 0.5, 1.0, 3.0])
    # x * Phi(x), with Phi from a table of the normal distribution.
    phi = np.array([0.0013498980, 0.1586552539, 0.5, 0.6914624613, 0.8413447461])
    np.testing.assert_allclose(gelu_erf(x)[:5], x[:5] * phi, rtol=1e-7)
    np.testing.assert_allclose(gelu_tanh(x), gelu_erf(x), atol=5e-4)
    assert np.abs(gelu_tanh(x) - gelu_erf(x)).max() > 1e-4


def test_the_pooler_is_tanh_of_a_dense_layer_over_cls() -> None:
    weights: Weights = {
        "bert/pooler/dense/kernel": np.array([[1.0, 0.0], [2.0, -1.0]], np.float32),
        "bert/pooler/dense/bias": np.array([0.5, 0.25], np.float32),
    }
    last_layer = np.array([[0.1, 0.2], [9.0, 9.0]])
    np.testing.assert_allclose(
        pool(weights, last_layer), np.tanh([0.1 + 0.4 + 0.5, -0.2 + 0.25])
    )
