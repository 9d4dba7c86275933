"""--model_dir: one flag for the folder of a published model, whoever published it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_extract import FeatureExtractor, read_features
from bert_extract.checkpoints.model_dir import resolve_options
from bert_extract.errors import CheckpointError, ConfigError, OptionsError
from bert_extract.model.config import BertConfig
from bert_extract.options import Options
from support.make_checkpoints import (
    random_weights,
    read_tf1_checkpoint,
    to_huggingface_weights,
    write_huggingface_model,
    write_safetensors,
)
from support.running import run_command
from support.small_bert import CONFIG

LINES = "the river bank\nWho was Jim Henson ? ||| Jim Henson was a puppeteer\n\n"


def resolve(model_dir: Path | str, **fields: Any) -> Options:
    options = Options(model_dir=str(model_dir), **fields)
    options.check()
    resolved, checkpoint = resolve_options(options)
    assert checkpoint.init_checkpoint == resolved.init_checkpoint
    return resolved


def files(options: Options) -> tuple[str, str, str]:
    return options.vocab_file, options.bert_config_file, options.init_checkpoint


@pytest.fixture(scope="module")
def tiny_huggingface(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint as Hugging Face has it, its gelu the tanh form."""
    directory = tmp_path_factory.mktemp("huggingface")
    config = BertConfig.from_json_file(str(tiny_bert / "bert_config.json"))
    weights = read_tf1_checkpoint(tiny_bert / "bert_model.ckpt")
    del weights["global_step"]
    write_huggingface_model(directory, config, weights, hidden_act="gelu_new")
    shutil.copy(tiny_bert / "vocab.txt", directory)
    return directory


def test_a_folder_of_google(tiny_bert: Path) -> None:
    options = resolve(tiny_bert)
    assert files(options) == (
        f"{tiny_bert}/vocab.txt",
        f"{tiny_bert}/bert_config.json",
        str(tiny_bert),
    )
    assert options.do_lower_case is True


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_folder_of_hugging_face(tiny_huggingface: Path, slash: str) -> None:
    assert files(resolve(f"{tiny_huggingface}{slash}")) == (
        f"{tiny_huggingface}/vocab.txt",
        f"{tiny_huggingface}/config.json",
        str(tiny_huggingface),
    )


def test_the_weights_choose_between_two_configs(
    tiny_huggingface: Path, tiny_bert: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_huggingface, tmp_path, dirs_exist_ok=True)
    shutil.copy(tiny_bert / "bert_config.json", tmp_path)
    assert resolve(tmp_path).bert_config_file == f"{tmp_path}/config.json"
    other = resolve(tmp_path, init_checkpoint=str(tiny_bert / "bert_model.ckpt"))
    assert other.bert_config_file == f"{tmp_path}/bert_config.json"


def test_each_flag_overrides_it(tiny_bert: Path, tmp_path: Path) -> None:
    for name in ("vocab_file", "bert_config_file", "init_checkpoint"):
        given = {name: str(tmp_path / "other")}
        options = resolve(tiny_bert, **given)
        assert getattr(options, name) == given[name]
        assert sum(path.startswith(str(tiny_bert)) for path in files(options)) == 2


