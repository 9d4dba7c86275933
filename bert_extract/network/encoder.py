"""Token ids -> vectors, as a layer of a Keras model whose weights Keras owns.

The mathematics are those of `modeling.BertModel`, which is made anew of the variables
whenever TensorFlow traces the layer.

    B batch_size   S seq_length   L layers asked for   H hidden_size
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import keras
import tensorflow as tf

from bert_extract import doubt
from bert_extract.checkpoints.loading import load_weights, read_config
from bert_extract.checkpoints.model_dir import resolve_options
from bert_extract.checkpoints.sentence_model import read_sentence_model
from bert_extract.errors import ArgumentTypeError, BertExtractError
from bert_extract.model.arithmetic import Arithmetic, RowRule
from bert_extract.model.config import BertConfig, read_dropout, variable_shapes
from bert_extract.model.layer_plan import LayerPlan
from bert_extract.model.modeling import (
    NO_DROPOUT,
    BertModel,
    Dropout,
    num_layers_needed,
)
from bert_extract.model.pooling import SentencePooling
from bert_extract.options import DEFAULT_LAYERS, MODEL_POOLING, POOLER, Options

NO_POOLING = "none"  # each token has a vector

# What the layer takes, int32 [B, S] each; as a dict, since models name their inputs.
INPUT_NAMES = ("input_ids", "input_mask", "token_type_ids")

# Which rows share a product does not matter to a network, and its kernels are the
# user's choice: so no row is added, and the softmax is TensorFlow's.
_ARITHMETIC = Arithmetic("Keras", RowRule(), RowRule(), True, True)
# As BERT was trained from.
_INITIAL_STDDEV = 0.02
# Keras's own epsilon for lengths: nothing is divided by zero.
_LEAST_SQUARED_LENGTH = 1e-24
# Fields of `BertConfig` that are sentences about a file.
_NOT_SAVED = ("warnings", "defaults")

Layers = int | str | Sequence[int | str]


@keras.saving.register_keras_serializable(package="bert_extract")
class BertEncoder(keras.layers.Layer):
    """BERT as a layer: frozen or trained, saved and loaded with its model.

    >>> inputs = BertInputs.from_model_dir("uncased_L-12_H-768_A-12")
    >>> encoder = BertEncoder.from_model_dir("uncased_L-12_H-768_A-12", pooling="mean")
    >>> encoder(inputs(["the river bank"])).shape
    TensorShape([1, 768])

    It takes a dict of input_ids, input_mask and token_type_ids, int32 [B, S] each, as
    `BertInputs` makes them, and gives vectors of the compute dtype: [B, S, H], or
    [B, H] with a pooling; of several layers [B, L, S, H] and [B, L, H], unless
    layer_pooling makes one of them. The vectors of tokens have the input_mask with them
    as their Keras mask. Residuals, LayerNorm, softmax and pooling are float32 under any
    dtype policy.

    Its variables have the names of the original's, with dots for slashes. Those of
    layers above the highest one that is asked for are left out.

    Attributes:
      bert_config: the sizes.
    """

    built: bool  # Keras's: whether the variables are there

    def __init__(
        self,
        bert_config: BertConfig | Mapping[str, Any],
        *,
        layers: Layers | None = None,
        layer_pooling: str = "none",
        pooling: str | SentencePooling | Mapping[str, Any] = NO_POOLING,
        num_trained_layers: int | None = None,
        hidden_dropout_prob: float = 0.1,
        attention_probs_dropout_prob: float = 0.1,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Makes a BERT with new weights, to be trained or loaded into.

        Args:
          bert_config: the sizes; or its fields, as `get_config` gives them.
          layers: as `--layers`, or a list; by default the last one.
          layer_pooling: as `--layer_pooling`.
          pooling: "none" for a vector a token; else as `--sentence_pooling`, but for
            "model", which needs the model's folder: see `from_model_dir`.
          num_trained_layers: how many encoder layers are trained, from the highest one
            down; the others and the embeddings stay as they are. By default everything
            is trained; with `trainable=False` nothing is.
          hidden_dropout_prob: the share of values left out while the layer is trained;
            while all of it is frozen, its vectors are the same as otherwise.
          attention_probs_dropout_prob: the same of attention.
          seed: of what is left out, and of new weights.
          **kwargs: those of `keras.layers.Layer`: name, dtype, trainable.

        Raises:
          BertExtractError: a value cannot work, or Keras runs on another backend.
        """
        _check_backend()
        super().__init__(**kwargs)
        # Lines have any number of lengths, and XLA would compile each of them anew.
        self.supports_jit = False
        self.supports_masking = True
        self.bert_config = _to_config(bert_config)
        self._pooling = _to_pooling(pooling)
        options = _to_options(layers, layer_pooling, self._pooling)
        options.check_vectors()
        self._plan = LayerPlan.of(options, self.bert_config)
        self._layer_pooling = layer_pooling
        self._num_layers = num_layers_needed(
            self._plan.computed_layers, self.bert_config.num_hidden_layers
        )
        self._num_trained_layers = _checked_number(num_trained_layers, self._num_layers)
        self._rates = {
            "hidden_dropout_prob": _checked_rate(hidden_dropout_prob),
            "attention_probs_dropout_prob": _checked_rate(attention_probs_dropout_prob),
        }
        self._seed = seed
        self._seed_generator = keras.random.SeedGenerator(seed)
        self._variables_by_name: dict[str, Any] = {}
        # What `from_model_dir` read, until the variables have it.
        self._read_weights: dict[str, tf.Tensor] = {}
        self._forward = tf.function(
            self._compute, autograph=False, reduce_retracing=True
        )

    @classmethod
    def from_model_dir(
        cls,
        model_dir: str | os.PathLike[str],
        *,
        layers: Layers | None = None,
        layer_pooling: str = "none",
        pooling: str = NO_POOLING,
        **kwargs: Any,
    ) -> "BertEncoder":
        """Makes the layer of a BERT's folder, as it was published.

        Args:
          model_dir: as `--model_dir` takes it.
          layers: see the constructor.
          layer_pooling: see there.
          pooling: see there; "model" is the pooling of a sentence-transformers model.
          **kwargs: other arguments of the constructor. The two of dropout are the
            config's where it has them.

        Raises:
          BertExtractError: the folder, or an option, cannot work.
        """
        _check_backend()
        options = _to_options(layers, layer_pooling, SentencePooling(pooling))
        options = replace(options, model_dir=os.fspath(model_dir))
        options.check()
        options, checkpoint = resolve_options(options)
        config = read_config(options.bert_config_file, checkpoint)
        warnings = [*config.warnings]
        how: str | SentencePooling = pooling
        if pooling == MODEL_POOLING:
            model = read_sentence_model(
                options.model_dir, bool(options.do_lower_case), options.max_seq_length
            )
            how = model.pooling
            warnings += model.warnings
        encoder = cls(
            config,
            layers=layers,
            layer_pooling=layer_pooling,
            pooling=how,
            **{**read_dropout(options.bert_config_file), **kwargs},
        )
        loaded = load_weights(
            checkpoint,
            config,
            encoder._num_layers,
            with_pooler=options.wants_pooler,
        )
        for warning in (*warnings, *loaded.warnings):
            doubt.warn("%s", warning)
        encoder._read_weights = loaded.weights
        encoder.build()
        return encoder

    @staticmethod
    def make_inputs() -> dict[str, Any]:
        """Makes the symbolic inputs of a model that begins with the layer.

        Returns:
          A `keras.Input` for each of what the layer takes, by its name.
        """
        return {
            name: keras.Input((None,), dtype="int32", name=name) for name in INPUT_NAMES
        }

    # -- what Keras asks

    def build(self, input_shape: Any = None) -> None:
        """Makes the variables, whose shapes depend on the config alone."""
        if self.built:
            return
        config = replace(self.bert_config, num_hidden_layers=self._num_layers)
        shapes = variable_shapes(config, with_pooler=self._is_of_pooler)
        for number, (name, shape) in enumerate(shapes.items()):
            self._variables_by_name[name] = self.add_weight(
                name=name.replace("/", "."),
                shape=shape,
                initializer=self._initializer(name, number),
                trainable=self._is_trained(name),
                # As float32 into the mathematics, which say what is rounded.
                autocast=False,
            )
        self._read_weights = {}
        self.built = True

    def call(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        """Computes the vectors.

        Args:
          inputs: int32 [B, S] for each of the names.
          training: whether values are left out, unless the layer is frozen.
        """
        trained = tuple(
            self.trainable and variable.trainable
            for variable in self._variables_by_name.values()
        )
        ids = (tf.cast(_input(inputs, name), tf.int32) for name in INPUT_NAMES)
        return self._forward(*ids, trained, bool(training) and any(trained))

    def compute_output_spec(
        self, inputs: Mapping[str, Any], training: bool | None = None
    ) -> Any:
        """Says what `call` gives; Keras asks it for a symbolic input."""
        shape = _input(inputs, INPUT_NAMES[0]).shape
        return keras.KerasTensor(self._output_shape(shape), dtype=self.compute_dtype)

    def compute_output_shape(self, input_shape: Mapping[str, Any]) -> tuple[Any, ...]:
        """Says the same of shapes."""
        return self._output_shape(_input(input_shape, INPUT_NAMES[0]))

    def compute_mask(self, inputs: Mapping[str, Any], previous_mask: Any) -> Any:
        """Tells the layers behind which vectors are of tokens, where each has one."""
        if self._pooling.mode != NO_POOLING or self._has_layer_axis:
            return None
        return keras.ops.not_equal(_input(inputs, "input_mask"), 0)

    def get_config(self) -> dict[str, Any]:
        """All that it takes to make the layer, on any machine; no path is in it."""
        config = asdict(self.bert_config)
        pooling: Any = self._pooling.mode
        if self._pooling != SentencePooling(pooling):
            pooling = asdict(self._pooling)
        return {
            **super().get_config(),
            "bert_config": {k: v for k, v in config.items() if k not in _NOT_SAVED},
            "layers": None if self._is_of_pooler else list(self._plan.requested_layers),
            "layer_pooling": self._layer_pooling,
            "pooling": pooling,
            "num_trained_layers": self._num_trained_layers,
            **self._rates,
            "seed": self._seed,
        }

    def get_build_config(self) -> dict[str, Any]:
        """The variables are there before the first batch."""
        return {"input_shape": None}

    # -- the variables

    @property
    def _is_of_pooler(self) -> bool:
        return self._pooling.mode == POOLER

    @property
    def _has_layer_axis(self) -> bool:
        return len(self._plan.layer_names) > 1

    def _is_trained(self, name: str) -> bool:
        """Whether a variable is trained, unless the whole layer is frozen."""
        if self._num_trained_layers is None or name.startswith("bert/pooler"):
            return True
        first = self._num_layers - self._num_trained_layers
        numbers = range(first, self._num_layers)
        return name.startswith(tuple(f"bert/encoder/layer_{i}/" for i in numbers))

    def _initializer(self, name: str, number: int) -> Any:
        if name in self._read_weights:
            return lambda shape, dtype: tf.cast(self._read_weights[name], dtype)
        if name.endswith("gamma"):
            return "ones"
        if name.endswith(("beta", "bias")):
            return "zeros"
        seed = None if self._seed is None else self._seed + number
        return keras.initializers.TruncatedNormal(stddev=_INITIAL_STDDEV, seed=seed)

    # -- the forward pass

    def _compute(
        self,
        input_ids: tf.Tensor,
        input_mask: tf.Tensor,
        token_type_ids: tf.Tensor,
        trained: tuple[bool, ...],
        is_dropping: bool,
    ) -> tf.Tensor:
        """Is traced once for what is trained, and once for what is not.

        Args:
          input_ids: int32 [B, S].
          input_mask: int32 [B, S].
          token_type_ids: int32 [B, S].
          trained: of each variable, whether a gradient goes to it.
          is_dropping: whether values are left out.
        """
        weights = {
            name: tf.cast(variable.value, tf.float32)
            if is_trained
            else tf.stop_gradient(tf.cast(variable.value, tf.float32))
            for (name, variable), is_trained in zip(
                self._variables_by_name.items(), trained, strict=True
            )
        }
        model = BertModel(
            self.bert_config,
            weights,
            self._plan.computed_layers,
            self.compute_dtype,
            _ARITHMETIC,
            self._dropout() if is_dropping else NO_DROPOUT,
        )
        computed = model(input_ids, input_mask, token_type_ids)
        layers = [computed[place] for place in self._plan.layer_positions]
        if self._plan.is_mixed:
            layers = [_mix(layers, self._layer_pooling)]
        if self._pooling.mode != NO_POOLING:
            is_pooled = _is_pooled(self._pooling, input_mask, token_type_ids)
            layers = [_pool(self._pooling, layer, is_pooled) for layer in layers]
        vectors = tf.stack(layers, axis=1) if self._has_layer_axis else layers[0]
        return tf.cast(vectors, self.compute_dtype)

    def _dropout(self) -> Dropout:
        def leave_out(key: str) -> Callable[[tf.Tensor], tf.Tensor]:
            rate, seed = self._rates[key], self._seed_generator
            return lambda x: keras.random.dropout(x, rate, seed=seed) if rate else x

        return Dropout(
            leave_out("hidden_dropout_prob"), leave_out("attention_probs_dropout_prob")
        )

    def _output_shape(self, input_shape: Sequence[int | None]) -> tuple[Any, ...]:
        batch_size, seq_length = input_shape
        lines: tuple[int | None, ...] = (batch_size,)
        if self._has_layer_axis:
            lines += (len(self._plan.layer_names),)
        tokens = (seq_length,) if self._pooling.mode == NO_POOLING else ()
        return (*lines, *tokens, self._plan.vector_size)


# ------------------------------------------------------------------ layers, sentences


def _mix(layers: Sequence[tf.Tensor], layer_pooling: str) -> tf.Tensor:
    """As `pooling.mix_layers`: float32 [B, S, H] each -> [B, S, H] or [B, S, L * H]."""
    if layer_pooling == "concat":
        return tf.concat(layers, axis=-1)
    total = tf.add_n(layers)
    return total / len(layers) if layer_pooling == "mean" else total


def _is_pooled(
    pooling: SentencePooling, input_mask: tf.Tensor, token_type_ids: tf.Tensor
) -> tf.Tensor:
    """Which tokens are pooled: bool [B, S].

    [CLS] is the first token, and each [SEP] the last one of its text.
    """
    is_token = tf.not_equal(input_mask, 0)
    if pooling.has_special_tokens:
        return is_token
    is_last = tf.not_equal(token_type_ids[:, :-1], token_type_ids[:, 1:])
    is_last = tf.logical_or(is_last, tf.logical_not(is_token[:, 1:]))
    # Of a row without padding the last token has no token behind it.
    is_last = tf.pad(is_last, [[0, 0], [0, 1]], constant_values=True)
    is_first = tf.range(tf.shape(input_mask)[1]) == 0
    return is_token & tf.logical_not(is_last | is_first)


def _pool(
    pooling: SentencePooling, layer: tf.Tensor, is_pooled: tf.Tensor
) -> tf.Tensor:
    """As `pooling.pool_sentence`: float32 [B, S, H] -> [B, H]; zeros of no token.

    Args:
      pooling: how.
      layer: float32 [B, S, H]; of the pooler [B, 1, H].
      is_pooled: bool [B, S].
    """
    if pooling.mode in ("cls", POOLER):
        vectors = layer[:, 0]
    else:
        is_pooled = is_pooled[:, :, tf.newaxis]
        count = tf.reduce_sum(tf.cast(is_pooled, layer.dtype), axis=1)  # [B, 1]
        if pooling.mode == "max":
            least = tf.where(is_pooled, layer, layer.dtype.min)
            vectors = tf.where(count > 0, tf.reduce_max(least, axis=1), 0.0)
        else:
            total = tf.reduce_sum(tf.where(is_pooled, layer, 0.0), axis=1)
            vectors = total / tf.maximum(count, 1.0)
    if pooling.is_normalized:
        vectors = tf.nn.l2_normalize(vectors, axis=-1, epsilon=_LEAST_SQUARED_LENGTH)
    return vectors


# ------------------------------------------------------------------------ arguments


def _check_backend() -> None:
    if keras.backend.backend() != "tensorflow":
        raise BertExtractError(
            f"Keras runs on {keras.backend.backend()} here, and BertEncoder computes "
            "with TensorFlow: set the environment variable KERAS_BACKEND=tensorflow "
            "before Keras is imported"
        )


def _input(inputs: Any, name: str) -> Any:
    if not isinstance(inputs, Mapping) or name not in inputs:
        found = ", ".join(inputs) if isinstance(inputs, Mapping) else type(inputs)
        raise ArgumentTypeError(
            f"BertEncoder takes a dict of {', '.join(INPUT_NAMES)}, as BertInputs "
            f"makes it; found {found}"
        )
    return inputs[name]


def _to_config(bert_config: BertConfig | Mapping[str, Any]) -> BertConfig:
    if isinstance(bert_config, BertConfig):
        return bert_config
    names = {field.name for field in fields(BertConfig)} - {*_NOT_SAVED}
    if not isinstance(bert_config, Mapping) or not {*bert_config} <= names:
        raise ArgumentTypeError(
            "bert_config must be a BertConfig, or a dict of its fields as "
            f"BertEncoder.get_config gives it; found {bert_config!r}. "
            "BertEncoder.from_model_dir reads a folder"
        )
    return BertConfig(**bert_config)


def _to_pooling(pooling: str | SentencePooling | Mapping[str, Any]) -> SentencePooling:
    if isinstance(pooling, SentencePooling):
        return pooling
    if isinstance(pooling, Mapping):
        return SentencePooling(**pooling)
    if pooling == MODEL_POOLING:
        raise ArgumentTypeError(
            'pooling="model" is what a model\'s folder says: use '
            'BertEncoder.from_model_dir(..., pooling="model")'
        )
    return SentencePooling(pooling)


def _to_options(
    layers: Layers | None, layer_pooling: str, pooling: SentencePooling
) -> Options:
    """The same in the command's words, which checks them."""
    options: dict[str, Any] = {"layer_pooling": layer_pooling}
    if pooling.mode != NO_POOLING:
        options |= {"unit": "sentence", "sentence_pooling": pooling.mode}
    chosen: Layers = -1 if layers is None else layers
    if layers is None and pooling.mode in (POOLER, MODEL_POOLING):
        chosen = DEFAULT_LAYERS  # there is nothing to choose
    return Options(layers=chosen, **options)  # type: ignore[arg-type]


def _checked_number(num_trained_layers: int | None, num_layers: int) -> int | None:
    if num_trained_layers is None or 0 <= num_trained_layers <= num_layers:
        return num_trained_layers
    raise ArgumentTypeError(
        f"num_trained_layers must be from 0 to {num_layers}, the encoder layers that "
        f"are computed, or None for everything; found {num_trained_layers}"
    )


def _checked_rate(rate: float) -> float:
    if 0.0 <= rate < 1.0:
        return rate
    raise ArgumentTypeError(
        f"a dropout_prob must be from 0 up to, but not including, 1; found {rate}"
    )
