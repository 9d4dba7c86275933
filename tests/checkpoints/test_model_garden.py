"""Object-based TF2 checkpoints of the Model Garden's classes."""

import dataclasses
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

from bert_extract import FeatureExtractor, read_features
from bert_extract.checkpoints.loading import load_weights
from bert_extract.checkpoints.opened import open_checkpoint
from bert_extract.errors import CheckpointError
from bert_extract.model.config import BertConfig
from support.make_checkpoints import (
    Weights,
    random_weights,
    read_tf1_checkpoint,
    write_tf1_checkpoint,
)
from support.make_model_garden import (
    ENCODER_CLASSES,
    encoder_values,
    pretrainer,
    to_objects,
    write_encoder,
)
from support.running import options_for, real_lines

GOLDEN_DIR = Path(__file__).parents[1] / "golden" / "model_garden"
CONFIG = BertConfig.from_json_file(str(GOLDEN_DIR / "bert_config.json"))
SEED = 6  # of the golden weights
NUM_HEADS = CONFIG.num_attention_heads
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
WORDS = "bert/embeddings/word_embeddings"
QUERY = "bert/encoder/layer_1/attention/self/query/kernel"


@pytest.fixture
def weights() -> Weights:
    return random_weights(CONFIG, SEED)


@pytest.fixture
def prefix(tmp_path: Path, weights: Weights) -> str:
    """A whole checkpoint of BertEncoderV2."""
    return write_encoder(tmp_path / "ckpt", weights, "BertEncoderV2", NUM_HEADS)


def save(directory: Path, *root: tf.Module, **objects: Any) -> str:
    path: str = tf.train.Checkpoint(*root, **objects).write(str(directory / "saved"))
    return path


def load_error(prefix: str, config: BertConfig = CONFIG) -> str:
    """The message without the path that it begins with."""
    with pytest.raises(CheckpointError) as caught:
        load_weights(open_checkpoint(prefix), config)
    message = str(caught.value)
    assert message.startswith(f"{prefix}: ")
    return message.removeprefix(f"{prefix}: ")


def assert_loads(prefix: str, weights: Weights) -> tuple[str, ...]:
    """All 37 variables have their values; returns the names of the ignored ones."""
    loaded = load_weights(open_checkpoint(prefix), CONFIG)
    assert len(loaded.weights) == 5 + 2 * 16
    for name, tensor in loaded.weights.items():
        assert tensor.dtype == tf.float32
        assert tensor.shape == weights[name].shape
        assert tensor.numpy().tobytes() == weights[name].tobytes(), name
    return loaded.ignored


# What the classes of Model Garden wrote: scripts/compare_model_garden.py.

GOLDEN = ("bert_encoder", "bert_encoder_v2", "pretrainer")


def golden_prefix(name: str) -> str:
    return str(GOLDEN_DIR / name / "bert_model.ckpt")


@pytest.mark.parametrize("name", GOLDEN)
def test_what_the_classes_compute_is_reproduced(name: str) -> None:
    options = options_for(GOLDEN_DIR, init_checkpoint=golden_prefix(name), layers="all")
    lines = (GOLDEN_DIR / "input.txt").read_text().split("\n")[:-1]
    records = list(FeatureExtractor(options).extract(lines))
    expected = list(read_features(str(GOLDEN_DIR / "expected.jsonl")))
    assert len(records) == len(expected) == 6
    for record, wanted in zip(records, expected, strict=True):
        assert record.tokens == wanted.tokens
        assert record.indexes == wanted.indexes == (0, 1)
        for found, layer in zip(record.layers, wanted.layers, strict=True):
            np.testing.assert_allclose(found, layer, rtol=0, atol=5e-6)


def test_a_folder_as_it_is_published(tmp_path: Path) -> None:
    for path in (GOLDEN_DIR / "bert_encoder").iterdir():
        shutil.copyfile(path, tmp_path / path.name)
    for name in ("vocab.txt", "bert_config.json"):
        shutil.copyfile(GOLDEN_DIR / name, tmp_path / name)
    extractor = FeatureExtractor(model_dir=str(tmp_path), max_seq_length=8, layers="1")
    (record,) = extractor.extract(["w1 w2 w3"])
    (expected, *_) = read_features(str(GOLDEN_DIR / "expected.jsonl"))
    np.testing.assert_allclose(record.layers[0], expected.layers[1], atol=5e-6)


