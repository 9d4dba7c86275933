"""Two nodes, real weights: whatever is killed, the output is the local run's."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bert_extract import FeatureExtractor, InputError, read_features
from bert_extract.output.parts import SUCCESS
from support.job_runs import sha256
from support.ray_nodes import (
    ADDRESS,
    PATIENCE,
    SECOND,
    RayNodes,
    may_make_networks,
    ray_nodes,
    wait_for,
)
from support.running import real_lines

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

SPLIT_BYTES = 1000
LINES = real_lines() * 2


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayNodes]:
    if not may_make_networks():
        pytest.skip("no networks can be made here")
    with ray_nodes(tmp_path_factory.mktemp("nodes")) as nodes:
        yield nodes


@dataclass(frozen=True)
class Corpus:
    """A text, and what one process makes of it."""

    input_file: Path
    model_dir: Path
    expected: Path

    @property
    def num_parts(self) -> int:
        size = self.input_file.stat().st_size
        return size // (SPLIT_BYTES + 40)  # at least


@pytest.fixture(scope="module")
def corpus(minilm_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    input_file = folder / "in.txt"
    input_file.write_text("\n".join(LINES) + "\n")
    with FeatureExtractor.from_model_dir(minilm_dir, layers="-1") as extractor:
        extractor.extract_file(str(input_file), str(folder / "local.jsonl"))
    return Corpus(input_file, minilm_dir, folder / "local.jsonl")


class Run:
    """The command on the cluster."""

    def __init__(
        self, nodes: RayNodes, corpus: Corpus, output: Path, **flags: Any
    ) -> None:
        self.output = output
        self.parts = Path(f"{output}.parts")
        self.summary_file = output.with_name(f"{output.name}.summary.json")
        every = {
            "model_dir": corpus.model_dir,
            "layers": -1,
            "input_file": corpus.input_file,
            "output_file": output,
            "summary_file": self.summary_file,
            "runner": "ray",
            "ray_address": ADDRESS,
            "cpus_per_worker": 1,
            "split_bytes": SPLIT_BYTES,
            **flags,
        }
        line = [f"--{name}={value}" for name, value in every.items()]
        self.process = nodes.start([sys.executable, "-m", "bert_extract", *line])

    def num_parts(self) -> int:
        """How many parts are in their places."""
        try:
            return sum(name.startswith("part-") for name in os.listdir(self.parts))
        except FileNotFoundError:
            return 0

    def wait_until_splits_flow(self, num_parts: int = 2) -> None:
        def is_flowing() -> bool:
            assert self.process.poll() is None, self.process.communicate()
            return self.num_parts() >= num_parts

        wait_for("splits that flow", is_flowing)

    def wait_until_said(self, text: str) -> None:
        assert self.process.stderr is not None
        assert any(text in line for line in self.process.stderr)

    def end(self, exit_code: int = 0) -> str:
        """Waits for the end; returns what was said."""
        try:
            _, stderr = self.process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            _, stderr = self.process.communicate()
            pytest.fail(f"it does not end: {stderr}")
        assert "Traceback" not in stderr, stderr
        assert self.process.returncode == exit_code, stderr
        return stderr

    def summary(self) -> dict[str, Any]:
        (output,) = json.loads(self.summary_file.read_bytes())["outputs"]
        assert isinstance(output, dict)
        return output


def check_whole(run: Run, corpus: Corpus) -> None:
    """Nothing is lost, doubled, or left behind."""
    assert sha256(run.output) == sha256(corpus.expected)
    assert not run.parts.exists()
    assert run.summary()["num_lines"] + run.summary()["resumed_lines"] == len(LINES)


def blow(nodes: RayNodes, name: str) -> None:
    (nodes.blows / name).touch()


def hits(nodes: RayNodes, name: str) -> int:
    """How often a blow hit; it is forgotten then."""
    found = list(nodes.blows.glob(f"{name}.hit-*"))
    for each in found:
        each.unlink()
    assert not (nodes.blows / name).exists()
    return len(found)


def stopped(nodes: RayNodes) -> int:
    """Has a worker stop in the next split that one begins; its process."""
    blow(nodes, "group.stop")
    wait_for("a worker that stands", lambda: [*nodes.blows.glob("*.stop.hit-*")])
    (hit,) = nodes.blows.glob("*.stop.hit-*")
    hit.unlink()
    return int(hit.name.rpartition("-")[2])


def parent_of(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[1])


def test_two_nodes_write_what_one_process_writes(
    nodes: RayNodes, corpus: Corpus, tmp_path: Path
) -> None:
    run = Run(nodes, corpus, tmp_path / "out.jsonl")
    said = run.end()
    check_whole(run, corpus)
    assert f"({SECOND}): a worker is ready" in said
    assert "(127.0.0.2): a worker is ready" in said
    # From Python, too, and there is nothing to do.
    code = (
        "from bert_extract import FeatureExtractor as E; "
        f"e = E.from_model_dir({str(corpus.model_dir)!r}, layers=-1); "
        f"s = e.extract_file({str(corpus.input_file)!r}, {str(run.output)!r}, "
        f"runner='ray', ray_address={ADDRESS!r}, resume=True); "
        "print(s.num_lines, s.resumed_lines)"
    )
    done = nodes.run([sys.executable, "-c", code])
    assert done.stdout == f"0 {len(LINES)}\n", done.stderr


def test_workers_that_are_killed_anywhere_lose_and_double_nothing(
    nodes: RayNodes, corpus: Corpus, tmp_path: Path
) -> None:
    # Before a part is in its place, and between that and the word of it.
    blow(nodes, "told.kill")
    blow(nodes, "committed.kill")
    run = Run(nodes, corpus, tmp_path / "out.jsonl")
    run.wait_until_splits_flow(6)
    workers = nodes.processes("ray::Actor")
    assert workers
    assert run.num_parts() < corpus.num_parts
    os.kill(workers[0], signal.SIGKILL)
    said = run.end()
    check_whole(run, corpus)
    assert hits(nodes, "told.kill") == 1
    assert hits(nodes, "committed.kill") == 1
    assert said.count("a worker was lost") == 3


def test_a_full_disk_under_one_worker_leaves_it_out(
    nodes: RayNodes, corpus: Corpus, tmp_path: Path
) -> None:
    run = Run(nodes, corpus, tmp_path / "out.jsonl")
    run.wait_until_splits_flow()
    blow(nodes, "write.full")
    said = run.end()
    check_whole(run, corpus)
    assert hits(nodes, "write.full") == 1
    assert "No space left on device" in said
    assert said.count("a worker that only fails is left out") == 1


def test_a_worker_that_hangs_is_replaced(
    nodes: RayNodes, corpus: Corpus, tmp_path: Path
) -> None:
    run = Run(nodes, corpus, tmp_path / "out.jsonl", worker_timeout=20)
    run.wait_until_splits_flow()
    blow(nodes, "group.stop")
    said = run.end()
    check_whole(run, corpus)
    assert hits(nodes, "group.stop") == 1
    assert "no line was done for 20 seconds" in said


def kill_driver(nodes: RayNodes, run: Run) -> None:
    driver = nodes.processes(f"--output_file={run.output}")
    assert driver
    for pid in driver:
        os.kill(pid, signal.SIGKILL)
    run.process.communicate(timeout=PATIENCE)
    wait_for("the end of its workers", lambda: not nodes.processes("ray::Actor"))


def test_after_a_killed_driver_the_join_goes_on_with_the_others(
    nodes: RayNodes, corpus: Corpus, tmp_path: Path
) -> None:
    run = Run(nodes, corpus, tmp_path / "out.jsonl")
    run.wait_until_splits_flow(4)
    partial = Path(f"{run.output}.partial")
    wait_for("the join", partial.exists)
    kill_driver(nodes, run)
    assert partial.exists()
    assert 4 <= run.num_parts() < corpus.num_parts
    again = Run(nodes, corpus, run.output, resume=True)
    again.end()
    check_whole(again, corpus)
    assert again.summary()["resumed_lines"] > 0
    assert not list(tmp_path.glob("*.partial*"))


def test_after_a_killed_driver_only_missing_splits_are_computed(
    nodes: RayNodes, corpus: Corpus, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    run = Run(nodes, corpus, output)
    run.wait_until_splits_flow(4)
    kill_driver(nodes, run)
    parts = {name for name in os.listdir(run.parts) if name.startswith("part-")}
    assert 4 <= len(parts) < corpus.num_parts
    num_kept = sum(
        json.loads((run.parts / "_told" / f"{name}.json").read_bytes())["num_lines"]
        for name in parts
    )
    stamps = {name: (run.parts / name).stat().st_mtime_ns for name in parts}
    with pytest.raises(InputError, match="which --resume goes on with"):
        list(read_features(run.parts))
    other = Run(nodes, corpus, output, resume=True, max_seq_length=64)
    assert "--max_seq_length was 128, and is now 64" in other.end(exit_code=1)
    # The folder as it is before the join: it stays where it is not joined.
    again = Run(nodes, corpus, output, resume=True, join=False)
    again.end()
    assert again.summary()["resumed_lines"] == num_kept
    assert again.summary()["num_lines"] == len(LINES) - num_kept
    assert {name: (run.parts / name).stat().st_mtime_ns for name in parts} == stamps
    whole = sorted(run.parts.glob("part-*"))
    assert sha256(*whole) == sha256(corpus.expected)
    names = {path.name for path in run.parts.iterdir()} - {each.name for each in whole}
    assert names == {"_lock", "_manifest.json", "_run.json", SUCCESS}
    assert list(read_features(run.parts)) == list(read_features(corpus.expected))
    assert not list(tmp_path.glob("*.partial*"))


def test_a_split_that_cannot_be_done_is_named_and_stops_no_other(
    nodes: RayNodes, corpus: Corpus, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.txt"
    lines = [line.encode() for line in LINES[:100]]
    lines[40] = b"\xff"
    broken.write_bytes(b"\n".join(lines) + b"\n")
    other = Corpus(broken, corpus.model_dir, corpus.expected)
    run = Run(nodes, other, tmp_path / "out.parquet")
    said = run.end(exit_code=1)
    assert "1 of " in said
    assert f"{broken}: line 41 is not UTF-8" in said
    assert " failed 3 times" in said
    assert not (run.parts / SUCCESS).exists()
    assert not (run.parts / "_temporary").exists()
    assert run.num_parts() >= 3
    done = sum(len(list(read_features(path))) for path in run.parts.glob("part-*"))
    assert done == run.summary()["num_lines"]


def test_the_loss_of_a_node_costs_its_splits_alone(
    nodes: RayNodes, corpus: Corpus, tmp_path: Path
) -> None:
    run = Run(nodes, corpus, tmp_path / "out.jsonl", num_workers=2)
    # The second stands in a split, too, as the first does no other meanwhile.
    raylets = {parent_of(pid): pid for pid in (stopped(nodes), stopped(nodes))}
    (lost,) = raylets.keys() & set(nodes.processes(f"--node_ip_address={SECOND}"))
    assert Path(f"/proc/{lost}/comm").read_text() == "raylet\n"
    assert run.num_parts() < corpus.num_parts
    # The worker first: its parent gone, it would go on where SIGHUP is ignored.
    os.kill(raylets[lost], signal.SIGKILL)
    os.kill(lost, signal.SIGKILL)
    (other,) = (pid for raylet, pid in raylets.items() if raylet != lost)
    os.kill(other, signal.SIGCONT)
    said = run.end()
    check_whole(run, corpus)
    assert said.count("a worker was lost") == 1


def test_nodes_of_another_arithmetic_are_told_of_or_left_out(
    corpus: Corpus, tmp_path: Path
) -> None:
    if not may_make_networks():
        pytest.skip("no networks can be made here")
    told = json.loads(Path(f"{corpus.expected}.run.json").read_bytes())["fingerprint"]
    # The library that TensorFlow would not take on this CPU.
    other = "0" if told["arithmetic"].startswith("oneDNN") else "1"
    with ray_nodes(tmp_path, TF_ENABLE_ONEDNN_OPTS=other) as nodes:
        # The first worker waits in its first split until the other has done some.
        run = Run(nodes, corpus, tmp_path / "mixed.jsonl", join=False)
        first = stopped(nodes)
        run.wait_until_splits_flow()
        os.kill(first, signal.SIGCONT)
        said = run.end()
        manifest = json.loads((run.parts / "_manifest.json").read_bytes())
        assert manifest["same_arithmetic"] is False
        assert len(manifest["arithmetics"]) == 2
        assert "their bytes may differ within 2e-5" in said
        for record, expected in zip(
            read_features(run.parts), read_features(corpus.expected), strict=True
        ):
            assert record.tokens == expected.tokens
            assert abs(record.vectors - expected.vectors).max() < 2e-5
        # The first worker decides, and so either kind may be the one.
        run = Run(nodes, corpus, tmp_path / "same.jsonl", same_cpu=True)
        first = stopped(nodes)
        run.wait_until_said("left out, for --same_cpu")
        os.kill(first, signal.SIGCONT)
        run.end()
        told = json.loads(Path(f"{run.output}.run.json").read_bytes())["fingerprint"]
        assert isinstance(told["arithmetic"], str)
