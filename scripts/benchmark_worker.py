"""The pipe between the benchmark and the processes that it measures: both its ends.

A worker loads what it measures, says that it is ready, and then does one command at a
time for as long as its standard input is open. Both directions are one JSON object a
line. Nothing here needs a package: it runs in every environment.
"""

import dataclasses
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

MAX_SEQ_LENGTH = 128
BATCH_SIZE = 32
LAYERS = (-1, -2, -3, -4)  # those of them that the model has

# Which shape is fastest depends on the caches: the ceiling is the best of them.
MATMUL_SHAPES = ((1024, 768, 768), (1024, 768, 3072), (1024, 3072, 768), (2048,) * 3)
MATMUL_SECONDS = 0.4

# What a worker can do: arguments by name -> what it has to say, as JSON.
Commands = Mapping[str, Callable[..., dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to set up one contender."""

    contender: str  # "openvino": what --contenders chooses
    precision: str  # "float32", "bfloat16" or "int8"
    label: str  # what the table calls this setting
    num_encoders: int = 1  # batches that are computed at once
    num_threads: int = 1  # threads that compute one batch; 0: the library's default
    num_spare: int = 0  # threads more than encoders: they format while others compute
    has_processes: bool = False  # one for each encoder, instead of threads
    num_slots: int = 1024  # tokens of a batch, padding included
    variant: str = ""  # what else the contender is to do

    @property
    def name(self) -> str:
        """What keeps it apart from all other settings."""
        return f"{self.contender}, {self.precision}, {self.label}"


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """The same weights in every format that someone reads."""

    huggingface_dir: str  # config.json, model.safetensors, tokenizer.json, vocab.txt
    tf1_dir: str  # bert_config.json, bert_model.ckpt.*, vocab.txt
    onnx_file: str
    onnx_fused_file: str  # after ONNX Runtime's own optimizer
    onnx_int8_file: str  # after its dynamic quantization
    openvino_int8_file: str  # after NNCF's, calibrated with lines of the text


class WorkerError(Exception):
    """A worker ended, or said that it cannot do what it is asked."""


class Worker:
    """The benchmark's end: one process, which lives until `close`."""

    def __init__(
        self,
        python: Path,
        script: Path,
        setting: Setting,
        files: ModelFiles,
        log_file: Path,
    ) -> None:
        self.log_file = log_file
        request = [dataclasses.asdict(setting), dataclasses.asdict(files)]
        environ = dict(os.environ)
        if setting.num_threads:
            # Libraries read it when they are loaded; the others are told in code.
            environ["OMP_NUM_THREADS"] = str(setting.num_threads)
        with log_file.open("wb") as log:
            self._process = subprocess.Popen(
                [python, script, "serve", json.dumps(request)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environ,
                text=True,
                start_new_session=True,  # so that `close` ends its processes too
            )
        self.ready: dict[str, Any] = {}

    def start(self) -> None:
        """Waits until everything is loaded.

        Raises:
          WorkerError: it ended before.
        """
        self.ready = self._read()

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Has a command done, and waits for it.

        Raises:
          WorkerError: the worker ended meanwhile.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps([command, arguments]) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise WorkerError(self._last_words()) from error
        return self._read()

    def close(self) -> None:
        """Ends the process; after an error too, and if it has ended already."""
        if self._process.returncode is not None:
            return
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            # Ends the loop in `serve`.
            self._process.stdin.close()
            self._process.wait(timeout=10)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process.stdout.close()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(self._last_words())
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _last_words(self) -> str:
        self._process.wait()
        lines = self.log_file.read_text("utf-8", "replace").strip().splitlines()
        reason = lines[-1] if lines else f"exit status {self._process.returncode}"
        return f"{reason} (see {self.log_file})"


def serve(
    load: Callable[[Setting, ModelFiles], tuple[Commands, dict[str, str]]],
) -> None:
    """The worker's end: loads, then does commands until standard input is closed.

    Args:
      load: gives the commands and the versions of what it loaded.
    """
    # Libraries print to standard output; only replies may go to the benchmark.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    setting, files = json.loads(sys.argv[2])
    start = time.perf_counter()
    commands, versions = load(Setting(**setting), ModelFiles(**files))
    reply: dict[str, Any] = {
        "versions": versions,
        "load_seconds": time.perf_counter() - start,
    }
    print(json.dumps(reply), file=replies, flush=True)
    for line in sys.stdin:
        command, arguments = json.loads(line)
        cpu_start = _cpu_seconds()
        start = time.perf_counter()
        reply = commands[command](**arguments)
        # A command may know better what was the work and what was around it.
        reply.setdefault("seconds", time.perf_counter() - start)
        reply["cpu_seconds"] = _cpu_seconds() - cpu_start
        reply["peak_rss_kib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps(reply), file=replies, flush=True)


def make_durable(output: IO[Any]) -> None:
    """Ends a run: the output is on the disk, as it is when our tool says so."""
    output.flush()
    os.fsync(output.fileno())


def best_matmul_rate(
    make: Callable[[int, int, int], Callable[[], object]], num_threads: int
) -> dict[str, Any]:
    """The machine's ceiling: independent products, one thread each, the best shape.

    Args:
      make: gives a product of [rows, inner] and [inner, columns], to be called often.
      num_threads: how many run at once; the library must give each one core.
    """
    rates = {}
    for rows, inner, columns in MATMUL_SHAPES:
        products = [make(rows, inner, columns) for _ in range(num_threads)]
        calls = _calls_within(MATMUL_SECONDS, products)
        flop = 2 * rows * inner * columns
        rates[f"{rows}x{inner}x{columns}"] = calls * flop / 1e9
    shape = max(rates, key=lambda name: rates[name])
    return {"gflop_per_second": rates[shape], "shape": shape, "rates": rates}


def _calls_within(seconds: float, calls: list[Callable[[], object]]) -> float:
    """Calls a second that all threads make together, each calling its own."""
    rates: list[float] = []
    barrier = threading.Barrier(len(calls))

    def work(call: Callable[[], object]) -> None:
        call()
        barrier.wait()
        start = now = time.perf_counter()
        num_calls = 0
        while now < start + seconds:
            call()
            num_calls += 1
            now = time.perf_counter()
        rates.append(num_calls / (now - start))

    threads = [threading.Thread(target=work, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(rates)


def _cpu_seconds() -> float:
    """CPU time of this process and of those that it started."""
    seconds = sum(os.times()[:4])
    for child in multiprocessing.active_children():
        stat = Path(f"/proc/{child.pid}/stat")
        if stat.exists():
            # The name, in brackets, may hold spaces; user and system time follow.
            ticks = stat.read_text().rpartition(")")[2].split()[11:13]
            seconds += sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    return seconds