def test_a_folder_of_a_training_run_has_no_config(tmp_path: Path) -> None:
    for path in (GOLDEN_DIR / "pretrainer").iterdir():
        shutil.copyfile(path, tmp_path / path.name)
    (tmp_path / "params.yaml").write_text("runtime: {}\n")
    with pytest.raises(CheckpointError) as caught:
        FeatureExtractor(model_dir=str(tmp_path))
    assert "looked for vocab.txt or tokenizer.json; in the folder is " in (
        str(caught.value)
    )
    assert "params.yaml" in str(caught.value)


@pytest.mark.parametrize("name", GOLDEN)
def test_every_weight_that_the_classes_wrote_is_read(
    name: str, weights: Weights
) -> None:
    assert_loads(golden_prefix(name), weights)


def test_these_tests_write_what_the_classes_write(
    tmp_path: Path, weights: Weights
) -> None:
    for name, encoder_class in zip(GOLDEN, ENCODER_CLASSES, strict=False):
        prefix = write_encoder(tmp_path / name, weights, encoder_class, NUM_HEADS)
        expected = tf.train.list_variables(golden_prefix(name))
        assert tf.train.list_variables(prefix) == expected
        assert len(expected) == 1 + 37 + 2
    prefix = save(tmp_path, **pretrainer(weights, NUM_HEADS))
    expected = tf.train.list_variables(golden_prefix("pretrainer"))
    assert tf.train.list_variables(prefix) == expected
    assert len(expected) == 1 + 37 + 161


# Where it is.


@pytest.mark.parametrize("encoder_class", ENCODER_CLASSES)
def test_an_encoder_of_any_name(
    tmp_path: Path, weights: Weights, encoder_class: str
) -> None:
    encoder = to_objects(encoder_values(weights, encoder_class, NUM_HEADS))
    nested = tf.Module()
    setattr(nested, "layer_with_weights-0", encoder)  # as in a BertClassifier
    pooler = (
        "layer_with_weights-6" if encoder_class == "BertEncoder" else "_pooler_layer"
    )
    for objects, root in (
        ({"encoder": encoder}, "encoder/"),
        ({"model": encoder}, "model/"),
        ({"_MODEL": encoder}, "_MODEL/"),
        ({"model": nested}, "model/layer_with_weights-0/"),
        ({"a.b/c": encoder}, "a..b.Sc/"),
    ):
        ignored = assert_loads(save(tmp_path, **objects), weights)
        assert ignored == tuple(
            f"{root}{pooler}/{k}{VALUE}" for k in ("bias", "kernel")
        )
    # As keras.Model.save_weights writes it.
    ignored = assert_loads(save(tmp_path, encoder), weights)
    assert ignored == tuple(f"{pooler}/{kind}{VALUE}" for kind in ("bias", "kernel"))


def test_the_names_of_2020(tmp_path: Path, weights: Weights) -> None:
    """As in the published uncased BERT-Base, whose pooler is the head's as well."""
    values = {
        way.replace("_attention_layer/_output_dense", "_attention_output_dense"): value
        for way, value in encoder_values(weights, "BertEncoder", NUM_HEADS).items()
    }
    encoder = to_objects(values)
    pooler = getattr(encoder, "layer_with_weights-6")
    prefix = save(tmp_path, encoder=encoder, **{"next_sentence.pooler_dense": pooler})
    names = dict(tf.train.list_variables(prefix))
    layer = "encoder/layer_with_weights-4"
    assert names[f"{layer}/_attention_output_dense/kernel{VALUE}"] == [2, 8, 16]
    ignored = assert_loads(prefix, weights)
    assert ignored == (
        f"next_sentence..pooler_dense/bias{VALUE}",
        f"next_sentence..pooler_dense/kernel{VALUE}",
    )
    source = open_checkpoint(prefix).stored.source("bert/pooler/dense/kernel")
    assert source.names == (f"next_sentence..pooler_dense/kernel{VALUE}",)


@pytest.mark.parametrize("encoder_class", ENCODER_CLASSES)
def test_the_pooler_is_found_and_not_needed(
    tmp_path: Path, weights: Weights, encoder_class: str
) -> None:
    prefix = write_encoder(tmp_path / "a", weights, encoder_class, NUM_HEADS)
    checkpoint = open_checkpoint(prefix).stored
    for kind in ("kernel", "bias"):
        name = f"bert/pooler/dense/{kind}"
        (tensor,) = checkpoint.read(checkpoint.source(name).names)
        np.testing.assert_array_equal(tensor, weights[name])
    assert (
        len(load_weights(open_checkpoint(prefix), CONFIG, with_pooler=True).weights)
        == 37 + 2
    )
    del weights["bert/pooler/dense/kernel"], weights["bert/pooler/dense/bias"]
    prefix = write_encoder(tmp_path / "b", weights, encoder_class, NUM_HEADS)
    assert assert_loads(prefix, weights) == ()


