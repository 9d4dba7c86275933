"""What a driver keeps, discards and joins, with workers in its own process."""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

import bert_extract
from bert_extract.cluster import driver, join
from bert_extract.cluster import tally as tally_module
from bert_extract.cluster import worker as worker_module
from bert_extract.cluster.messages import Answer, Done, Setup, Task
from bert_extract.cluster.plan import PlannedSplit
from bert_extract.cluster.worker import SplitWorker
from bert_extract.errors import BertExtractError
from bert_extract.jobs import fingerprint_of_arithmetic
from bert_extract.loaded_model import OpenedModel
from bert_extract.options import Job, Options
from bert_extract.output.parts import SUCCESS, Part, read_manifest
from bert_extract.output.writers import Writer
from bert_extract.progress import Summary
from bert_extract.text.splits import Split
from support.job_runs import write_input
from support.running import options_for

NUM_LINES = 40


class OneProcess:
    """A cluster of one worker, which computes when it is asked."""

    def __init__(self, address: str, *sizes: int) -> None:
        if address:
            raise BertExtractError(f"nothing listens at {address}")
        self.num_workers, self.cpus, self.gpus = 1, 1, 0
        self._answers: list[Answer] = []
        self._worker: SplitWorker | None = None

    def start_worker(self) -> str:
        return "worker"

    def open(self, worker: str, setup: Setup) -> int:
        self._worker = SplitWorker(setup, "n1")
        return self._reference(self._worker.report())

    def compute(self, worker: str, task: Task) -> int:
        assert self._worker is not None
        return self._reference(self._worker.compute(task))

    def num_done(self, worker: str) -> int:
        return self._reference(0)

    def _reference(self, answer: Answer) -> int:
        self._answers.append(answer)
        return len(self._answers) - 1

    def wait(self, references: Sequence[int], seconds: float) -> list[int]:
        return list(references)

    def answer(self, reference: int) -> Answer:
        return self._answers[reference]

    def kill(self, worker: str) -> None:
        self._worker = None

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def options(tiny_bert: Path) -> Options:
    return options_for(tiny_bert, layers="-1")


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(driver, "RayCluster", OneProcess)
    path = write_input(tmp_path / "in.txt", NUM_LINES)
    return {
        "input_file": str(path),
        "output_file": str(tmp_path / "out.jsonl"),
        "runner": "ray",
        "split_bytes": 150,
    }


def run(options: Options, job: dict[str, Any], **flags: Any) -> Summary:
    summaries: list[Summary] = []
    driver.run_job(options, Job(**job, **flags), summaries)
    (summary,) = summaries
    return summary


def parts_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*"))


def test_a_folder_that_is_complete_is_joined_and_its_gaps_are_filled(
    tmp_path: Path, options: Options, job: dict[str, Any]
) -> None:
    output, folder = tmp_path / "out.jsonl", tmp_path / "out.jsonl.parts"
    assert run(options, job).num_lines == NUM_LINES
    whole = output.read_bytes()
    assert whole.count(b"\n") == NUM_LINES
    assert not folder.exists()
    output.unlink()

    run(options, job, join=False)
    parts = parts_in(folder)
    assert len(parts) > 3
    assert b"".join(part.read_bytes() for part in parts) == whole
    parts[1].unlink()
    os.truncate(parts[2], 5)
    again = run(options, job, join=False, resume=True)
    assert 0 < again.num_lines < NUM_LINES == again.num_lines + again.resumed_lines
    assert b"".join(part.read_bytes() for part in parts) == whole

    joined = run(options, job, resume=True)
    assert (joined.num_lines, joined.resumed_lines) == (0, NUM_LINES)
    assert output.read_bytes() == whole
    assert not folder.exists()


def test_only_what_a_join_left_is_taken_away(
    tmp_path: Path, options: Options, job: dict[str, Any]
) -> None:
    folder = tmp_path / "out.jsonl.parts"
    run(options, job)
    run(dataclasses.replace(options, layers="-2"), job, join=False)
    parts = parts_in(folder)
    assert run(options, job, resume=True).num_lines == 0
    assert parts_in(folder) == parts
    assert (folder / SUCCESS).exists()
    run(options, job, join=False)
    assert run(options, job, resume=True).num_lines == 0
    assert folder.exists()
    (folder / SUCCESS).unlink()  # as it is while parts are joined
    assert run(options, job, resume=True).num_lines == 0
    assert not folder.exists()


def test_what_cannot_begin_costs_no_part(
    tmp_path: Path, options: Options, job: dict[str, Any]
) -> None:
    folder = tmp_path / "out.jsonl.parts"
    run(options, job, join=False)
    before = {path: path.read_bytes() for path in parts_in(folder)}
    with pytest.raises(BertExtractError, match="nothing listens"):
        run(options, job, join=False, ray_address="10.0.0.1:6379")
    assert {path: path.read_bytes() for path in parts_in(folder)} == before
    assert (folder / SUCCESS).exists()


def other_arithmetic(model: OpenedModel) -> dict[str, Any]:
    return {**fingerprint_of_arithmetic(model), "arithmetic": "another"}


