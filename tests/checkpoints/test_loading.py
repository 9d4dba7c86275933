"""init_checkpoint -> weights, and every way in which that can go wrong."""

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from bert_extract.checkpoints.loading import load_weights, read_config
from bert_extract.checkpoints.opened import open_checkpoint
from bert_extract.checkpoints.tensor_bundle import resolve_prefix
from bert_extract.errors import CheckpointError, ConfigError
from bert_extract.model.config import BertConfig, Dialect, variable_shapes
from support.make_checkpoints import (
    Weights,
    random_weights,
    read_safetensors,
    read_tf1_checkpoint,
    write_tf1_checkpoint,
)
from support.small_bert import CONFIG, QUERY, WORDS

TAKE_ITS_CONFIG = "Take the bert_config.json that came with this checkpoint"
IS_IT_WHOLE = "Is the checkpoint whole, and a BERT that the original's code saved?"


@pytest.fixture
def weights() -> Weights:
    return random_weights(CONFIG, seed=1)


@pytest.fixture
def prefix(tmp_path: Path, weights: Weights) -> str:
    """A whole checkpoint in a folder of its own."""
    directory = tmp_path / "model"
    directory.mkdir()
    write_tf1_checkpoint(directory / "bert_model.ckpt", weights)
    return str(directory / "bert_model.ckpt")


def load_error(init_checkpoint: str, config: BertConfig = CONFIG) -> str:
    """The message without the path that it begins with."""
    with pytest.raises(CheckpointError) as caught:
        load_weights(open_checkpoint(init_checkpoint), config)
    message = str(caught.value)
    assert message.startswith(init_checkpoint)
    return message.removeprefix(init_checkpoint)


def data_file(prefix: str) -> Path:
    return Path(f"{prefix}.data-00000-of-00001")


# What is read.


def test_every_encoder_variable_is_read(prefix: str, weights: Weights) -> None:
    loaded = load_weights(open_checkpoint(prefix), CONFIG)
    assert loaded.path == prefix
    assert list(loaded.weights) == list(variable_shapes(CONFIG))
    assert len(loaded.weights) == 5 + 3 * 16
    for name, tensor in loaded.weights.items():
        assert tensor.dtype == tf.float32
        assert tensor.numpy().tobytes() == weights[name].tobytes()
    assert loaded.ignored == ("bert/pooler/dense/bias", "bert/pooler/dense/kernel")
    assert loaded.warnings == ()


def test_golden_checkpoint(tiny_bert: Path) -> None:
    config = BertConfig.from_json_file(str(tiny_bert / "bert_config.json"))
    loaded = load_weights(open_checkpoint(str(tiny_bert / "bert_model.ckpt")), config)
    assert len(loaded.weights) == 85
    assert loaded.ignored == (
        "bert/pooler/dense/bias",
        "bert/pooler/dense/kernel",
        "global_step",
    )
    expected = read_tf1_checkpoint(tiny_bert / "bert_model.ckpt")
    for name, tensor in loaded.weights.items():
        np.testing.assert_array_equal(tensor.numpy(), expected[name])


def test_real_weights(minilm_tf1: Path, minilm_dir: Path) -> None:
    config = BertConfig.from_json_file(str(minilm_tf1 / "bert_config.json"))
    loaded = load_weights(open_checkpoint(str(minilm_tf1)), config)
    assert len(loaded.weights) == 5 + 6 * 16
    stored = read_safetensors(minilm_dir / "model.safetensors")
    words = stored["embeddings.word_embeddings.weight"]
    assert words.shape == (30522, 384)
    np.testing.assert_array_equal(loaded.weights[WORDS].numpy(), words)
    kernel = loaded.weights["bert/encoder/layer_5/intermediate/dense/kernel"]
    weight = stored["encoder.layer.5.intermediate.dense.weight"]
    assert kernel.shape == (384, 1536)
    np.testing.assert_array_equal(kernel.numpy(), weight.T)


@pytest.mark.parametrize("num_layers", [0, 1, 3])
def test_layers_above_the_highest_wanted_are_not_read(
    prefix: str, num_layers: int
) -> None:
    loaded = load_weights(open_checkpoint(prefix), CONFIG, num_layers=num_layers)
    assert len(loaded.weights) == 5 + num_layers * 16
    assert WORDS in loaded.weights
    assert len(loaded.ignored) == 2


