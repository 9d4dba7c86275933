"""Job -> splits -> workers' parts -> the output: a whole job on a Ray cluster."""

import contextlib
import dataclasses
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from absl import logging

from bert_extract import doubt, guard
from bert_extract.cluster.dispatch import Dispatcher, FailedSplit, Listener
from bert_extract.cluster.join import join_parts
from bert_extract.cluster.messages import Done, Opened, Setup, Task
from bert_extract.cluster.plan import SplitPlan, check_plannable, choose_split_bytes
from bert_extract.cluster.ray_cluster import RayCluster
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
from bert_extract.output.fingerprints import CONTENTS, as_read_back
from bert_extract.output.parts import Part, PartsFolder, part_name, temporary_file
from bert_extract.output.resumable import refuse_difference, told_fingerprint
from bert_extract.output.writers import (
    OutputSpec,
    find_complete,
    free_bytes,
    open_writer,
)
from bert_extract.progress import OutputForecast, Summary
from bert_extract.screen import open_bar
from bert_extract.text.stamps import InputWatch

# What a core and a GPU do of a model's products, about, in operations a second: only
# the size of splits hangs on it.
_CPU_SPEED, _GPU_SPEED = 60e9, 10e12
# Many small files of a network are read at once.
_NUM_READERS = 16
# Between two lines of a log that nobody watches.
_LOG_SECONDS = 60.0
# What a fingerprint has from the machine that computes.
_OF_ARITHMETIC = ("device", "arithmetic", "arithmetic_settings", "same_bytes")


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
        self._parts: dict[str, Part] = {}
        self._num_splits = 0  # of an earlier run's plan, if that is known
        # Told once: nodes of another arithmetic, warnings.
        self._told: set[str] = set()
        self._first: tuple[str, dict[str, Any]] | None = None  # a node, its arithmetic

    def run(self) -> None:
        if self._job.resume and self._is_complete():
            return
        self._check_place()
        folder = PartsFolder(self._output + parts_module.SUFFIX)
        try:
            self._run_in(folder)
        finally:
            folder.close()

    # -- what there is already

    def _is_complete(self) -> bool:
        folder = self._output + parts_module.SUFFIX
        if self._joins:
            found = self._find_joined()
            if found is None:
                return False
            self._summary.resumed_lines, self._summary.output_bytes = found
            if parts_module.is_parts_folder(folder):
                self._take_away(PartsFolder(folder))
        else:
            if not os.path.exists(os.path.join(folder, parts_module.SUCCESS)):
                return False
            with contextlib.closing(PartsFolder(folder)) as opened:
                self._check_run(opened)
                parts = parts_module.read_manifest(folder)
                if len(_sound_parts(opened)) < len(parts):
                    return False  # some were taken away or cut off
                if self._job.same_cpu and len(parts_module.arithmetics_of(parts)) > 1:
                    return False
            self._summary.resumed_lines = sum(part.num_lines for part in parts)
            self._summary.output_bytes = sum(part.num_bytes for part in parts)
        logging.info(
            "%s: is complete, %s lines; nothing to do",
            self._summary.output_file,
            f"{self._summary.resumed_lines:,}",
        )
        return True

    def _take_away(self, folder: PartsFolder) -> None:
        """Takes away the parts of a run that was killed behind its join.

        A job that was done with `join` false is an output of its own, and stays.
        """
        with contextlib.closing(folder):
            run = folder.read_run()
            is_own = run is not None and run[0] == self._fingerprint
            if is_own and not folder.is_complete():
                folder.remove()

    def _find_joined(self) -> tuple[int, int] | None:
        """The lines and bytes of the output, if it is there and is this run's."""
        told = told_fingerprint(f"{self._output}.run.json")
        if told is None or not os.path.isfile(self._output):
            return None
        if self._job.same_cpu and isinstance(told.get("arithmetic"), list):
            logging.warning(
                "%s: was computed with several arithmetics, and is computed again, for "
                "--same_cpu",
                self._summary.output_file,
            )
            return None
        # One process notes what the input contains, too.
        own_keys = (*_OF_ARITHMETIC, CONTENTS)
        arithmetic = {name: told[name] for name in own_keys if name in told}
        found = find_complete(self._output, {**self._fingerprint, **arithmetic})
        if found is None and not os.path.exists(self._output + parts_module.SUFFIX):
            own = {name: each for name, each in told.items() if name not in arithmetic}
            refuse_difference(own, self._fingerprint, self._output)
        return found

    def _check_run(self, folder: PartsFolder) -> None:
        """Refuses parts of another run.

        Raises:
          OutputError: says what differs.
        """
        run = folder.read_run()
        if run is not None:
            refuse_difference(run[0], self._fingerprint, folder.path)

    def _check_place(self) -> None:
        parent = os.path.dirname(self._output)
        if os.path.isdir(self._output) or not os.path.isdir(parent):
            raise OutputError(
                f"{self._job.output_file}: expected the name of a file in a folder "
                "that is there"
            )

    def _keep(self, folder: PartsFolder) -> int:
        """Finds out what an earlier run left.

        Returns:
          The bytes of a split, if that run has chosen them; else 0.
        """
        run = folder.read_run() if self._job.resume else None
        if run is None:
            return 0
        refuse_difference(run[0], self._fingerprint, folder.path)
        split_bytes = int(run[1]["split_bytes"])
        self._num_splits = int(run[1].get("num_splits", 0))
        if self._job.split_bytes not in (0, split_bytes):
            raise OutputError(
                f"{folder.path}: --resume cannot go on, --split_bytes was "
                f"{split_bytes}, and is now {self._job.split_bytes}: leave it out"
            )
        self._parts = _sound_parts(folder)
        if self._parts:
            part = self._parts[min(self._parts)]
            self._first = (part.node, dict(part.arithmetic))
        if self._job.same_cpu:
            self._leave_out_unlike(folder)
        return split_bytes

    def _leave_out_unlike(self, folder: PartsFolder) -> None:
        """Has parts of another arithmetic than the first one's computed again."""
        unlike = [
            name
            for name, part in self._parts.items()
            if self._first is not None and part.arithmetic != self._first[1]
        ]
        for name in unlike:
            del self._parts[name]
        if unlike:
            logging.warning(
                "%s: %s parts were computed with another arithmetic than the first "
                "one, and are computed again, for --same_cpu",
                folder.path,
                f"{len(unlike):,}",
            )

    def _discard(self, folder: PartsFolder) -> None:
        num_parts = folder.discard()
        if num_parts:
            logging.warning(
                "%s: discarding what a stopped run left, %s parts; with --resume it "
                "would have gone on after them",
                folder.path,
                f"{num_parts:,}",
            )

    # -- the work

    def _run_in(self, folder: PartsFolder) -> None:
        start = time.monotonic()
        split_bytes = self._keep(folder)
        guard.check_again(self._job, self._job.output_file)
        self._summary.fingerprint = self._fingerprint
        if self._parts and len(self._parts) == self._num_splits:
            # The run before was stopped behind its last part: no worker is needed, nor
            # the input, whose files are as they were.
            in_order = sorted(self._parts.values(), key=lambda part: part.first_index)
            self._summary.resumed_lines = sum(part.num_lines for part in in_order)
        else:
            in_order = self._compute(folder, split_bytes, start)
        self._finish(folder, [self._shared(part) for part in in_order])
        self._summary.seconds = time.monotonic() - start

    def _compute(
        self, folder: PartsFolder, split_bytes: int, start: float
    ) -> list[Part]:
        """Has the parts made that are missing; gives all of them, in order."""
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
                self._discard(folder)
            setup = self._begin(folder, cluster, plan)
            names = [self._name_of(plan, number) for number in range(len(plan))]
            self._parts = {
                name: self._parts[name] for name in names if name in self._parts
            }
            kept = self._parts.values()
            summary.resumed_lines = sum(part.num_lines for part in kept)
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
        # A worker that was thought dead may have put its own part where that of its
        # replacement was.
        return [folder.read_part(name) or self._parts[name] for name in names]

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
        tally = _Tally(self._summary, plan.num_bytes - kept_bytes, num_copies)

        def on_done(task: Task, done: Done) -> None:
            self._parts[task.name] = self._shared(done.part)
            tally.add(task, done)

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

    def _finish(self, folder: PartsFolder, parts: list[Part]) -> None:
        arithmetics = parts_module.arithmetics_of(parts)
        if len(arithmetics) == 1:
            fingerprint = {**self._fingerprint, **arithmetics[0]}
        else:
            fingerprint = {**self._fingerprint, "arithmetic": arithmetics}
        self._summary.fingerprint = fingerprint
        self._summary.output_bytes = sum(part.num_bytes for part in parts)
        if not self._joins:
            folder.finish(parts, fingerprint)
            logging.info("%s: %s parts", folder.path, f"{len(parts):,}")
            return
        logging.info(
            "%s: every line is computed; joining %s parts",
            self._summary.output_file,
            f"{len(parts):,}",
        )
        # A join that was stopped goes on; what any other run left there does not, nor
        # one before parts were made anew: their compressed bytes may be others.
        left = told_fingerprint(f"{self._output}.partial.run.json")
        has_same_parts = self._job.resume and not self._summary.num_lines
        goes_on = has_same_parts and left == fingerprint
        writer = open_writer(self._output, self._kind, fingerprint, goes_on)
        join_parts(folder.path, parts, writer)
        folder.remove()

    def _say_what_stays(self, folder: PartsFolder, num_splits: int) -> None:
        logging.warning(
            "%s: %s of %s parts are there; the same command with --resume computes the "
            "others",
            folder.path,
            f"{len(self._parts):,}",
            f"{num_splits:,}",
        )