def test_an_encoder_under_two_names_is_one(tmp_path: Path, weights: Weights) -> None:
    encoder = to_objects(encoder_values(weights, "BertEncoder", NUM_HEADS))
    model = tf.Module()
    model.encoder_network = encoder
    assert_loads(save(tmp_path, model=model, encoder=encoder), weights)
    # BertEncoder has its layers as attributes, too.
    encoder._transformer_layers = [
        getattr(encoder, f"layer_with_weights-{number}") for number in (4, 5)
    ]
    assert_loads(save(tmp_path, model=model), weights)


def test_two_encoders_are_refused_by_their_names(
    tmp_path: Path, weights: Weights
) -> None:
    encoders = [
        to_objects(encoder_values(weights, encoder_class, NUM_HEADS))
        for encoder_class in ENCODER_CLASSES
    ]
    model = tf.Module()
    model.encoder = encoders[0]
    prefix = save(tmp_path, model=model, averaged=encoders[1])
    assert load_error(prefix) == (
        "expected one encoder; found 2, and nothing says which of them is meant:\n"
        "  averaged\n  model/encoder\n"
        "Save one of them with tf.train.Checkpoint(encoder=...)"
    )


# What is ignored.


def test_optimizers_averages_and_heads_are_ignored_by_name(
    tmp_path: Path, weights: Weights
) -> None:
    ignored = assert_loads(save(tmp_path, **pretrainer(weights, NUM_HEADS)), weights)
    slots = [name for name in ignored if ".OPTIMIZER_SLOT" in name]
    assert len(slots) == 3 * (37 + 2 + 5 + 4)
    others = [name.removesuffix(VALUE) for name in ignored if name not in slots]
    assert others == [
        "encoder/_pooler_layer/bias",
        "encoder/_pooler_layer/kernel",
        "global_step",
        "masked_lm/dense/bias",
        "masked_lm/dense/kernel",
        "masked_lm/layer_norm/beta",
        "masked_lm/layer_norm/gamma",
        "masked_lm/output_bias.Sbias",
        "model/classification_heads/0/out_proj/bias",
        "model/classification_heads/0/out_proj/kernel",
        "next_sentence..pooler_dense/bias",
        "next_sentence..pooler_dense/kernel",
        "optimizer/ema_base_optimizer/beta_1",
        "optimizer/ema_base_optimizer/beta_2",
        "optimizer/ema_base_optimizer/decay",
        "optimizer/ema_base_optimizer/iter",
        "optimizer/ema_base_optimizer/learning_rate",
    ]


def test_the_log_names_what_is_ignored() -> None:
    loaded = load_weights(open_checkpoint(golden_prefix("pretrainer")), CONFIG)
    assert loaded.ignored_kinds() == [
        "*/.OPTIMIZER_SLOT/optimizer/average (48)",
        "*/.OPTIMIZER_SLOT/optimizer/ema_base_optimizer/m (48)",
        "*/.OPTIMIZER_SLOT/optimizer/ema_base_optimizer/v (48)",
        "optimizer/ema_base_optimizer/* (5)",
        "encoder/_pooler_layer/* (2)",
        "masked_lm/dense/* (2)",
        "masked_lm/layer_norm/* (2)",
        "model/classification_heads/0/out_proj/* (2)",
        "next_sentence..pooler_dense/* (2)",
        "global_step (1)",
        "masked_lm/* (1)",
    ]


def test_a_checkpoint_in_the_way_of_training(tmp_path: Path, weights: Weights) -> None:
    encoder = to_objects(encoder_values(weights, "BertEncoderV2", NUM_HEADS))
    manager = tf.train.CheckpointManager(
        tf.train.Checkpoint(model=encoder), str(tmp_path), max_to_keep=3
    )
    manager.save(5)
    assert assert_loads(str(tmp_path), weights)[-1] == f"save_counter{VALUE}"


def test_the_state_of_a_generator_is_no_weight(
    tmp_path: Path, weights: Weights
) -> None:
    values = encoder_values(weights, "BertEncoderV2", NUM_HEADS)
    state = "_transformer_layers/0/_output_dropout/state"
    values[state] = np.array([1, 2, 3], np.int64)
    ignored = assert_loads(save(tmp_path, encoder=to_objects(values)), weights)
    assert f"encoder/{state}{VALUE}" in ignored


