"""Batch -> embeddings and encoder layers: the mathematics of BERT, and nothing else.

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language
Understanding" (2018), and Vaswani et al., "Attention Is All You Need" (2017), in the
details as the original's `modeling.py` has them.

    B batch_size   S seq_length   H hidden_size   N attention heads   D head size
    R rows of a dense product: B * S, and as many of zeros as `arithmetic` asks for
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from bert_extract.model import encoder_kernel, onednn
from bert_extract.model.arithmetic import Arithmetic, RowRule
from bert_extract.model.config import GELU_ERF, GELU_TANH, BertConfig
from bert_extract.options import EMBEDDINGS, POOLER

# What the original adds to the scores of padding. Not -inf: a row without any token
# must not become NaN.
_MASKED = -10000.0
# The pooler's product has a row a line, so the fewest rows of all products. Of so many
# rows or more, every kind of kernel gives a row the same bits.
_MIN_POOLER_ROWS = 128
# No line is shorter than [CLS] and [SEP].
_FEWEST_ROWS = 2
# Elements that Eigen's exp and sigmoid take at once, at most. The last ones of a
# tensor, which are fewer, are rounded differently.
_EXP_WIDTH = 16


def _gelu(x: tf.Tensor) -> tf.Tensor:
    """Gaussian error linear unit in the tanh form of the original's `gelu`."""
    # Written so, and not shorter: TensorFlow's graph optimizer knows this shape, and
    # on a CPU computes it inside the matrix product before it (see
    # devices.set_up_tensorflow). tf.pow(x, 3) took longer than the product itself.
    cube = (0.044715 * x) * tf.square(x)
    return x * ((tf.tanh((x + cube) * math.sqrt(2.0 / math.pi)) + 1.0) * 0.5)


def _gelu_erf(x: tf.Tensor) -> tf.Tensor:
    """Gaussian error linear unit as it is defined, as Hugging Face's "gelu" is."""
    # The same holds here: tf.nn.gelu(x) took half as long as the product itself,
    # this nothing that could be measured.
    return x * ((tf.math.erf(x * math.sqrt(0.5)) + 1.0) * 0.5)


_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    GELU_TANH: _gelu,
    GELU_ERF: _gelu_erf,
    "relu": tf.nn.relu,
    "tanh": tf.tanh,
    "linear": tf.identity,
}


def _as_it_is(x: tf.Tensor) -> tf.Tensor:
    return x


class Dropout(NamedTuple):
    """What training leaves out at random, where the original's code does.

    Each is a function of a tensor; by default nothing is left out, nor is anything
    added to the graph.
    """

    hidden: Callable[[tf.Tensor], tf.Tensor] = _as_it_is  # hidden_dropout_prob
    # attention_probs_dropout_prob
    attention: Callable[[tf.Tensor], tf.Tensor] = _as_it_is


NO_DROPOUT = Dropout()


class _LayerNorm(NamedTuple):
    gamma: tf.Tensor  # float32 [H]
    beta: tf.Tensor  # float32 [H]


class _Dense(NamedTuple):
    kernel: tf.Tensor  # [num_inputs, num_outputs], of the compute dtype
    bias: tf.Tensor  # [num_outputs], of the compute dtype


class _Embeddings(NamedTuple):
    word: tf.Tensor  # float32 [vocab_size, H]
    token_type: tf.Tensor  # float32 [type_vocab_size, H]
    position: tf.Tensor  # float32 [max_position_embeddings, H]
    norm: _LayerNorm


class _EncoderLayer(NamedTuple):
    """The weights of one encoder layer."""

    query: _Dense
    key: _Dense
    value: _Dense
    attention_output: _Dense
    attention_norm: _LayerNorm
    intermediate: _Dense
    output: _Dense
    output_norm: _LayerNorm