def test_layers_that_are_not_read_must_be_there_all_the_same(
    prefix: str, weights: Weights
) -> None:
    del weights[QUERY]
    write_tf1_checkpoint(prefix, weights)
    with pytest.raises(CheckpointError, match=r"1 of 53 encoder variables is missing"):
        load_weights(open_checkpoint(prefix), CONFIG, num_layers=1)


def test_heads_and_optimizer_slots_are_ignored_by_name(
    prefix: str, weights: Weights
) -> None:
    extra = {
        "cls/predictions/output_bias": np.zeros(50, np.float32),
        "global_step": np.array(7, np.int64),
        f"{QUERY}/adam_m": np.zeros((8, 8), np.float32),
        f"{WORDS}/adam_v": np.zeros((50, 8), np.float32),
    }
    write_tf1_checkpoint(prefix, weights | extra)
    loaded = load_weights(open_checkpoint(prefix), CONFIG)
    assert len(loaded.weights) == 53
    assert loaded.ignored == (
        f"{WORDS}/adam_v",
        f"{QUERY}/adam_m",
        "bert/pooler/dense/bias",
        "bert/pooler/dense/kernel",
        "cls/predictions/output_bias",
        "global_step",
    )
    assert loaded.ignored_kinds() == [
        "bert/pooler/dense/* (2)",
        "*/adam_v (1)",
        "*/adam_m (1)",
        "cls/predictions/* (1)",
        "global_step (1)",
    ]


def test_the_pooler_is_not_needed(prefix: str, weights: Weights) -> None:
    encoder = {name: values for name, values in weights.items() if "pooler" not in name}
    write_tf1_checkpoint(prefix, encoder)
    assert load_weights(open_checkpoint(prefix), CONFIG).ignored == ()


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_half_precision_is_widened(
    prefix: str, weights: Weights, dtype: tf.DType
) -> None:
    halves = {name: tf.cast(values, dtype) for name, values in weights.items()}
    write_tf1_checkpoint(prefix, halves)
    for name, tensor in load_weights(open_checkpoint(prefix), CONFIG).weights.items():
        assert tensor.dtype == tf.float32
        expected = tf.cast(halves[name], tf.float32)
        np.testing.assert_array_equal(tensor.numpy(), expected.numpy())


def test_a_checkpoint_in_two_shards(prefix: str, weights: Weights) -> None:
    names = sorted(weights)
    parts = [f"{prefix}.part0", f"{prefix}.part1"]
    for part, chosen in zip(parts, (names[:20], names[20:]), strict=True):
        write_tf1_checkpoint(part, {name: weights[name] for name in chosen})
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=parts,
        destination_prefix=f"{prefix}.sharded",
        delete_old_dirs=False,
    )
    assert Path(f"{prefix}.sharded.data-00001-of-00002").exists()
    loaded = load_weights(open_checkpoint(f"{prefix}.sharded"), CONFIG)
    np.testing.assert_array_equal(loaded.weights[WORDS].numpy(), weights[WORDS])


def test_a_variable_that_was_saved_in_slices(prefix: str, weights: Weights) -> None:
    words = weights.pop(WORDS)
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=[WORDS, WORDS, *weights],
        shape_and_slices=["50 8 0,20:-", "50 8 20,30:-", *[""] * len(weights)],
        tensors=[words[:20], words[20:], *weights.values()],
    )
    loaded = load_weights(open_checkpoint(prefix), CONFIG)
    np.testing.assert_array_equal(loaded.weights[WORDS].numpy(), words)


def test_more_layers_than_the_config_are_warned_about(prefix: str) -> None:
    config = dataclasses.replace(CONFIG, num_hidden_layers=2)
    loaded = load_weights(open_checkpoint(prefix), config)
    assert len(loaded.weights) == 5 + 2 * 16
    assert loaded.warnings == (
        f"{prefix}: bert_config.json says num_hidden_layers 2, the checkpoint has 3: "
        "the last layer will be layer 1",
    )
    assert len(loaded.ignored) == 2 + 16


# Where it is.


def test_a_prefix_is_taken_as_it_is(prefix: str) -> None:
    assert resolve_prefix(prefix) == prefix


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_folder_as_it_was_published(prefix: str, slash: str) -> None:
    directory = str(Path(prefix).parent)
    assert resolve_prefix(directory + slash) == prefix


def test_a_folder_stands_for_its_latest_checkpoint(
    tmp_path: Path, weights: Weights
) -> None:
    for step in (9, 10):
        write_tf1_checkpoint(tmp_path / f"model.ckpt-{step}", weights)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-9"\n')
    assert tf.train.latest_checkpoint(str(tmp_path)) == f"{tmp_path}/model.ckpt-9"
    assert resolve_prefix(str(tmp_path)) == f"{tmp_path}/model.ckpt-9"


