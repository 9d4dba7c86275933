"""The two gelus, as the graph computes them behind a matrix product."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from bert_extract.model import modeling
from bert_extract.model.arithmetic import FLOAT32, Arithmetic, RowRule, in_force
from bert_extract.model.config import GELU_ERF, GELU_TANH, BertConfig
from bert_extract.model.modeling import BertModel
from support.make_checkpoints import random_weights
from support.reference_model import gelu_erf, gelu_tanh, run_bert
from support.small_bert import CONFIG


def through_the_graph(
    hidden_act: str, x: NDArray[np.float32], arithmetic: Arithmetic | None = None
) -> NDArray[np.float32]:
    """The activation of a product with the unit matrix: float32 [rows, 64] -> same."""
    config = BertConfig(8, 64, 1, 1, 64, hidden_act, 8, 2)
    arithmetic = arithmetic or in_force("CPU", FLOAT32)
    model = BertModel(config, random_tensors(config), [0], FLOAT32, arithmetic)
    unit = tf.constant(np.eye(64, dtype=np.float32))
    nothing = tf.constant(np.zeros(64, np.float32))

    @tf.function(autograph=False)
    def activate(rows: tf.Tensor) -> tf.Tensor:
        return model._activation(tf.nn.bias_add(tf.matmul(rows, unit), nothing))

    values: NDArray[np.float32] = activate(tf.constant(x)).numpy()
    return values


def random_tensors(config: BertConfig) -> dict[str, tf.Tensor]:
    weights = random_weights(config, seed=3)
    return {name: tf.constant(values) for name, values in weights.items()}


@pytest.mark.parametrize(
    ("hidden_act", "reference"), [(GELU_TANH, gelu_tanh), (GELU_ERF, gelu_erf)]
)
def test_gelu_is_as_exact_as_float32(hidden_act: str, reference: object) -> None:
    assert callable(reference)
    x = np.linspace(-10.0, 10.0, 64 * 512, dtype=np.float32).reshape(512, 64)
    found = through_the_graph(hidden_act, x)
    expected = reference(x.astype(np.float64))
    # A float32 near 10 is exact to 5e-7; the two forms differ by 5e-4.
    assert np.abs(found - expected).max() < 1e-6


@pytest.mark.parametrize("has_gelu_in_product", [True, False])
def test_both_ways_of_writing_the_tanh_form_give_it(has_gelu_in_product: bool) -> None:
    arithmetic = replace(
        in_force("CPU", FLOAT32),
        rows=RowRule(4, 4),
        has_gelu_in_product=has_gelu_in_product,
    )
    # Where tanh is nearly -1, and its sum with 1 has few digits.
    x = np.linspace(-40.0, -2.0, 64 * 512, dtype=np.float32).reshape(512, 64)
    found = through_the_graph(GELU_TANH, x, arithmetic)
    largest = np.abs(found - gelu_tanh(x.astype(np.float64))).max()
    is_own = arithmetic.has_encoder_kernel and not has_gelu_in_product
    assert largest < (1e-7 if is_own else 1e-6)


@pytest.mark.parametrize("has_gelu_in_product", [True, False])
@pytest.mark.parametrize("has_encoder_kernel", [True, False])
def test_who_computes_gelu(has_gelu_in_product: bool, has_encoder_kernel: bool) -> None:
    arithmetic = replace(
        in_force("CPU", FLOAT32),
        has_gelu_in_product=has_gelu_in_product,
        has_encoder_kernel=has_encoder_kernel,
    )
    for hidden_act, operations in (
        (GELU_TANH, modeling._gelu),
        (GELU_ERF, modeling._gelu_erf),
    ):
        config = BertConfig(8, 64, 1, 1, 64, hidden_act, 8, 2)
        is_own = has_encoder_kernel and not has_gelu_in_product
        found = modeling._activation_for(config, arithmetic)
        assert (found is operations) is not is_own


def test_the_two_differ_where_it_is_known(tmp_path: Path) -> None:
    x = np.full((2, 64), -2.0, np.float32)
    assert through_the_graph(GELU_ERF, x)[0, 0] == pytest.approx(
        -1 + math.erf(2 / math.sqrt(2)), abs=1e-6
    )
    assert through_the_graph(GELU_TANH, x)[0, 0] == pytest.approx(-0.0454023, abs=1e-6)


@pytest.mark.parametrize("hidden_act", [GELU_TANH, GELU_ERF])
def test_the_encoder_with_each_against_float64(hidden_act: str) -> None:
    config = BertConfig(50, 8, 3, 2, 32, hidden_act, 16, 2)
    weights = random_weights(CONFIG, seed=1)
    tensors = {name: tf.constant(values) for name, values in weights.items()}
    model = BertModel(config, tensors, [0, 1, 2], FLOAT32, in_force("CPU", FLOAT32))
    input_ids, token_type_ids = [2, 7, 9, 3, 11, 3], [0, 0, 0, 0, 1, 1]
    ids = tf.constant([input_ids])
    graph = tf.function(model, autograph=False)
    outputs = graph(ids, tf.ones_like(ids), tf.constant([token_type_ids]))
    sizes = {name: getattr(config, name) for name in config.__dataclass_fields__}
    reference = run_bert(weights, sizes, input_ids, token_type_ids, hidden_act)
    for found, expected in zip(outputs, reference.layers, strict=True):
        np.testing.assert_allclose(found[0], expected, rtol=0, atol=2e-6)
