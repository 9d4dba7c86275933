#!/usr/bin/env python3
"""Trains a classifier one way, in a process of its own: a part of train_classifier.py.

scripts/classifier_worker.py TASK.json RESULT.json
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from bert_extract import BertEncoder, BertInputs, vectors_dataset
from train_classifier import FINE_TUNED, PRECOMPUTED, Result, Task

# Between the vector of a text and its labels.
_HIDDEN_UNITS = 128
# The share of the steps in which the learning rate rises.
_WARM_UP = 0.1


def extract(task: Task, name: str) -> Path:
    """Writes a vector for each text, with the command."""
    folder = Path(task.folder)
    output_file = folder / f"{name}.jsonl"
    command = [
        *(sys.executable, "-m", "bert_extract", "--verbosity=-1", "--pairs=false"),
        *("--unit=sentence", "--layers=-1", f"--model_dir={task.model_dir}"),
        f"--max_seq_length={task.max_seq_length}",
        f"--input_file={folder / name}.txt",
        f"--output_file={output_file}",
    ]
    subprocess.run(command, check=True)
    return output_file


def make_head(num_labels: int) -> list[Any]:
    """What stands behind the vectors, the same in all ways."""
    return [
        keras.layers.Dense(_HIDDEN_UNITS, "relu"),
        keras.layers.Dense(num_labels),
    ]


class Vectors:
    """The way whose network takes vectors."""

    def __init__(self, task: Task) -> None:
        """Extracts them."""
        self._task = task
        self._files = [extract(task, name) for name in ("train", "test")]
        first = next(iter(self.dataset(1)))
        self._size = first[0].shape[-1]

    def build(self) -> Any:
        """Makes the network."""
        return keras.Sequential(
            [keras.Input((self._size,)), *make_head(self._task.num_labels)]
        )

    def dataset(self, part: int, seed: int | None = None) -> Any:
        """Makes batches: of part 0 to train, of part 1 to test with."""
        return vectors_dataset(
            self._files[part],
            np.array(self._task.labels[part]),
            first_only=True,
            batch_size=self._task.batch_size,
            shuffle=seed is not None,
            seed=seed,
        )


class Inside:
    """The ways whose network has BERT inside."""

    def __init__(self, task: Task) -> None:
        """Reads the texts."""
        self._task = task
        self._inputs = BertInputs.from_model_dir(
            task.model_dir, max_seq_length=task.max_seq_length, pairs=False
        )
        self._texts = [
            (Path(task.folder) / f"{name}.txt").read_text("utf-8").splitlines()
            for name in ("train", "test")
        ]

    def build(self) -> Any:
        """Makes the network."""
        encoder: Any = BertEncoder.from_model_dir(
            self._task.model_dir, pooling="mean", trainable=self._task.way == FINE_TUNED
        )
        inputs = BertEncoder.make_inputs()
        vectors = encoder(inputs)
        for layer in make_head(self._task.num_labels):
            vectors = layer(vectors)
        return keras.Model(inputs, vectors)

    def dataset(self, part: int, seed: int | None = None) -> Any:
        """Makes batches: of part 0 to train, of part 1 to test with."""
        return self._inputs.dataset(
            self._texts[part],
            self._task.labels[part],
            batch_size=self._task.batch_size,
            shuffle=seed is not None,
            seed=seed,
        )


class Clock(keras.callbacks.Callback):
    """Notes how long each epoch takes."""

    def __init__(self, bar: Any) -> None:
        """Takes the bar that counts them."""
        super().__init__()
        self._bar = bar
        self._start = (0.0, 0.0)
        self.seconds: list[tuple[float, float]] = []  # on the clock, and of CPU

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Starts."""
        self._start = (time.perf_counter(), time.process_time())

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Stops."""
        wall, cpu = self._start
        self.seconds.append((time.perf_counter() - wall, time.process_time() - cpu))
        self._bar.update()


def train(task: Task) -> Result:
    """Trains and tests with each seed."""
    begin = cpu_seconds()
    way: Any = Vectors(task) if task.way == PRECOMPUTED else Inside(task)
    cpu_seconds_before = cpu_seconds() - begin
    accuracies, tests = [], []
    epochs: list[tuple[float, float]] = []
    num_trained = 0
    with tqdm(total=task.num_seeds * task.num_epochs, unit=" epochs") as bar:
        bar.set_description(task.way)
        for seed in range(1, task.num_seeds + 1):
            keras.utils.set_random_seed(seed)
            clock = Clock(bar)
            model = compiled(way.build(), task)
            batches = way.dataset(0, seed)
            model.fit(
                batches,
                epochs=task.num_epochs,
                callbacks=[clock],
                shuffle=False,  # they are shuffled already
                verbose=0,
            )
            epochs += clock.seconds[1:] or clock.seconds  # the first one has to trace
            accuracy, seconds = tested(model, way.dataset(1), task)
            accuracies.append(accuracy)
            tests.append(seconds)
            num_trained = sum(
                int(np.prod(weight.shape)) for weight in model.trainable_weights
            )
            keras.backend.clear_session()
    wall, cpu = zip(*epochs, strict=True)
    return Result(
        way=task.way,
        accuracies=tuple(accuracies),
        cpu_seconds_before=cpu_seconds_before,
        seconds_an_epoch=statistics.median(wall),
        cpu_seconds_an_epoch=statistics.median(cpu),
        seconds_of_test=statistics.median(tests),
        num_epochs=task.num_epochs,
        num_trained=num_trained,
        peak_mb=peak_mb(),
    )


def compiled(model: Any, task: Task) -> Any:
    """Makes a model ready to train: the learning rate rises, and falls to 0."""
    num_batches = -(-len(task.labels[0]) // task.batch_size)
    num_steps = num_batches * task.num_epochs
    num_rising = round(_WARM_UP * num_steps)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0,
        max(1, num_steps - num_rising),
        warmup_target=task.learning_rate,
        warmup_steps=num_rising,
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # The small network would be compiled by XLA alone; all are to run alike.
    model.compile(keras.optimizers.Adam(rate), loss, jit_compile=False)
    return model


def tested(model: Any, batches: Any, task: Task) -> tuple[float, float]:
    """The share of the texts whose label is right, and the seconds that it took."""
    first = batches.take(1).map(lambda inputs, labels: inputs)
    model.predict(first, verbose=0)  # it is traced, which is not the test's time
    begin = time.perf_counter()
    logits = model.predict(batches.map(lambda inputs, labels: inputs), verbose=0)
    seconds = time.perf_counter() - begin
    labels = np.array(task.labels[1])
    return float((np.argmax(logits, axis=-1) == labels).mean()), seconds


def cpu_seconds() -> float:
    """Of this process, and of those that it started and that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def peak_mb() -> float:
    """Of this process, or of one that it started, if that had more."""
    own, children = (
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return max(own, children) * unit / 1e6


def main(args: Sequence[str]) -> None:
    """Does what the task says, and writes what came of it."""
    task_file, result_file = args
    fields = json.loads(Path(task_file).read_text("utf-8"))
    train_labels, test_labels = fields.pop("labels")
    task = Task(**fields, labels=(tuple(train_labels), tuple(test_labels)))
    Path(result_file).write_text(json.dumps(asdict(train(task))), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