def test_a_prefix_wins_over_a_folder_of_the_same_name(
    prefix: str, weights: Weights, tmp_path: Path
) -> None:
    Path(prefix).mkdir()
    write_tf1_checkpoint(f"{prefix}/other", {"x": np.zeros(1, np.float32)})
    Path(f"{prefix}/checkpoint").write_text('model_checkpoint_path: "other"')
    loaded = load_weights(open_checkpoint(prefix), CONFIG)
    np.testing.assert_array_equal(loaded.weights[WORDS].numpy(), weights[WORDS])


def test_a_relative_folder(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(prefix).parent)
    assert resolve_prefix(".") == "bert_model.ckpt"
    assert resolve_prefix("bert_model.ckpt") == "bert_model.ckpt"
    assert load_error("bert_model") == (
        ": no such checkpoint: there is no file bert_model.index; "
        "these are in its folder:\n  bert_model.ckpt"
    )


@pytest.mark.parametrize("name", ["with space", "a*?]", "é中", "a.index"])
def test_a_prefix_of_any_name(tmp_path: Path, weights: Weights, name: str) -> None:
    write_tf1_checkpoint(tmp_path / name, weights)
    assert (
        len(load_weights(open_checkpoint(str(tmp_path / name)), CONFIG).weights) == 53
    )
    assert resolve_prefix(str(tmp_path)) == str(tmp_path / name)


def test_a_remote_checkpoint(tmp_path: Path, prefix: str, weights: Weights) -> None:
    remote = f"ram://{tmp_path.name}/model"
    for path in Path(prefix).parent.iterdir():
        tf.io.gfile.copy(str(path), f"{remote}/{path.name}")
    for init_checkpoint in (remote, f"{remote}/bert_model.ckpt"):
        loaded = load_weights(open_checkpoint(init_checkpoint), CONFIG)
        assert loaded.path == f"{remote}/bert_model.ckpt"
        np.testing.assert_array_equal(loaded.weights[WORDS].numpy(), weights[WORDS])
    assert load_error(f"{remote}/other.ckpt") == (
        f": no such checkpoint: there is no file {remote}/other.ckpt.index; "
        f"these are in its folder:\n  {remote}/bert_model.ckpt"
    )


@pytest.mark.parametrize("suffix", ["index", "meta", "data-00000-of-00001"])
def test_a_file_of_the_checkpoint_is_not_its_prefix(prefix: str, suffix: str) -> None:
    assert load_error(f"{prefix}.{suffix}") == (
        ": this is one file of a checkpoint; give the prefix that its files share: "
        f"{prefix}"
    )


def test_several_checkpoints_and_none_called_the_latest(
    tmp_path: Path, weights: Weights
) -> None:
    for name in ("b", "a"):
        write_tf1_checkpoint(tmp_path / name, weights)
    assert load_error(str(tmp_path)) == (
        ": holds 2 checkpoints and no file `checkpoint` that names the latest; give "
        f"the prefix of one:\n  {tmp_path}/a\n  {tmp_path}/b"
    )


