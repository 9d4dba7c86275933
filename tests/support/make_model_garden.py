"""Object-based checkpoints as the Model Garden's classes write them, without them.

`tests/golden/model_garden/` has some that those classes wrote; the names and shapes of
these are the same.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from support.make_checkpoints import Weights

# TF1 name -> the way from the encoder to the variable, and how its shape is cut into
# heads: N heads of D. "{}" stands for the encoder layer.
_LAYER_WAYS = {
    "attention/self/query": "_attention_layer/_query_dense",
    "attention/self/key": "_attention_layer/_key_dense",
    "attention/self/value": "_attention_layer/_value_dense",
    "attention/output/dense": "_attention_layer/_output_dense",
    "attention/output/LayerNorm": "_attention_layer_norm",
    "intermediate/dense": "_intermediate_dense",
    "output/dense": "_output_dense",
    "output/LayerNorm": "_output_layer_norm",
}
_WAYS = {
    "BertEncoder": {
        "embeddings/word_embeddings": "layer_with_weights-0/embeddings",
        "embeddings/position_embeddings": "layer_with_weights-1/embeddings",
        "embeddings/token_type_embeddings": "layer_with_weights-2/embeddings",
        "embeddings/LayerNorm": "layer_with_weights-3",
        "encoder/layer_{}": "layer_with_weights-{}",
        "pooler/dense": "layer_with_weights-{}",
    },
    "BertEncoderV2": {
        "embeddings/word_embeddings": "_embedding_layer/embeddings",
        "embeddings/position_embeddings": "_position_embedding_layer/embeddings",
        "embeddings/token_type_embeddings": "_type_embedding_layer/embeddings",
        "embeddings/LayerNorm": "_embedding_norm_layer",
        "encoder/layer_{}": "_transformer_layers/{}",
        "pooler/dense": "_pooler_layer",
    },
}
ENCODER_CLASSES = tuple(_WAYS)


def way_to(tf1_name: str, encoder_class: str, num_layers: int) -> str:
    """The names of the edges from the encoder to a variable."""
    ways = _WAYS[encoder_class]
    name = tf1_name.removeprefix("bert/")
    if name in ways:
        return ways[name]
    first = 4 if encoder_class == "BertEncoder" else 0
    layer = re.fullmatch(r"encoder/layer_(\d+)/(.+)/(\w+)", name)
    if layer:
        root = ways["encoder/layer_{}"].format(first + int(layer[1]))
        return f"{root}/{_LAYER_WAYS[layer[2]]}/{layer[3]}"
    scope, _, kind = name.rpartition("/")
    return f"{ways[scope].format(first + num_layers)}/{kind}"


def cut_into_heads(tf1_name: str, values: Any, num_heads: int) -> Any:
    """[H, H] -> [H, N, D], as the Model Garden keeps the attention's weights."""
    values = np.asarray(values)
    if "/attention/self/" in tf1_name:
        return values.reshape(*values.shape[:-1], num_heads, -1)
    if tf1_name.endswith("/attention/output/dense/kernel"):
        return values.reshape(num_heads, -1, values.shape[-1])
    return values


def to_objects(values: Mapping[str, Any]) -> tf.Module:
    """A tree of objects with a variable at the end of each way, "a/b/c"."""
    root = tf.Module()
    for way, value in values.items():
        *names, last = way.split("/")
        parent = root
        for name in names:
            if not hasattr(parent, name):
                setattr(parent, name, tf.Module())
            parent = getattr(parent, name)
        # A variable that is given is shared with who gave it.
        is_variable = isinstance(value, tf.Variable)
        setattr(parent, last, value if is_variable else tf.Variable(value))
    return root


def encoder_values(
    weights: Weights, encoder_class: str, num_heads: int
) -> dict[str, Any]:
    """What `to_objects` makes an encoder of: the ways and shapes of one class."""
    layers = {name.split("/")[2] for name in weights if "/layer_" in name}
    return {
        way_to(name, encoder_class, len(layers)): cut_into_heads(name, value, num_heads)
        for name, value in weights.items()
    }


def write_encoder(
    prefix: Path, weights: Weights, encoder_class: str, num_heads: int
) -> str:
    """Writes what tf.train.Checkpoint(encoder=...) does; returns the prefix."""
    encoder = to_objects(encoder_values(weights, encoder_class, num_heads))
    path: str = tf.train.Checkpoint(encoder=encoder).write(str(prefix))
    return path


class Slots(tf.compat.v1.train.Optimizer):
    """An optimizer that has done a step: values of its own for each variable."""

    def __init__(
        self, slots: tuple[str, ...], variables: list[tf.Variable], **children: Any
    ) -> None:
        super().__init__(use_locking=False, name="slots")
        self._children = children
        for slot in slots:
            for variable in variables:
                self._get_or_make_slot(variable, -tf.ones_like(variable), slot, slot)

    def _trackable_children(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {**super()._trackable_children(*args, **kwargs), **self._children}


def pretrainer(weights: Weights, num_heads: int) -> dict[str, tf.Module]:
    """What a training run of BertPretrainerV2 with moving averages has to save.

    The word embeddings belong to the encoder and to the head that predicts words.
    """
    encoder = to_objects(encoder_values(weights, "BertEncoderV2", num_heads))
    hidden_size = weights["bert/embeddings/LayerNorm/beta"].shape[0]
    words = encoder._embedding_layer.embeddings
    vector = np.zeros(hidden_size, np.float32)
    square = np.zeros((hidden_size, hidden_size), np.float32)
    masked_lm = to_objects(
        {
            "embedding_table": words,
            "dense/kernel": square,
            "dense/bias": vector,
            "layer_norm/gamma": vector,
            "layer_norm/beta": vector,
        }
    )
    setattr(masked_lm, "output_bias/bias", tf.Variable(tf.zeros(words.shape[0])))
    head = to_objects(
        {
            "dense/kernel": square,
            "dense/bias": vector,
            "out_proj/kernel": np.zeros((hidden_size, 2), np.float32),
            "out_proj/bias": np.zeros(2, np.float32),
        }
    )
    model = tf.Module()
    model.encoder_network = encoder
    model.masked_lm = masked_lm
    model.classification_heads = [head]
    variables = list(model.trainable_variables)
    rates = ("beta_1", "beta_2", "decay", "learning_rate")
    adam = Slots(
        ("m", "v"),
        variables,
        iter=tf.Variable(7, dtype=tf.int64),
        **{name: tf.Variable(0.5) for name in rates},
    )
    optimizer = Slots(("average",), variables, ema_base_optimizer=adam)
    return {
        "model": model,
        "optimizer": optimizer,
        "global_step": tf.Variable(7, dtype=tf.int64),
        "encoder": encoder,
        "masked_lm": masked_lm,
        "next_sentence.pooler_dense": head.dense,
    }
