"""Job -> splits -> workers' parts -> the output: a whole job on a Ray cluster."""

import contextlib
import dataclasses
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any

from absl import logging

from bert_extract import doubt, guard
from bert_extract.cluster.dispatch import Dispatcher, FailedSplit, Listener
from bert_extract.cluster.join import Joiner
from bert_extract.cluster.leftovers import Leftovers, discard
from bert_extract.cluster.messages import Done, Opened, Setup, Task
from bert_extract.cluster.plan import SplitPlan, check_plannable, choose_split_bytes
from bert_extract.cluster.ray_cluster import RayCluster
from bert_extract.cluster.tally import Tally
from bert_extract.cluster.worker import PROBE, read_patiently
from bert_extract.errors import OutputError
from bert_extract.files import is_remote
from bert_extract.jobs import (
    ModelFiles,
    fingerprint_of_job,
    output_spec,
    recording,
)
from bert_extract.loaded_model import OpenedModel
from bert_extract.model import devices
from bert_extract.model.config import BertConfig
from bert_extract.options import Job, Options
from bert_extract.output import parts as parts_module
from bert_extract.output.append_file import write_durably
from bert_extract.output.fingerprints import as_read_back
from bert_extract.output.parts import (
    Part,
    PartsFolder,
    fingerprint_of_parts,
    part_name,
    temporary_file,
)
from bert_extract.output.writers import (
    OutputSpec,
)
from bert_extract.progress import Summary
from bert_extract.text.stamps import InputWatch

# What a core and a GPU do of a model's products, about, in operations a second: only
# the size of splits hangs on it.
_CPU_SPEED, _GPU_SPEED = 60e9, 10e12


def run_job(
    options: Options,
    job: Job,
    summaries: list[Summary],
    flagfiles: Sequence[str] = (),
) -> None:
    """Does a job on a Ray cluster.

    Args:
      options: what the vectors are.
      job: what to read and where to write, with `runner` "ray".
      summaries: gets the `Summary` of the output.
      flagfiles: that the command has read; nothing is written to them.

    Raises:
      BertExtractError: the job cannot be done, or some of its splits failed; what was
        done stays for `resume`.
    """
    options.check()
    job.check()
    input_files = [_absolute(path) for path in guard.find_inputs(job)]
    check_plannable(input_files)
    # Where the driver runs there may be no GPU, nor a CPU that multiplies bfloat16.
    model = OpenedModel(dataclasses.replace(options, precision="float32"))
    files = ModelFiles(model)
    guard.check_outputs(
        model.options,
        job,
        input_files,
        [job.output_file],
        files.of_checkpoint(),
        flagfiles,
    )
    kind = output_spec(model, job, job.output_file)
    summary = Summary(output_file=job.output_file, precision=options.precision)
    summaries.append(summary)
    with recording(summary):
        _Run(model, options, job, input_files, files, kind, summary).run()
    summary.log()