def test_a_number_that_no_layer_has_is_no_layer(
    tmp_path: Path, weights: Weights
) -> None:
    values = encoder_values(weights, "BertEncoder", NUM_HEADS)
    values["layer_with_weights-9999/_attention_layer/x"] = np.zeros(1, np.float32)
    prefix = save(tmp_path, encoder=to_objects(values))
    assert_loads(prefix, weights)
    source = open_checkpoint(prefix).stored.source("bert/pooler/dense/kernel")
    assert source.names == (f"encoder/layer_with_weights-6/kernel{VALUE}",)


# What it lacks.


@pytest.mark.parametrize("encoder_class", ENCODER_CLASSES)
def test_missing_and_misshapen_variables_are_listed(
    tmp_path: Path, weights: Weights, encoder_class: str
) -> None:
    layer = (
        "layer_with_weights-5"
        if encoder_class == "BertEncoder"
        else "_transformer_layers/1"
    )
    values = encoder_values(weights, encoder_class, NUM_HEADS)
    query = f"{layer}/_attention_layer/_query_dense/kernel"
    del values[f"{layer}/_output_dense/bias"]
    del values[f"{layer}/_attention_layer/_output_dense/bias"]
    values[query] = values[query].reshape(16, 4, 4)
    prefix = save(tmp_path, encoder=to_objects(values))
    assert load_error(prefix) == (
        "2 of 37 encoder variables are missing:\n"
        f"  encoder/{layer}/_attention_layer/_output_dense/bias{VALUE} or "
        f"encoder/{layer}/_attention_output_dense/bias{VALUE}\n"
        f"  encoder/{layer}/_output_dense/bias{VALUE}\n"
        "1 of 37 encoder variables is misshapen:\n"
        f"  encoder/{query}{VALUE}: expected [16, 2, 8], found [16, 4, 4]\n"
        "Is the checkpoint whole, and a BERT of the TensorFlow Model Garden?"
    )


def test_the_config_of_another_model(prefix: str) -> None:
    config = dataclasses.replace(CONFIG, vocab_size=60, num_hidden_layers=3)
    lines = load_error(prefix, config).splitlines()
    layer = "encoder/_transformer_layers/2"
    assert lines[0] == "16 of 53 encoder variables are missing:"
    assert lines[1] == f"  {layer}/_attention_layer/_query_dense/kernel{VALUE}"
    words = f"encoder/_embedding_layer/embeddings{VALUE}"
    assert lines[17:] == [
        "1 of 53 encoder variables is misshapen:",
        f"  {words}: expected [60, 16], found [40, 16]",
        "bert_config.json says vocab_size 60, the checkpoint has 40",
        "bert_config.json says num_hidden_layers 3, the checkpoint has 2",
        "Take the bert_config.json that came with this checkpoint",
    ]


def test_a_wrong_number_of_heads_is_seen(prefix: str) -> None:
    config = dataclasses.replace(CONFIG, num_attention_heads=4)
    lines = load_error(prefix, config).splitlines()
    assert lines[0] == "14 of 37 encoder variables are misshapen:"
    assert lines[1].endswith(": expected [16, 4, 4], found [16, 2, 8]")
    assert len(lines) == 1 + 14 + 1


@pytest.mark.parametrize("encoder_class", ENCODER_CLASSES)
def test_more_layers_than_the_config_are_warned_about(
    tmp_path: Path, weights: Weights, encoder_class: str
) -> None:
    prefix = write_encoder(tmp_path / "ckpt", weights, encoder_class, NUM_HEADS)
    config = dataclasses.replace(CONFIG, num_hidden_layers=1)
    loaded = load_weights(open_checkpoint(prefix), config)
    assert loaded.warnings == (
        f"{prefix}: bert_config.json says num_hidden_layers 1, the checkpoint has 2: "
        "the last layer will be layer 0",
    )
    assert len(loaded.ignored) == 16 + 2
    source = open_checkpoint(prefix).stored.source("bert/pooler/dense/kernel")
    assert len(dict(tf.train.list_variables(prefix))[source.names[0]]) == 2


