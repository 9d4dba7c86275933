"""The Python API: the command line is a thin shell over it."""

import dataclasses
import gc
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_extract import (
    BertExtractError,
    FeatureExtractor,
    NotFiniteError,
    Options,
    OptionsError,
    Record,
    cli,
    read_features,
)
from bert_extract.options import Job
from support.make_checkpoints import read_tf1_checkpoint, write_tf1_checkpoint
from support.running import (
    REPOSITORY,
    TIMEOUT,
    files_of,
    flags_for,
    options_for,
    real_lines,
    write_random_model,
)


@pytest.fixture(scope="module")
def extractor(tiny_bert: Path) -> FeatureExtractor:
    return FeatureExtractor(options_for(tiny_bert, layers="-1,embeddings"))


@pytest.fixture
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    wait_for_threads(before)


def wait_for_threads(before: set[threading.Thread]) -> None:
    """Waits until those started since then have ended."""
    deadline = time.monotonic() + 20
    while not set(threading.enumerate()) <= before:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_record_has_tokens_and_a_matrix_for_each_layer(
    extractor: FeatureExtractor,
) -> None:
    first, second = extractor.extract(["the river bank", "the bank ||| the river\n"])
    assert first.linex_index == 0
    assert first.tokens == ("[CLS]", "the", "river", "bank", "[SEP]")
    assert first.indexes == (-1, "embeddings")
    for layer in first.layers:
        assert layer.dtype == np.float32
        assert layer.shape == (5, 32)
        assert layer.flags.c_contiguous
    assert second.linex_index == 1
    assert second.tokens == (
        *("[CLS]", "the", "bank", "[SEP]", "the", "river", "[SEP]"),
    )


def test_options_can_be_given_by_name(tiny_bert: Path) -> None:
    named = FeatureExtractor(**files_of(tiny_bert), layers="0", max_seq_length=16)
    assert named.options == Options(
        **files_of(tiny_bert), layers="0", max_seq_length=16
    )
    with pytest.raises(TypeError, match="both options and layers are given"):
        FeatureExtractor(named.options, layers="1")
    with pytest.raises(TypeError):
        FeatureExtractor(**files_of(tiny_bert), layer="0")


def test_a_model_is_named_by_its_folder(
    tiny_bert: Path, extractor: FeatureExtractor
) -> None:
    options = {"layers": [-1, "embeddings"], "max_seq_length": 32}
    named = FeatureExtractor.from_model_dir(tiny_bert, **options)
    assert named.options.init_checkpoint == ""
    lines = ["the river bank", "the bank ||| the river"]
    assert list(named.extract(lines)) == list(extractor.extract(lines))
    with pytest.raises(OptionsError, match="batch_size must be at least 1"):
        FeatureExtractor.from_model_dir(tiny_bert, batch_size=0)


def test_an_option_that_cannot_work_is_said_at_once(tiny_bert: Path) -> None:
    with pytest.raises(OptionsError, match="--batch_size must be at least 1; found 0"):
        FeatureExtractor(**files_of(tiny_bert), max_seq_length=32, batch_size=0)
    with pytest.raises(OptionsError, match="--vocab_file must be given"):
        FeatureExtractor()


@pytest.mark.parametrize("lines", ["the river bank", b"the river", 3, None])
def test_one_text_is_not_taken_for_many(
    extractor: FeatureExtractor, lines: Any
) -> None:
    with pytest.raises(OptionsError, match=r"as in extract\(\[text\]\); found ") as e:
        extractor.extract(lines)  # at once, not when the first record is asked for
    assert isinstance(e.value, TypeError)


@pytest.mark.parametrize(
    "line", [None, b"bytes", 3, ["the"], ["a", "b"], ("a",), ("a", None), (1, "b")]
)
def test_a_text_that_is_none_is_named(extractor: FeatureExtractor, line: Any) -> None:
    records = extractor.extract(["the river", "the bank", line, "the"])
    message = re.escape(f"that of index 2 is {line!r} ({type(line).__name__})")
    with pytest.raises(OptionsError, match=message):
        list(records)


