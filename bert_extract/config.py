"""bert_config.json -> BertConfig: one BERT's sizes and the names of its weights."""

import json
from dataclasses import dataclass
from typing import Any

from bert_extract.errors import ConfigError

# What the original's `get_activation` knows. "gelu" is its tanh form.
ACTIVATIONS = ("gelu", "relu", "tanh", "linear")

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


@dataclass(frozen=True)
class BertConfig:
    """The sizes of one BERT, with the names that bert_config.json gives them."""

    vocab_size: int  # rows of the word embedding table
    hidden_size: int  # values of one vector
    num_hidden_layers: int  # encoder layers
    num_attention_heads: int  # divides hidden_size
    intermediate_size: int  # width of the feed-forward layer
    hidden_act: str  # one of ACTIVATIONS
    max_position_embeddings: int  # longest sequence, in tokens
    type_vocab_size: int  # rows of the segment embedding table
    # Not a key of bert_config.json: it is a constant in the original's code.
    layer_norm_eps: float = 1e-12

    @classmethod
    def from_json_file(cls, bert_config_file: str) -> "BertConfig":
        """Reads a bert_config.json; keys that the encoder does not need are ignored.

        Args:
          bert_config_file: a local path, or one with a scheme that `tf.io.gfile` knows.

        Raises:
          ConfigError: the file cannot be read, is not a JSON object, or a key is
            missing or has a value that no BERT can have.
        """
        json_object = _read_json_object(bert_config_file)
        for key in (*_SIZE_LIMITS, "hidden_act"):
            if key not in json_object:
                raise ConfigError(
                    f'{bert_config_file}: the key "{key}" is missing; '
                    "is this the bert_config.json of a BERT checkpoint?"
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
            )
        hidden_act = _activation(bert_config_file, json_object["hidden_act"])
        return cls(hidden_act=hidden_act, **sizes)


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


def _read_json_object(bert_config_file: str) -> dict[str, Any]:
    content = _read_bytes(bert_config_file)
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
            f"bert_config.json; found {_shorten(json_object)}"
        )
    return json_object


def _read_bytes(bert_config_file: str) -> bytes:
    if "://" not in bert_config_file:
        try:
            with open(bert_config_file, "rb") as reader:
                return reader.read()
        except OSError as error:
            raise ConfigError(
                f"{bert_config_file}: cannot read the bert_config.json: "
                f"{error.strerror}"
            ) from error
    # Only remote paths pay for the import: the config is read before TensorFlow
    # has to be there.
    import tensorflow as tf

    try:
        with tf.io.gfile.GFile(bert_config_file, "rb") as reader:
            content: bytes = reader.read()
    except tf.errors.OpError as error:
        raise ConfigError(
            f"{bert_config_file}: cannot read the bert_config.json: {error.message}"
        ) from error
    return content


def _size(bert_config_file: str, key: str, value: object, limit: int) -> int:
    # bool is an int to Python, but true is not a size.
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= limit:
        raise ConfigError(
            f'{bert_config_file}: "{key}" must be a whole number from 1 to {limit}; '
            f"found {_shorten(value)}"
        )
    return value


def _activation(bert_config_file: str, value: object) -> str:
    if value is None or value == "":
        return "linear"  # as the original reads them
    if isinstance(value, str) and value.lower() in ACTIVATIONS:
        return value.lower()
    raise ConfigError(
        f'{bert_config_file}: "hidden_act" must be one of {", ".join(ACTIVATIONS)}; '
        f"found {_shorten(value)}"
    )


def _shorten(value: object) -> str:
    """The value as JSON, cut where it would fill the screen."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
