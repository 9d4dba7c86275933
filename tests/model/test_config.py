"""bert_config.json -> BertConfig, and the variables that it implies."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from bert_extract.errors import ConfigError
from bert_extract.model.config import BertConfig, Dialect, variable_shapes

TINY: dict[str, Any] = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 128,
    "initializer_range": 0.02,
    "intermediate_size": 512,
    "max_position_embeddings": 512,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "type_vocab_size": 2,
    "vocab_size": 30522,
}
NEEDED = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "max_position_embeddings",
    "type_vocab_size",
)
SIZES = tuple(key for key in NEEDED if key != "hidden_act")


def write_config(tmp_path: Path, **changes: object) -> str:
    bert_config_file = tmp_path / "bert_config.json"
    bert_config_file.write_text(json.dumps(TINY | changes), encoding="utf-8")
    return str(bert_config_file)


def read_error(bert_config_file: str) -> str:
    with pytest.raises(ConfigError) as caught:
        BertConfig.from_json_file(bert_config_file)
    message = str(caught.value)
    assert message.startswith(f"{bert_config_file}: ")
    return message.removeprefix(f"{bert_config_file}: ")


def test_every_field_is_read(tmp_path: Path) -> None:
    assert BertConfig.from_json_file(write_config(tmp_path)) == BertConfig(
        vocab_size=30522,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
        hidden_act="gelu",
        max_position_embeddings=512,
        type_vocab_size=2,
        layer_norm_eps=1e-12,
    )


def test_unknown_keys_are_ignored_whatever_they_hold(tmp_path: Path) -> None:
    bert_config_file = write_config(
        tmp_path, directionality="bidi", pooler_fc_size=None, layer_norm_eps=0.5
    )
    config = BertConfig.from_json_file(bert_config_file)
    # The original's epsilon is a constant; only its own keys count.
    assert config.layer_norm_eps == 1e-12


def test_dropout_and_initializer_are_not_needed(tmp_path: Path) -> None:
    bert_config_file = tmp_path / "bert_config.json"
    bert_config_file.write_text(json.dumps({key: TINY[key] for key in NEEDED}))
    assert BertConfig.from_json_file(str(bert_config_file)).hidden_size == 128


def test_what_a_config_does_not_say_is_what_the_original_takes(tmp_path: Path) -> None:
    path = tmp_path / "bert_config.json"
    path.write_text('{"vocab_size": 30522, "type_vocab_size": 2}')
    config = BertConfig.from_json_file(str(path))
    assert config == BertConfig(30522, 768, 12, 12, 3072, "gelu", 512, 2)
    keys = (
        "hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, "
        "hidden_act, max_position_embeddings"
    )
    assert config.defaults == tuple(keys.split(", "))
    assert config.warnings == (
        f"{path}: does not set {keys}; the original's defaults are used: "
        "hidden_size 768, num_hidden_layers 12, num_attention_heads 12, "
        "intermediate_size 3072, hidden_act gelu, max_position_embeddings 512",
    )
    path.write_text('{"vocab_size": 30522}')
    assert BertConfig.from_json_file(str(path)).type_vocab_size == 16
    path.write_text('{"vocab_size": 30522, "hidden_size": 1024}')
    assert read_error(str(path)).endswith(
        "found 1024 and 12, what the original takes for a missing key"
    )


def test_a_vocab_size_has_no_default(tmp_path: Path) -> None:
    path = tmp_path / "bert_config.json"
    path.write_text(json.dumps({k: v for k, v in TINY.items() if k != "vocab_size"}))
    assert read_error(str(path)) == (
        'the key "vocab_size" is missing; is this the bert_config.json of a BERT '
        "checkpoint?"
    )


@pytest.mark.parametrize("key", SIZES)
@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (-1, "-1"),
        (True, "true"),
        (12.0, "12.0"),
        ("12", '"12"'),
        (None, "null"),
        ([12], "[12]"),
        (float("nan"), "NaN"),
        (10**100, "1" + "0" * 59 + "..."),
    ],
)
def test_a_size_is_a_whole_number_from_1(
    tmp_path: Path, key: str, value: object, shown: str
) -> None:
    limit = 1000 if key == "num_hidden_layers" else 2147483647
    assert read_error(write_config(tmp_path, **{key: value})) == (
        f'"{key}" must be a whole number from 1 to {limit}; found {shown}'
    )


def test_hidden_size_is_a_multiple_of_the_heads(tmp_path: Path) -> None:
    assert read_error(write_config(tmp_path, num_attention_heads=3)) == (
        '"hidden_size" must be a multiple of "num_attention_heads"; found 128 and 3'
    )


@pytest.mark.parametrize(
    ("value", "hidden_act"),
    [
        ("gelu", "gelu"),
        ("GELU", "gelu"),
        ("relu", "relu"),
        ("Tanh", "tanh"),
        ("linear", "linear"),
        ("", "linear"),
        (None, "linear"),
    ],
)
def test_the_activations_are_the_originals(
    tmp_path: Path, value: str | None, hidden_act: str
) -> None:
    config = BertConfig.from_json_file(write_config(tmp_path, hidden_act=value))
    assert config.hidden_act == hidden_act


@pytest.mark.parametrize("value", ["gelu_new", "swish", " gelu", 1, 0, False, ["gelu"]])
def test_an_unknown_activation_is_named(tmp_path: Path, value: object) -> None:
    assert read_error(write_config(tmp_path, hidden_act=value)) == (
        '"hidden_act" must be one of gelu, relu, tanh, linear; '
        f"found {json.dumps(value)}"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"\xef\xbb\xbf{}",
            "expected JSON in UTF-8 without a byte order mark; found one in the first "
            "three bytes: save the file without it",
        ),
        (b'{"a": "\xe9"}', "expected JSON in UTF-8; found the byte 0xe9 at offset 7"),
        (
            b"\xff\xfe{\x00}\x00",
            "expected JSON in UTF-8; found the byte 0xff at offset 0",
        ),
        (
            b"",
            "expected a JSON object; not valid JSON: "
            "Expecting value: line 1 column 1 (char 0)",
        ),
        (
            b'{"vocab_size": 30522\n"hidden_size": 128}',
            "expected a JSON object; not valid JSON: "
            "Expecting ',' delimiter: line 2 column 1 (char 21)",
        ),
        (
            b"[1, 2]",
            "expected a JSON object with the keys of a bert_config.json; found [1, 2]",
        ),
        (
            b'"' + b"x" * 100 + b'"',
            "expected a JSON object with the keys of a bert_config.json; "
            f'found "{"x" * 59}...',
        ),
    ],
)
def test_what_is_not_a_json_object_is_named(
    tmp_path: Path, content: bytes, message: str
) -> None:
    bert_config_file = tmp_path / "bert_config.json"
    bert_config_file.write_bytes(content)
    assert read_error(str(bert_config_file)) == message


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000])
def test_absurd_json_is_refused(tmp_path: Path, content: bytes) -> None:
    bert_config_file = tmp_path / "bert_config.json"
    bert_config_file.write_bytes(content)
    assert read_error(str(bert_config_file)).startswith("expected a JSON object; ")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert read_error(str(tmp_path / "bert_config.json")) == (
        "cannot read the bert_config.json: No such file or directory"
    )


def test_a_folder_is_not_a_config(tmp_path: Path) -> None:
    assert read_error(str(tmp_path)) == (
        "cannot read the bert_config.json: Is a directory"
    )


def test_a_remote_config_is_read(tmp_path: Path) -> None:
    path = f"ram://{tmp_path.name}/bert_config.json"
    with tf.io.gfile.GFile(path, "wb") as writer:
        writer.write(json.dumps(TINY).encode())
    assert BertConfig.from_json_file(path).vocab_size == 30522


def test_a_missing_remote_config_is_named(tmp_path: Path) -> None:
    message = read_error(f"ram://{tmp_path.name}/none.json")
    assert message.startswith("cannot read the bert_config.json: ")


def test_an_unknown_scheme_is_named() -> None:
    assert "'nfs' not implemented" in read_error("nfs://host/bert_config.json")


# Hugging Face's config.json.

MINIMAL = {key: TINY[key] for key in SIZES if key != "type_vocab_size"}


def read_hugging_face(tmp_path: Path, **keys: object) -> BertConfig:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(MINIMAL | keys))
    return BertConfig.from_json_file(str(path), Dialect.HUGGING_FACE)


def hugging_face_error(tmp_path: Path, **keys: object) -> str:
    with pytest.raises(ConfigError) as caught:
        read_hugging_face(tmp_path, **keys)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/config.json: ")
    return message.removeprefix(f"{tmp_path}/config.json: ")


def test_what_hugging_face_takes_for_keys_that_are_not_there(tmp_path: Path) -> None:
    assert read_hugging_face(tmp_path) == BertConfig(
        vocab_size=30522,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
        hidden_act="gelu_erf",
        max_position_embeddings=512,
        type_vocab_size=2,
        layer_norm_eps=1e-12,
    )


def test_its_epsilon_and_token_types_count(tmp_path: Path) -> None:
    config = read_hugging_face(tmp_path, layer_norm_eps=1e-5, type_vocab_size=1)
    assert (config.layer_norm_eps, config.type_vocab_size) == (1e-5, 1)
    assert config.warnings == ()


@pytest.mark.parametrize(
    ("value", "hidden_act"),
    [
        *(("gelu", "gelu_erf"), ("GELU", "gelu_erf"), ("gelu_python", "gelu_erf")),
        *(("gelu_new", "gelu"), ("gelu_pytorch_tanh", "gelu"), ("gelu_fast", "gelu")),
        *(("relu", "relu"), ("tanh", "tanh"), ("linear", "linear")),
    ],
)
def test_its_gelu_is_the_erf_form(tmp_path: Path, value: str, hidden_act: str) -> None:
    assert read_hugging_face(tmp_path, hidden_act=value).hidden_act == hidden_act


@pytest.mark.parametrize("value", ["silu", "quick_gelu", 1, ["gelu"]])
def test_its_other_activations_are_refused(tmp_path: Path, value: object) -> None:
    assert hugging_face_error(tmp_path, hidden_act=value) == (
        '"hidden_act" must be one of gelu, gelu_python, gelu_new, gelu_fast, '
        f"gelu_pytorch_tanh, relu, tanh, linear; found {json.dumps(value)}"
    )


@pytest.mark.parametrize(
    "model_type",
    ["roberta", "distilbert", "deberta-v2", "modernbert", "xlm-roberta", "albert", 7],
)
def test_another_model_is_refused_by_its_type(
    tmp_path: Path, model_type: object
) -> None:
    expected = (
        f'"model_type" is {json.dumps(model_type)}: only "bert" is read here, and '
        "another model with its weights would give vectors of no meaning"
    )
    assert hugging_face_error(tmp_path, model_type=model_type) == expected
    assert read_error(write_config(tmp_path, model_type=model_type)) == expected


def test_before_there_were_types_the_architecture_says_it(tmp_path: Path) -> None:
    assert read_hugging_face(tmp_path, architectures=["BertForMaskedLM"])
    assert read_hugging_face(tmp_path, architectures=None)
    # Whoever builds on BERT gives it a name.
    assert read_hugging_face(tmp_path, model_type="bert", architectures=["ColBERT"])
    for value in (["RobertaModel"], "BertModel", [1], {"a": 1}):
        assert hugging_face_error(tmp_path, architectures=value) == (
            '"architectures" must be those of a BERT, such as ["BertModel"]; found '
            + json.dumps(value)
        )


@pytest.mark.parametrize(
    ("key", "value", "plain"),
    [
        ("position_embedding_type", "relative_key_query", '"absolute"'),
        ("position_embedding_type", "alibi", '"absolute"'),
        ("is_decoder", True, "false"),
        ("add_cross_attention", True, "false"),
        ("pruned_heads", {"0": [1]}, "{}"),
        ("quantization_config", {"bits": 8}, "null"),
    ],
)
def test_what_makes_it_another_model_is_refused(
    tmp_path: Path, key: str, value: object, plain: str
) -> None:
    assert hugging_face_error(tmp_path, **{key: value}) == (
        f'"{key}" is {json.dumps(value)}: only a BERT that has {plain} there is '
        "computed here"
    )


def test_a_program_of_its_own_is_refused(tmp_path: Path) -> None:
    own = {"AutoModel": "modeling_bert.JinaBertModel"}
    assert hugging_face_error(tmp_path, auto_map=own) == (
        f'"auto_map" names a program of its own for the model, {json.dumps(own)}: only '
        "BERT as it was published is computed here, and no code that comes with a "
        "checkpoint is run"
    )
    assert read_hugging_face(tmp_path, auto_map={}).hidden_size == 128


@pytest.mark.parametrize("value", [0, 1, 0.0, -1e-12, 1.5, True, "1e-12", None, []])
def test_an_epsilon_of_no_use(tmp_path: Path, value: object) -> None:
    assert hugging_face_error(tmp_path, layer_norm_eps=value) == (
        f'"layer_norm_eps" must be a number between 0 and 1; found {json.dumps(value)}'
    )


def test_a_missing_size_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text("{}")
    with pytest.raises(ConfigError, match=r"is this the config\.json of a BERT"):
        BertConfig.from_json_file(str(path), Dialect.HUGGING_FACE)


def test_its_config_beside_a_tensorflow_checkpoint(tmp_path: Path) -> None:
    path = write_config(tmp_path, model_type="bert", layer_norm_eps=1e-5)
    config = BertConfig.from_json_file(path)
    assert (config.hidden_act, config.layer_norm_eps) == ("gelu", 1e-12)
    assert config.warnings == (
        f"{path}: is a config of Hugging Face's beside a TensorFlow checkpoint; it is "
        'read as Google\'s code would read it: "gelu" is the tanh form, and '
        "layer_norm_eps is 1e-12",
    )


def test_variables_of_the_smallest_bert() -> None:
    shapes = variable_shapes(BertConfig(100, 8, 1, 2, 32, "gelu", 16, 2))
    layer = "bert/encoder/layer_0/"
    assert shapes == {
        "bert/embeddings/word_embeddings": (100, 8),
        "bert/embeddings/token_type_embeddings": (2, 8),
        "bert/embeddings/position_embeddings": (16, 8),
        "bert/embeddings/LayerNorm/gamma": (8,),
        "bert/embeddings/LayerNorm/beta": (8,),
        layer + "attention/self/query/kernel": (8, 8),
        layer + "attention/self/query/bias": (8,),
        layer + "attention/self/key/kernel": (8, 8),
        layer + "attention/self/key/bias": (8,),
        layer + "attention/self/value/kernel": (8, 8),
        layer + "attention/self/value/bias": (8,),
        layer + "attention/output/dense/kernel": (8, 8),
        layer + "attention/output/dense/bias": (8,),
        layer + "attention/output/LayerNorm/gamma": (8,),
        layer + "attention/output/LayerNorm/beta": (8,),
        layer + "intermediate/dense/kernel": (8, 32),
        layer + "intermediate/dense/bias": (32,),
        layer + "output/dense/kernel": (32, 8),
        layer + "output/dense/bias": (8,),
        layer + "output/LayerNorm/gamma": (8,),
        layer + "output/LayerNorm/beta": (8,),
    }


def test_each_layer_has_its_own_variables() -> None:
    shapes = variable_shapes(BertConfig(100, 8, 12, 2, 32, "gelu", 16, 2))
    assert len(shapes) == 5 + 12 * 16 == 197
    layers = {
        int(found[1]) for name in shapes if (found := re.search(r"layer_(\d+)", name))
    }
    assert layers == set(range(12))
