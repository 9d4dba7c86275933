"""A model, alone and in company -> whether a line's bits depend on its neighbours.

For machines that `arithmetic` has no row for. Looked at are the bits of one encoder
layer, since all of a model's layers have the same shapes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from bert_extract.model.arithmetic import Arithmetic
from bert_extract.model.config import BertConfig
from bert_extract.model.modeling import BertModel

# Odd and even ones, since a kernel's last elements are what differs.
_LENGTHS = (3, 18, 33)
# How many lines are computed together; the largest batch has a full one's rows.
_COMPANIES = (1, 2, 7, 31)
_FIRST_LAYER = 0
_SEED = 0

Graph = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], Sequence[tf.Tensor]]


def keeps_bits(
    config: BertConfig,
    weights: Mapping[str, tf.Tensor],
    precision: str,
    arithmetic: Arithmetic,
    device_name: str,
) -> bool:
    """Whether some lines have the same bits alone and in batches of several sizes.

    It takes a fraction of a second, so it sees common differences, not every one:
    `scripts/check_arithmetic.py` takes minutes and looks at many lengths.

    Args:
      config: the model's sizes.
      weights: float32 tensors by TF1 variable name.
      precision: the dtype of the matrix products.
      arithmetic: what the model does for it.
      device_name: as TensorFlow calls it.
    """
    if not config.num_hidden_layers:
        return True
    with tf.device(device_name):
        graph = layer_graph(config, weights, precision, arithmetic)
        return not any(
            differing_companies(graph, config, length, _COMPANIES)
            for length in _LENGTHS
            if length <= config.max_position_embeddings
        )


def layer_graph(
    config: BertConfig,
    weights: Mapping[str, tf.Tensor],
    precision: str,
    arithmetic: Arithmetic,
) -> Graph:
    """Traces the embeddings and the first encoder layer, as a run computes them."""
    model = BertModel(config, weights, (_FIRST_LAYER,), precision, arithmetic)

    def compute_packed(
        input_ids: tf.Tensor, input_mask: tf.Tensor, token_type_ids: tf.Tensor
    ) -> list[tf.Tensor]:
        batch_size, seq_length = tf.unstack(tf.shape(input_mask))
        positions = tf.tile(tf.range(seq_length), [batch_size])
        (layer,) = model.compute_packed(
            tf.reshape(input_ids, [-1]),
            tf.reshape(token_type_ids, [-1]),
            positions,
            tf.fill([batch_size], seq_length),
        )
        return [tf.reshape(layer, [batch_size, seq_length, -1])]

    function = compute_packed if arithmetic.has_encoder_kernel else model
    ids = tf.TensorSpec([None, None], tf.int32)
    graph = tf.function(function, input_signature=[ids, ids, ids], autograph=False)
    traced: Graph = graph.get_concrete_function()
    return traced


def differing_companies(
    graph: Graph, config: BertConfig, length: int, companies: Sequence[int]
) -> list[int]:
    """The batch sizes in which a line of that length has not the bits of the largest.

    Args:
      graph: as `layer_graph` gives it.
      config: the model's sizes.
      length: tokens of each line.
      companies: batch sizes.
    """
    rng = np.random.default_rng(_SEED)
    shape = (max(companies), length)
    lines = rng.integers(0, config.vocab_size, shape, np.int32)
    expected = _layer_of(graph, lines)
    return [
        num_lines
        for num_lines in companies
        if any(
            not np.array_equal(
                _layer_of(graph, some), expected[start : start + len(some)]
            )
            for start, some in _both_ends(lines, num_lines)
        )
    ]


def _both_ends(
    lines: NDArray[np.int32], num_lines: int
) -> Iterator[tuple[int, NDArray[np.int32]]]:
    """So many of the first lines and of the last ones, with where they begin."""
    for start in sorted({0, len(lines) - num_lines}):
        yield start, lines[start : start + num_lines]


def _layer_of(graph: Graph, input_ids: NDArray[np.int32]) -> NDArray[np.uint32]:
    """The layer's bits: uint32 [batch_size, length, hidden_size]."""
    (layer,) = graph(
        tf.constant(input_ids),
        tf.ones(input_ids.shape, tf.int32),
        tf.zeros(input_ids.shape, tf.int32),
    )
    bits: NDArray[np.uint32] = np.asarray(layer).view(np.uint32)
    return bits
