#!/usr/bin/env python3
"""Writes checkpoints with the Model Garden's classes, and what they compute.

    python -m venv garden
    garden/bin/pip install . tf-keras==2.21.0 gin-config pyyaml scipy
    garden/bin/pip install --no-deps tf-models-official==2.20.0
    garden/bin/python scripts/compare_model_garden.py --model_dir=$BERT_BASE_DIR \
      --input_file=input.txt --output_dir=garden_models

The weights are those of a checkpoint in Google's format. Each folder in the output is
a model directory with `expected.jsonl` besides: every encoder layer, in the format of
bert-extract. What this tool makes of the same checkpoint is compared by

    bert-extract --layers=all ... --output_file=found.jsonl
    scripts/compare.py garden_models/bert_encoder/expected.jsonl found.jsonl
"""

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import Any

# The Model Garden is written for Keras 2; TensorFlow reads this when it is imported.
os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
import tensorflow as tf
from official.modeling import tf_utils
from official.modeling.optimization import ema_optimizer
from official.nlp.modeling import layers, models, networks

from bert_extract.inputs.features import Features, to_features
from bert_extract.text.examples import parse_line
from bert_extract.tokenization.tokenizer import Tokenizer
from bert_extract.tokenization.vocab import Vocab

# TF1 name of an encoder layer's part -> the objects of Model Garden's class that lead
# to it.
_PARTS = {
    "attention/self/query": ("_attention_layer", "_query_dense"),
    "attention/self/key": ("_attention_layer", "_key_dense"),
    "attention/self/value": ("_attention_layer", "_value_dense"),
    "attention/output/dense": ("_attention_layer", "_output_dense"),
    "attention/output/LayerNorm": ("_attention_layer_norm",),
    "intermediate/dense": ("_intermediate_dense",),
    "output/dense": ("_output_dense",),
    "output/LayerNorm": ("_output_layer_norm",),
}


def assign(variable: Any, reader: Any, name: str) -> None:
    """Gives a variable a TF1 variable's values, in the shape that it has."""
    variable.assign(reader.get_tensor(f"bert/{name}").reshape(variable.shape))


def assign_all(encoder: Any, reader: Any) -> None:
    """Gives an encoder the weights of a TF1 checkpoint, by way of its objects."""
    for scope, layer in (
        ("word_embeddings", encoder._embedding_layer),
        ("position_embeddings", encoder._position_embedding_layer),
        ("token_type_embeddings", encoder._type_embedding_layer),
    ):
        assign(layer.variables[0], reader, f"embeddings/{scope}")
    norm = encoder._embedding_norm_layer
    assign(norm.gamma, reader, "embeddings/LayerNorm/gamma")
    assign(norm.beta, reader, "embeddings/LayerNorm/beta")
    assign(encoder.pooler_layer.kernel, reader, "pooler/dense/kernel")
    assign(encoder.pooler_layer.bias, reader, "pooler/dense/bias")
    for number, layer in enumerate(encoder.transformer_layers):
        for scope, names in _PARTS.items():
            part = layer
            for name in names:
                part = getattr(part, name)
            kinds = ("gamma", "beta") if "LayerNorm" in scope else ("kernel", "bias")
            for kind in kinds:
                name = f"encoder/layer_{number}/{scope}/{kind}"
                assign(getattr(part, kind), reader, name)


def build(network: Any, config: dict[str, Any]) -> Any:
    """An encoder as `tf2_bert_encoder_checkpoint_converter` makes it."""
    encoder = network(
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        num_attention_heads=config["num_attention_heads"],
        intermediate_size=config["intermediate_size"],
        activation=tf_utils.get_activation(config["hidden_act"]),
        max_sequence_length=config["max_position_embeddings"],
        type_vocab_size=config["type_vocab_size"],
        dict_outputs=True,
    )
    encoder(encoder.inputs)  # makes the variables
    return encoder


