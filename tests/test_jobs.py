"""Many files, shards, overlapping runs, and what is told of a job."""

import dataclasses
import gzip
import hashlib
import importlib.metadata
import json
import os
import select
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
import pytest
from absl import logging

from bert_extract import (
    FeatureExtractor,
    InputError,
    Job,
    Options,
    OptionsError,
    OutputError,
    __version__,
    jobs,
    load_features,
    read_features,
)
from bert_extract.engine import Engine
from bert_extract.formats import JSONL
from bert_extract.inputs import batching
from bert_extract.jobs import run_job
from bert_extract.loaded_model import OpenedModel
from bert_extract.options import outputs_in
from bert_extract.output.limits import _LIMITS
from bert_extract.output.record import RecordSchema
from bert_extract.output.writers import OutputSpec, open_writer
from bert_extract.progress import Summary
from support.job_runs import TIME_LIMIT, Command, sha256, summary_of, write_input
from support.running import options_for


@pytest.fixture(scope="module")
def options(tiny_bert: Path) -> Options:
    return options_for(tiny_bert, layers="-1")


@pytest.fixture(scope="module")
def model(options: Options) -> OpenedModel:
    return OpenedModel(options)


def linex_indexes(path: Path) -> list[int]:
    return [json.loads(line)["linex_index"] for line in path.read_bytes().splitlines()]