@pytest.mark.parametrize(
    "content",
    [b"", b"{{{", b"\xff\xfe", b'model_checkpoint_path: "/home/ann/model.ckpt-9"'],
)
def test_a_checkpoint_file_that_names_none(
    prefix: str, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    directory = Path(prefix).parent
    (directory / "checkpoint").write_bytes(content)
    assert load_error(str(directory)) == (
        ": its file `checkpoint` does not name a checkpoint that is there; "
        f"give the prefix of one:\n  {prefix}"
    )
    assert capfd.readouterr().err == ""


def test_a_folder_without_a_checkpoint(tmp_path: Path) -> None:
    assert load_error(str(tmp_path)) == (
        ": expected a folder with a checkpoint: files NAME.index and "
        "NAME.data-00000-of-00001, or model.safetensors; found neither"
    )


def test_near_names_are_listed(prefix: str) -> None:
    wrong = prefix.removesuffix(".ckpt")
    assert load_error(wrong) == (
        f": no such checkpoint: there is no file {wrong}.index; "
        f"these are in its folder:\n  {prefix}"
    )


def test_a_prefix_in_an_empty_folder(tmp_path: Path) -> None:
    assert load_error(f"{tmp_path}/bert_model.ckpt") == (
        f": no such checkpoint: there is no file {tmp_path}/bert_model.ckpt.index; "
        "its folder holds no TF1 checkpoint"
    )


def test_a_prefix_in_no_folder(tmp_path: Path) -> None:
    assert load_error(f"{tmp_path}/none/bert_model.ckpt") == (
        f": no such checkpoint: there is no folder {tmp_path}/none/"
    )


def test_a_file_of_another_format(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(b"some bytes")
    assert load_error(str(path)) == (
        ": expected the prefix of a TF1 checkpoint (files PREFIX.index and "
        "PREFIX.data-00000-of-00001); found a file of that name"
    )


def test_an_unknown_scheme() -> None:
    assert load_error("nfs://host/bert_model.ckpt") == (
        ": cannot look for the checkpoint: File system scheme 'nfs' not implemented "
        "(file: 'nfs://host/bert_model.ckpt.index')"
    )


def test_a_path_that_is_not_utf8() -> None:
    with pytest.raises(CheckpointError) as caught:
        load_weights(open_checkpoint("caf\udce9/bert_model.ckpt"), CONFIG)
    assert str(caught.value) == (
        "'caf\\udce9/bert_model.ckpt': the path is not UTF-8, and TensorFlow cannot "
        "open such a path: rename it, or link to it under another name"
    )


@pytest.mark.parametrize("name", ["models [old]", "a\\b"])
def test_a_path_that_tensorflow_takes_for_a_pattern(
    tmp_path: Path, weights: Weights, name: str
) -> None:
    (tmp_path / name).mkdir()
    write_tf1_checkpoint(tmp_path / name / "bert_model.ckpt", weights)
    for init_checkpoint in (tmp_path / name, tmp_path / name / "bert_model.ckpt"):
        with pytest.raises(CheckpointError) as caught:
            load_weights(open_checkpoint(str(init_checkpoint)), CONFIG)
        assert str(caught.value) == (
            f"{tmp_path}/{name}/bert_model.ckpt: TensorFlow cannot open a checkpoint "
            "with [ or \\ in its path: rename it, or link to it under another name"
        )


# What it lacks.


def test_missing_variables_are_listed(prefix: str, weights: Weights) -> None:
    bias = "bert/encoder/layer_0/output/dense/bias"
    del weights[QUERY], weights[bias]
    write_tf1_checkpoint(prefix, weights)
    assert load_error(prefix) == (
        f": 2 of 53 encoder variables are missing:\n  {bias}\n  {QUERY}\n{IS_IT_WHOLE}"
    )


def test_misshapen_variables_are_listed(prefix: str, weights: Weights) -> None:
    weights[QUERY] = np.zeros((8, 9), np.float32)
    write_tf1_checkpoint(prefix, weights)
    assert load_error(prefix) == (
        ": 1 of 53 encoder variables is misshapen:\n"
        f"  {QUERY}: expected [8, 8], found [8, 9]\n{IS_IT_WHOLE}"
    )


def test_missing_and_misshapen_in_one_message(prefix: str, weights: Weights) -> None:
    del weights["bert/embeddings/LayerNorm/beta"]
    weights[WORDS] = np.array(0, np.float32)
    write_tf1_checkpoint(prefix, weights)
    assert load_error(prefix) == (
        ": 1 of 53 encoder variables is missing:\n"
        "  bert/embeddings/LayerNorm/beta\n"
        "1 of 53 encoder variables is misshapen:\n"
        f"  {WORDS}: expected [50, 8], found []\n{IS_IT_WHOLE}"
    )


def test_the_config_of_another_vocab(prefix: str) -> None:
    config = dataclasses.replace(CONFIG, vocab_size=60)
    assert load_error(prefix, config) == (
        ": 1 of 53 encoder variables is misshapen:\n"
        f"  {WORDS}: expected [60, 8], found [50, 8]\n"
        "bert_config.json says vocab_size 60, the checkpoint has 50\n"
        f"{TAKE_ITS_CONFIG}"
    )


def test_the_config_of_a_deeper_model(prefix: str) -> None:
    config = dataclasses.replace(CONFIG, num_hidden_layers=12)
    message = load_error(prefix, config)
    lines = message.splitlines()
    assert lines[0] == ": 144 of 197 encoder variables are missing:"
    assert lines[1] == "  bert/encoder/layer_3/attention/self/query/kernel"
    assert lines[-2:] == [
        "bert_config.json says num_hidden_layers 12, the checkpoint has 3",
        TAKE_ITS_CONFIG,
    ]
    assert len(lines) == 1 + 144 + 2


def test_what_a_config_does_not_say_is_for_the_checkpoint_to_judge(
    prefix: str,
) -> None:
    config = dataclasses.replace(
        CONFIG, type_vocab_size=16, defaults=("type_vocab_size", "hidden_act")
    )
    assert load_error(prefix, config).splitlines()[-2:] == [
        "bert_config.json does not set type_vocab_size, for which the original "
        'takes 16, and the checkpoint has 2: add "type_vocab_size": 2 to it',
        TAKE_ITS_CONFIG,
    ]
    # Who says less than there is means the lower part; who says nothing does not.
    config = dataclasses.replace(
        CONFIG, num_hidden_layers=2, defaults=("num_hidden_layers",)
    )
    assert load_error(prefix, config) == (
        ": bert_config.json does not set num_hidden_layers, for which the original "
        'takes 2, and the checkpoint has 3: add "num_hidden_layers": 3 to it'
    )
    for key in ("num_hidden_layers", "hidden_size", "num_attention_heads"):
        same = dataclasses.replace(CONFIG, defaults=(key,))
        assert len(load_weights(open_checkpoint(prefix), same).weights) == 53


@pytest.mark.parametrize(
    ("key", "found"),
    [
        *(("vocab_size", "50"), ("hidden_size", "8"), ("num_hidden_layers", "3")),
        *(("intermediate_size", "32"), ("max_position_embeddings", "16")),
        ("num_attention_heads", ""),
    ],
)
def test_what_a_missing_key_should_say_is_read_off_the_weights(
    prefix: str, tmp_path: Path, key: str, found: str
) -> None:
    keys = dataclasses.asdict(CONFIG)
    config_file = tmp_path / "config.json"
    config_file.write_text(json.dumps({k: v for k, v in keys.items() if k != key}))
    for dialect in (Dialect.GOOGLE, Dialect.HUGGING_FACE):
        if dialect == Dialect.GOOGLE and key != "vocab_size":
            continue  # has a default
        checkpoint = open_checkpoint(prefix)
        checkpoint.dialect = dialect
        with pytest.raises(ConfigError) as caught:
            read_config(str(config_file), checkpoint)
        message = str(caught.value)
        assert f'the key "{key}" is missing; is this the {dialect.value} of ' in message
        assert message.endswith(f"has {key} {found}" if found else "checkpoint?")


def test_the_config_of_a_wider_model(prefix: str) -> None:
    config = dataclasses.replace(
        CONFIG,
        hidden_size=16,
        intermediate_size=64,
        max_position_embeddings=32,
        type_vocab_size=3,
    )
    lines = load_error(prefix, config).splitlines()
    assert lines[0] == ": 53 of 53 encoder variables are misshapen:"
    assert lines[-5:] == [
        "bert_config.json says hidden_size 16, the checkpoint has 8",
        "bert_config.json says max_position_embeddings 32, the checkpoint has 16",
        "bert_config.json says type_vocab_size 3, the checkpoint has 2",
        "bert_config.json says intermediate_size 64, the checkpoint has 32",
        TAKE_ITS_CONFIG,
    ]


def test_a_checkpoint_of_something_else(tmp_path: Path) -> None:
    other = {name: np.zeros(1, np.float32) for name in ("gpt/wte", "gpt/wpe")}
    write_tf1_checkpoint(tmp_path / "model", other)
    message = load_error(str(tmp_path / "model"))
    assert message.startswith(": 53 of 53 encoder variables are missing:\n  bert/")
    assert message.endswith(
        "\nNo variable's name begins with bert/: is this a BERT? "
        "Its names are like gpt/wpe, gpt/wte"
    )


@pytest.mark.parametrize("dtype", [np.float64, np.int32])
def test_another_type_is_named(
    prefix: str, weights: Weights, dtype: type[np.generic]
) -> None:
    weights[WORDS] = weights[WORDS].astype(dtype)
    write_tf1_checkpoint(prefix, weights)
    assert load_error(prefix) == (
        ": 1 of 53 encoder variables is of a type that is not read:\n"
        f"  {WORDS}: expected float32, float16 or bfloat16, "
        f"found {np.dtype(dtype).name}\n{IS_IT_WHOLE}"
    )


# What is broken.

READ_AGAIN = "copy or download the checkpoint's files again"


def test_the_data_file_is_missing(prefix: str) -> None:
    data_file(prefix).unlink()
    assert load_error(prefix) == (
        f": the weights cannot be read ({data_file(prefix)}; No such file or "
        f"directory): {READ_AGAIN}"
    )


def test_the_data_file_is_a_folder(prefix: str) -> None:
    data_file(prefix).unlink()
    data_file(prefix).mkdir()
    assert load_error(prefix) == (
        f": the weights cannot be read ({data_file(prefix)}; Is a directory): "
        f"{READ_AGAIN}"
    )


@pytest.mark.parametrize("keep", [0, 100, -3000])
def test_the_data_file_is_truncated(prefix: str, keep: int) -> None:
    content = data_file(prefix).read_bytes()
    data_file(prefix).write_bytes(content[:keep])
    assert load_error(prefix) == (
        f": the weights cannot be read ({data_file(prefix)} has {len(content[:keep])} "
        f"bytes; by the index it has {len(content)}): {READ_AGAIN}"
    )


@pytest.mark.parametrize("offset", [0, 1000, 5000])
def test_a_flipped_bit_in_the_weights(prefix: str, offset: int) -> None:
    content = bytearray(data_file(prefix).read_bytes())
    content[offset] ^= 1
    data_file(prefix).write_bytes(content)
    message = load_error(prefix)
    assert message.startswith(": the weights cannot be read (TensorBundle at ")
    assert "Checksum does not match" in message
    assert message.endswith(f"): {READ_AGAIN}")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: b"", "it is too short"),
        (lambda content: content[:-10], "it does not end as an index does"),
        (lambda content: content[:600], "it does not end as an index does"),
        (lambda content: b"<html>" * 100, "it does not end as an index does"),
        (
            # The 48 bytes of the footer say where two blocks are, offset and size as
            # varints; the second is moved far behind the end.
            lambda content: (
                content[:-48] + b"\0\0\x80\x80\x40\x20".ljust(40, b"\0") + content[-8:]
            ),
            "a block of it goes beyond its end",
        ),
    ],
)
def test_the_index_is_damaged(
    prefix: str, damage: Callable[[bytes], bytes], reason: str
) -> None:
    index_file = Path(f"{prefix}.index")
    index_file.write_bytes(damage(index_file.read_bytes()))
    assert load_error(prefix) == (
        ".index: expected the index of a TensorFlow checkpoint; found a damaged or "
        f"other file ({reason}): copy or download it again"
    )