@pytest.mark.parametrize("options", ["model", {"layers": "-1"}, Job()])
def test_what_is_no_options_is_named(options: Any) -> None:
    with pytest.raises(
        OptionsError, match=r"as in FeatureExtractor\(model_dir=...\); f"
    ):
        FeatureExtractor(options)


def test_lists_paths_and_numpys_numbers_are_options(tiny_bert: Path) -> None:
    extractor = FeatureExtractor(
        model_dir=tiny_bert, layers=[-1, 0], max_seq_length=np.int32(16)
    )
    (record,) = extractor.extract(np.array(["the river"]))
    assert record.indexes == (-1, 0)


def test_records_are_equal_if_their_bits_are(extractor: FeatureExtractor) -> None:
    lines = ["the river bank", "the bank ||| the river"]
    first, again = list(extractor.extract(lines)), list(extractor.extract(lines))
    assert first == again
    assert (first[0] == again[0]) is True
    assert (first[0] == first[1]) is False
    assert first[0] != "a record"
    vectors = first[0].layers[0].copy()
    vectors[2, 3] = np.nextafter(vectors[2, 3], np.float32(9), dtype=np.float32)
    changed = dataclasses.replace(first[0], layers=(vectors, first[0].layers[1]))
    assert changed != first[0]
    assert dataclasses.replace(first[0], layers=first[0].layers[:1]) != first[0]
    assert dataclasses.replace(first[0], texts=("a",) * 5) != first[0]
    zero, nan = (Record(0, (), (-1,), (np.full((1, 1), x, "f4"),)) for x in (0, np.nan))
    minus = dataclasses.replace(zero, layers=(-zero.layers[0],))
    assert nan == dataclasses.replace(nan)
    assert zero != minus


def test_bars_are_text_without_pairs(tiny_bert: Path, tmp_path: Path) -> None:
    text = "the bank ||| the river"
    alone = FeatureExtractor(options_for(tiny_bert, layers="-1", pairs=False))
    (record,) = alone.extract([text])
    words = ("the", "bank", "|", "|", "|", "the", "river")
    assert record.tokens == ("[CLS]", *words, "[SEP]")
    (tmp_path / "in.txt").write_text(text + "\n")
    output_file = tmp_path / "out.jsonl"
    summary = alone.extract_file(str(tmp_path / "in.txt"), str(output_file))
    # Bars that are text are no slip to warn of.
    assert (summary.num_pairs, summary.num_unsplit) == (0, 0)
    (from_file,) = read_features(output_file)
    assert from_file.tokens == record.tokens


def test_a_records_repr_is_a_line_that_a_person_reads(
    extractor: FeatureExtractor,
) -> None:
    short, long = extractor.extract(["the river bank", "the bank " * 20])
    assert repr(short) == (
        "<Record 0: layers=-1,embeddings shape=(2, 5, 32) "
        "tokens=[CLS] the river bank [SEP]>"
    )
    words = " ".join(["the", "bank"] * 8)[: -len(" bank")]
    assert repr(long) == (
        "<Record 1: layers=-1,embeddings shape=(2, 32, 32) "
        f"tokens=[CLS] {words} .. [SEP]>"
    )
    odd = Record(2, ("x" * 50, "\n\x1b[1m"), (-1,), (np.zeros((2, 3), np.float32),))
    assert repr(odd) == (
        f"<Record 2: layers=-1 shape=(1, 2, 3) tokens={'x' * 40}.. \\n\\x1b[1m>"
    )
    assert repr(Record(3, (), (), ())) == "<Record 3: layers= shape=(0,) tokens=>"


# ------------------------------------------------------------------------------ pairs

PAIRS = [
    ("the river", "the bank"),
    ("  the river\t", "the  bank \n"),
    ("the\r river ", " the\rbank\r"),
    ("\r\u3000the river", "the bank"),
    ("the river \x85", "\x1c the bank \x85"),
    ("Caf\u00e9 e\u0301\u6cb3", "\U0001f33b bank"),
    ("the " * 40, "bank " * 40),
]