class WithATwin(OneProcess):
    """One of whose splits is done once more, by a worker that was thought dead."""

    def compute(self, worker: str, task: Task) -> int:
        answer = super().compute(worker, task)
        if task.number == 1:
            assert self._worker is not None
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(
                    worker_module, "fingerprint_of_arithmetic", other_arithmetic
                )
                SplitWorker(self._worker._setup, "n2").compute(task)
        return answer


def test_the_manifest_tells_of_the_part_that_came_last(
    tmp_path: Path,
    options: Options,
    job: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(driver, "RayCluster", WithATwin)
    run(options, job, join=False)
    found = read_manifest(str(tmp_path / "out.jsonl.parts"))
    assert [part.node for part in found[:3]] == ["n1", "n2", "n1"]
    assert found[1].arithmetic["arithmetic"] == "another"


def test_the_output_tells_of_the_part_that_came_last(
    tmp_path: Path,
    options: Options,
    job: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "out.jsonl"
    run(options, job)
    whole = output.read_bytes()
    output.unlink()
    monkeypatch.setattr(driver, "RayCluster", WithATwin)
    summary = run(options, job)
    assert output.read_bytes() == whole
    own, others = summary.fingerprint["arithmetic"]
    assert others == {**own, "arithmetic": "another"}
    assert summary.output_bytes == len(whole)


def run_with_two_arithmetics(
    options: Options, job: dict[str, Any], folder: Path, **flags: Any
) -> int:
    """Has two parts made with one and the others with another; says how many."""
    run(options, job, join=False)
    parts = parts_in(folder)
    for part in parts[2:]:
        part.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker_module, "fingerprint_of_arithmetic", other_arithmetic)
        run(options, job, resume=True, **flags)
    return len(parts)


def test_with_same_cpu_parts_of_another_arithmetic_are_made_anew(
    tmp_path: Path, options: Options, job: dict[str, Any]
) -> None:
    folder = tmp_path / "out.jsonl.parts"
    num_parts = run_with_two_arithmetics(options, job, folder, join=False)
    assert read_manifest(str(folder))[2].arithmetic != (
        read_manifest(str(folder))[0].arithmetic
    )
    again = run(options, job, join=False, resume=True, same_cpu=True)
    assert again.num_lines > 0 < again.resumed_lines
    found = [part.arithmetic for part in read_manifest(str(folder))]
    assert found == [found[0]] * num_parts


def test_what_lacks_only_its_end_asks_for_no_worker_and_reads_no_input(
    tmp_path: Path,
    options: Options,
    job: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output, folder = tmp_path / "out.jsonl", tmp_path / "out.jsonl.parts"
    run(options, job)
    whole = output.read_bytes()
    output.unlink()

    def stop(folder: str, parts: Iterable[Part], writer: Writer, *_: Any) -> None:
        assert len(list(parts)) > 3
        writer.suspend()
        raise BertExtractError("stopped")

    def refuse(*args: Any) -> None:
        raise AssertionError("nobody needs it")

    with monkeypatch.context() as patch:
        patch.setattr(join, "join_parts", stop)
        with pytest.raises(BertExtractError, match="stop"):
            run(options, job)
    assert len(parts_in(folder)) > 3
    monkeypatch.setattr(driver, "RayCluster", refuse)
    monkeypatch.setattr(driver, "SplitPlan", refuse)
    again = run(options, job, resume=True)
    assert (again.num_lines, again.resumed_lines) == (0, NUM_LINES)
    assert output.read_bytes() == whole
    assert not folder.exists()


def test_with_same_cpu_a_file_of_several_arithmetics_is_made_anew(
    tmp_path: Path, options: Options, job: dict[str, Any]
) -> None:
    folder = tmp_path / "out.jsonl.parts"
    run_with_two_arithmetics(options, job, folder)
    assert not folder.exists()
    assert run(options, job, resume=True).num_lines == 0
    again = run(options, job, resume=True, same_cpu=True)
    assert (again.num_lines, again.resumed_lines) == (NUM_LINES, 0)
    assert run(options, job, resume=True, same_cpu=True).num_lines == 0


def test_the_driver_needs_no_hardware_for_the_precision_of_its_workers(
    options: Options, job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(address: str, *sizes: int) -> None:
        raise BertExtractError("as far as the cluster")

    monkeypatch.setattr(driver, "RayCluster", told)
    wanted = dataclasses.replace(options, precision="float16")  # no CPU has it
    with pytest.raises(BertExtractError, match="as far as the cluster"):
        bert_extract.run_on_cluster(wanted, Job(**job))
    with pytest.raises(BertExtractError, match="runner"):
        bert_extract.run_on_cluster(wanted, Job(**{**job, "runner": "local"}))


@pytest.mark.parametrize(("num_copies", "is_told"), [(1, False), (2, True)])
def test_what_is_joined_must_have_room_twice(
    num_copies: int, is_told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally_module, "free_bytes", lambda path: 150 << 30)
    tally = tally_module.Tally(Summary(output_file="out.jsonl"), 100, num_copies)
    planned = PlannedSplit(Split("in.txt", 0, 10, 0, 0), 0, 1, 10, 0)
    part = Part("part", 0, 1, 10 << 30, 0, {}, "n1")
    with worker_module._warnings() as told:
        tally.add(Task(0, "part", planned), Done(part, {}))
    tally.close()
    texts = [text for text, _ in told]
    assert any("making it takes" in text for text in texts) is is_told, texts
    assert len(texts) == is_told