def test_layers_of_another_mathematics_are_refused(
    tmp_path: Path, weights: Weights
) -> None:
    """Talking heads: all of BERT's variables, and more."""
    values = encoder_values(weights, "BertEncoderV2", NUM_HEADS)
    way = "_transformer_layers/1/_attention_layer/_pre_softmax_weight"
    values[way] = np.eye(NUM_HEADS, dtype=np.float32)
    prefix = save(tmp_path, encoder=to_objects(values))
    assert load_error(prefix) == (
        "its encoder layers have variables that BERT's lack, so that they "
        f"compute something else:\n  encoder/{way}{VALUE}"
    )


def test_what_layers_share_is_named_once(tmp_path: Path, weights: Weights) -> None:
    values = encoder_values(weights, "BertEncoderV2", NUM_HEADS)
    shared = tf.Variable(np.eye(NUM_HEADS, dtype=np.float32))
    for layer in (0, 1):
        values[f"_transformer_layers/{layer}/_attention_layer/_shared"] = shared
    prefix = save(tmp_path, encoder=to_objects(values))
    assert load_error(prefix).splitlines()[1:] == [
        f"  encoder/_transformer_layers/0/_attention_layer/_shared{VALUE}"
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [("_att_input_pool_layers", [tf.Module()]), ("_pool_strides", [2, 2])],
)
def test_a_funnel_is_refused(
    tmp_path: Path, weights: Weights, name: str, value: list[Any]
) -> None:
    encoder = to_objects(encoder_values(weights, "BertEncoderV2", NUM_HEADS))
    setattr(encoder, name, value)
    assert load_error(save(tmp_path, encoder=encoder)) == (
        f"encoder has {name}, so it is a FunnelTransformerEncoder, which pools the "
        "sequence between its layers; expected a BertEncoder or a BertEncoderV2"
    )


def test_normalizing_first_is_refused_where_it_is_said(
    tmp_path: Path, prefix: str, weights: Weights
) -> None:
    params_file = tmp_path / "params.yaml"
    params = "task:\n  model:\n    encoder:\n      bert:\n        norm_first: {}\n"
    params_file.write_text(params.format("false"))
    assert_loads(prefix, weights)
    params_file.write_text(params.format("true"))
    with pytest.raises(CheckpointError) as caught:
        load_weights(open_checkpoint(prefix), CONFIG)
    assert str(caught.value).startswith(f"{params_file}: says norm_first: true, so ")


def test_more_encoders_than_anybody_saves(tmp_path: Path) -> None:
    values = {
        f"e{number}/_transformer_layers/0/_attention_layer/x": np.float32(0)
        for number in range(33)
    }
    assert load_error(save(tmp_path, model=to_objects(values))) == (
        "expected one encoder; found more than 32 objects with encoder layers: is this "
        "a BERT?"
    )


def test_factorized_embeddings_are_refused(tmp_path: Path, weights: Weights) -> None:
    """The projection to the hidden size moves all layers up by one number."""
    values = encoder_values(weights, "BertEncoder", NUM_HEADS)
    for number in (6, 5, 4):
        moved = f"layer_with_weights-{number}/"
        for way in [way for way in values if way.startswith(moved)]:
            values[way.replace(moved, f"layer_with_weights-{number + 1}/")] = (
                values.pop(way)
            )
    values["layer_with_weights-4/kernel"] = np.eye(16, dtype=np.float32)
    values["layer_with_weights-4/bias"] = np.zeros(16, np.float32)
    message = load_error(save(tmp_path, encoder=to_objects(values)))
    assert message == (
        "its encoder layers have variables that BERT's lack, so that they "
        f"compute something else:\n  encoder/layer_with_weights-4/kernel{VALUE}\n"
        f"  encoder/layer_with_weights-4/bias{VALUE}"
    )


def test_something_else_is_named(tmp_path: Path) -> None:
    prefix = save(tmp_path, x=tf.Variable(1.0), y=tf.Variable(2.0))
    assert load_error(prefix) == (
        "expected an object-based TF2 checkpoint of the TensorFlow Model Garden, with "
        "layer_with_weights-4/_attention_layer or _transformer_layers/0/"
        "_attention_layer under any name; found no such encoder: is this a BERT? Its "
        f"names are like x{VALUE}, y{VALUE}"
    )


# What is broken.


def write_with_graph(prefix: Path, graph: Any, weights: Weights) -> str:
    write_tf1_checkpoint(prefix, weights | {GRAPH: graph})
    return str(prefix)


def graph_of(prefix: str) -> TrackableObjectGraph:
    reader = tf.train.load_checkpoint(prefix)
    return TrackableObjectGraph.FromString(reader.get_tensor(GRAPH))


