"""bert_config.json -> BertConfig: one BERT's sizes and the names of its weights.

Hugging Face's config.json has the same keys and means other things by them: who reads
one says whose it is.
"""

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bert_extract.errors import ConfigError, as_shown
from bert_extract.files import read_bytes


class Dialect(enum.Enum):
    """Whose code a config is meant for; the value is what it is called."""

    GOOGLE = "bert_config.json"
    HUGGING_FACE = "config.json"


# The two forms of gelu: "gelu" in Google's code, and in Hugging Face's.
GELU_TANH = "gelu"
GELU_ERF = "gelu_erf"

# "hidden_act" -> ours. What the original's `get_activation` knows, and
_GOOGLE_ACTIVATIONS = {
    "gelu": GELU_TANH,
    "relu": "relu",
    "tanh": "tanh",
    "linear": "linear",
}
# what Hugging Face calls the same.
_HUGGING_FACE_ACTIVATIONS = {
    "gelu": GELU_ERF,
    "gelu_python": GELU_ERF,
    "gelu_new": GELU_TANH,
    "gelu_fast": GELU_TANH,
    "gelu_pytorch_tanh": GELU_TANH,
    "relu": "relu",
    "tanh": "tanh",
    "linear": "linear",
}
# Keys that the original's code does without, and what it takes instead.
_GOOGLE_DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "type_vocab_size": 16,
}
# The same of Hugging Face's.
_HUGGING_FACE_DEFAULTS = {
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}
# Shares of values that training leaves out, with the defaults of both. They mean
# nothing where nobody trains.
_DROPOUT_DEFAULTS = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
# Keys of Hugging Face's with which a "bert" is another model, and the only values
# with which it is not.
_HUGGING_FACE_PLAIN: dict[str, tuple[object, ...]] = {
    "position_embedding_type": ("absolute", None),
    "is_decoder": (False, None),
    "add_cross_attention": (False, None),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
}

# The keys of bert_config.json that give a size, each with the largest that is taken:
# a wrong number must end in a message, not in a table that fills the memory.
_SIZE_LIMITS = {
    "vocab_size": 2**31 - 1,
    "hidden_size": 2**31 - 1,
    "num_hidden_layers": 1000,
    "num_attention_heads": 2**31 - 1,
    "intermediate_size": 2**31 - 1,
    "max_position_embeddings": 2**31 - 1,
    "type_vocab_size": 2**31 - 1,
}

# TF1 variable name -> its shape, as names of `BertConfig` fields.
_EMBEDDING_SHAPES = {
    "bert/embeddings/word_embeddings": ("vocab_size", "hidden_size"),
    "bert/embeddings/token_type_embeddings": ("type_vocab_size", "hidden_size"),
    "bert/embeddings/position_embeddings": ("max_position_embeddings", "hidden_size"),
    "bert/embeddings/LayerNorm/gamma": ("hidden_size",),
    "bert/embeddings/LayerNorm/beta": ("hidden_size",),
}

# The same for one encoder layer: "{}" stands for its number.
_LAYER_SHAPES = {
    "bert/encoder/layer_{}/attention/self/query/kernel": ("hidden_size", "hidden_size"),
    "bert/encoder/layer_{}/attention/self/query/bias": ("hidden_size",),
    "bert/encoder/layer_{}/attention/self/key/kernel": ("hidden_size", "hidden_size"),
    "bert/encoder/layer_{}/attention/self/key/bias": ("hidden_size",),
    "bert/encoder/layer_{}/attention/self/value/kernel": ("hidden_size", "hidden_size"),
    "bert/encoder/layer_{}/attention/self/value/bias": ("hidden_size",),
    "bert/encoder/layer_{}/attention/output/dense/kernel": (
        "hidden_size",
        "hidden_size",
    ),
    "bert/encoder/layer_{}/attention/output/dense/bias": ("hidden_size",),
    "bert/encoder/layer_{}/attention/output/LayerNorm/gamma": ("hidden_size",),
    "bert/encoder/layer_{}/attention/output/LayerNorm/beta": ("hidden_size",),
    "bert/encoder/layer_{}/intermediate/dense/kernel": (
        "hidden_size",
        "intermediate_size",
    ),
    "bert/encoder/layer_{}/intermediate/dense/bias": ("intermediate_size",),
    "bert/encoder/layer_{}/output/dense/kernel": ("intermediate_size", "hidden_size"),
    "bert/encoder/layer_{}/output/dense/bias": ("hidden_size",),
    "bert/encoder/layer_{}/output/LayerNorm/gamma": ("hidden_size",),
    "bert/encoder/layer_{}/output/LayerNorm/beta": ("hidden_size",),
}