class BertModel(tf.Module):
    """BERT's encoder, up to the highest layer that is asked for, and its pooler."""

    def __init__(
        self,
        config: BertConfig,
        weights: Mapping[str, tf.Tensor],
        layer_names: Sequence[int | str],
        compute_dtype: str,
        arithmetic: Arithmetic,
        dropout: Dropout = NO_DROPOUT,
    ) -> None:
        """Takes the weights; they are not copied where no conversion is needed.

        Args:
          config: the sizes.
          weights: float32 tensors by TF1 variable name; those of layers above the
            highest one of `layer_names` may be missing, and the pooler's if "pooler" is
            not among them.
          layer_names: the layers to give, as `options.resolve_layers` gives them; and
            "pooler".
          compute_dtype: the dtype of the matrix products and of gelu. Residuals,
            LayerNorm, softmax and the pooler are float32 in any case.
          arithmetic: what the kernels ask, so that a line's vectors depend on nothing
            but the line.
          dropout: for training.
        """
        super().__init__(name="bert")
        self._config = config
        self._layer_names = tuple(layer_names)
        self._activation = _activation_for(config, arithmetic)
        self._layer_norm = (
            onednn.layer_norm if arithmetic.has_layer_norm else _layer_norm
        )
        self._dense = onednn.prepacked_dense if arithmetic.prepacks_weights else _dense
        self._embeddings = _take_embeddings(weights)
        self._layers = [
            _take_layer(weights, number, compute_dtype)
            for number in range(
                num_layers_needed(layer_names, config.num_hidden_layers)
            )
        ]
        self._pooler: _Dense | None = None
        if POOLER in layer_names:
            # One row a line costs nothing, so it is not worth half a precision.
            self._pooler = _Dense(
                weights["bert/pooler/dense/kernel"], weights["bert/pooler/dense/bias"]
            )
        self._arithmetic = arithmetic
        self._dropout = dropout
        self._rows = arithmetic.rows_for(config.hidden_size)
        # Traced once and called for each layer: tracing 12 layers took 0.4 s, this
        # takes 0.07 s. The weights are arguments, so one trace serves all; but an
        # operation that prepacks its weights keeps the first ones that it sees.
        self._encoder_layer = self._layer_step
        if not arithmetic.prepacks_weights:
            self._encoder_layer = tf.function(self._layer_step, autograph=False)

    def __call__(
        self, input_ids: tf.Tensor, input_mask: tf.Tensor, token_type_ids: tf.Tensor
    ) -> list[tf.Tensor]:
        """Computes the layers that were asked for, each once, in the order asked.

        Args:
          input_ids: int32 [B, S].
          input_mask: int32 [B, S], 1 for a token, 0 for padding.
          token_type_ids: int32 [B, S].

        Returns:
          float32 [B, S, H] for each of the layers; [B, 1, H] for "pooler".
        """
        batch_size, seq_length = tf.unstack(tf.shape(input_ids))
        num_rows = batch_size * seq_length

        def by_line(matrix: tf.Tensor) -> tf.Tensor:  # [R, H] -> [B, S, H]
            return tf.reshape(matrix[:num_rows], [batch_size, seq_length, -1])

        adder = (1.0 - tf.cast(input_mask, tf.float32)) * _MASKED
        adder = adder[:, tf.newaxis, tf.newaxis, :]  # [B, 1, 1, S]
        positions = self._embeddings.position[:seq_length]
        embedded = self._embed(input_ids, token_type_ids, positions)
        hidden = _pad_rows(embedded, self._rows)
        outputs: dict[int | str, tf.Tensor] = {EMBEDDINGS: by_line(hidden)}
        for number, layer in enumerate(self._layers):
            hidden = self._encoder_layer(layer, hidden, adder)
            outputs[number] = by_line(hidden)
        if self._pooler is not None:
            first_tokens = by_line(hidden)[:, 0]
            outputs[POOLER] = self._pool(self._pooler, first_tokens)[:, tf.newaxis]
        return self._in_order(outputs)

    def compute_packed(
        self,
        input_ids: tf.Tensor,
        token_type_ids: tf.Tensor,
        positions: tf.Tensor,
        lengths: tf.Tensor,
    ) -> list[tf.Tensor]:
        """Computes lines of any lengths, whose rows share the dense products.

        Where `arithmetic` has packed attention. Nothing is padded.

        Args:
          input_ids: int32 [T], the lines' tokens one behind the other.
          token_type_ids: int32 [T].
          positions: int32 [T], of each token in its line.
          lengths: int32 [num_lines], of each line; their sum is T.

        Returns:
          float32 [T, H] for each of the layers; [num_lines, H] for "pooler".
        """
        num_rows = tf.size(input_ids)
        position_rows = tf.gather(self._embeddings.position, positions)
        hidden = self._embed(input_ids, token_type_ids, position_rows)
        hidden = _pad_rows(hidden, self._rows)
        outputs: dict[int | str, tf.Tensor] = {EMBEDDINGS: hidden[:num_rows]}
        for number, layer in enumerate(self._layers):
            hidden = self._encoder_layer(layer, hidden, lengths=lengths)
            outputs[number] = hidden[:num_rows]
        if self._pooler is not None:
            first_tokens = tf.gather(hidden, tf.cumsum(lengths, exclusive=True))
            outputs[POOLER] = self._pool(self._pooler, first_tokens)
        return self._in_order(outputs)

    def _in_order(self, outputs: Mapping[int | str, tf.Tensor]) -> list[tf.Tensor]:
        num_hidden_layers = self._config.num_hidden_layers
        return [
            outputs[index if isinstance(index, str) else index % num_hidden_layers]
            for index in self._layer_names
        ]

    def _pool(self, pooler: _Dense, first_tokens: tf.Tensor) -> tf.Tensor:
        """[CLS] in the last layer -> tanh(dense([CLS])): [num_lines, H] -> the same."""
        rows = _pad_rows(first_tokens, self._rows.at_least(_MIN_POOLER_ROWS))
        pooled = tf.tanh(_dense(rows, pooler))
        return pooled[: tf.shape(first_tokens)[0]]

    def _embed(
        self, input_ids: tf.Tensor, token_type_ids: tf.Tensor, positions: tf.Tensor
    ) -> tf.Tensor:
        """int32 [.., S] twice, float32 [S, H] -> float32 [as many rows, H]."""
        tables = self._embeddings
        words = tf.gather(tables.word, input_ids)
        token_types = tf.gather(tables.token_type, token_type_ids)
        hidden = words + token_types + positions
        hidden = tf.reshape(hidden, [-1, self._config.hidden_size])
        hidden = self._layer_norm(hidden, tables.norm, self._config.layer_norm_eps)
        return self._dropout.hidden(hidden)

    def _layer_step(
        self,
        layer: _EncoderLayer,
        hidden: tf.Tensor,
        adder: tf.Tensor | None = None,
        lengths: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """One encoder layer: float32 [R, H] -> the same.

        Args:
          layer: its weights.
          hidden: float32 [R, H].
          adder: float32 [B, 1, 1, S], for lines of one padded length.
          lengths: int32 [num_lines], for lines of any lengths.
        """
        epsilon = self._config.layer_norm_eps
        query = self._dense(hidden, layer.query)
        key = self._dense(hidden, layer.key)
        value = self._dense(hidden, layer.value)
        if lengths is None:
            context = self._attend(query, key, value, adder)
            context = _pad_rows(context, self._rows)
        else:
            num_heads = self._config.num_attention_heads
            context = encoder_kernel.packed_attention(
                query, key, value, lengths, num_heads
            )
        attention = self._dropout.hidden(self._dense(context, layer.attention_output))
        attention = tf.cast(attention, tf.float32) + hidden
        attention = self._layer_norm(attention, layer.attention_norm, epsilon)
        intermediate = self._intermediate(attention, layer.intermediate)
        output = self._dropout.hidden(self._dense(intermediate, layer.output))
        output = tf.cast(output, tf.float32) + attention
        return self._layer_norm(output, layer.output_norm, epsilon)

    def _intermediate(self, x: tf.Tensor, dense: _Dense) -> tf.Tensor:
        """The dense product and the activation: [R, H] -> [R, intermediate_size]."""
        hidden_act = self._config.hidden_act
        if self._arithmetic.prepacks_weights and hidden_act in onednn.ACTIVATIONS:
            return onednn.prepacked_dense(x, dense, hidden_act)
        return self._activation(self._dense(x, dense))

    def _attend(
        self, query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, adder: tf.Tensor
    ) -> tf.Tensor:
        """Multi-head self-attention: [R, H] three times -> [B * S, H].

        Args:
          query: [R, H].
          key: [R, H].
          value: [R, H].
          adder: float32 [B, 1, 1, S].
        """
        num_heads = self._config.num_attention_heads
        head_size = self._config.hidden_size // num_heads
        batch_size, _, _, seq_length = tf.unstack(tf.shape(adder))
        num_rows = batch_size * seq_length

        def by_head(rows: tf.Tensor) -> tf.Tensor:  # [B, N, S, D]
            # Taking the first rows copies nothing.
            split = [batch_size, seq_length, num_heads, head_size]
            return tf.transpose(tf.reshape(rows[:num_rows], split), [0, 2, 1, 3])

        query, key, value = by_head(query), by_head(key), by_head(value)
        scores = tf.matmul(query, key, transpose_b=True)  # [B, N, S, S]
        scores = scores * tf.constant(1.0 / math.sqrt(head_size), scores.dtype)
        scores = scores + tf.cast(adder, scores.dtype)
        softmax = (
            tf.nn.softmax if self._arithmetic.has_steady_softmax else _steady_softmax
        )
        probabilities = tf.cast(softmax(scores), value.dtype)
        probabilities = self._dropout.attention(probabilities)
        context = tf.matmul(probabilities, value)  # [B, N, S, D]
        context = tf.transpose(context, [0, 2, 1, 3])  # [B, S, N, D]
        return tf.reshape(context, [num_rows, num_heads * head_size])


def num_layers_needed(layer_names: Sequence[int | str], num_hidden_layers: int) -> int:
    """How many encoder layers must be computed, from the first one up."""
    highest = [
        index % num_hidden_layers + 1 for index in layer_names if isinstance(index, int)
    ]
    assert all(isinstance(i, int) or i in (EMBEDDINGS, POOLER) for i in layer_names)
    return num_hidden_layers if POOLER in layer_names else max(highest, default=0)


def _activation_for(config: BertConfig, arithmetic: Arithmetic) -> Callable[[Any], Any]:
    """The config's activation, in the form that the kernels compute best."""
    hidden_act = config.hidden_act
    is_gelu = hidden_act in (GELU_TANH, GELU_ERF)
    if is_gelu and arithmetic.has_encoder_kernel and not arithmetic.has_gelu_in_product:
        return lambda x: encoder_kernel.gelu(x, hidden_act)
    return _ACTIVATIONS[hidden_act]


def _take_layer(
    weights: Mapping[str, tf.Tensor], number: int, compute_dtype: str
) -> _EncoderLayer:
    """Collects one layer's weights by their TF1 names."""
    scope = f"bert/encoder/layer_{number}"

    def dense(part: str) -> _Dense:
        kernel, bias = (
            weights[f"{scope}/{part}/kernel"],
            weights[f"{scope}/{part}/bias"],
        )
        return _Dense(tf.cast(kernel, compute_dtype), tf.cast(bias, compute_dtype))

    return _EncoderLayer(
        query=dense("attention/self/query"),
        key=dense("attention/self/key"),
        value=dense("attention/self/value"),
        attention_output=dense("attention/output/dense"),
        attention_norm=_take_norm(weights, f"{scope}/attention/output"),
        intermediate=dense("intermediate/dense"),
        output=dense("output/dense"),
        output_norm=_take_norm(weights, f"{scope}/output"),
    )


def _take_embeddings(weights: Mapping[str, tf.Tensor]) -> _Embeddings:
    scope = "bert/embeddings"
    return _Embeddings(
        word=weights[f"{scope}/word_embeddings"],
        token_type=weights[f"{scope}/token_type_embeddings"],
        position=weights[f"{scope}/position_embeddings"],
        norm=_take_norm(weights, scope),
    )


def _take_norm(weights: Mapping[str, tf.Tensor], scope: str) -> _LayerNorm:
    return _LayerNorm(
        weights[f"{scope}/LayerNorm/gamma"], weights[f"{scope}/LayerNorm/beta"]
    )


def _dense(x: tf.Tensor, dense: _Dense) -> tf.Tensor:
    """[rows, num_inputs] -> [rows, num_outputs], of the compute dtype."""
    product = tf.matmul(tf.cast(x, dense.kernel.dtype), dense.kernel)
    return tf.nn.bias_add(product, dense.bias)


def _pad_rows(x: tf.Tensor, rule: RowRule) -> tf.Tensor:
    """[num_rows, size] -> [rule.num_rows(num_rows), size]; the new rows are zeros.

    Where no row is missing, nothing is copied.
    """
    if rule.multiple == 1 and rule.least <= _FEWEST_ROWS:
        return x
    num_rows = tf.shape(x)[0]
    missing = tf.maximum(rule.least - num_rows, -num_rows % rule.multiple)
    return tf.pad(x, [[0, missing], [0, 0]])


def _steady_softmax(scores: tf.Tensor) -> tf.Tensor:
    """tf.nn.softmax, with the same bits for a row wherever in the tensor it stands."""
    scores = scores - tf.reduce_max(scores, axis=-1, keepdims=True)
    shape, size = tf.shape(scores), tf.size(scores)
    flat = tf.pad(tf.reshape(scores, [-1]), [[0, -size % _EXP_WIDTH]])
    exponentials = tf.reshape(tf.exp(flat)[:size], shape)
    return exponentials / tf.reduce_sum(exponentials, axis=-1, keepdims=True)


def _layer_norm(x: tf.Tensor, norm: _LayerNorm, epsilon: float) -> tf.Tensor:
    """Normalises the last axis: Ba et al., "Layer Normalization" (2016)."""
    centered = x - tf.reduce_mean(x, axis=-1, keepdims=True)
    variance = tf.reduce_mean(tf.square(centered), axis=-1, keepdims=True) + epsilon
    # sqrt(v) / v for rsqrt(v): TensorFlow's rsqrt rounds the last rows of a tensor
    # differently from the others (its vector and scalar code differ), so that a
    # line's vectors would depend on where in the batch it stands. Square roots and
    # quotients are rounded correctly everywhere.
    scale = tf.sqrt(variance) / variance
    return centered * (scale * norm.gamma) + norm.beta