def written(path: Path) -> tuple[int, int]:
    """Which file it is, and of when; it may have been looked at."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


# ------------------------------------------------------------------- many files


def run_dir(model: OpenedModel, folder: Path, **fields: Any) -> list[Summary]:
    summaries: list[Summary] = []
    job = Job(input_file=f"{folder}/in/*", output_dir=str(folder / "out"), **fields)
    run_job(model, job, summaries)
    return summaries


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two good inputs and a bad one between them."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_bytes(b"one\ntwo\n")
    (tmp_path / "in" / "b.txt").write_bytes(b"one\n\xff\n")
    (tmp_path / "in" / "c.txt.gz").write_bytes(gzip.compress(b"one\ntwo\nthree\n"))
    return tmp_path


def test_an_output_for_each_input() -> None:
    inputs = ["x/a.txt", "x/b.txt.gz", "c.gz", "d.tsv", "e", "f.txt.zst"]
    assert outputs_in("out/", inputs) == [
        *("out/a.jsonl", "out/b.jsonl", "out/c.jsonl", "out/d.tsv.jsonl"),
        *("out/e.jsonl", "out/f.jsonl"),
    ]


@pytest.mark.parametrize("inputs", [["x/a.txt", "y/a.txt"], ["a.txt", "a.txt.gz"]])
def test_two_inputs_with_one_name_are_refused(inputs: list[str]) -> None:
    both = f"{inputs[0]} and {inputs[1]} would both be written to out/a.jsonl"
    with pytest.raises(OptionsError, match=both):
        outputs_in("out", inputs)


def test_the_files_of_the_model_are_summed_once_a_job(
    model: OpenedModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summed = []

    def noted(path: str) -> str:
        summed.append(os.path.basename(path))
        return path

    monkeypatch.setattr(jobs, "_sha256", noted)
    summaries = run_dir(model, folder)
    assert summed == ["vocab.txt", "bert_config.json"]
    assert len({summary.fingerprint["vocab_sha256"] for summary in summaries}) == 1


def test_a_bad_file_does_not_stop_the_others(model: OpenedModel, folder: Path) -> None:
    summaries = run_dir(model, folder)
    assert [summary.num_lines for summary in summaries] == [2, 0, 3]
    errors = [summary.error for summary in summaries]
    assert errors[0] is errors[2] is None
    assert errors[1] is not None
    assert "b.txt: line 2 is not UTF-8" in errors[1]
    assert linex_indexes(folder / "out" / "a.jsonl") == [0, 1]
    assert linex_indexes(folder / "out" / "c.jsonl") == [0, 1, 2]
    whole = ["a.jsonl", "a.jsonl.run.json", "c.jsonl", "c.jsonl.run.json"]
    assert names(folder / "out") == whole


def test_resume_skips_what_is_complete(model: OpenedModel, folder: Path) -> None:
    run_dir(model, folder)
    before = written(folder / "out" / "a.jsonl")
    (folder / "in" / "b.txt").write_bytes(b"one\ntwo\n")
    summaries = run_dir(model, folder, resume=True)
    assert [summary.resumed_lines for summary in summaries] == [2, 0, 3]
    assert [summary.num_lines for summary in summaries] == [0, 2, 0]
    assert written(folder / "out" / "a.jsonl") == before


def test_a_text_that_changed_is_done_anew(model: OpenedModel, folder: Path) -> None:
    (folder / "in" / "b.txt").unlink()
    run_dir(model, folder)
    a, out = folder / "in" / "a.txt", folder / "out" / "a.jsonl"
    of_c, old = written(folder / "out" / "c.jsonl"), out.read_bytes()
    # Until the new output is complete, the old one stays.
    a.write_bytes(b"one\ntwo\nthree\n\xff\n")
    first, second = run_dir(model, folder, resume=True)
    assert first.error is not None
    assert "a.txt: line 4 is not UTF-8" in first.error
    assert out.read_bytes() == old
    a.write_bytes(b"two\nthree\none\nfour\n")  # what was begun is of another text
    first, second = run_dir(model, folder, resume=True)
    assert (first.resumed_lines, first.num_lines, first.error) == (0, 4, None)
    assert linex_indexes(out) == [0, 1, 2, 3]
    assert load_features(str(out))[2].tokens[1] == "one"
    assert (second.resumed_lines, second.num_lines) == (3, 0)
    # Another time is no other text.
    new = written(out)
    for name in ("a.txt", "c.txt.gz"):
        os.utime(folder / "in" / name, ns=(1, 1))
    done = run_dir(model, folder, resume=True)
    assert [(s.resumed_lines, s.num_lines) for s in done] == [(4, 0), (3, 0)]
    assert [written(out), written(folder / "out" / "c.jsonl")] == [new, of_c]
    assert names(folder / "out") == [
        *("a.jsonl", "a.jsonl.run.json", "c.jsonl", "c.jsonl.run.json")
    ]


def test_what_was_not_made_of_the_old_text_is_not_replaced_by_the_new_ones(
    model: OpenedModel, folder: Path
) -> None:
    (folder / "in" / "b.txt").unlink()
    run_dir(model, folder)
    a, out = folder / "in" / "a.txt", folder / "out" / "a.jsonl"
    a.write_bytes(b"one\ntwo\nthree\n")
    # Other flags: what is there was asked for by somebody else.
    first, _ = run_dir(model, folder, resume=True, errors="ignore")
    assert first.error is not None
    assert "\n  --errors was strict, and is now ignore\n" in first.error
    assert "made by a different run:\n  --errors was strict" in first.error
    # A record was taken out by hand.
    edited = out.read_bytes().splitlines(keepends=True)[0]
    out.write_bytes(edited)
    first, second = run_dir(model, folder, resume=True)
    assert first.error is not None
    assert f"made by a different run:\n  the input {a} had 8 bytes and " in first.error
    assert out.read_bytes() == edited
    assert second.error is None


def test_the_folder_is_made_with_its_parents(
    model: OpenedModel, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\n")
    made = tmp_path / "x" / "y"
    job = Job(input_file=str(tmp_path / "a.txt"), output_dir=str(made))
    run_job(model, job, [])
    assert names(made) == ["a.jsonl", "a.jsonl.run.json"]
    job = Job(input_file=str(tmp_path / "a.txt"), output_dir=str(made / "a.jsonl"))
    with pytest.raises(OutputError, match="cannot make this folder"):
        run_job(model, job, [])


def test_the_command_lists_what_failed(tiny_bert: Path, folder: Path) -> None:
    summary_file = folder / "summary.json"
    completed = Command(tiny_bert).run(
        input_file=f"{folder}/in/*",
        output_dir=folder / "out",
        summary_file=summary_file,
    )
    assert completed.returncode == 1
    assert completed.stderr.endswith(
        f"bert-extract: 1 of 3 outputs failed: {folder}/out/b.jsonl\n"
    )
    story = json.loads(summary_file.read_bytes())
    assert [output["num_lines"] for output in story["outputs"]] == [2, 0, 3]


# ----------------------------------------------------------------------- shards


def test_three_shards_at_once_are_the_single_run(
    tiny_bert: Path, model: OpenedModel, tmp_path: Path
) -> None:
    inputs = [write_input(tmp_path / f"in{i}.txt", 700 + i) for i in range(3)]
    zipped = tmp_path / "zipped.txt.gz"
    zipped.write_bytes(gzip.compress(inputs[0].read_bytes()))
    with open(inputs[1], "ab") as file:
        file.write(b"no newline at the end")
    input_file = ",".join(map(str, [*inputs, zipped]))
    command = Command(tiny_bert)
    outputs = [tmp_path / f"out-{index}.jsonl" for index in range(3)]
    processes = [
        command.start(input_file=input_file, output_file=output, shard=f"{index}/3")
        for index, output in enumerate(outputs)
    ]
    try:
        for process in processes:
            _, stderr = process.communicate(timeout=TIME_LIMIT)
            assert process.returncode == 0, stderr
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.communicate()
    single = tmp_path / "single.jsonl"
    run_job(model, Job(input_file=input_file, output_file=str(single)), [])
    assert sha256(*outputs) == sha256(single)
    assert all(output.stat().st_size for output in outputs)
    assert linex_indexes(single) == list(range(700 + 702 + 702 + 700))


def test_compressed_shards_are_the_single_run_once_decompressed(
    model: OpenedModel, tmp_path: Path
) -> None:
    input_file = str(write_input(tmp_path / "in.txt", 101))
    single = tmp_path / "single.jsonl"
    run_job(model, Job(input_file=input_file, output_file=str(single)), [])
    shards = b""
    for index in range(4):
        output_file = tmp_path / f"{index}.jsonl.gz"
        job = Job(
            input_file=input_file, output_file=str(output_file), shard=f"{index}/4"
        )
        run_job(model, job, [])
        shards += output_file.read_bytes()
    assert gzip.decompress(shards) == single.read_bytes()


def test_a_shard_of_one_compressed_file_is_refused(
    options: Options, tmp_path: Path
) -> None:
    zipped = tmp_path / "in.txt.gz"
    zipped.write_bytes(gzip.compress(b"one\ntwo\nthree\n"))
    model = OpenedModel(options)
    for shard in ("0/2", "1/2"):
        job = Job(
            input_file=str(zipped), output_file=str(tmp_path / "out"), shard=shard
        )
        with pytest.raises(OptionsError, match=f"--shard={shard}: .*in.txt.gz is comp"):
            run_job(model, job, [])
    assert model._loaded is None
    assert names(tmp_path) == ["in.txt.gz"]


def test_an_empty_shard_is_an_empty_file(model: OpenedModel, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_bytes(b"a single line\n")
    for name in ("out.jsonl", "out.jsonl.gz"):
        job = Job(
            input_file=str(tmp_path / "in.txt"),
            output_file=str(tmp_path / name),
            shard="1/2",
        )
        summaries: list[Summary] = []
        run_job(model, job, summaries)
        assert summaries[0].num_lines == 0
        assert not list(tmp_path.glob("*.partial*"))
    assert (tmp_path / "out.jsonl").read_bytes() == b""
    # A file of no bytes is an error to zcat.
    completed = subprocess.run(
        ["gzip", "-dc", tmp_path / "out.jsonl.gz"], capture_output=True, check=True
    )
    assert (completed.stdout, completed.stderr) == (b"", b"")


def test_shards_have_fingerprints_of_their_own(
    model: OpenedModel, tmp_path: Path
) -> None:
    input_file = str(write_input(tmp_path / "in.txt", 10))
    output_file = str(tmp_path / "out.jsonl")
    run_job(model, Job(input_file=input_file, output_file=output_file), [])
    job = Job(input_file=input_file, output_file=output_file, shard="0/2", resume=True)
    with pytest.raises(OutputError, match="\n  --shard was not given, and is now 0/2"):
        run_job(model, job, [])


# ----------------------------------------------------------------------- formats


def test_an_output_dir_of_another_format(model: OpenedModel, folder: Path) -> None:
    run_dir(model, folder, output_format="parquet", vector_dtype="float16")
    assert names(folder / "out") == sorted(
        f"{name}{end}"
        for name in ("a.parquet", "c.parquet")
        for end in ("", ".run.json")
    )
    records = load_features([folder / "out" / f"{name}.parquet" for name in "ac"])
    assert [record.linex_index for record in records] == [0, 1, 0, 1, 2]
    fingerprint = json.loads((folder / "out" / "a.parquet.run.json").read_bytes())
    assert fingerprint["fingerprint"]["vector_dtype"] == "float16"
    summaries = run_dir(
        model, folder, output_format="parquet", vector_dtype="float16", resume=True
    )
    assert [summary.resumed_lines for summary in summaries] == [2, 0, 3]


def test_the_lines_of_a_job_are_in_sentence_to_index(
    model: OpenedModel, tmp_path: Path
) -> None:
    input_file = tmp_path / "in.txt"
    input_file.write_bytes("the\n\n a ||| b\r\nthe\né\n".encode())
    output_file = str(tmp_path / "out.h5")
    run_job(model, Job(input_file=str(input_file), output_file=output_file), [])
    with h5py.File(output_file) as file:
        sentences = json.loads(file["sentence_to_index"][0])
        assert list(sentences) == ["the", "", "a ||| b", "the (Occurrence 2)", "é"]
        assert file["2"].shape == (1, 5, 32)


def test_the_values_of_a_binary_format_are_not_rounded(
    model: OpenedModel, tmp_path: Path
) -> None:
    input_file = write_input(tmp_path / "in.txt", 20)
    values = []
    for name in ("out.jsonl", "out.h5", "out.parquet"):
        output_file = tmp_path / name
        job = Job(input_file=str(input_file), output_file=str(output_file))
        run_job(model, job, [])
        values.append([record.vectors for record in read_features(output_file)])
    for rounded, exact, same in zip(*values, strict=True):
        assert (exact == same).all()
        assert (exact != rounded).any()
        assert (
            np.round(exact.astype(np.float64), 6).astype(np.float32) == rounded
        ).all()


def set_limits(monkeypatch: pytest.MonkeyPatch, **limits: Any) -> None:
    few = dataclasses.replace(_LIMITS["hdf5"], **limits)
    monkeypatch.setitem(_LIMITS, "hdf5", few)


@pytest.mark.parametrize(
    ("texts", "is_known_early"),
    [
        ({"in.txt": b"a\nb\nc\nd\ne"}, True),
        ({"in.txt.gz": b"a\nb\nc\nd\ne"}, False),
        # Neither of them has more bytes than there may be lines.
        ({"in1.txt": b"\n\n\n", "in2.txt": b"\n\n"}, True),
        ({"in1.txt": b"\n\n", "in2.txt.gz": b"\n\n", "in3.txt": b"\n"}, False),
    ],
)
def test_more_lines_than_a_format_takes_are_refused(
    options: Options,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    texts: dict[str, bytes],
    is_known_early: bool,
) -> None:
    set_limits(monkeypatch, max_records=4)
    for name, text in texts.items():
        text = gzip.compress(text) if name.endswith(".gz") else text
        (tmp_path / name).write_bytes(text)
    model = OpenedModel(options)
    job = Job(input_file=f"{tmp_path}/in*", output_file=str(tmp_path / "out.h5"))
    message = r"out\.h5: .*at most 4 lines and .*; write Parquet"
    with pytest.raises(OutputError, match=message):
        run_job(model, job, [])
    # Of plain files it is known before anything is loaded.
    assert (model._loaded is None) is is_known_early
    assert names(tmp_path) == sorted(texts)


def test_few_lines_in_several_files_are_not_refused(
    model: OpenedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_limits(monkeypatch, max_records=4)
    (tmp_path / "in1.txt").write_bytes(b"the river\nbank\n")
    (tmp_path / "in2.txt").write_bytes(b"the end\n\n")
    summaries: list[Summary] = []
    job = Job(input_file=f"{tmp_path}/in*", output_file=str(tmp_path / "out.h5"))
    run_job(model, job, summaries)
    assert summaries[0].num_lines == 4


@pytest.mark.parametrize(
    ("name", "text", "is_known_early"),
    [
        ("in.txt", b"a river" * 43 + b"\n" + b"a river" * 43, True),
        ("in.txt.gz", b"a river" * 43 + b"\n" + b"a river" * 43, False),
        # 96 bytes, of which JSON makes 6 each and 40 more a line.
        ("in.txt", b"\x01" * 95 + b"\n", False),
    ],
)
def test_more_text_than_a_format_takes_is_refused(
    options: Options,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    text: bytes,
    is_known_early: bool,
) -> None:
    set_limits(monkeypatch, max_text_size=599)
    content = gzip.compress(text) if name.endswith(".gz") else text
    (tmp_path / name).write_bytes(content)
    model = OpenedModel(options)
    job = Job(input_file=str(tmp_path / name), output_file=str(tmp_path / "out.h5"))
    message = r"out\.h5: .*at most 1,000,000 lines and 599 bytes of text, as JSON; wri"
    with pytest.raises(OutputError, match=message):
        run_job(model, job, [])
    assert (model._loaded is None) is is_known_early
    assert names(tmp_path) == [name]


def test_text_is_counted_from_the_beginning_when_a_run_goes_on(
    model: OpenedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "_MAX_STRETCH_LINES", 1)
    (tmp_path / "in.txt").write_bytes(b"the river bank\n" * 20)
    output = tmp_path / "out.h5"
    # A line takes 14 + 2 + 40 bytes: 16 of them are whole groups, the rest is not.
    set_limits(monkeypatch, max_text_size=20 * 56 - 1)
    job = Job(input_file=str(tmp_path / "in.txt"), output_file=str(output))
    summaries: list[Summary] = []
    for resume in (False, True):
        job = dataclasses.replace(job, resume=resume)
        message = r"the lines up to linex_index 19 have more than 1,119 bytes"
        with pytest.raises(OutputError, match=message):
            run_job(model, job, summaries)
    first, second = summaries
    assert (first.num_lines, first.resumable_lines) == (20, 16)
    assert (second.resumed_lines, second.resumable_lines) == (16, 16)


# ------------------------------------------------------------- overlap, summaries


def test_a_second_run_is_refused_at_once(
    model: OpenedModel, tmp_path: Path, tiny_bert: Path
) -> None:
    input_file = write_input(tmp_path / "in.txt", 10)
    output_file = tmp_path / "out.jsonl"
    job = Job(input_file=str(input_file), output_file=str(output_file))
    kind = OutputSpec(JSONL, RecordSchema((-1,), 32))
    writer = open_writer(str(output_file), kind, {}, resume=False)
    try:
        for resume in (True, False):
            completed = Command(tiny_bert).run(
                input_file=input_file, output_file=output_file, resume=resume
            )
            assert completed.returncode == 1
            (line,) = completed.stderr.splitlines()[-1:]
            assert line.startswith(
                f"bert-extract: {output_file}: process {os.getpid()} on "
            )
    finally:
        writer.suspend()
    run_job(model, job, [])


def test_a_summary_tells_all_of_a_job(options: Options, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_bytes(b"a b ||| c\n\n" + b"dog " * 100 + b"\n|||\n")
    summary_file = tmp_path / "summary.json"
    FeatureExtractor(options).extract_file(
        str(tmp_path / "in.txt"),
        str(tmp_path / "out.jsonl"),
        summary_file=str(summary_file),
    )
    story = json.loads(summary_file.read_bytes())
    assert story["bert_extract"] == __version__
    assert story["tensorflow"] == importlib.metadata.version("tensorflow")
    assert story["options"]["layers"] == "-1"
    assert story["job"]["input_file"] == str(tmp_path / "in.txt")
    assert story["error"] is None
    output = summary_of(summary_file)
    counts = ("num_lines", "num_pairs", "num_truncated", "num_unsplit", "resumed_lines")
    assert [output[name] for name in counts] == [4, 1, 1, 1, 0]
    assert output["num_tokens"] == 6 + 2 + 32 + 5
    assert output["output_bytes"] == (tmp_path / "out.jsonl").stat().st_size
    assert output["seconds"] > 0
    assert output["tokens_per_second"] > 0
    assert 0 <= output["padding"] < 1
    assert output["peak_memory_bytes"] > 100 << 20
    fingerprint = json.loads((tmp_path / "out.jsonl.run.json").read_bytes())
    assert output["fingerprint"] == fingerprint["fingerprint"]
    keys = "checkpoint_sha256 vocab_sha256 bert_config_sha256 do_lower_case layers"
    keys += " max_seq_length precision errors shard input bert_extract tensorflow"
    keys += " device arithmetic arithmetic_settings same_bytes output_format unit"
    keys += " word_pooling pairs input_sha256"
    keys += " sentence_pooling layer_pooling offsets long_text doc_stride"
    assert sorted(output["fingerprint"]) == sorted(keys.split())


def test_an_input_is_read_once_for_a_stream(model: OpenedModel, tmp_path: Path) -> None:
    """Whoever reads it waits for the first line, and nobody asks for a checksum."""
    (tmp_path / "in.txt").write_text("the river\n")
    found = []
    for output_file in ("/dev/null", str(tmp_path / "out.jsonl")):
        summaries: list[Summary] = []
        job = Job(input_file=str(tmp_path / "in.txt"), output_file=output_file)
        run_job(model, job, summaries)
        found.append(summaries[0].fingerprint["input_sha256"])
    assert found == [None, [hashlib.sha256(b"the river\n").hexdigest()]]


def test_a_summary_is_written_when_loading_fails(
    tiny_bert: Path, tmp_path: Path
) -> None:
    summary_file = tmp_path / "summary.json"
    completed = Command(tiny_bert).run(
        vocab_file=tmp_path / "no.txt",
        input_file=write_input(tmp_path / "in.txt", 1),
        output_file=tmp_path / "out.jsonl",
        summary_file=summary_file,
    )
    assert completed.returncode == 1
    story = json.loads(summary_file.read_bytes())
    assert "no.txt" in story["error"]
    assert story["outputs"] == []
    assert story["options"]["vocab_file"] == str(tmp_path / "no.txt")


def test_a_summary_is_written_when_the_flags_are_wrong(
    tiny_bert: Path, tmp_path: Path
) -> None:
    summary_file = tmp_path / "summary.json"
    completed = Command(tiny_bert).run(summary_file=summary_file)
    assert completed.returncode == 2
    story = json.loads(summary_file.read_bytes())
    assert story["error"] == "--input_file must be given"


def test_a_summary_is_written_when_the_job_fails(
    options: Options, tmp_path: Path
) -> None:
    (tmp_path / "in.txt").write_bytes(b"a\n" * 20 + b"\xff\n")
    summary_file = tmp_path / "summary.json"
    with pytest.raises(InputError):
        FeatureExtractor(options).extract_file(
            str(tmp_path / "in.txt"),
            str(tmp_path / "out.jsonl"),
            summary_file=str(summary_file),
        )
    output = summary_of(summary_file)
    assert "line 21 is not UTF-8" in output["error"]
    assert output["resumable_lines"] == 16
    assert output["num_lines"] == 16


def ask(text: str, pipes: list[IO[bytes]]) -> dict[str, Any]:
    """Writes a line into a running job, and waits for its record."""
    to_job, from_job = pipes
    to_job.write(text.encode() + b"\n")
    readable, _, _ = select.select([from_job], [], [], 60)
    assert readable, "no record came"
    record = json.loads(from_job.readline())
    assert isinstance(record, dict)
    return record


def test_a_line_that_waits_in_a_pipe_for_others_comes_out(
    model: OpenedModel, tmp_path: Path
) -> None:
    """So that another program can ask line by line."""
    fifos = [tmp_path / "in", tmp_path / "out"]
    for fifo in fifos:
        os.mkfifo(fifo)
    job = Job(input_file=str(fifos[0]), output_file=str(fifos[1]))
    summaries: list[Summary] = []
    # Not one that is waited for when this test has failed.
    worker = threading.Thread(target=run_job, args=(model, job, summaries), daemon=True)
    worker.start()
    # In the order in which the job opens them: each waits for the other end.
    with open(fifos[1], "rb", buffering=0) as from_job:
        with open(fifos[0], "wb", buffering=0) as to_job:
            pipes: list[IO[bytes]] = [to_job, from_job]
            for number, text in enumerate(["the river", "", "the ||| bank"]):
                record = ask(text, pipes)
                assert record["linex_index"] == number
                tokens = " ".join(entry["token"] for entry in record["features"])
                assert tokens == " ".join(
                    ["[CLS]", *text.replace("|||", "[SEP]").split(), "[SEP]"]
                )
        assert from_job.read() == b""
    worker.join(60)
    assert (summaries[0].num_lines, summaries[0].error) == (3, None)


@pytest.mark.parametrize(("suffix", "may_pause"), [(".jsonl", True), (".gz", False)])
def test_time_is_not_in_the_bytes_of_a_compressed_output(
    model: OpenedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
    may_pause: bool,
) -> None:
    """And what is a file cannot be slow."""
    seen: list[bool] = []

    def run(*args: Any) -> Iterator[Any]:
        seen.append(args[5])
        return iter(())

    monkeypatch.setattr(Engine, "run", run)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_text("the\n")
    for name in ("fifo", "file"):
        output_file = str(tmp_path / f"{name}{suffix}")
        run_job(
            model, Job(input_file=str(tmp_path / name), output_file=output_file), []
        )
    assert seen == [may_pause, False]


def test_an_output_that_will_not_fit_is_told_from_the_first_lines(
    model: OpenedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    input_file = write_input(tmp_path / "in.txt", 3000)
    output_file = tmp_path / "out.jsonl"
    told: list[str] = []
    monkeypatch.setattr(
        logging, "warning", lambda text, *args: told.append(text % args)
    )
    monkeypatch.setattr(jobs, "free_bytes", lambda output_file: 1000)
    job = Job(input_file=str(input_file), output_file=str(output_file))
    run_job(model, job, [])
    (warning,) = [text for text in told if "will be about" in text]
    estimate = int(warning.split("about ")[1].split(" bytes")[0].replace(",", ""))
    size = output_file.stat().st_size
    assert 0.7 * size < estimate < 1.4 * size
    assert warning.endswith("and its disk has room for 1,000 more")
