"""Hugging Face's checkpoints, as the classes and the libraries of many years save."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from bert_extract.checkpoints.loading import load_weights
from bert_extract.checkpoints.opened import open_checkpoint
from bert_extract.errors import CheckpointError
from bert_extract.model.config import Dialect, variable_shapes
from support.make_checkpoints import (
    Weights,
    random_weights,
    read_safetensors,
    to_huggingface_weights,
    to_tf1_weights,
    write_safetensors,
    write_shards,
    write_tf1_checkpoint,
)
from support.small_bert import CONFIG, QUERY, WORDS

STORED_QUERY = "encoder.layer.2.attention.self.query.weight"


@pytest.fixture
def weights() -> Weights:
    """By TF1 names."""
    return random_weights(CONFIG, seed=1)


@pytest.fixture
def model(tmp_path: Path, weights: Weights) -> Path:
    """model.safetensors of BertModel, alone in a folder."""
    path = tmp_path / "model" / "model.safetensors"
    path.parent.mkdir()
    write_safetensors(path, to_huggingface_weights(weights))
    return path


def assert_loads(path: Path, weights: Weights) -> tuple[str, ...]:
    """The weights are all there, bit for bit; returns what was ignored."""
    loaded = load_weights(open_checkpoint(str(path)), CONFIG)
    assert list(loaded.weights) == list(variable_shapes(CONFIG))
    for name, tensor in loaded.weights.items():
        assert tensor.dtype == tf.float32
        assert tensor.numpy().tobytes() == weights[name].tobytes(), name
    assert loaded.warnings == ()
    return loaded.ignored


def load_error(path: Path | str) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_weights(open_checkpoint(str(path)), CONFIG)
    return str(caught.value)


def test_a_bert_model(model: Path, weights: Weights) -> None:
    expected = ("pooler.dense.bias", "pooler.dense.weight")
    assert assert_loads(model, weights) == expected
    assert assert_loads(model.parent, weights) == expected


def test_a_bert_for_pretraining(model: Path, weights: Weights) -> None:
    stored = to_huggingface_weights(weights, "bert.")
    heads: Weights = {
        "bert.embeddings.position_ids": np.arange(16).reshape(1, 16),
        "cls.predictions.bias": np.zeros(50, np.float32),
        "cls.predictions.decoder.weight": weights[WORDS],
        "cls.seq_relationship.weight": np.zeros((2, 8), np.float32),
    }
    write_safetensors(model, stored | heads)
    assert assert_loads(model, weights) == (
        "bert.embeddings.position_ids",
        "bert.pooler.dense.bias",
        "bert.pooler.dense.weight",
        "cls.predictions.bias",
        "cls.predictions.decoder.weight",
        "cls.seq_relationship.weight",
    )


def test_a_bert_for_masked_lm_has_no_pooler(model: Path, weights: Weights) -> None:
    encoder = {name: values for name, values in weights.items() if "pooler" not in name}
    write_safetensors(model, to_huggingface_weights(encoder, "bert."))
    assert assert_loads(model, weights) == ()


def test_the_old_names_of_layer_norm(model: Path, weights: Weights) -> None:
    stored = {
        name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): x
        for name, x in to_huggingface_weights(weights, "bert.").items()
    }
    assert "bert.embeddings.LayerNorm.gamma" in stored
    write_safetensors(model, stored)
    assert len(assert_loads(model, weights)) == 2


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_half_precision_is_widened(model: Path, weights: Weights, dtype: str) -> None:
    kind = tf.float16 if dtype == "F16" else tf.bfloat16
    halves = {name: tf.cast(values, kind) for name, values in weights.items()}
    bits = {name: tf.bitcast(half, tf.uint16).numpy() for name, half in halves.items()}
    stored = to_huggingface_weights(bits)
    write_safetensors(model, stored, dtype)
    widened = {name: tf.cast(half, tf.float32).numpy() for name, half in halves.items()}
    assert_loads(model, widened)


def test_a_sharded_model(tmp_path: Path, weights: Weights) -> None:
    index = write_shards(tmp_path, to_huggingface_weights(weights))
    assert len(assert_loads(tmp_path, weights)) == 2
    assert load_weights(open_checkpoint(str(index)), CONFIG).path == str(index)
    before = open_checkpoint(str(tmp_path)).checksum()
    weights[QUERY][0, 0] += 1
    write_shards(tmp_path, to_huggingface_weights(weights))
    assert open_checkpoint(str(tmp_path)).checksum() != before


def test_what_the_index_says_belongs_to_the_checksum(
    tmp_path: Path, weights: Weights
) -> None:
    """Two files may have a tensor of one name; the index says which counts."""
    stored = to_huggingface_weights(weights)
    name = next(iter(stored))
    index = write_shards(tmp_path, stored)
    second = "model-00002-of-00002.safetensors"
    own = read_safetensors(tmp_path / second)
    write_safetensors(tmp_path / second, {**own, name: stored[name] + 1})
    before = open_checkpoint(str(tmp_path)).checksum()
    entries = json.loads(index.read_text())
    entries["weight_map"][name] = second
    index.write_text(json.dumps(entries))
    assert open_checkpoint(str(tmp_path)).checksum() != before


def test_a_shard_is_missing(tmp_path: Path, weights: Weights) -> None:
    write_shards(tmp_path, to_huggingface_weights(weights))
    shard = tmp_path / "model-00002-of-00002.safetensors"
    shard.unlink()
    assert load_error(tmp_path) == (
        f"{shard}: cannot read it: No such file or directory"
    )


def test_a_shard_lacks_a_tensor(tmp_path: Path, weights: Weights) -> None:
    stored = to_huggingface_weights(weights)
    index = write_shards(tmp_path, stored)
    write_safetensors(
        tmp_path / "model-00001-of-00002.safetensors",
        {"x": np.zeros(1, np.float32)},
    )
    assert load_error(tmp_path).startswith(
        f"{index}: says that '{next(iter(stored))}' is in "
        "model-00001-of-00002.safetensors, which lacks it"
    )


@pytest.mark.parametrize(
    "name",
    ["../model.safetensors", "/etc/passwd", "a/b", "", "..", ".hidden", "gs://a", "\0"],
)
def test_an_index_names_only_files_beside_it(tmp_path: Path, name: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    assert load_error(tmp_path) == (
        f"{index}: expected names of files beside it; found {name!r}"
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "; not valid JSON: "),
        (b"[]", ', with a "weight_map" from tensors to files; found none'),
        (b"{}", ', with a "weight_map" from tensors to files; found none'),
        (b'{"weight_map": {"a": 1}}', ', with a "weight_map" from tensors to files'),
        (b'{"weight_map": ["a"]}', ', with a "weight_map" from tensors to files'),
        (b"{" + b" " * (4 << 20), "; found more than the 4194304 bytes that are read"),
    ],
)
def test_an_index_that_is_none(tmp_path: Path, content: bytes, reason: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_bytes(content)
    expected = f"{index}: expected an index of safetensors files{reason}"
    if not content.startswith(b"{"):
        # By name it is an index, by content it is nothing.
        expected = f"{index}: expected "
    assert load_error(tmp_path).startswith(expected)


# What it lacks.


def test_missing_and_misshapen_tensors_have_the_names_of_the_file(
    model: Path, weights: Weights
) -> None:
    weights[QUERY] = np.zeros((8, 9), np.float32)
    del weights["bert/embeddings/LayerNorm/beta"]
    write_safetensors(model, to_huggingface_weights(weights))
    assert load_error(model) == (
        f"{model}: 1 of 53 encoder variables is missing:\n"
        "  embeddings.LayerNorm.bias or embeddings.LayerNorm.beta\n"
        "1 of 53 encoder variables is misshapen:\n"
        f"  {STORED_QUERY}: expected [8, 8], found [9, 8]\n"
        "Is the checkpoint whole, and a BertModel that Hugging Face's code saved?"
    )


def test_the_config_of_another_model(model: Path) -> None:
    config = dataclasses.replace(
        CONFIG, intermediate_size=16, num_hidden_layers=2, vocab_size=51
    )
    with pytest.raises(CheckpointError) as caught:
        load_weights(open_checkpoint(str(model)), config)
    assert str(caught.value).splitlines()[-4:] == [
        "config.json says vocab_size 51, the checkpoint has 50",
        "config.json says intermediate_size 16, the checkpoint has 32",
        "config.json says num_hidden_layers 2, the checkpoint has 3",
        "Take the config.json that came with this checkpoint",
    ]


def test_more_layers_than_the_config_are_warned_about(model: Path) -> None:
    loaded = load_weights(
        open_checkpoint(str(model)), dataclasses.replace(CONFIG, num_hidden_layers=2)
    )
    assert loaded.warnings == (
        f"{model}: config.json says num_hidden_layers 2, the checkpoint has 3: the "
        "last layer will be layer 1",
    )


def test_a_model_that_is_no_bert(model: Path) -> None:
    write_safetensors(model, {"wte.weight": np.zeros((4, 4), np.float32)})
    assert load_error(model).endswith(
        "\nNo tensor has one of BERT's names, such as "
        "embeddings.word_embeddings.weight: "
        "is this a BERT? Its names are like wte.weight"
    )


def test_two_models_in_one_file(model: Path, weights: Weights) -> None:
    one = to_huggingface_weights(weights)
    write_safetensors(model, one | to_huggingface_weights(weights, "bert."))
    assert load_error(model) == (
        f"{model}: expected one BERT; found embeddings.word_embeddings.weight and "
        "bert.embeddings.word_embeddings.weight"
    )


def test_a_tensor_of_another_type(model: Path, weights: Weights) -> None:
    stored = to_huggingface_weights(weights)
    stored["embeddings.LayerNorm.bias"] = np.zeros(8, np.int64)
    write_safetensors(model, stored)
    assert (
        "  embeddings.LayerNorm.bias: expected float32, float16 or bfloat16, found "
        "int64\n"
    ) in load_error(model)


# What it is.


@pytest.mark.parametrize(
    "content", [b"PK\x03\x04rest", b"\x80\x02}q\x00", b"\x80\x05\x95\x00"]
)
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights"])
def test_a_pickle_is_refused(tmp_path: Path, content: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    message = load_error(path)
    assert message.startswith(
        f"{path}: is a pickle of torch, and a pickle is a program: it is not read. If "
        "it comes from somebody you trust, make model.safetensors from it, in an "
        "environment with torch and safetensors:\n"
        '  python -c "import torch, safetensors.torch as s; s.save_file('
    )
    assert f"torch.load('{path}'," in message
    assert message.endswith(f", '{tmp_path}/model.safetensors')\"")
    if "." in name:
        assert load_error(tmp_path) == message


def test_of_several_pickles_the_model_is_named(tmp_path: Path) -> None:
    for name in ("optimizer.pt", "pytorch_model.bin", "training_args.bin"):
        (tmp_path / name).write_bytes(b"PK\x03\x04rest")
    assert load_error(tmp_path).startswith(f"{tmp_path}/pytorch_model.bin: is a pickle")


def test_pickles_in_several_files_are_converted_together(tmp_path: Path) -> None:
    first = "pytorch_model-00001-of-00002.bin"
    index = "pytorch_model.bin.index.json"
    for name in ("optimizer.pt", first, "pytorch_model-00002-of-00002.bin"):
        (tmp_path / name).write_bytes(b"PK\x03\x04rest")
    (tmp_path / index).write_text(json.dumps({"weight_map": {"a": first}}))
    rest = (
        ": is a pickle of torch, one of several, and a pickle is a program: it is not "
        "read. If it comes from somebody you trust, make model.safetensors from all of "
        "them, in an environment with torch and safetensors:\n"
        '  python -c "import pathlib, torch, safetensors.torch as s; '
        f"d = pathlib.Path('{tmp_path}/'); s.save_file({{k: v.clone().contiguous() for "
        "f in d.glob('pytorch_model-*.bin') for k, v in torch.load(f, "
        "map_location='cpu', weights_only=True).items()}, d / 'model.safetensors')\""
    )
    assert load_error(tmp_path) == f"{tmp_path}/{first}{rest}"
    assert load_error(tmp_path / first) == f"{tmp_path}/{first}{rest}"
    assert load_error(tmp_path / index) == f"{tmp_path}/{index}{rest}"


def test_safetensors_beside_a_pickle_are_read(model: Path, weights: Weights) -> None:
    (model.parent / "pytorch_model.bin").write_bytes(b"PK\x03\x04rest")
    assert_loads(model.parent, weights)


def test_a_file_of_keras(tmp_path: Path) -> None:
    (tmp_path / "tf_model.h5").write_bytes(b"\x89HDF\r\n\x1a\nrest")
    assert "is an HDF5 file of Keras, which is not read" in load_error(
        tmp_path / "tf_model.h5"
    )


def test_a_file_of_any_name_is_known_by_its_content(
    model: Path, weights: Weights
) -> None:
    for name in ("weights.bin", "encoder"):
        other = model.parent / name
        other.write_bytes(model.read_bytes())
        assert_loads(other, weights)


def test_the_only_safetensors_file_of_a_folder(model: Path, weights: Weights) -> None:
    model.rename(model.parent / "bert.safetensors")
    assert_loads(model.parent, weights)


@pytest.mark.parametrize("length", [0x7B20, 0x7A7B])
def test_a_length_that_begins_like_json(
    model: Path, weights: Weights, length: int
) -> None:
    """Its bytes are " {" and "{z", and zeros."""
    content = model.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = content[8:end].ljust(length)
    assert len(header) == length
    model.write_bytes(length.to_bytes(8, "little") + header + content[end:])
    assert_loads(model, weights)
    assert_loads(model.parent, weights)


def test_an_index_of_something_else_is_no_checkpoint(
    model: Path, weights: Weights
) -> None:
    (model.parent / "faiss.index").write_bytes(b"IxFI")
    assert_loads(model.parent, weights)
    (model.parent / "faiss.data-00000-of-00001").touch()
    assert load_error(model.parent).endswith("\n  model.safetensors\n  faiss.index")


@pytest.mark.parametrize(
    "add",
    [
        lambda path: write_tf1_checkpoint(path / "a", {"x": np.zeros(1, np.float32)}),
        lambda path: (path / "model.safetensors.index.json").write_text("{}"),
    ],
)
def test_two_checkpoints_in_a_folder(model: Path, add: Callable[[Path], None]) -> None:
    add(model.parent)
    message = load_error(model.parent)
    assert message.startswith(
        f"{model.parent}: holds more than one checkpoint; give the path of one as "
        "--init_checkpoint:\n  model.safetensors\n  "
    )


def test_whose_config_belongs_to_a_checkpoint(model: Path, tiny_bert: Path) -> None:
    assert open_checkpoint(str(model)).dialect == Dialect.HUGGING_FACE
    assert open_checkpoint(str(model.parent)).dialect == Dialect.HUGGING_FACE
    assert open_checkpoint(str(tiny_bert)).dialect == Dialect.GOOGLE
    assert open_checkpoint(str(tiny_bert / "bert_model.ckpt")).dialect == Dialect.GOOGLE
    assert open_checkpoint(str(model.parent / "none")).dialect == Dialect.GOOGLE


def test_real_weights(minilm_dir: Path) -> None:
    config = dataclasses.replace(
        CONFIG,
        vocab_size=30522,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        max_position_embeddings=512,
    )
    loaded = load_weights(open_checkpoint(str(minilm_dir)), config)
    expected = to_tf1_weights(read_safetensors(minilm_dir / "model.safetensors"))
    assert len(loaded.weights) == 101
    for name, tensor in loaded.weights.items():
        np.testing.assert_array_equal(tensor.numpy(), expected[name])
    assert loaded.ignored == (
        "embeddings.position_ids",
        "pooler.dense.bias",
        "pooler.dense.weight",
    )