def test_a_flipped_bit_anywhere_in_the_index(prefix: str) -> None:
    index_file = Path(f"{prefix}.index")
    intact = index_file.read_bytes()
    expected = load_weights(open_checkpoint(prefix), CONFIG).weights
    num_refused = 0
    for offset in range(0, len(intact), 13):
        content = bytearray(intact)
        content[offset] ^= 1 << (offset % 8)
        index_file.write_bytes(content)
        try:
            loaded = load_weights(open_checkpoint(prefix), CONFIG)
        except CheckpointError:
            num_refused += 1
        else:  # the flip was in padding that nothing reads
            np.testing.assert_array_equal(loaded.weights[WORDS], expected[WORDS])
    assert num_refused > 100


def test_the_files_of_two_checkpoints(prefix: str, weights: Weights) -> None:
    other = f"{prefix}.other"
    write_tf1_checkpoint(other, random_weights(CONFIG, seed=2))
    shutil.copyfile(data_file(other), data_file(prefix))
    assert "Checksum does not match" in load_error(prefix)


# What it costs.

LOAD_AND_MEASURE = """
import sys
from pathlib import Path
from bert_extract.checkpoints.loading import load_weights
from bert_extract.checkpoints.opened import open_checkpoint
from bert_extract.model.config import BertConfig

def memory_status(key):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024

tiny_bert, directory = sys.argv[1:]
# What the first call sets up is not the weights'.
config = BertConfig.from_json_file(tiny_bert + "/bert_config.json")
load_weights(open_checkpoint(tiny_bert), config)
before = memory_status("VmRSS")
config = BertConfig.from_json_file(directory + "/bert_config.json")
loaded = load_weights(open_checkpoint(directory), config)
print(memory_status("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_weights_are_in_memory_once(tiny_bert: Path, minilm_tf1: Path) -> None:
    # In a process of its own: here, memory that other tests freed would be used again.
    measured = subprocess.run(
        [sys.executable, "-c", LOAD_AND_MEASURE, tiny_bert, minilm_tf1],
        stdout=subprocess.PIPE,
        check=True,
    )
    num_bytes = data_file(f"{minilm_tf1}/bert_model.ckpt").stat().st_size
    assert num_bytes == 90_852_872
    assert 0.9 < int(measured.stdout) / num_bytes < 1.2
