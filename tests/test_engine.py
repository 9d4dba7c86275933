"""The loop: what is checked before it, counted in it, and never done twice."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from absl import logging

from bert_extract import FeatureExtractor, Record, engine
from bert_extract.engine import Engine
from bert_extract.errors import InputError, OptionsError
from bert_extract.model import arithmetic, devices
from bert_extract.model.devices import Device
from bert_extract.progress import Summary
from bert_extract.text.examples import Example
from support.running import options_for, write_random_model


def unchanged(records: Sequence[Record]) -> Sequence[Record]:
    return records


def run(tiny: Engine, lines: Sequence[str], summary: Summary) -> list[Record]:
    examples = [Example(number, line, None) for number, line in enumerate(lines)]
    groups = tiny.run(examples, unchanged, summary)
    return [record for group in groups for record in group.encoded]


@pytest.fixture(scope="module")
def tiny(tiny_bert: Path) -> Engine:
    tiny = Engine(options_for(tiny_bert, layers="-1"))
    tiny.load()
    return tiny


def test_counts_go_up_as_groups_are_given(tiny: Engine) -> None:
    summary = Summary()
    examples = [Example(i, "the river", "the bank" * (i % 2)) for i in range(20)]
    counts = []
    for group in tiny.run(examples, unchanged, summary):
        assert len(group.lines) == len(group.encoded)
        counts.append((summary.num_lines, summary.num_pairs, group.ends_window))
    # Every other text_b is empty: no pair, as the original counts.
    assert counts == [(8, 4, False), (16, 8, False), (20, 10, True)]
    assert summary.num_tokens == 10 * 4 + 10 * 7
    assert summary.num_slots >= summary.num_tokens


def test_truncated_and_unsplit_lines_are_counted(tiny: Engine) -> None:
    summary = Summary()
    run(tiny, ["river " * 31, "river " * 30, "a |||b", "a || b"], summary)
    assert (summary.num_truncated, summary.num_unsplit) == (1, 1)


def test_what_was_read_before_an_error_is_given(tiny: Engine) -> None:
    def broken() -> Iterator[Example]:
        for number in range(20):
            yield Example(number, "the river", None)
        raise InputError("line 21 is not UTF-8")

    seen: list[int] = []
    groups = tiny.run(broken(), unchanged, Summary())
    with pytest.raises(InputError, match="line 21"):
        seen.extend(record.linex_index for group in groups for record in group.encoded)
    assert seen == [*range(16)]  # whole groups


def test_the_graph_is_traced_once(
    tiny: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more(*arguments: object) -> None:
        pytest.fail("the model was traced again")

    monkeypatch.setattr("bert_extract.model.modeling.BertModel.__call__", no_more)
    lines = ["river " * number for number in range(30)] * 3
    assert len(run(tiny, lines, Summary())) == 90


def test_load_does_its_work_once(tiny: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(*arguments: object) -> None:
        pytest.fail("the weights were read again")

    monkeypatch.setattr(engine, "load_weights", no_more)
    tiny.load()


def test_a_layer_asked_for_twice_is_computed_once(tiny_bert: Path) -> None:
    # -1 and 4 are the same layer of five.
    twice = Engine(options_for(tiny_bert, layers="-1,4,embeddings,-1"))
    twice.load()
    (record,) = run(twice, ["the river"], Summary())
    assert record.indexes == (-1, 4, "embeddings", -1)
    assert record.layers[0] is record.layers[1] is record.layers[3]
    assert not np.array_equal(record.layers[0], record.layers[2])


def test_windows_hold_so_much_and_no_more(tmp_path: Path, tiny: Engine) -> None:
    assert tiny._window_tokens() == 32768
    wide = write_random_model(tmp_path, hidden_size=768, num_attention_heads=12)
    of_two_layers = Engine(options_for(wide, layers="all"))
    assert of_two_layers._window_tokens() == 32768
    of_many = Engine(options_for(wide, layers="all,embeddings"))
    of_many.config = of_many.config.__class__(
        **{**of_many.config.__dict__, "hidden_size": 76_800}
    )
    assert of_many._window_tokens() == 4096


def test_a_model_without_segments_takes_single_texts(tmp_path: Path) -> None:
    model_dir = write_random_model(tmp_path, type_vocab_size=1)
    single = Engine(options_for(model_dir, layers="-1"))
    single.load()
    assert len(run(single, ["w1 w2", ""], Summary())) == 2
    # A text_b without a wordpiece is none.
    examples = [Example(i, "w1", "" if i < 9 else "w2") for i in range(20)]
    seen: list[int] = []
    groups = single.run(examples, unchanged, Summary())
    with pytest.raises(InputError) as caught:
        seen.extend(record.linex_index for group in groups for record in group.encoded)
    assert str(caught.value) == (
        f"the line with linex_index 9 is a pair, and {model_dir}/bert_config.json says "
        "type_vocab_size 1: the model knows single texts only; put the two texts on "
        "lines of their own, or say --pairs=false if it is one"
    )
    assert seen == [*range(8)]  # whole groups


# ------------------------------------------------------------------ vocab and model


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
    engine = Engine(options_for(model_dir, layers="0"))
    assert log.text.count("WARNING") == 0
    engine.load()
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
    Engine(options_for(model_dir, layers="0")).load()
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
    Engine(options_for(model_dir, layers="0", do_lower_case=do_lower_case)).load()
    assert ("--do_lower_case=" in log.text) is bool(way_out)
    assert way_out in log.text
    assert log.text.count(f"{model_dir}/vocab.txt: ") <= 2  # not named twice a line


# -------------------------------------------------------------------------- devices


def test_float32_means_float32(tiny: Engine) -> None:
    assert not tf.config.experimental.tensor_float_32_execution_enabled()
    assert tf.config.threading.get_intra_op_parallelism_threads() == 1


def test_some_cores_can_be_used() -> None:
    assert 1 <= devices.usable_cores() <= 4096


@pytest.mark.parametrize(
    ("precision", "has_bfloat16", "message"),
    [
        ("float32", False, ""),
        ("bfloat16", True, ""),
        ("bfloat16", False, "this CPU has no instructions for it"),
        ("float16", True, "use --precision=bfloat16"),
        ("float16", False, "use --precision=float32"),
    ],
)
def test_an_arithmetic_that_the_cpu_lacks_is_refused(
    monkeypatch: pytest.MonkeyPatch, precision: str, has_bfloat16: bool, message: str
) -> None:
    monkeypatch.setattr(arithmetic, "has_bfloat16", lambda: has_bfloat16)
    cpu = [Device("/CPU:0", "CPU", "CPU, 2 threads")]
    if not message:
        devices.check_precision(precision, cpu)
        return
    with pytest.raises(OptionsError, match=f"--precision={precision}: .*{message}"):
        devices.check_precision(precision, cpu)