def test_the_casing_is_the_tokenizers(tiny_huggingface: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_huggingface, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert resolve(tmp_path).do_lower_case is False
    assert resolve(tmp_path, do_lower_case=True).do_lower_case is True
    three = files(resolve(tmp_path))
    options = Options(
        vocab_file=three[0], bert_config_file=three[1], init_checkpoint=three[2]
    )
    assert resolve_options(options)[0].do_lower_case is False


def test_another_vocab_has_the_casing_of_the_folder(
    tiny_huggingface: Path, tmp_path: Path
) -> None:
    model_dir, other = tmp_path / "model", tmp_path / "other"
    shutil.copytree(tiny_huggingface, model_dir)
    other.mkdir()
    shutil.copy(tiny_huggingface / "vocab.txt", other)
    settings = model_dir / "tokenizer_config.json"
    settings.write_text('{"do_lower_case": false}')
    vocab_file = str(other / "vocab.txt")
    assert resolve(model_dir, vocab_file=vocab_file).do_lower_case is False
    settings.write_text('{"never_split": ["x"]}')
    with pytest.raises(ConfigError, match="never_split"):
        resolve(model_dir, vocab_file=vocab_file)
    # What lies beside the vocab comes first.
    (other / "tokenizer_config.json").write_text("{}")
    assert resolve(model_dir, vocab_file=vocab_file).do_lower_case is True


def test_an_early_sentence_transformer(tiny_huggingface: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_huggingface, tmp_path / "0_Transformer")
    (tmp_path / "modules.json").write_text("[]")
    (tmp_path / "config.json").write_text('{"__version__": "0.2.5"}')
    (tmp_path / "1_Pooling").mkdir()
    assert files(resolve(tmp_path)) == (
        f"{tmp_path}/0_Transformer/vocab.txt",
        f"{tmp_path}/0_Transformer/config.json",
        f"{tmp_path}/0_Transformer",
    )


def test_a_vocab_only_in_tokenizer_json(tiny_huggingface: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_huggingface, tmp_path, dirs_exist_ok=True)
    (tmp_path / "vocab.txt").unlink()
    (tmp_path / "tokenizer.json").write_text("{}")
    assert resolve(tmp_path).vocab_file == f"{tmp_path}/tokenizer.json"


def test_what_is_missing_is_said_with_what_is_there(tmp_path: Path) -> None:
    write_huggingface_model(tmp_path, CONFIG, random_weights(CONFIG, seed=1))
    with pytest.raises(CheckpointError) as caught:
        resolve(tmp_path)
    assert str(caught.value) == (
        f"--model_dir: {tmp_path}/: looked for vocab.txt or tokenizer.json; in the "
        "folder is config.json, model.safetensors"
    )
    (tmp_path / "vocab.txt").touch()
    (tmp_path / "config.json").unlink()
    with pytest.raises(
        CheckpointError, match=r"looked for config\.json or bert_config"
    ):
        resolve(tmp_path)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none", Path(__file__)):
        with pytest.raises(CheckpointError, match="there is no such folder"):
            resolve(path)


def test_an_empty_folder_has_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").touch()
    (tmp_path / "bert_config.json").touch()
    assert resolve(tmp_path).init_checkpoint == str(tmp_path)
    for name in ("vocab.txt", "bert_config.json"):
        (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match="in the folder is nothing"):
        resolve(tmp_path)


def test_one_way_or_the_other() -> None:
    with pytest.raises(OptionsError, match="--vocab_file must be given, or --model_di"):
        Options(bert_config_file="c", init_checkpoint="w").check()


# The same weights, whatever their format.


@pytest.fixture(scope="module")
def outputs(
    tiny_bert: Path,
    tiny_huggingface: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, bytes]:
    """What the command makes of the folders, and what it says."""
    directory = tmp_path_factory.mktemp("outputs")
    (directory / "in.txt").write_text(LINES)
    found = {}
    for name, model_dir in (("google", tiny_bert), ("huggingface", tiny_huggingface)):
        done = run_command(
            [
                f"--model_dir={model_dir}",
                f"--input_file={directory}/in.txt",
                f"--output_file={directory}/{name}.jsonl",
                f"--summary_file={directory}/{name}.json",
                "--layers=all,embeddings",
                "--max_seq_length=32",
                "--verbosity=1",
            ]
        )
        assert done.returncode == 0, done.stderr
        found[name] = (directory / f"{name}.jsonl").read_bytes()
        found[f"{name} log"] = done.stderr
        found[f"{name} summary"] = (directory / f"{name}.json").read_bytes()
    return found


def test_the_formats_give_the_same_bytes(outputs: dict[str, bytes]) -> None:
    assert outputs["google"].count(b"\n") == 3
    assert outputs["huggingface"] == outputs["google"]


def test_the_log_says_which_gelu_and_what_is_left_over(
    outputs: dict[str, bytes], tiny_bert: Path, tiny_huggingface: Path
) -> None:
    google = outputs["google log"].decode().splitlines()
    assert (
        f"bert-extract: {tiny_bert}/bert_config.json: read as Google's code reads it: "
        "hidden_act gelu in its tanh form, layer_norm_eps 1e-12"
    ) in google
    assert (
        f"bert-extract: {tiny_bert}/bert_model.ckpt: 85 variables loaded, 3 others "
        "ignored: bert/pooler/dense/* (2), global_step (1)"
    ) in google
    hugging_face = outputs["huggingface log"].decode().splitlines()
    assert (
        f"bert-extract: {tiny_huggingface}/config.json: read as Hugging Face's code "
        "reads it: hidden_act gelu in its tanh form, layer_norm_eps 1e-12"
    ) in hugging_face


def test_the_fingerprint_has_what_was_found(outputs: dict[str, bytes]) -> None:
    (google,), (hugging_face,) = (
        json.loads(outputs[f"{name} summary"])["outputs"]
        for name in ("google", "huggingface")
    )
    for key in ("vocab_sha256", "do_lower_case"):
        assert google["fingerprint"][key] == hugging_face["fingerprint"][key]
    for key in ("checkpoint_sha256", "bert_config_sha256"):
        assert len(google["fingerprint"][key]) == 64
        assert google["fingerprint"][key] != hugging_face["fingerprint"][key]


def test_the_python_api_takes_it(
    tiny_huggingface: Path, outputs: dict[str, bytes], tmp_path: Path
) -> None:
    extractor = FeatureExtractor(
        model_dir=str(tiny_huggingface), layers="-1", max_seq_length=32
    )
    (record,) = extractor.extract(["the river bank"])
    (tmp_path / "out.jsonl").write_bytes(outputs["google"])
    first = next(iter(read_features(str(tmp_path / "out.jsonl"))))
    assert first.tokens == record.tokens
    np.testing.assert_allclose(first.layers[4], record.layers[0], rtol=0, atol=1e-6)


def test_names_with_a_prefix_give_the_same_vectors(
    tiny_huggingface: Path, tiny_bert: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_huggingface, tmp_path, dirs_exist_ok=True)
    weights = read_tf1_checkpoint(tiny_bert / "bert_model.ckpt")
    del weights["global_step"]
    stored = to_huggingface_weights(weights, "bert.")
    write_safetensors(tmp_path / "model.safetensors", stored)
    vectors = []
    for directory in (tiny_huggingface, tmp_path):
        extractor = FeatureExtractor(
            model_dir=str(directory), layers="-1", max_seq_length=32
        )
        (record,) = extractor.extract(["the river bank"])
        vectors.append(record.layers[0])
    assert vectors[0].tobytes() == vectors[1].tobytes()


# The vectors of Hugging Face transformers.


def test_real_weights_give_the_vectors_of_transformers(
    minilm_dir: Path, golden_dir: Path
) -> None:
    golden = json.loads((golden_dir / "minilm_transformers.json").read_text("utf-8"))
    extractor = FeatureExtractor(
        model_dir=str(minilm_dir), layers="embeddings,all", max_seq_length=512
    )
    lines = golden["lines"]
    records = list(extractor.extract([line["text"] for line in lines]))
    assert len(records) == len(lines) == 3
    for record, line in zip(records, lines, strict=True):
        assert list(record.tokens) == line["tokens"]
        assert len(record.layers) == len(line["values"]) == 7
        for layer, values in zip(record.layers, line["values"], strict=True):
            num_pinned = len(values[0])
            np.testing.assert_allclose(layer[:, :num_pinned], values, rtol=0, atol=2e-5)