def train(encoder: Any, hidden_size: int) -> tf.train.Checkpoint:
    """Pretrains for one step of no length, for what a training run has to save.

    That is heads, Adam's slots, moving averages of all weights, and counters.
    """
    head = layers.ClassificationHead(hidden_size, num_classes=2, name="next_sentence")
    model = models.BertPretrainerV2(encoder, classification_heads=[head])
    optimizer = ema_optimizer.ExponentialMovingAverage(
        tf.keras.optimizers.legacy.Adam(learning_rate=0.0), average_decay=0.5
    )
    ids = tf.ones([1, 4], tf.int32)
    inputs = {"input_word_ids": ids, "input_mask": ids, "input_type_ids": ids * 0}
    inputs["masked_lm_positions"] = ids[:, :2]
    model(inputs)
    optimizer.shadow_copy(model)
    # Averages that are taken for weights must be seen.
    for variable in model.trainable_variables:
        optimizer.get_slot(variable, "average").assign(tf.ones_like(variable))
    with tf.GradientTape() as tape:
        outputs = model(inputs)
        loss = tf.reduce_sum(outputs["mlm_logits"] ** 2)
        loss += tf.reduce_sum(outputs["next_sentence"] ** 2)
    variables = model.trainable_variables
    gradients = tape.gradient(loss, variables, unconnected_gradients="zero")
    optimizer.apply_gradients(zip(gradients, variables, strict=True))
    return tf.train.Checkpoint(
        model=model,
        optimizer=optimizer,
        global_step=tf.Variable(1, dtype=tf.int64),
        **model.checkpoint_items,
    )


def to_model_inputs(
    model_dir: Path, input_file: Path, max_seq_length: int, do_lower_case: bool
) -> tuple[list[Features], tuple[str, ...]]:
    """One input a line, and the vocab."""
    vocab = Vocab.load(str(model_dir / "vocab.txt"))
    lines = input_file.read_text(encoding="utf-8").split("\n")[:-1]
    examples = [parse_line(line, unique_id=i) for i, line in enumerate(lines)]
    tokenizer = Tokenizer(vocab, do_lower_case)
    return to_features(examples, tokenizer, max_seq_length), vocab.tokens


def write_expected(
    encoder: Any, features: list[Features], tokens: tuple[str, ...], path: Path
) -> None:
    """Writes what the encoder computes for each line, alone and unpadded."""
    with path.open("w", encoding="ascii") as writer:
        for line in features:
            outputs = encoder(
                {
                    "input_word_ids": line.input_ids[np.newaxis],
                    "input_mask": np.ones_like(line.input_ids)[np.newaxis],
                    "input_type_ids": line.token_type_ids[np.newaxis],
                }
            )["encoder_outputs"]
            values = [np.round(layer[0].numpy().astype(float), 6) for layer in outputs]
            entries = [
                {
                    "token": tokens[token_id],
                    "layers": [
                        {"index": index, "values": layer[position].tolist()}
                        for index, layer in enumerate(values)
                    ],
                }
                for position, token_id in enumerate(line.input_ids.tolist())
            ]
            record = {"linex_index": line.unique_id, "features": entries}
            writer.write(json.dumps(record) + "\n")


def main() -> None:
    """Writes a folder for each class, and one for a training run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model_dir", type=Path, required=True, help="Google's format")
    parser.add_argument("--input_file", type=Path, required=True, help="lines of text")
    parser.add_argument(
        "--output_dir", type=Path, required=True, help="one folder each"
    )
    parser.add_argument("--max_seq_length", type=int, default=128)
    parser.add_argument("--cased", action="store_true", help="--do_lower_case=false")
    flags = parser.parse_args()
    config = json.loads((flags.model_dir / "bert_config.json").read_bytes())
    reader = tf.train.load_checkpoint(str(flags.model_dir / "bert_model.ckpt"))
    features, tokens = to_model_inputs(
        flags.model_dir, flags.input_file, flags.max_seq_length, not flags.cased
    )
    for name, network in (
        ("bert_encoder", networks.BertEncoder),
        ("bert_encoder_v2", networks.BertEncoderV2),
        ("pretrainer", networks.BertEncoderV2),
    ):
        directory = flags.output_dir / name
        directory.mkdir(parents=True, exist_ok=True)
        for file in ("vocab.txt", "bert_config.json"):
            shutil.copyfile(flags.model_dir / file, directory / file)
        encoder = build(network, config)
        assign_all(encoder, reader)
        write_expected(encoder, features, tokens, directory / "expected.jsonl")
        checkpoint = tf.train.Checkpoint(encoder=encoder)
        if name == "pretrainer":
            checkpoint = train(encoder, config["hidden_size"])
        checkpoint.write(str(directory / "bert_model.ckpt"))


if __name__ == "__main__":
    main()
