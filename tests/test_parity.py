"""The vectors are the original's: golden files, and real weights against float64."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_extract import FeatureExtractor, Record
from support.make_checkpoints import Weights, read_tf1_checkpoint
from support.nasty_text import nasty_lines
from support.reference_model import run_bert
from support.reference_tokenizer import laid_out, read_line, tokens
from support.running import (
    flags_for,
    options_for,
    real_lines,
    run_command,
    write_random_model,
)

GOLDEN: dict[str, dict[str, Any]] = {
    "expected_default.jsonl": {"layers": "-1,-2,-3,-4"},
    "expected_cased.jsonl": {"layers": "-1", "do_lower_case": "false"},
    "expected_short.jsonl": {"layers": "0,4,-5", "max_seq_length": 8},
}


@pytest.fixture(scope="module", params=GOLDEN)
def golden_pair(
    request: pytest.FixtureRequest,
    golden_dir: Path,
    tiny_bert: Path,
    tmp_path_factory: Any,
) -> tuple[list[bytes], list[bytes]]:
    """The lines that the original wrote, and what the command writes."""
    output_file = tmp_path_factory.mktemp("golden") / "output.jsonl"
    flags = flags_for(
        tiny_bert,
        **GOLDEN[request.param],
        input_file=golden_dir / "input.txt",
        output_file=output_file,
    )
    completed = run_command(flags)
    assert completed.returncode == 0, completed.stderr.decode()
    expected = (golden_dir / request.param).read_bytes().splitlines(keepends=True)
    return expected, output_file.read_bytes().splitlines(keepends=True)


def test_golden_files_are_reproduced(
    golden_pair: tuple[list[bytes], list[bytes]],
) -> None:
    expected_lines, lines = golden_pair
    assert len(lines) == len(expected_lines) == 37
    for expected_line, line in zip(expected_lines, lines, strict=True):
        expected, found = json.loads(expected_line), json.loads(line)
        assert without_values(found) == without_values(expected)
        np.testing.assert_allclose(values(found), values(expected), rtol=0, atol=5e-6)


def test_every_line_is_what_json_dumps_writes(
    golden_pair: tuple[list[bytes], list[bytes]],
) -> None:
    for line in golden_pair[1]:
        assert line == (json.dumps(json.loads(line)) + "\n").encode("ascii")


def without_values(record: Any) -> Any:
    """Everything but the floats: tokens, indexes, and the order of the keys."""
    copy = json.loads(json.dumps(record))
    for token in copy["features"]:
        for layer in token["layers"]:
            layer["values"] = len(layer["values"])
    return json.dumps(copy)


def values(record: Any) -> list[list[list[float]]]:
    return [[e["values"] for e in token["layers"]] for token in record["features"]]


# ------------------------------------------------------------------- real weights


NASTY = [
    *("", " ", "?", "\0", "\ufeffBOM", "a\rb", "x\u2028y", "e\u0301\u0327"),
    *("中国 and 한국어", "👩‍👩‍👧 emoji", "ΟΔΟΣ", "[CLS] [MASK] ##s", "word " * 600),
    *("Who was Jim Henson ? ||| Jim Henson was a puppeteer", "a |||b", "\u200b ||| b"),
    *(
        "a ||| \u200b",
        "a ||| b ||| c",
        "x" * 201,
        "left " * 300 + "||| " + "right " * 300,
    ),
]


@pytest.fixture(scope="module")
def minilm_lines() -> list[str]:
    english = [line for line in real_lines() if len(line) > 60][:6]
    pairs = [f"{a} ||| {b}" for a, b in zip(english, english[3:], strict=False)][:2]
    return NASTY + english + pairs + list(nasty_lines(seed=5, num_lines=7))


@pytest.fixture(scope="module")
def minilm_weights(minilm_tf1: Path) -> Weights:
    weights = read_tf1_checkpoint(minilm_tf1 / "bert_model.ckpt")
    # Once: the reference would do it for each line.
    return {name: value.astype(np.float64) for name, value in weights.items()}


def test_real_weights_agree_with_float64(
    minilm_tf1: Path, minilm_weights: Weights, minilm_lines: list[str]
) -> None:
    options = options_for(minilm_tf1, layers="all,embeddings,-1", max_seq_length=128)
    records = list(FeatureExtractor(options).extract(minilm_lines))
    worst = 0.0
    expected = expected_records(minilm_tf1, minilm_weights, minilm_lines, 128)
    for record, (expected_tokens, layers) in zip(records, expected, strict=True):
        assert record.tokens == tuple(expected_tokens)
        assert record.indexes == (0, 1, 2, 3, 4, 5, "embeddings", -1)
        for found, layer in zip(record.layers, [*layers, layers[5]], strict=True):
            assert found.shape == layer.shape
            worst = max(worst, float(np.abs(found - layer).max()))
    assert worst < 2e-5


def expected_records(
    model_dir: Path, weights: Weights, lines: list[str], max_seq_length: int
) -> Iterator[tuple[list[str], list[Any]]]:
    """Tokens, and the encoder layers with the embeddings last, by the references."""
    vocab = (model_dir / "vocab.txt").read_text(encoding="utf-8").split("\n")
    ids = {token: i for i, token in enumerate(vocab)}
    config = json.loads((model_dir / "bert_config.json").read_bytes())
    for line in lines:
        text_a, text_b = read_line(line.replace("\r", ""))
        expected_tokens, token_type_ids = laid_out(
            tokens(text_a, ids, do_lower_case=True),
            tokens(text_b or "", ids, do_lower_case=True),
            max_seq_length,
        )
        input_ids = [ids[token] for token in expected_tokens]
        output = run_bert(weights, config, input_ids, token_type_ids)
        yield expected_tokens, [*output.layers, output.embeddings]


# -------------------------------------------------------------------- activations


@pytest.mark.parametrize(
    ("hidden_act", "reference"),
    [
        *(("gelu", "gelu"), ("relu", "relu"), ("tanh", "tanh"), ("linear", "linear")),
        *((None, "linear"), ("GELU", "gelu")),
    ],
)
def test_every_activation_agrees_with_float64(
    tmp_path: Path, hidden_act: str | None, reference: str
) -> None:
    model_dir = write_random_model(tmp_path, hidden_act=hidden_act)
    config = json.loads((tmp_path / "bert_config.json").read_bytes())
    weights = read_tf1_checkpoint(tmp_path / "bert_model.ckpt")
    lines = ["w1 w2 w3 ||| w4 w5", "w9", "", "w100 " * 40]
    records = list(
        FeatureExtractor(options_for(model_dir, layers="0,1")).extract(lines)
    )
    for record in records:
        output = run_bert(weights, config, *ids_of(record), hidden_act=reference)
        for found, expected in zip(record.layers, output.layers, strict=True):
            np.testing.assert_allclose(found, expected, rtol=0, atol=5e-6)


def ids_of(record: Record) -> tuple[list[int], list[int]]:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    input_ids = [
        special.index(token) if token in special else int(token[1:]) + 4
        for token in record.tokens
    ]
    len_a = input_ids.index(3) + 1
    return input_ids, [0] * len_a + [1] * (len(input_ids) - len_a)


def test_a_segment_or_position_that_is_one_of_many_counts(tmp_path: Path) -> None:
    """The same words elsewhere, or as text_b, give other vectors."""
    extractor = FeatureExtractor(options_for(write_random_model(tmp_path), layers="-1"))
    alone, first, second = (
        record.layers[0] for record in extractor.extract(["w1", "w1 w1", "w1 ||| w1"])
    )
    assert not np.allclose(first[1], first[2], atol=1e-3)
    assert not np.allclose(second[1], second[3], atol=1e-3)
    assert not np.allclose(alone[1], first[1], atol=1e-3)