@pytest.mark.parametrize("unit", ["wordpiece", "word", "sentence"])
def test_a_tuple_is_the_line_with_bars_between(tiny_bert: Path, unit: str) -> None:
    options = options_for(tiny_bert, unit=unit, offsets=True, layers="-1")
    extractor = FeatureExtractor(options)
    lines = [f"{text_a} ||| {text_b}" for text_a, text_b in PAIRS]
    records = list(extractor.extract(PAIRS))
    assert records == list(extractor.extract(lines))
    assert all("[SEP]" in record.tokens[:-1] for record in records) == (
        unit == "wordpiece"
    )
    for line, record in zip(lines, records, strict=True):
        assert record.offsets is not None
        if unit == "word":  # what the offsets say is what stands there
            spans = [span for span in record.offsets if span is not None]
            found = [line[start:end].replace("\r", "") for start, end in spans]
            assert found == list(record.tokens)


def test_a_pair_may_hold_the_bars_and_empty_texts(extractor: FeatureExtractor) -> None:
    bars = ("|", "|", "|")
    pairs = [
        ("the ||| river", "the bank"),
        ("the river", "the ||| bank"),
        ("", "the bank"),
        (" \r", "the bank"),
        ("the river", ""),
        ("", ""),
    ]
    assert [record.tokens[1:-1] for record in extractor.extract(pairs)] == [
        ("the", *bars, "river", "[SEP]", "the", "bank"),
        ("the", "river", "[SEP]", "the", *bars, "bank"),
        ("[SEP]", "the", "bank"),
        ("[SEP]", "the", "bank"),
        ("the", "river"),
        (),
    ]


def test_a_tuple_is_a_pair_where_no_line_is_one(tiny_bert: Path) -> None:
    extractor = FeatureExtractor(options_for(tiny_bert, pairs=False, layers="-1"))
    line, pair = extractor.extract(["the ||| bank", ("the", "bank")])
    assert line.tokens == ("[CLS]", "the", "|", "|", "|", "bank", "[SEP]")
    assert pair.tokens == ("[CLS]", "the", "[SEP]", "bank", "[SEP]")


def test_nothing_gives_nothing(extractor: FeatureExtractor) -> None:
    assert list(extractor.extract([])) == []


