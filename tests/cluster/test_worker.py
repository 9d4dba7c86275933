"""A worker makes the part that the local run would have there, or says why not."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bert_extract.cluster.messages import Done, Failed, Setup, Task
from bert_extract.cluster.plan import SplitPlan
from bert_extract.cluster.worker import PROBE, SplitWorker, check_probe
from bert_extract.errors import BertExtractError
from bert_extract.formats import HDF5, JSONL
from bert_extract.jobs import ModelFiles, fingerprint_of_job, output_spec, run_job
from bert_extract.loaded_model import OpenedModel
from bert_extract.options import Job
from bert_extract.output import hdf5
from bert_extract.output.checksum import crc32
from bert_extract.output.fingerprints import as_read_back
from bert_extract.output.parts import PartsFolder, part_name, temporary_file
from bert_extract.progress import Summary
from bert_extract.text.stamps import InputWatch
from support.job_runs import write_input
from support.running import options_for

NUM_LINES = 60


@pytest.fixture(scope="module")
def model(tiny_bert: Path) -> OpenedModel:
    return OpenedModel(options_for(tiny_bert, layers="-1"))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[PartsFolder]:
    folder = PartsFolder(str(tmp_path / "out.jsonl.parts"))
    folder.begin("run", {}, {})
    Path(temporary_file(folder.path, "run", PROBE)).write_text("probe")
    yield folder
    folder.close()


def setup_of(model: OpenedModel, folder: PartsFolder, **expected: Any) -> Setup:
    job = Job(input_file="in.txt", output_file="out.jsonl", runner="ray")
    fingerprint = fingerprint_of_job(
        model, job, ModelFiles(model), InputWatch([]), output_spec(model, job, "out")
    )
    wanted = {**as_read_back(fingerprint), **expected}
    return Setup(model.options, job, wanted, folder.path, "run", "probe", 0)


def tasks_of(path: Path, split_bytes: int = 300) -> list[Task]:
    plan = SplitPlan([str(path)], split_bytes)
    return [
        Task(number, part_name(0, planned.split.first_line, JSONL), planned)
        for number, planned in enumerate(plan)
    ]


def test_parts_are_pieces_of_the_local_run(
    tmp_path: Path, model: OpenedModel, folder: PartsFolder
) -> None:
    path = write_input(tmp_path / "in.txt", NUM_LINES)
    local = Job(input_file=str(path), output_file=str(tmp_path / "local.jsonl"))
    run_job(model, local, [Summary()])
    worker = SplitWorker(setup_of(model, folder), "n1")
    tasks = tasks_of(path)
    assert len(tasks) > 2
    pieces = []
    for task in tasks:
        done = worker.compute(task)
        assert isinstance(done, Done)
        content = (Path(folder.path) / task.name).read_bytes()
        assert done.part == folder.read_part(task.name)
        assert (done.part.num_bytes, done.part.crc) == (len(content), crc32(content))
        assert done.part.node == "n1"
        assert done.counts["num_lines"] == task.planned.num_lines
        pieces.append(content)
    assert b"".join(pieces) == (tmp_path / "local.jsonl").read_bytes()
    assert worker.num_done > NUM_LINES
    # Nothing is left of what it wrote on the way.
    left = Path(temporary_file(folder.path, "run", "")).iterdir()
    assert {each.name.partition("-")[0] for each in left} == {PROBE}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("checkpoint_sha256", "the checkpoint has changed: its SHA-256 began with 000"),
        ("vocab_sha256", "the vocab has changed: its SHA-256 began with 000"),
        ("tensorflow", "the version of TensorFlow was 000, and is now"),
    ],
)
def test_a_node_unlike_the_driver_is_refused_with_its_name(
    model: OpenedModel, folder: PartsFolder, name: str, message: str
) -> None:
    with pytest.raises(BertExtractError) as caught:
        SplitWorker(setup_of(model, folder, **{name: "000"}), "n1 (10.0.0.7)")
    assert "node n1 (10.0.0.7) is not as the driver is" in str(caught.value)
    assert message in str(caught.value)
    path = {
        "checkpoint_sha256": model.options.init_checkpoint,
        "vocab_sha256": model.options.vocab_file,
    }.get(name, "")
    assert path in str(caught.value)


def test_a_folder_that_is_not_shared_is_refused(
    model: OpenedModel, folder: PartsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bert_extract.cluster.worker._PATIENCE", 0.0)
    setup = setup_of(model, folder)
    with pytest.raises(BertExtractError, match="sees another one"):
        check_probe(dataclasses.replace(setup, probe="other"))
    Path(temporary_file(folder.path, "run", PROBE)).unlink()
    with pytest.raises(BertExtractError, match="does not see it"):
        check_probe(setup)


def test_a_node_with_another_input_says_so_and_makes_nothing(
    tmp_path: Path, model: OpenedModel, folder: PartsFolder
) -> None:
    path = write_input(tmp_path / "in.txt", NUM_LINES)
    task = tasks_of(path)[1]
    content = path.read_bytes()
    path.write_bytes(content.upper())
    worker = SplitWorker(setup_of(model, folder), "n1")
    failed = worker.compute(task)
    assert isinstance(failed, Failed)
    assert failed.is_of_node
    assert f"{path}: its bytes from" in failed.reason
    # Reading may take long, and is a sign of life.
    assert worker.num_done == task.planned.num_bytes
    assert folder.find_parts() == set()


def test_a_node_that_reads_no_more_is_not_one_that_never_did(
    tmp_path: Path, model: OpenedModel, folder: PartsFolder
) -> None:
    path = write_input(tmp_path / "in.txt", NUM_LINES)
    first, second, *_ = tasks_of(path)
    worker = SplitWorker(setup_of(model, folder), "n1")
    assert isinstance(worker.compute(first), Done)
    path.unlink()
    failed = worker.compute(second)
    assert isinstance(failed, Failed)
    assert "in.txt: cannot read it" in failed.reason
    assert not failed.is_of_node
    other = SplitWorker(setup_of(model, folder), "n1")
    failed = other.compute(second)
    assert isinstance(failed, Failed)
    assert failed.is_of_node
    # Two containers may have one host's name, and their first process one number.
    assert worker._temporary(first) != other._temporary(first)


def test_a_line_that_is_no_text_fails_its_split_alone(
    tmp_path: Path, model: OpenedModel, folder: PartsFolder
) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(b"one\n\xff\n" + b"three\n")
    first, second = tasks_of(path, 6)
    worker = SplitWorker(setup_of(model, folder), "n1")
    failed = worker.compute(first)
    assert isinstance(failed, Failed)
    assert failed.is_of_input
    assert "line 2 is not UTF-8" in failed.reason
    assert isinstance(worker.compute(second), Done)
    assert folder.find_parts() == {second.name}


def test_an_input_of_no_lines_is_a_part_of_none(
    tmp_path: Path, model: OpenedModel, folder: PartsFolder
) -> None:
    path = tmp_path / "in.txt"
    path.touch()
    (task,) = tasks_of(path)
    done = SplitWorker(setup_of(model, folder), "n1").compute(task)
    assert isinstance(done, Done)
    assert (done.part.num_lines, done.part.num_bytes) == (0, 0)


def test_a_worker_gives_signs_of_life_while_a_file_is_made_of_its_part(
    tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = OpenedModel(options_for(tiny_bert, layers="-1"))
    folder = PartsFolder(str(tmp_path / "out.h5.parts"))
    folder.begin("run", {}, {})
    Path(temporary_file(folder.path, "run", PROBE)).write_text("probe")
    job = Job(input_file="in.txt", output_file="out.h5", runner="ray")
    kind = output_spec(model, job, "out.h5")
    expected = fingerprint_of_job(model, job, ModelFiles(model), InputWatch([]), kind)
    setup = Setup(
        model.options, job, as_read_back(expected), folder.path, "run", "probe", 0
    )
    worker = SplitWorker(setup, "n1")
    signs: list[int] = []
    write = hdf5.write

    def write_and_look(frames_file: str, output_file: str, *rest: Any) -> None:
        signs.append(worker.num_done)
        write(frames_file, output_file, *rest)
        signs.append(worker.num_done)

    monkeypatch.setattr(hdf5, "write", write_and_look)
    path = write_input(tmp_path / "in.txt", NUM_LINES)
    (planned,) = SplitPlan([str(path)], 1 << 20)
    done = worker.compute(Task(0, part_name(0, 0, HDF5), planned))
    assert isinstance(done, Done)
    assert signs[1] - signs[0] == done.part.num_bytes
    folder.close()
