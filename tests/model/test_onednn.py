"""oneDNN's operations that are asked for by name: are they what they stand for?"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from bert_extract.model import arithmetic, encoder_kernel, onednn
from bert_extract.model.arithmetic import (
    BFLOAT16,
    FLOAT32,
    Arithmetic,
    in_force,
)
from bert_extract.model.config import GELU_ERF, GELU_TANH, BertConfig
from bert_extract.model.modeling import BertModel
from support.make_checkpoints import random_weights

NUM_LAYERS = 3


@pytest.fixture(autouse=True)
def x86_64() -> None:
    if not (onednn.has_layer_norm() and onednn.has_prepacked_dense()):
        pytest.skip("TensorFlow has not oneDNN's operations here")


def rows(num_rows: int, size: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0.3, 1.0, (num_rows, size)).astype("f")


# ------------------------------------------------------------------- LayerNorm


def normalised(x: NDArray[np.float32], epsilon: float) -> NDArray[np.float32]:
    size = x.shape[1]
    norm = tf.constant(rows(1, size, 1)[0]), tf.constant(rows(1, size, 2)[0])
    graph = tf.function(lambda x: onednn.layer_norm(x, norm, epsilon))
    found: NDArray[np.float32] = graph(tf.constant(x)).numpy()
    return found


@pytest.mark.parametrize("epsilon", [1e-12, 1e-5, 0.1])
@pytest.mark.parametrize("size", [1, 7, 32, 128, 384, 1024])
def test_layer_norm_is_what_the_paper_says(size: int, epsilon: float) -> None:
    x = rows(50, size)
    exact = x.astype(np.float64)
    centered = exact - exact.mean(-1, keepdims=True)
    expected = centered / np.sqrt(exact.var(-1, keepdims=True) + epsilon)
    expected = expected * rows(1, size, 1)[0] + rows(1, size, 2)[0]
    np.testing.assert_allclose(normalised(x, epsilon), expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("size", [7, 32, 100, 128, 384, 768, 1024])
def test_a_row_is_normalised_the_same_wherever_it_stands(size: int) -> None:
    x = rows(200, size)
    expected = normalised(x, 1e-12)
    for num_rows in (1, 2, 3, 5, 8, 17, 64, 199):
        for start in (0, 200 - num_rows):
            own = slice(start, start + num_rows)
            np.testing.assert_array_equal(normalised(x[own], 1e-12), expected[own])


# -------------------------------------------------------------- packed products


@pytest.mark.parametrize("activation", ["", *onednn.ACTIVATIONS])
def test_a_packed_product_is_the_product(activation: str) -> None:
    kernel, bias = tf.constant(rows(32, 64, 3)), tf.constant(rows(1, 64, 4)[0])
    graph = tf.function(lambda x: onednn.prepacked_dense(x, (kernel, bias), activation))
    forms: dict[str, Any] = {
        "": tf.identity,
        GELU_TANH: lambda x: tf.nn.gelu(x, approximate=True),
        GELU_ERF: lambda x: tf.nn.gelu(x, approximate=False),
        "relu": tf.nn.relu,
    }
    for num_rows in (5, 1, 300):
        x = tf.constant(rows(num_rows, 32))
        expected = forms[activation](tf.matmul(x, kernel) + bias)
        np.testing.assert_allclose(graph(x), expected, rtol=1e-5, atol=2e-5)


def config_of(hidden_act: str) -> BertConfig:
    return BertConfig(50, 64, NUM_LAYERS, 4, 256, hidden_act, 64, 2)


def layers_of(
    config: BertConfig,
    kernels: Arithmetic,
    precision: str,
    lengths: Sequence[int],
    seed: int = 1,
) -> list[NDArray[np.float32]]:
    """The layers of two lines of each length, computed in one batch where that goes."""
    weights = {
        name: tf.constant(values)
        for name, values in random_weights(config, seed=seed).items()
    }
    model = BertModel(config, weights, range(NUM_LAYERS), precision, kernels)
    ids = np.random.default_rng(5).integers(0, 50, 2 * sum(lengths), np.int32)
    if len(lengths) == 1:
        ids = ids.reshape(2, -1)
        inputs = [ids, np.ones_like(ids), np.zeros_like(ids)]
        graph = tf.function(model, autograph=False)
    else:
        positions = np.concatenate([[*range(length)] * 2 for length in lengths])
        inputs = [ids, np.zeros_like(ids), positions.astype("i")]
        inputs.append(np.repeat(lengths, 2).astype("i"))
        graph = tf.function(model.compute_packed, autograph=False)
    return [np.asarray(layer) for layer in graph(*map(tf.constant, inputs))]


# Lines of one length, and of several where the operations in C are there.
LENGTHS = [(9,), (3, 9, 20)] if encoder_kernel.is_built() else [(9,)]
PREPACKED = replace(in_force("CPU", FLOAT32), prepacks_weights=True)
PLAIN = replace(PREPACKED, prepacks_weights=False)


@pytest.mark.parametrize("hidden_act", [GELU_TANH, GELU_ERF, "relu", "tanh"])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_each_layer_of_each_model_has_its_own_packed_weights(
    lengths: tuple[int, ...], hidden_act: str
) -> None:
    """The operation would keep the first ones that it sees."""
    config = config_of(hidden_act)
    for seed in (1, 2):
        packed = layers_of(config, PREPACKED, FLOAT32, lengths, seed)
        unpacked = layers_of(config, PLAIN, FLOAT32, lengths, seed)
        for found, expected in zip(packed, unpacked, strict=True):
            np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
        assert np.abs(packed[0] - packed[1]).max() > 0.1


@pytest.mark.skipif(not arithmetic.has_bfloat16(), reason="a CPU without bfloat16")
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_packed_weights_change_bfloat16_by_its_own_digits(
    lengths: tuple[int, ...],
) -> None:
    config = config_of(GELU_TANH)
    packed = layers_of(config, PREPACKED, BFLOAT16, lengths)
    unpacked = layers_of(config, PLAIN, BFLOAT16, lengths)
    for found, expected in zip(packed, unpacked, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=0.05)


def test_layer_norm_as_operations_is_the_same_within_digits() -> None:
    """As the Keras layer has it, and TensorFlow on other machines."""
    config = config_of(GELU_TANH)
    written_out = replace(PLAIN, has_layer_norm=False)
    for found, expected in zip(
        layers_of(config, written_out, FLOAT32, (9,)),
        layers_of(config, PLAIN, FLOAT32, (9,)),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_what_tensorflow_does_not_have_is_not_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(onednn, "_LAYER_NORM", "_NoLayerNorm")
    monkeypatch.setattr(onednn, "_DENSE", "_NoFusedMatMul")
    assert not onednn.has_layer_norm()
    assert not onednn.has_prepacked_dense()
    found = in_force("CPU", FLOAT32)
    assert not found.has_layer_norm
    assert not found.prepacks_weights