class _Run:
    """One output's way."""

    def __init__(
        self,
        model: OpenedModel,
        options: Options,
        job: Job,
        input_files: list[str],
        files: ModelFiles,
        kind: OutputSpec,
        summary: Summary,
    ) -> None:
        self._model = model
        self._job = job
        self._input_files = input_files
        self._kind = kind
        self._summary = summary
        self._output = os.path.realpath(job.output_file)
        self._joins = job.join and kind.format.is_json
        self._watch = InputWatch(input_files)
        self._fingerprint = as_read_back(
            {
                **fingerprint_of_job(model, job, files, self._watch, kind),
                "precision": options.precision,
            }
        )
        self._options = _with_absolute_paths(
            dataclasses.replace(model.options, precision=options.precision)
        )
        self._leftovers = Leftovers(job, self._output, self._fingerprint, self._joins)
        self._parts: dict[str, Part] = {}
        # Told once: nodes of another arithmetic, warnings.
        self._told: set[str] = set()
        self._first: tuple[str, dict[str, Any]] | None = None  # a node, its arithmetic
        self._joiner: Joiner | None = None

    def run(self) -> None:
        if self._job.resume and self._is_complete():
            return
        self._check_place()
        folder = PartsFolder(self._output + parts_module.SUFFIX)
        try:
            self._run_in(folder)
        finally:
            try:
                if self._joiner is not None:
                    self._joiner.close()
            finally:
                folder.close()

    def _is_complete(self) -> bool:
        found = self._leftovers.find_complete()
        if found is None:
            return False
        summary = self._summary
        summary.resumed_lines, summary.output_bytes = found
        logging.info(
            "%s: is complete, %s lines; nothing to do",
            summary.output_file,
            f"{summary.resumed_lines:,}",
        )
        return True

    def _check_place(self) -> None:
        parent = os.path.dirname(self._output)
        is_taken = os.path.exists(self._output) and not os.path.isfile(self._output)
        if is_taken or not os.path.isdir(parent):
            raise OutputError(
                f"{self._job.output_file}: expected the name of a file in a folder "
                "that is there"
            )

    # -- the work

    def _run_in(self, folder: PartsFolder) -> None:
        start = time.monotonic()
        kept = self._leftovers.keep(folder)
        self._parts = kept.parts
        if kept.parts:
            part = kept.parts[min(kept.parts)]
            self._first = (part.node, dict(part.arithmetic))
        guard.check_again(self._job, self._job.output_file)
        self._summary.fingerprint = self._fingerprint
        if kept.is_all:
            # No worker is needed, nor the input, whose files are as they were.
            in_order = sorted(self._parts.values(), key=lambda part: part.first_index)
            self._summary.resumed_lines = sum(part.num_lines for part in in_order)
            names = [part.name for part in in_order]
            self._begin_join(folder, names)
        else:
            names = self._compute(folder, kept.split_bytes, start)
        self._finish(folder, names)
        self._summary.seconds = time.monotonic() - start

    def _begin_join(self, folder: PartsFolder, names: Sequence[str]) -> None:
        if self._joins:
            self._joiner = Joiner(
                self._output,
                self._kind,
                self._fingerprint,
                folder,
                names,
                self._parts,
                self._job.resume,
            )
            self._joiner.start()

    def _compute(
        self, folder: PartsFolder, split_bytes: int, start: float
    ) -> list[str]:
        """Has the parts made that are missing; gives the names of all, in order."""
        job, summary = self._job, self._summary
        with contextlib.closing(
            RayCluster(
                job.ray_address,
                job.num_workers,
                job.cpus_per_worker,
                job.gpus_per_worker,
                devices.usable_cores(),
            )
        ) as cluster:
            plan = self._make_plan(split_bytes, cluster)
            if not split_bytes:
                # Only now: a cluster or an input that is not there costs no part.
                discard(folder)
                self._leftovers.forget_joined()
            setup = self._begin(folder, cluster, plan)
            names = [self._name_of(plan, number) for number in range(len(plan))]
            self._parts = {
                name: self._parts[name] for name in names if name in self._parts
            }
            kept = self._parts.values()
            summary.resumed_lines = sum(part.num_lines for part in kept)
            self._begin_join(folder, names)
            try:
                failed = self._dispatch(cluster, setup, plan, names)
            except BaseException:
                self._say_what_stays(folder, len(plan))
                raise
            finally:
                folder.end_run()
                summary.seconds = time.monotonic() - start
        if failed:
            raise OutputError(_describe(failed, len(plan), folder.path))
        return names

    def _make_plan(self, split_bytes: int, cluster: RayCluster) -> SplitPlan:
        split_bytes = split_bytes or self._job.split_bytes
        if not split_bytes:
            speed = (
                cluster.gpus * _GPU_SPEED if cluster.gpus else cluster.cpus * _CPU_SPEED
            )
            split_bytes = choose_split_bytes(
                sum(stamp[1] for stamp in self._watch.fingerprint()),
                cluster.num_workers,
                speed / _operations_of(self._model.config),
            )
        self._split_bytes = split_bytes
        plan = SplitPlan(self._input_files, split_bytes)
        self._watch.check_all()
        logging.info(
            "%s lines in %s splits of %s bytes",
            f"{plan.num_lines:,}",
            f"{len(plan):,}",
            f"{split_bytes:,}",
        )
        return plan

    def _begin(
        self, folder: PartsFolder, cluster: RayCluster, plan: SplitPlan
    ) -> Setup:
        run = secrets.token_hex(8)
        settings = {"split_bytes": self._split_bytes, "num_splits": len(plan)}
        folder.begin(run, self._fingerprint, settings)
        probe = secrets.token_hex(16)
        write_durably(temporary_file(folder.path, run, PROBE), probe)
        return Setup(
            dataclasses.replace(self._options, num_threads=cluster.cpus),
            self._job,
            self._fingerprint,
            folder.path,
            run,
            probe,
            cluster.gpus,
        )

    def _name_of(self, plan: SplitPlan, number: int) -> str:
        planned = plan[number]
        return part_name(
            planned.file_number, planned.split.first_line, self._kind.format
        )

    def _dispatch(
        self,
        cluster: RayCluster,
        setup: Setup,
        plan: SplitPlan,
        names: Sequence[str],
    ) -> list[FailedSplit]:
        kept = set(self._parts)

        def tasks() -> Iterator[Task]:
            for number, name in enumerate(names):
                if name not in kept:
                    yield Task(number, name, plan[number])

        num_left = len(names) - len(kept)
        if not num_left:
            return []
        kept_bytes = sum(
            plan[number].num_bytes for number, name in enumerate(names) if name in kept
        )
        # While parts are joined the disk holds them and the output.
        num_copies = 2 if self._joins else 1
        tally = Tally(self._summary, plan.num_bytes - kept_bytes, num_copies)

        def on_done(task: Task, done: Done) -> None:
            self._parts[task.name] = self._shared(done.part)
            tally.add(task, done)
            if self._joiner is not None:
                self._joiner.wake()

        listener = Listener(
            lambda opened: self._take_worker(opened, setup), on_done, tally.show
        )
        num_workers = min(cluster.num_workers, num_left)
        try:
            return Dispatcher(cluster, setup, num_workers, listener).run(tasks())
        finally:
            tally.close()

    def _shared(self, part: Part) -> Part:
        """The part, with what it has in common with others in memory once."""
        if self._first is not None and part.arithmetic == self._first[1]:
            return dataclasses.replace(part, arithmetic=self._first[1])
        return part

    def _take_worker(self, opened: Opened, setup: Setup) -> str:
        """Looks at a worker that is ready; says why it may not help, or ""."""
        if read_patiently(opened.probe) != setup.probe:
            return (
                f"node {opened.node}: what it wrote to {opened.probe} does not come to "
                "the driver: --output_file must be on a file system that all nodes "
                "share"
            )
        for warning, is_doubt in opened.warnings:
            if self._is_new(warning):
                (doubt.warn if is_doubt else logging.warning)("%s", warning)
        arithmetic = dict(opened.arithmetic)
        summary = self._summary
        if self._first is None:
            self._first = (opened.node, arithmetic)
            summary.same_bytes = bool(arithmetic["same_bytes"])
            if not summary.same_bytes:
                logging.warning(
                    "node %s: the values are those of one machine within 2e-5, but not "
                    "its very bytes: there they depend on the lines beside",
                    opened.node,
                )
        elif arithmetic != self._first[1]:
            different = (
                f"node {opened.node} computes with {arithmetic['arithmetic']}, and "
                f"{self._first[0]} with {self._first[1]['arithmetic']}"
            )
            if self._job.same_cpu:
                logging.warning("%s: left out, for --same_cpu", different)
                return different
            if self._is_new(different):
                logging.warning(
                    "%s: their bytes may differ within 2e-5; the manifest says which "
                    "part is whose, and --same_cpu leaves the others out",
                    different,
                )
        logging.info("node %s: a worker is ready, %s", opened.node, opened.device)
        summary.device, summary.num_threads = opened.device, opened.num_threads
        summary.arithmetic = self._first[1]["arithmetic"]
        summary.json_kernel = opened.json_kernel
        return ""

    def _is_new(self, text: str) -> bool:
        is_new = text not in self._told
        self._told.add(text)
        return is_new

    # -- the end

    def _finish(self, folder: PartsFolder, names: Sequence[str]) -> None:
        summary = self._summary
        if self._joiner is not None:
            summary.fingerprint, summary.output_bytes = self._joiner.finish()
            folder.remove()
            return
        # A worker that was thought dead may have put its own part where that of its
        # replacement was.
        parts = [
            self._shared(folder.read_part(name) or self._parts[name]) for name in names
        ]
        summary.fingerprint = fingerprint_of_parts(
            self._fingerprint, parts_module.arithmetics_of(parts)
        )
        summary.output_bytes = sum(part.num_bytes for part in parts)
        folder.finish(parts, summary.fingerprint)
        self._leftovers.forget_joined()
        logging.info("%s: %s parts", folder.path, f"{len(parts):,}")

    def _say_what_stays(self, folder: PartsFolder, num_splits: int) -> None:
        logging.warning(
            "%s: %s of %s parts are there; the same command with --resume computes the "
            "others",
            folder.path,
            f"{len(self._parts):,}",
            f"{num_splits:,}",
        )


def _describe(failed: Sequence[FailedSplit], num_splits: int, folder: str) -> str:
    """What to say of the splits that nobody could do."""
    shown = "\n".join(f"  {each}" for each in failed[:8])
    more = f"\n  and {len(failed) - 8:,} more" if len(failed) > 8 else ""
    return (
        f"{folder}: {len(failed):,} of {num_splits:,} splits failed:\n{shown}{more}\n"
        "The other parts are there: the same command with --resume computes only these"
    )


def _operations_of(config: BertConfig) -> float:
    """The multiplications and additions of a token, about."""
    size = config.hidden_size
    weights = 4 * size * size + 2 * size * config.intermediate_size
    return 2.0 * weights * config.num_hidden_layers


def _absolute(path: str) -> str:
    return path if is_remote(path) else os.path.abspath(path)


def _with_absolute_paths(options: Options) -> Options:
    names = ("model_dir", "vocab_file", "bert_config_file", "init_checkpoint")
    paths: dict[str, Any] = {
        name: _absolute(getattr(options, name))
        for name in names
        if getattr(options, name)
    }
    return dataclasses.replace(options, **paths)