def edge_to_nowhere(graph: TrackableObjectGraph) -> None:
    graph.nodes[0].children[0].node_id = len(graph.nodes)


def edge_to_minus_one(graph: TrackableObjectGraph) -> None:
    graph.nodes[1].children[0].node_id = -1


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda graph: b"", "it is empty"),
        (lambda graph: graph[:-1], "it is not a message of that kind"),
        (lambda graph: b"<html>" + graph, "it is not a message of that kind"),
        (edge_to_nowhere, "an edge leads nowhere"),
        (edge_to_minus_one, "an edge leads nowhere"),
    ],
)
def test_the_graph_is_damaged(
    tmp_path: Path, prefix: str, damage: Callable[[Any], Any], reason: str
) -> None:
    graph = graph_of(prefix)
    if damage in (edge_to_nowhere, edge_to_minus_one):
        damage(graph)
        content = graph.SerializeToString()
    else:
        content = damage(graph.SerializeToString())
    variables = read_tf1_checkpoint(prefix)
    damaged = write_with_graph(tmp_path / "damaged", content, variables)
    assert load_error(damaged) == (
        f"expected {GRAPH} to be a graph of saved objects; {reason}: copy or download "
        "the checkpoint's files again"
    )


def test_a_graph_that_is_no_string(tmp_path: Path, weights: Weights) -> None:
    graph = np.zeros(3, np.float32)
    prefix = write_with_graph(tmp_path / "damaged", graph, weights)
    assert load_error(prefix) == (
        f"expected {GRAPH} to be one string; found float32 of shape [3]: is the "
        "checkpoint whole?"
    )


def test_a_graph_of_circles_ends(tmp_path: Path, prefix: str, weights: Weights) -> None:
    graph = graph_of(prefix)
    for node in graph.nodes:
        node.children.add(node_id=0, local_name="parent")
    variables = read_tf1_checkpoint(prefix)
    content = graph.SerializeToString()
    assert_loads(write_with_graph(tmp_path / "circles", content, variables), weights)


def test_a_long_chain_of_objects_takes_little_memory(tmp_path: Path) -> None:
    """The ways to all of its objects, side by side, would be 600 MB."""
    graph = TrackableObjectGraph()
    num_nodes = 20_000
    for number in range(num_nodes):
        node_id = min(number + 1, num_nodes - 1)
        graph.nodes.add().children.add(node_id=node_id, local_name="ab")
    variables = {"x": np.zeros(1, np.float32)}
    content = graph.SerializeToString()
    prefix = write_with_graph(tmp_path / "chain", content, variables)
    tracemalloc.start()
    try:
        message = load_error(prefix)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "found no such encoder" in message
    assert peak < 100 << 20


def test_a_graph_whose_names_are_not_stored(tmp_path: Path, prefix: str) -> None:
    variables = read_tf1_checkpoint(prefix)
    content = variables.pop(GRAPH)
    words = f"encoder/_embedding_layer/embeddings{VALUE}"
    del variables[words]
    renamed = write_with_graph(tmp_path / "renamed", content, variables)
    assert load_error(renamed).startswith(
        f"1 of 37 encoder variables is missing:\n  {words}\n"
    )


# The same weights in other formats.


def test_the_output_is_the_same_bytes_whatever_the_format(
    minilm_tf1: Path, tmp_path: Path
) -> None:
    weights = read_tf1_checkpoint(minilm_tf1 / "bert_model.ckpt")
    del weights["global_step"]
    prefixes = {"TF1": str(minilm_tf1 / "bert_model.ckpt")}
    for encoder_class in ENCODER_CLASSES:
        prefixes[encoder_class] = write_encoder(
            tmp_path / encoder_class, weights, encoder_class, num_heads=12
        )
    lines = [line for line in real_lines() if len(line) > 60][:6]
    input_file = tmp_path / "input.txt"
    input_file.write_text("\n".join([*lines, f"{lines[0]} ||| {lines[1]}"]) + "\n")
    outputs = []
    for name, init_checkpoint in prefixes.items():
        options = options_for(
            minilm_tf1,
            init_checkpoint=init_checkpoint,
            layers="all,embeddings",
        )
        output_file = tmp_path / f"{name}.jsonl"
        FeatureExtractor(options).extract_file(str(input_file), str(output_file))
        outputs.append(output_file.read_bytes())
    assert len(outputs[0]) > 1_000_000
    assert outputs[0] == outputs[1] == outputs[2]