# What BERT's own sentence vector needs; some checkpoints have none.
_POOLER_SHAPES = {
    "bert/pooler/dense/kernel": ("hidden_size", "hidden_size"),
    "bert/pooler/dense/bias": ("hidden_size",),
}
POOLER_VARIABLES = tuple(_POOLER_SHAPES)


class MissingKeyError(ConfigError):
    """A config lacks a key for which there is no default."""

    def __init__(self, message: str, key: str) -> None:
        super().__init__(message)
        self.key = key


@dataclass(frozen=True)
class BertConfig:
    """The sizes of one BERT, with the names that bert_config.json gives them."""

    vocab_size: int  # rows of the word embedding table
    hidden_size: int  # values of one vector
    num_hidden_layers: int  # encoder layers
    num_attention_heads: int  # divides hidden_size
    intermediate_size: int  # width of the feed-forward layer
    hidden_act: str  # GELU_TANH, GELU_ERF, "relu", "tanh" or "linear"
    max_position_embeddings: int  # longest sequence, in tokens
    type_vocab_size: int  # rows of the segment embedding table
    # Not a key of bert_config.json: it is a constant in the original's code.
    layer_norm_eps: float = 1e-12
    # Sentences about a config that may not be what the user takes it for.
    warnings: tuple[str, ...] = field(default=(), compare=False)
    # Keys of which it says nothing, so that they have the original's values.
    defaults: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def from_json_file(
        cls, bert_config_file: str, dialect: Dialect = Dialect.GOOGLE
    ) -> "BertConfig":
        """Reads a config; keys that the encoder does not need are ignored.

        Args:
          bert_config_file: a local path, or one with a scheme that `tf.io.gfile` knows.
          dialect: Google's, or Hugging Face's for what lies beside its weights.

        Raises:
          ConfigError: the file cannot be read, is not a JSON object, is that of
            another model, or a key is missing or has a value that no BERT can have.
        """
        json_object = _read_json_object(bert_config_file)
        _check_model(bert_config_file, json_object)
        layer_norm_eps = cls.layer_norm_eps
        activations = _GOOGLE_ACTIVATIONS
        defaults: tuple[str, ...] = ()
        if dialect is Dialect.GOOGLE:
            defaults = tuple(key for key in _GOOGLE_DEFAULTS if key not in json_object)
            json_object = _GOOGLE_DEFAULTS | json_object
        if dialect is Dialect.HUGGING_FACE:
            json_object = _HUGGING_FACE_DEFAULTS | json_object
            _check_plain(bert_config_file, json_object)
            layer_norm_eps = _epsilon(bert_config_file, json_object["layer_norm_eps"])
            activations = _HUGGING_FACE_ACTIVATIONS
        for key in (*_SIZE_LIMITS, "hidden_act"):
            if key not in json_object:
                raise MissingKeyError(
                    f'{bert_config_file}: the key "{key}" is missing; '
                    f"is this the {dialect.value} of a BERT checkpoint?",
                    key,
                )
        sizes = {
            key: _size(bert_config_file, key, json_object[key], limit)
            for key, limit in _SIZE_LIMITS.items()
        }
        if sizes["hidden_size"] % sizes["num_attention_heads"] != 0:
            raise ConfigError(
                f'{bert_config_file}: "hidden_size" must be a multiple of '
                f'"num_attention_heads"; found {sizes["hidden_size"]} and '
                f"{sizes['num_attention_heads']}"
                + _by_default("num_attention_heads", defaults)
            )
        return cls(
            hidden_act=_activation(
                bert_config_file, json_object["hidden_act"], activations
            ),
            layer_norm_eps=layer_norm_eps,
            warnings=_warnings(bert_config_file, json_object, dialect, defaults),
            defaults=defaults,
            **sizes,
        )


def variable_shapes(
    config: BertConfig, with_pooler: bool = False
) -> dict[str, tuple[int, ...]]:
    """The TF1 name and the shape of every variable that the encoder has.

    Args:
      config: the sizes.
      with_pooler: whether the pooler's are meant, too: no encoder layer needs them,
        and some checkpoints have none.
    """
    fields_by_name = dict(_EMBEDDING_SHAPES)
    for layer in range(config.num_hidden_layers):
        for name, fields in _LAYER_SHAPES.items():
            fields_by_name[name.format(layer)] = fields
    if with_pooler:
        fields_by_name.update(_POOLER_SHAPES)
    return {
        name: tuple(getattr(config, field) for field in fields)
        for name, fields in fields_by_name.items()
    }


def read_dropout(bert_config_file: str) -> dict[str, float]:
    """Reads what matters for training alone.

    Returns:
      hidden_dropout_prob and attention_probs_dropout_prob, 0.1 each where the config
      says nothing.

    Raises:
      ConfigError: the file cannot be read, or one is no share.
    """
    json_object = _read_json_object(bert_config_file)
    rates = {}
    for key, default in _DROPOUT_DEFAULTS.items():
        value = json_object.get(key, default)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not 0.0 <= value < 1.0:
            raise ConfigError(
                f'{bert_config_file}: "{key}" must be a number from 0 up to, but not '
                f"including, 1; found {as_shown(value)}"
            )
        rates[key] = float(value)
    return rates


