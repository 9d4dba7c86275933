"""The model: what is known before its weights, what is said of its files, and when."""

import json
from pathlib import Path

import numpy as np
import pytest
from absl import logging

from bert_extract import CheckpointError, FeatureExtractor, Job, loaded_model
from bert_extract.errors import InputError
from bert_extract.jobs import run_job
from bert_extract.loaded_model import OpenedModel
from bert_extract.progress import Summary
from bert_extract.text.examples import Example
from support.running import options_for, write_random_model


def test_load_does_its_work_once(
    tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = OpenedModel(options_for(tiny_bert, layers="-1"))
    loaded = model.load()

    def no_more(*arguments: object) -> None:
        pytest.fail("the weights were read again")

    monkeypatch.setattr(loaded_model, "load_weights", no_more)
    assert model.load() is loaded


def test_what_a_run_writes_is_known_without_its_weights(tmp_path: Path) -> None:
    model_dir = write_random_model(tmp_path)
    for path in model_dir.glob("bert_model.ckpt*"):
        path.unlink()
    model = OpenedModel(options_for(model_dir, layers="all", layer_pooling="concat"))
    assert model.layer_plan.layer_names == ("concat",)
    assert model.layer_plan.vector_size == 48
    assert model.line_options.max_seq_length == 32
    assert model.device
    with pytest.raises(CheckpointError, match="bert_model"):
        model.load()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    logging.set_verbosity(logging.INFO)
    return caplog


def test_a_vocab_shorter_than_the_table_is_warned_about(
    tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    model_dir = write_random_model(tmp_path)
    vocab_file = model_dir / "vocab.txt"
    vocab_file.write_text("\n".join(vocab_file.read_text().split("\n")[:-2]) + "\n")
    model = OpenedModel(options_for(model_dir, layers="0"))
    assert log.text.count("WARNING") == 0
    model.load()
    assert f"{vocab_file}: has 199 tokens" in log.text
    assert "says vocab_size 200" in log.text


def test_a_line_lost_of_a_vocab_is_not_made_good_by_a_blank_one(
    tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    """The count of lines is right then, and every id behind the line is wrong."""
    model_dir = write_random_model(tmp_path)
    vocab_file = model_dir / "vocab.txt"
    lines = vocab_file.read_text().split("\n")
    vocab_file.write_text("\n".join(lines[:100] + lines[101:]) + "\n")
    OpenedModel(options_for(model_dir, layers="0")).load()
    assert f"{vocab_file}: has 199 tokens" in log.text


@pytest.mark.parametrize(
    ("vocab_end", "warnings"),
    [
        (
            "one more\n",
            ["has 201 tokens", "says vocab_size 200: the last ones have no"],
        ),
        ("\n\n \n", ["3 lines are blank", "no text needs them"]),
    ],
)
def test_a_vocab_longer_than_the_table_is_warned_about(
    tmp_path: Path,
    log: pytest.LogCaptureFixture,
    vocab_end: str,
    warnings: list[str],
) -> None:
    """What comes behind the table changes no vector of a line that needs none of it."""
    model_dir = write_random_model(tmp_path)
    lines = ["w1 w195 unheard-of", "w3 ||| w4", ""]
    expected = list(
        FeatureExtractor(options_for(model_dir, layers="0,1")).extract(lines)
    )
    log.clear()
    with (model_dir / "vocab.txt").open("a") as vocab:
        vocab.write(vocab_end)
    longer = FeatureExtractor(options_for(model_dir, layers="0,1"))
    (warning,) = [r.getMessage() for r in log.records if r.levelname == "WARNING"]
    assert all(part in warning for part in warnings)
    for found, record in zip(longer.extract(lines), expected, strict=True):
        assert found.tokens == record.tokens
        np.testing.assert_array_equal(found.layers, record.layers)


def test_a_config_that_leaves_defaults_out_gives_the_same(
    tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    model_dir = write_random_model(
        tmp_path, type_vocab_size=16, max_position_embeddings=512
    )
    options = options_for(model_dir, layers="0,1,embeddings")
    (expected,) = FeatureExtractor(options).extract(["w1 w2 ||| w3"])
    config_file = model_dir / "bert_config.json"
    config = json.loads(config_file.read_bytes())
    for key in ("hidden_act", "type_vocab_size", "max_position_embeddings"):
        del config[key]
    config_file.write_text(json.dumps(config))
    (found,) = FeatureExtractor(options).extract(["w1 w2 ||| w3"])
    np.testing.assert_array_equal(found.layers, expected.layers)
    assert (
        "the original's defaults are used: hidden_act gelu, "
        "max_position_embeddings 512, type_vocab_size 16"
    ) in log.text


def test_a_line_that_needs_what_is_behind_the_table_is_named(tmp_path: Path) -> None:
    model_dir = write_random_model(tmp_path)
    vocab_file = model_dir / "vocab.txt"
    tokens = vocab_file.read_text().split("\n")[:-1]
    vocab_file.write_text("\n".join([*tokens, "w1", "[UNK]"]))
    extractor = FeatureExtractor(options_for(model_dir, layers="0", max_seq_length=4))
    # Truncation takes it away before the model could need it.
    assert len(list(extractor.extract(["w2 w3 w1 unheard-of", "w4"]))) == 2
    for line, name in (("w1", "'w1' (line 201 of "), ("w", "'[UNK]' (line 202 of ")):
        with pytest.raises(InputError) as caught:
            list(extractor.extract(["w2", line]))
        assert str(caught.value).startswith(f"the line with linex_index 1: {name}")


def test_a_vocab_without_unk_does_until_a_word_needs_it(
    tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    model_dir = write_random_model(tmp_path)
    vocab_file = model_dir / "vocab.txt"
    vocab_file.write_text(vocab_file.read_text().replace("[UNK]", "[unused]"))
    extractor = FeatureExtractor(
        options_for(model_dir, layers="0", unit="word", offsets=True)
    )
    assert "there is no [UNK] among its 200 lines" in log.text
    assert [r.tokens for r in extractor.extract(["w1 w2"])] == [("w1", "w2")]
    with pytest.raises(
        InputError, match=r"linex_index 0: a word .* needs \[UNK\], whi"
    ):
        list(extractor.extract(["w1 unheard-of w2"]))
    example = Example(0, "w1 unheard-of", None)
    logging.set_verbosity(logging.DEBUG)
    extractor._engine.log_example(example)
    assert "tokens: [CLS] w1 [UNK] [UNK] [UNK] [SEP]" in log.text


@pytest.mark.parametrize(
    ("words", "do_lower_case", "way_out"),
    [
        (["Berlin", "London", "river"], True, "use --do_lower_case=false"),
        (["berlin", "london", "river"], False, "use --do_lower_case=true"),
        (["berlin", "london", "river"], True, ""),
        (["Berlin", "London", "river"], False, ""),
    ],
)
def test_the_most_common_mistake_is_warned_about(
    tmp_path: Path,
    log: pytest.LogCaptureFixture,
    words: list[str],
    do_lower_case: bool,
    way_out: str,
) -> None:
    model_dir = write_random_model(tmp_path)
    many = [f"{word}{'x' * number}" for number in range(60) for word in words]
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *many]
    (model_dir / "vocab.txt").write_text("\n".join(vocab[:200]) + "\n")
    OpenedModel(options_for(model_dir, layers="0", do_lower_case=do_lower_case)).load()
    assert ("--do_lower_case=" in log.text) is bool(way_out)
    assert way_out in log.text
    assert log.text.count(f"{model_dir}/vocab.txt: ") <= 2  # not named twice a line


def test_a_job_that_finds_its_output_complete_is_told_of_no_doubts(
    tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    model_dir = write_random_model(tmp_path / "model")
    vocab_file = model_dir / "vocab.txt"
    vocab_file.write_text(vocab_file.read_text().replace("w195\n", ""))
    input_file, output_file = tmp_path / "in.txt", tmp_path / "out.jsonl"
    input_file.write_text("w1\n")
    job = Job(input_file=str(input_file), output_file=str(output_file), resume=True)
    doubts = []
    for _ in range(2):
        log.clear()
        summaries: list[Summary] = []
        run_job(OpenedModel(options_for(model_dir, layers="0")), job, summaries)
        doubts.append(log.text.count("is it the vocab of this checkpoint?"))
    assert doubts == [1, 0]
    assert summaries[0].resumed_lines == 1