@pytest.mark.usefixtures("no_thread_is_left")
def test_extract_is_lazy(extractor: FeatureExtractor) -> None:
    num_taken = 0

    def endless() -> Iterator[str]:
        nonlocal num_taken
        while True:
            num_taken += 1
            yield "the river bank is wet"

    records = extractor.extract(endless())
    assert num_taken == 0
    for index in range(100):
        assert next(records).linex_index == index
    # Three stretches of 32,768 tokens, seven tokens a line, a chunk of lines, and those
    # that are waited for.
    assert num_taken < 3 * (32768 // 7 + 8) + 512 + 8 + 256
    del records  # and its threads end


@pytest.mark.usefixtures("no_thread_is_left")
def test_lines_may_be_made_of_the_records_before(extractor: FeatureExtractor) -> None:
    found: list[Record] = []

    def answers() -> Iterator[str]:
        for number in range(3):
            while len(found) < number:
                time.sleep(0.01)
            yield "the bank is" + " river" * number

    for record in extractor.extract(answers()):
        found.append(record)
    assert [record.tokens.count("river") for record in found] == [0, 1, 2]


@pytest.mark.parametrize("is_sized", [True, False])
def test_a_slow_source_is_left_alone_when_nobody_takes_records(
    extractor: FeatureExtractor, is_sized: bool
) -> None:
    class Slow:
        def __init__(self) -> None:
            self.num_taken = 0

        def __iter__(self) -> Iterator[str]:
            # Many at once, so that there is a record, and then one now and then.
            while True:
                self.num_taken += 1
                yield "the river bank is wet"
                if self.num_taken > 10_000:
                    time.sleep(0.01)

    class SlowAndSized(Slow):
        def __len__(self) -> int:
            return 1 << 40

    slow = SlowAndSized() if is_sized else Slow()
    before = set(threading.enumerate())
    for _ in extractor.extract(slow):
        break
    num_taken = slow.num_taken
    wait_for_threads(before)
    # One that was on its way may still come.
    assert slow.num_taken <= num_taken + 1


@pytest.mark.usefixtures("no_thread_is_left")
def test_a_closed_extractor_lets_go_and_loses_no_record_in_silence(
    tiny_bert: Path,
) -> None:
    with FeatureExtractor(options_for(tiny_bert, layers="-1")) as extractor:
        done = list(extractor.extract(["the river"]))
        begun = extractor.extract(["the river bank"] * 50_000)
        next(begun)  # its threads are at work, and end though it is kept
        untouched = extractor.extract(["the river"])
        engine = weakref.ref(extractor._engine)
    assert len(done) == 1
    is_closed = "this FeatureExtractor is closed"
    with pytest.raises(BertExtractError, match=is_closed):
        next(begun)
    with pytest.raises(BertExtractError, match=is_closed):
        next(untouched)
    with pytest.raises(BertExtractError, match=is_closed):
        extractor.extract(["the river"])
    with pytest.raises(BertExtractError, match=is_closed):
        extractor.extract_file("in.txt", "out.jsonl")
    extractor.close()  # once more does nothing
    deadline = time.monotonic() + 20
    while engine() is not None:  # a thread may be inside its last batch
        assert time.monotonic() < deadline
        gc.collect()


@pytest.mark.usefixtures("no_thread_is_left")
def test_closing_ends_what_another_thread_waits_for(tiny_bert: Path) -> None:
    extractor = FeatureExtractor(options_for(tiny_bert, layers="-1"))
    said: list[str] = []
    is_begun = threading.Event()

    def take() -> None:
        try:
            for _ in extractor.extract(itertools.repeat("the river")):
                is_begun.set()
        except BertExtractError as error:
            said.append(str(error))

    thread = threading.Thread(target=take)
    thread.start()
    assert is_begun.wait(20)
    extractor.close()
    thread.join(20)
    assert not thread.is_alive()
    assert len(said) == 1
    assert "is closed" in said[0]


@pytest.mark.usefixtures("no_thread_is_left")
def test_an_error_of_the_lines_comes_through(extractor: FeatureExtractor) -> None:
    def broken() -> Iterator[str]:
        yield "the river"
        raise RuntimeError("the generator's own")

    with pytest.raises(RuntimeError, match="the generator's own"):
        list(extractor.extract(broken()))


def test_extractors_live_side_by_side(tiny_bert: Path) -> None:
    lines = ["the river bank", "", "who was jim henson ?"] * 50
    extractors = [
        FeatureExtractor(options_for(tiny_bert, num_threads=number, layers="0"))
        for number in (1, 4)
    ]
    together = zip(*(e.extract(lines) for e in extractors), strict=True)
    for one, other in together:
        assert one.tokens == other.tokens
        np.testing.assert_array_equal(one.layers[0], other.layers[0])


def test_a_vector_that_is_not_finite_raises(tiny_bert: Path, tmp_path: Path) -> None:
    weights = read_tf1_checkpoint(tiny_bert / "bert_model.ckpt")
    broken = np.array(weights["bert/embeddings/LayerNorm/beta"])
    broken[0] = np.inf
    weights["bert/embeddings/LayerNorm/beta"] = broken
    write_tf1_checkpoint(tmp_path / "broken.ckpt", weights)
    options = options_for(tiny_bert, init_checkpoint=str(tmp_path / "broken.ckpt"))
    with pytest.raises(NotFiniteError, match=r"linex_index 0, token 0 \('\[CLS\]'\)"):
        next(FeatureExtractor(options).extract(["the river"]))


def test_files_hold_what_extract_gives(
    extractor: FeatureExtractor, golden_dir: Path, tmp_path: Path
) -> None:
    output_file = tmp_path / "output.jsonl.gz"
    input_file = golden_dir / "input.txt"
    summary = extractor.extract_file(str(input_file), str(output_file))
    assert (summary.num_lines, summary.num_pairs) == (37, 6)
    assert (summary.num_truncated, summary.num_unsplit) == (4, 6)
    assert summary.num_tokens == 487
    assert summary.output_bytes == output_file.stat().st_size
    lines = input_file.read_bytes().decode().split("\n")
    records = list(extractor.extract(lines))
    for kept, record in zip(read_features(str(output_file)), records, strict=True):
        assert kept.linex_index == record.linex_index
        assert kept.tokens == record.tokens
        assert kept.indexes == record.indexes
        for kept_layer, layer in zip(kept.layers, record.layers, strict=True):
            np.testing.assert_allclose(kept_layer, layer, rtol=0, atol=6e-7)
    assert sum(len(record.tokens) for record in records) == summary.num_tokens


def test_the_command_writes_the_same_bytes(
    extractor: FeatureExtractor, golden_dir: Path, tmp_path: Path, tiny_bert: Path
) -> None:
    input_file = golden_dir / "input.txt"
    extractor.extract_file(str(input_file), str(tmp_path / "api.jsonl"))
    flags = flags_for(
        tiny_bert,
        layers="-1,embeddings",
        input_file=input_file,
        output_file=tmp_path / "command.jsonl",
        verbosity=-1,
    )
    assert cli.main(["bert-extract", *flags]) == 0
    command = (tmp_path / "command.jsonl").read_bytes()
    assert (tmp_path / "api.jsonl").read_bytes() == command


@pytest.mark.parametrize(
    "fields",
    [
        {"layers": "embeddings,-1"},
        {"unit": "word", "long_text": "window", "max_seq_length": 16, "layers": -1},
    ],
)
def test_threads_tuples_and_the_command_give_the_same_bits(
    minilm_dir: Path, golden_dir: Path, tmp_path: Path, fields: dict[str, Any]
) -> None:
    text = (golden_dir / "input.txt").read_text("utf-8").split("\n")[:-1] + real_lines()
    assert len(text) > 230
    input_file, output_file = tmp_path / "in.txt", tmp_path / "out.h5"
    input_file.write_bytes("".join(f"{line}\n" for line in text).encode())
    options: dict[str, Any] = {"model_dir": minilm_dir, "offsets": True, **fields}
    flags = {"input_file": input_file, "output_file": output_file, "verbosity": -1}
    arguments = [f"--{name}={value}" for name, value in {**options, **flags}.items()]
    assert cli.main(["bert-extract", *arguments]) == 0
    written = list(read_features(output_file))
    assert len(written) == len(text)

    def split(line: str) -> str | tuple[str, str]:
        text_a, bars, text_b = line.strip().rpartition(" ||| ")
        return (text_a, text_b) if bars else line

    with FeatureExtractor(**options) as extractor, ThreadPoolExecutor(4) as pool:
        assert list(extractor.extract(text)) == written
        # Each thread its own lines, all at the same time.
        shares = [range(number, len(text), 4) for number in range(4)]
        takes = [
            pool.submit(lambda s: [*extractor.extract([text[i] for i in s])], share)
            for share in shares
        ]
        for share, take in zip(shares, takes, strict=True):
            for i, record in zip(share, take.result(), strict=True):
                assert dataclasses.replace(record, linex_index=i) == written[i]
        pairs = [split(line) for line in text]
        assert sum(isinstance(pair, tuple) for pair in pairs) == 7
        for as_tuple, as_line in zip(extractor.extract(pairs), written, strict=True):
            # Offsets are those of the line without the spaces around it.
            plain = dataclasses.replace(as_tuple, offsets=as_line.offsets)
            assert plain == as_line


def test_a_job_can_have_an_output_for_each_input(
    extractor: FeatureExtractor, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("the river\nthe bank\n")
    (tmp_path / "b.txt").write_text("the bank\n")
    job = Job(input_file=f"{tmp_path}/*.txt", output_dir=str(tmp_path))
    summaries = extractor.run_job(job)
    assert [summary.num_lines for summary in summaries] == [2, 1]
    (record,) = read_features(str(tmp_path / "b.jsonl"))
    assert record.linex_index == 0


@pytest.mark.parametrize(
    ("layers", "num_variables"),
    [("embeddings", 5), ("0", 21), ("-2", 21), ("0,embeddings,0", 21), ("all", 37)],
)
def test_layers_above_the_highest_are_not_loaded(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    layers: str,
    num_variables: int,
) -> None:
    from absl import logging

    logging.set_verbosity(logging.DEBUG)
    model_dir = write_random_model(tmp_path)
    extractor = FeatureExtractor(options_for(model_dir, layers=layers))
    assert f"{num_variables} variables loaded" in caplog.text
    (record,) = extractor.extract(["w1 w2"])
    assert len(record.layers) == len(record.indexes)
    if layers == "0,embeddings,0":
        assert record.layers[0] is record.layers[2]  # computed and copied once


def test_a_line_may_have_a_million_characters(extractor: FeatureExtractor) -> None:
    (record,) = extractor.extract(["river " * 200_000])
    assert record.tokens == ("[CLS]", *["river"] * 30, "[SEP]")


def test_the_longest_line_of_the_model(tiny_bert: Path) -> None:
    options = options_for(tiny_bert, max_seq_length=64, layers="4")
    (record,) = FeatureExtractor(options).extract(["river " * 100])
    assert record.layers[0].shape == (64, 32)


def test_every_length_up_to_the_longest(tmp_path: Path) -> None:
    """Also where padding would go over the model's last position."""
    model_dir = write_random_model(tmp_path, max_position_embeddings=131)
    options = options_for(model_dir, max_seq_length=131, layers="0")
    lines = ["w1 " * number for number in range(131)]
    for number, record in enumerate(FeatureExtractor(options).extract(lines)):
        assert len(record.tokens) == min(number + 2, 131)
        assert np.isfinite(record.layers[0]).all()


# ------------------------------------------------------------------ forked processes


def said_in_a_fork(act: Callable[[], object]) -> str:
    """What the error says that something raises in a child; a child that hangs dies."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # there are threads: yes
        process_id = os.fork()
    if process_id == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)  # seconds
        try:
            act()
        except BertExtractError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as pipe:
        said = pipe.read()
    _, status = os.waitpid(process_id, 0)
    assert status == 0
    return said


@pytest.mark.parametrize("case", ["used", "made anew", "gone on with", "job"])
def test_a_forked_process_is_told_to_make_its_own(
    extractor: FeatureExtractor, tiny_bert: Path, tmp_path: Path, case: str
) -> None:
    text = tmp_path / "in.txt"
    text.write_text("the river\n")
    begun = extractor.extract(["the river bank"] * 50_000)
    next(begun)  # its threads are at work
    act: dict[str, Callable[[], object]] = {
        "used": lambda: list(extractor.extract(["the river"])),
        # TensorFlow's threads are the parent's whoever makes it.
        "made anew": lambda: FeatureExtractor(options_for(tiny_bert)),
        "gone on with": lambda: list(begun),
        "job": lambda: extractor.extract_file(str(text), str(tmp_path / "out.jsonl")),
    }
    said = said_in_a_fork(act[case])
    assert f"was forked from process {os.getpid()} after a FeatureExtractor" in said
    assert "Make the extractor in the child" in said
    assert os.listdir(tmp_path) == ["in.txt"]
    assert len(next(begun).tokens) == 5  # the parent's goes on
    begun.close()  # type: ignore[attr-defined]


def test_nothing_is_said_while_it_is_imported_but_what_others_say(
    tiny_bert: Path,
) -> None:
    code = f"""
import os, sys, threading
threading.Timer(0.2, os.write, (2, b"another thread, I think\\n")).start()
from bert_extract import FeatureExtractor
extractor = FeatureExtractor.from_model_dir({str(tiny_bert)!r}, max_seq_length=32)
print(len([*extractor.extract(["a"])]))
print("afterwards", file=sys.stderr)
"""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("TF_CPP_")  # an earlier test may have set it here
    }
    completed = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=True,
    )
    assert completed.stdout == "1\n"
    assert completed.stderr == "another thread, I think\nafterwards\n"