def _read_json_object(bert_config_file: str) -> dict[str, Any]:
    content = read_bytes(
        bert_config_file, ConfigError, "cannot read the bert_config.json"
    )
    if content.startswith(b"\xef\xbb\xbf"):
        raise ConfigError(
            f"{bert_config_file}: expected JSON in UTF-8 without a byte order mark; "
            "found one in the first three bytes: save the file without it"
        )
    try:
        json_object = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{bert_config_file}: expected JSON in UTF-8; "
            f"found the byte 0x{content[error.start]:02x} at offset {error.start}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{bert_config_file}: expected a JSON object; not valid JSON: {error}"
        ) from error
    if not isinstance(json_object, dict):
        raise ConfigError(
            f"{bert_config_file}: expected a JSON object with the keys of a "
            f"bert_config.json; found {as_shown(json_object)}"
        )
    return json_object


def _size(bert_config_file: str, key: str, value: object, limit: int) -> int:
    # bool is an int to Python, but true is not a size.
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= limit:
        raise ConfigError(
            f'{bert_config_file}: "{key}" must be a whole number from 1 to {limit}; '
            f"found {as_shown(value)}"
        )
    return value


def _by_default(key: str, defaults: tuple[str, ...]) -> str:
    return ", what the original takes for a missing key" if key in defaults else ""


def _activation(
    bert_config_file: str, value: object, activations: Mapping[str, str]
) -> str:
    if value is None or value == "":
        return "linear"  # as the original reads them
    if isinstance(value, str) and value.lower() in activations:
        return activations[value.lower()]
    raise ConfigError(
        f'{bert_config_file}: "hidden_act" must be one of {", ".join(activations)}; '
        f"found {as_shown(value)}"
    )


def _check_model(bert_config_file: str, json_object: dict[str, Any]) -> None:
    """Refuses what says itself that it is another model."""
    model_type = json_object.get("model_type")
    if model_type == "bert":
        return
    if model_type is not None:
        raise ConfigError(
            f'{bert_config_file}: "model_type" is {as_shown(model_type)}: only '
            '"bert" is read here, and another model with its weights would give '
            "vectors of no meaning"
        )
    architectures = json_object.get("architectures") or ["BertModel"]
    if not isinstance(architectures, list) or not all(
        isinstance(name, str) and name.startswith("Bert") for name in architectures
    ):
        raise ConfigError(
            f'{bert_config_file}: "architectures" must be those of a BERT, such as '
            f'["BertModel"]; found {as_shown(architectures)}'
        )


def _check_plain(bert_config_file: str, json_object: dict[str, Any]) -> None:
    """Refuses a Hugging Face BERT that computes something else."""
    for key, plain in _HUGGING_FACE_PLAIN.items():
        value = json_object.get(key)
        if value not in plain:
            raise ConfigError(
                f'{bert_config_file}: "{key}" is {as_shown(value)}: only a BERT that '
                f"has {as_shown(plain[0])} there is computed here"
            )
    own_code = json_object.get("auto_map")
    if isinstance(own_code, dict) and "AutoModel" in own_code:
        raise ConfigError(
            f'{bert_config_file}: "auto_map" names a program of its own for the model, '
            f"{as_shown(own_code)}: only BERT as it was published is computed here, "
            "and no code that comes with a checkpoint is run"
        )


def _epsilon(bert_config_file: str, value: object) -> float:
    # Written so that NaN fails.
    if not isinstance(value, float) or not 0.0 < value < 1.0:
        raise ConfigError(
            f'{bert_config_file}: "layer_norm_eps" must be a number between 0 and 1; '
            f"found {as_shown(value)}"
        )
    return value


def _warnings(
    bert_config_file: str,
    json_object: dict[str, Any],
    dialect: Dialect,
    defaults: tuple[str, ...],
) -> tuple[str, ...]:
    warnings = []
    if defaults:
        values = ", ".join(f"{key} {json_object[key]}" for key in defaults)
        warnings.append(
            f"{bert_config_file}: does not set {', '.join(defaults)}; the "
            f"original's defaults are used: {values}"
        )
    if dialect is Dialect.GOOGLE and "model_type" in json_object:
        warnings.append(
            f"{bert_config_file}: is a config of Hugging Face's beside a TensorFlow "
            'checkpoint; it is read as Google\'s code would read it: "gelu" is the '
            "tanh form, and layer_norm_eps is 1e-12"
        )
    return tuple(warnings)
