"""Every option: its default, its checks, its help."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_extract.errors import OptionsError
from bert_extract.options import (
    Job,
    Options,
    help_of,
    parse_layers,
    parse_shard,
    resolve_layers,
)

FILES: dict[str, Any] = {
    "vocab_file": "v",
    "bert_config_file": "b",
    "init_checkpoint": "i",
}
JOB: dict[str, Any] = {"input_file": "i", "output_file": "o"}


@pytest.mark.parametrize(
    ("layers", "indexes"),
    [
        ("-1,-2,-3,-4", (-1, -2, -3, -4)),
        ("0", (0,)),
        (" -1 , embeddings ", (-1, "embeddings")),
        ("all,embeddings", ("all", "embeddings")),
        ("2,2,2", (2, 2, 2)),
        ("+1,-0", (1, 0)),
    ],
)
def test_layers_are_numbers_and_two_names(
    layers: str, indexes: tuple[int | str, ...]
) -> None:
    assert parse_layers(layers) == indexes


@pytest.mark.parametrize(
    "layers", ["", ",", "-1,", "last", "1.0", "ALL", "0x1", "- 1", "1 2", "٣", "1_0"]
)
def test_a_layer_that_is_no_number_is_refused(layers: str) -> None:
    with pytest.raises(OptionsError, match="--layers must be whole numbers") as raised:
        parse_layers(layers)
    assert repr(layers) in str(raised.value)


def test_a_layer_with_a_thousand_digits_is_refused() -> None:
    with pytest.raises(OptionsError):
        parse_layers("9" * 1000)


@pytest.mark.parametrize(
    ("layers", "indexes"),
    [
        ("-1,0,4,-5", (-1, 0, 4, -5)),
        ("all", (0, 1, 2, 3, 4)),
        ("all,embeddings", (0, 1, 2, 3, 4, "embeddings")),
        ("embeddings,-1,4,all", ("embeddings", -1, 4, 0, 1, 2, 3, 4)),
    ],
)
def test_layers_are_echoed_as_given(
    layers: str, indexes: tuple[int | str, ...]
) -> None:
    assert resolve_layers(layers, num_hidden_layers=5) == indexes


@pytest.mark.parametrize("layers", ["5", "-6", "-1,12", "all,99"])
def test_a_layer_outside_the_model_is_refused(layers: str) -> None:
    with pytest.raises(
        OptionsError, match="5 encoder layers, 0 to 4 or -5 to -1; found "
    ):
        resolve_layers(layers, num_hidden_layers=5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocab_file": ""}, "--vocab_file must be given"),
        ({"bert_config_file": ""}, "--bert_config_file must be given"),
        ({"init_checkpoint": ""}, "--init_checkpoint must be given"),
        ({"batch_size": 0}, "--batch_size must be at least 1; found 0"),
        ({"batch_size": -8}, "--batch_size must be at least 1; found -8"),
        ({"num_threads": -1}, "--num_threads must be at least 0; found -1"),
        ({"num_threads": 10**20}, "--num_threads must be at most 10000; found 100"),
        ({"max_seq_length": 2}, "--max_seq_length must be at least 3"),
        ({"max_seq_length": 0}, "--max_seq_length must be at least 3"),
        ({"max_seq_length": -1}, "--max_seq_length must be at least 3"),
        ({"precision": "float64"}, "--precision must be one of float32, bfloat16"),
        ({"layers": "top"}, "found 'top'"),
    ],
)
def test_an_option_that_cannot_work_is_refused(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionsError) as raised:
        Options(**{**FILES, **fields}).check()
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input_file": ""}, "--input_file must be given"),
        ({"output_file": ""}, "--output_file must be given, or --output_dir"),
        ({"output_dir": "d"}, "and --output_dir=d are both given: the first is for "),
        ({"errors": "surrogateescape"}, "--errors must be one of strict, replace, ig"),
        ({"shard": "1"}, "--shard must be I/N"),
        ({"shard": "4/4"}, "--shard must be I/N"),
        ({"shard": "-1/4"}, "--shard must be I/N"),
        ({"shard": "0/0"}, "--shard must be I/N"),
        ({"shard": "0/2", "input_file": "-"}, "--shard cannot cut standard input"),
        ({"resume": True, "input_file": "-"}, "--resume cannot skip in standard in"),
        ({"resume": True, "output_file": "-"}, "--resume cannot go on with standard o"),
        (
            {"output_file": "", "output_dir": "d", "input_file": "-"},
            "standard input has no name",
        ),
        (
            {"output_file": "", "output_dir": "d", "shard": "0/2"},
            "--shard cuts what goes into one output",
        ),
        ({"runner": "spark"}, "--runner must be one of local, ray"),
        ({"num_workers": 2}, "--num_workers=2 is for --runner=ray"),
        ({"join": False}, "--join=false is for --runner=ray"),
        ({"runner": "ray", "num_workers": -1}, "--num_workers must be at least 0"),
        ({"runner": "ray", "worker_timeout": 0}, "--worker_timeout must be at least"),
        ({"runner": "ray", "shard": "0/2"}, "shares the input among its workers"),
        ({"runner": "ray", "input_file": "-"}, "--input_file=-: --runner=ray needs"),
        ({"runner": "ray", "output_file": "-"}, "--output_file=-: --runner=ray needs"),
        ({"runner": "ray", "output_file": "gs://b/o"}, "an object store cannot"),
        (
            {"runner": "ray", "output_file": "", "output_dir": "o"},
            "--runner=ray makes one output",
        ),
    ],
)
def test_a_job_that_cannot_work_is_refused(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionsError) as raised:
        Job(**{**JOB, **fields}).check()
    assert message in str(raised.value)


def test_the_defaults_work() -> None:
    Options(**FILES).check()
    Job(**JOB).check()


def test_a_shard_is_two_numbers() -> None:
    assert parse_shard("3/12") == (3, 12)
    assert parse_shard("") is None


@pytest.mark.parametrize(
    "option",
    [*dataclasses.fields(Options), *dataclasses.fields(Job)],
    ids=lambda k: k.name,
)
def test_every_option_has_a_sentence_of_help(option: "dataclasses.Field[Any]") -> None:
    assert len(help_of(option).split()) >= 5
    assert help_of(option).endswith(".")


def test_options_are_frozen_and_named() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Options(**FILES).batch_size = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        Options("vocab.txt")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"unit": "token"}, "--unit must be one of wordpiece, word, sentence"),
        ({"word_pooling": "max"}, "--word_pooling must be one of first, mean, last"),
        ({"word_pooling": "first"}, "--word_pooling=first is for --unit=word"),
        ({"sentence_pooling": "cls"}, "--sentence_pooling=cls is for --unit=sentence"),
        (
            {"unit": "word", "sentence_pooling": "max"},
            "--sentence_pooling=max is for --unit=sentence; found --unit=word",
        ),
        ({"layer_pooling": "max"}, "--layer_pooling must be one of none, mean, sum"),
        ({"long_text": "cut"}, "--long_text must be one of truncate, window"),
        ({"doc_stride": 8}, "--doc_stride=8 is for --long_text=window"),
        ({"doc_stride": -1}, "--doc_stride must be at least 0"),
        (
            {"doc_stride": 31, "long_text": "window", "max_seq_length": 32},
            "--doc_stride=31: a window has room for 30 wordpieces",
        ),
        (
            {"unit": "sentence", "sentence_pooling": "pooler", "layers": "-2"},
            "--layers=-2: with --sentence_pooling=pooler there are no layers",
        ),
        (
            {"unit": "sentence", "sentence_pooling": "model"},
            "--sentence_pooling=model reads how the model pools in its folder; give",
        ),
        (
            {
                "unit": "sentence",
                "sentence_pooling": "model",
                "model_dir": "model",
                "layers": "-2",
            },
            "--layers=-2: with --sentence_pooling=model there are no layers",
        ),
        (
            {"unit": "sentence", "sentence_pooling": "pooler", "layer_pooling": "sum"},
            "--layer_pooling=sum: with --sentence_pooling=pooler",
        ),
    ],
)
def test_units_that_cannot_be_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionsError) as caught:
        Options(**FILES, **fields).check()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"unit": "word", "word_pooling": "first"},
        {"unit": "sentence", "sentence_pooling": "pooler"},
        {"unit": "sentence", "sentence_pooling": "model", "model_dir": "model"},
        {"long_text": "window", "doc_stride": 30, "max_seq_length": 32},
        {"long_text": "window", "doc_stride": 1, "max_seq_length": 3},
        {"unit": "word", "long_text": "window", "layer_pooling": "concat"},
    ],
)
def test_units_that_go_together(fields: dict[str, Any]) -> None:
    Options(**FILES, **fields).check()


# ------------------------------------------------------------------ what Python gives


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        ([-1, -2], "-1,-2"),
        ((0,), "0"),
        ([-1, "embeddings"], "-1,embeddings"),
        (range(3), "0,1,2"),
        (-1, "-1"),
    ],
)
def test_layers_may_be_a_list(layers: Any, text: str) -> None:
    assert Options(layers=layers) == Options(layers=text)
    Options(model_dir="m", layers=layers).check()


def test_a_path_may_be_a_path_and_a_number_numpys() -> None:
    options = Options(model_dir=Path("a") / "b", max_seq_length=np.int64(64))  # type: ignore[arg-type]
    assert options == Options(model_dir="a/b", max_seq_length=64)
    assert type(options.max_seq_length) is int
    assert Job(input_file=Path("x.txt")).input_file == "x.txt"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_seq_length": "64"}, "max_seq_length must be a whole number; found '64'"),
        ({"max_seq_length": 64.0}, "max_seq_length must be a whole number; found 64.0"),
        ({"batch_size": True}, "batch_size must be a whole number; found True "),
        ({"num_threads": None}, "num_threads must be a whole number; found None "),
        ({"offsets": "false"}, "offsets must be True or False; found 'false' "),
        ({"do_lower_case": 0}, "do_lower_case must be True or False, or None; found 0"),
        (
            {"layers": None},
            r"layers must be a str or a list, as in \[-1, -2\]; found N",
        ),
        ({"layers": {-1}}, r"layers must be a str or a list, .* .set."),
        ({"layers": [-1, None]}, "--layers must be whole numbers.* found 'None' in"),
        ({"layers": []}, "--layers must be whole numbers"),
        ({"vocab_file": b"v"}, "vocab_file must be a str; found b'v' .bytes."),
        ({"unit": 3}, "unit must be a str; found 3 .int."),
    ],
)
def test_what_no_flag_could_be_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        Options(**{"model_dir": "m", **fields}).check()


def test_what_no_flag_of_a_job_could_be_is_named() -> None:
    with pytest.raises(TypeError, match="resume must be True or False; found 'no'"):
        Job(input_file="a", output_file="b", resume="no").check()  # type: ignore[arg-type]
    with pytest.raises(
        TypeError, match=r"input_file must be a str; found \['a'\] .list."
    ):
        Job(input_file=["a"], output_file="b").check()  # type: ignore[arg-type]