class _Tally:
    """What is done so far, for the summary and for people."""

    def __init__(self, summary: Summary, num_bytes: int, num_copies: int) -> None:
        self._summary = summary
        self._input_bytes = max(1, num_bytes)
        self._num_bytes = 0  # of the input, of this run
        self._output_bytes = 0
        self._start = self._last_log = time.monotonic()
        self._forecast = OutputForecast(summary.output_file, num_bytes)
        self._num_copies = num_copies
        self._bar = open_bar()

    def add(self, task: Task, done: Done) -> None:
        """Counts a part."""
        summary = self._summary
        for name, count in done.counts.items():
            setattr(summary, name, getattr(summary, name) + count)
        self._num_bytes += task.planned.num_bytes
        self._output_bytes += done.part.num_bytes
        self._forecast.update(
            summary.num_lines,
            self._num_bytes,
            self._output_bytes,
            free_bytes(summary.output_file),
            self._num_copies,
        )

    def show(self, num_workers: int) -> None:
        """Shows it."""
        now = time.monotonic()
        is_due = now - self._last_log >= _LOG_SECONDS
        if self._bar is None and not is_due:
            return
        elapsed = now - self._start
        share = self._num_bytes / self._input_bytes
        words = [
            f"{self._summary.num_lines:,} lines",
            f"{num_workers} workers",
            f"{self._summary.num_tokens / max(elapsed, 1.0):,.0f} tokens/s",
        ]
        if share:
            words.append(f"{elapsed * (1.0 / share - 1.0) / 60:,.0f} minutes left")
        if self._bar is not None:
            self._bar.show(share, words)
        else:
            self._last_log = now
            logging.info("%s, %d %% done", ", ".join(words), int(100 * share))

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.close()


def _describe(failed: Sequence[FailedSplit], num_splits: int, folder: str) -> str:
    """What to say of the splits that nobody could do."""
    shown = "\n".join(f"  {each}" for each in failed[:8])
    more = f"\n  and {len(failed) - 8:,} more" if len(failed) > 8 else ""
    return (
        f"{folder}: {len(failed):,} of {num_splits:,} splits failed:\n{shown}{more}\n"
        "The other parts are there: the same command with --resume computes only these"
    )


def _sound_parts(folder: PartsFolder) -> dict[str, Part]:
    """The parts that are there and as long as they were made, by name."""
    with ThreadPoolExecutor(_NUM_READERS) as pool:
        parts = pool.map(folder.read_part, sorted(folder.find_parts()))
        return {part.name: part for part in parts if part is not None}


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
