#!/usr/bin/env python3
r"""BERT inside a network, or its vectors beside it? The figures, on your own text.

    scripts/train_classifier.py --model_dir=DIR --train_file=dev.conllu \
      --test_file=test.conllu

Trains the same small classifier of sentences three ways, and prints a table of what
came out, what it took, and how much memory:

    precomputed    the command writes each text's vector, once; a network takes these
    frozen inside  BERT is a layer of the network, and stays as it is
    fine-tuned     the same, and BERT is trained with the rest

Each way, and within the first the command, runs in a process of its own, so that its
memory is its own. All have the mean of the last layer, a hidden layer, and a number of
epochs that is fixed beforehand, with a learning rate that rises and then falls to 0;
each is tested once, at the end: nothing is chosen by looking at the test file.

A file is TSV, a label and a text in each line; or CoNLL-U, where the label is what a
sent_id begins with, up to the first "-": in UD English EWT the genre (weblog,
newsgroup, email, reviews, answers).

    train_classifier.py    the texts, the processes, the table (this file)
    classifier_worker.py   one way: its network, its training
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bert_extract import BertExtractError, InputError

WORKER = Path(__file__).with_name("classifier_worker.py")

PRECOMPUTED, FROZEN, FINE_TUNED = "precomputed", "frozen inside", "fine-tuned"
WAYS = (PRECOMPUTED, FROZEN, FINE_TUNED)


@dataclass(frozen=True)
class Texts:
    """A file of texts with labels."""

    texts: tuple[str, ...]
    labels: tuple[str, ...]  # one for each text


@dataclass(frozen=True)
class Task:
    """What a worker is told to do."""

    way: str  # one of WAYS
    model_dir: str
    folder: str  # with train.txt and test.txt, a text a line, and room for vectors
    labels: tuple[tuple[int, ...], tuple[int, ...]]  # of the two
    num_labels: int
    num_epochs: int
    learning_rate: float  # the highest one
    num_seeds: int
    batch_size: int
    max_seq_length: int


@dataclass(frozen=True)
class Result:
    """What a worker found."""

    way: str
    accuracies: tuple[float, ...]  # of each seed, on the test file
    cpu_seconds_before: float  # of what is done once for all seeds, on all cores
    seconds_an_epoch: float  # the median, the first epoch of each seed left out
    cpu_seconds_an_epoch: float  # the same on all cores together
    seconds_of_test: float  # the median of seeds
    num_epochs: int
    num_trained: int  # numbers that are trained
    peak_mb: float  # of the largest process


# -------------------------------------------------------------------------- the texts


def read_texts(path: Path) -> Texts:
    """Reads texts and their labels.

    Args:
      path: CoNLL-U if it is called .conllu, else TSV.

    Raises:
      InputError: it cannot be read, or a line is not what it should be.
    """
    read = _read_conllu if path.suffix == ".conllu" else _read_tsv
    try:
        pairs = list(read(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8: {error}") from error
    if not pairs:
        raise InputError(f"{path}: expected texts with labels, found none")
    labels, texts = zip(*pairs, strict=True)
    return Texts(texts, labels)


def _read_tsv(path: Path) -> Iterator[tuple[str, str]]:
    with path.open(encoding="utf-8-sig", newline="\n") as reader:
        for number, line in enumerate(reader, 1):
            if not line.strip():
                continue
            label, tab, text = line.strip("\r\n").partition("\t")
            if not (label and tab and text.strip()):
                raise InputError(
                    f"{path}: line {number}: expected a label, a tab and a text, found "
                    f"{line.strip()[:60]!r}"
                )
            yield label, " ".join(text.split())


def _read_conllu(path: Path) -> Iterator[tuple[str, str]]:
    label = None
    with path.open(encoding="utf-8-sig", newline="\n") as reader:
        for number, line in enumerate(reader, 1):
            key, _, value = line.removeprefix("#").partition("=")
            if not line.startswith("#"):
                continue
            if key.strip() == "sent_id":
                label = value.strip().partition("-")[0]
            elif key.strip() == "text":
                if label is None:
                    raise InputError(
                        f"{path}: line {number}: expected '# sent_id = GENRE-...' "
                        "above the text, found none"
                    )
                yield label, " ".join(value.split())
                label = None


# ---------------------------------------------------------------------- the processes


def run_ways(
    flags: argparse.Namespace, train: Texts, test: Texts, folder: Path
) -> list[Result]:
    """Runs a worker for each way, one after another."""
    names = sorted({*train.labels, *test.labels})
    for name, part in (("train", train), ("test", test)):
        lines = "".join(f"{text}\n" for text in part.texts)
        (folder / f"{name}.txt").write_text(lines, encoding="utf-8")
    labels = tuple(
        tuple(names.index(label) for label in part.labels) for part in (train, test)
    )
    results = []
    for way in flags.ways:
        is_tuned = way == FINE_TUNED
        task = Task(
            way=way,
            model_dir=flags.model_dir,
            folder=str(folder),
            labels=(labels[0], labels[1]),
            num_labels=len(names),
            num_epochs=flags.tuned_epochs if is_tuned else flags.head_epochs,
            learning_rate=flags.tuned_rate if is_tuned else flags.head_rate,
            num_seeds=flags.num_seeds,
            batch_size=flags.batch_size,
            max_seq_length=flags.max_seq_length,
        )
        results.append(run_worker(task, folder))
    return results


def run_worker(task: Task, folder: Path) -> Result:
    """Runs one, and reads what it found.

    Raises:
      BertExtractError: it failed; what it said stands on standard error.
    """
    task_file, result_file = folder / "task.json", folder / "result.json"
    task_file.write_text(json.dumps(asdict(task)), encoding="utf-8")
    command = [sys.executable, str(WORKER), str(task_file), str(result_file)]
    if subprocess.run(command, check=False).returncode:
        raise BertExtractError(f"the way {task.way!r} failed; see above")
    found = json.loads(result_file.read_text(encoding="utf-8"))
    return Result(**{**found, "accuracies": tuple(found["accuracies"])})


# -------------------------------------------------------------------------- the table


def to_report(results: Sequence[Result], train: Texts, test: Texts) -> str:
    """The table, as Markdown, with what it is about above it."""
    label, count = Counter(train.labels).most_common(1)[0]
    share = sum(each == label for each in test.labels) / len(test.labels)
    lines = [
        f"{len(train.texts):,} texts to train with, {len(test.texts):,} to test with, "
        f"{len({*train.labels})} labels; who always says {label!r} ({count:,} of the "
        f"first) is right in {share:.1%} of the second.",
        "",
        "| | accuracy | trained | once, CPU s | an epoch, s | CPU s | epochs "
        "| the test, s | peak memory, MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        lines.append(
            f"| {result.way} | {_accuracy(result)} | {result.num_trained:,} "
            f"| {result.cpu_seconds_before:.1f} | {result.seconds_an_epoch:.2f} "
            f"| {result.cpu_seconds_an_epoch:.2f} "
            f"| {result.num_epochs} | {result.seconds_of_test:.2f} "
            f"| {result.peak_mb:,.0f} |"
        )
    return "\n".join(lines)


def _accuracy(result: Result) -> str:
    mean = statistics.fmean(result.accuracies)
    if len(result.accuracies) == 1:
        return f"{mean:.1%}"
    return f"{mean:.1%} ± {100 * statistics.stdev(result.accuracies):.1f}"


def _parse(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--model_dir", required=True, help="a BERT's folder, as the command takes it")
    add("--train_file", required=True, help="TSV or .conllu to train with")
    add("--test_file", required=True, help="the same to test with")
    add("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="which are run")
    add("--num_seeds", type=int, default=3, help="how often each is trained")
    add("--head_epochs", type=int, default=10, help="where BERT is not trained")
    add("--head_rate", type=float, default=2e-3, help="the highest learning rate there")
    add("--tuned_epochs", type=int, default=3, help="where BERT is trained")
    add(
        "--tuned_rate", type=float, default=1e-4, help="the highest learning rate there"
    )
    add("--batch_size", type=int, default=32)
    add("--max_seq_length", type=int, default=128, help="longer texts are truncated")
    return parser.parse_args(args)


def main(args: Sequence[str] | None = None) -> int:
    """Prints the table."""
    flags = _parse(args)
    try:
        train, test = (
            read_texts(Path(path)) for path in (flags.train_file, flags.test_file)
        )
        with tempfile.TemporaryDirectory() as folder:
            results = run_ways(flags, train, test, Path(folder))
        print(to_report(results, train, test))
    except BertExtractError as error:
        print(f"train_classifier.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
