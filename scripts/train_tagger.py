#!/usr/bin/env python3
r"""Which layers should a tagger get? The table of the BERT paper, on your own text.

    scripts/train_tagger.py --model_dir=DIR --train_file=dev.conllu \
      --test_file=test.conllu --picture=tagger.png

Extracts a vector for each word and layer, once, into --cache_dir; trains a linear and a
BiLSTM tagger in Keras on each row of the paper's feature-based table (Devlin et al.,
2019, table 7), with several seeds; prints the table beside the paper's own figures. A
run that was stopped goes on where it was.

    train_tagger.py     the rows, the taggers, the training (this file)
    tagger_features.py  CoNLL-U, vectors, the cache
    tagger_report.py    the table and the picture

Every tagger of a kind gets the same number of epochs, with a learning rate that falls
to 0 (cosine), and is then tested, once: nothing is chosen by looking at the test file.
The only thing done to the vectors is that each layer is divided by one number, its
standard deviation on the training words, so that one learning rate suits all rows.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from bert_extract import BertExtractError, InputError, Options
from bert_extract.model.arithmetic import choose_kernels
from tagger_features import COLUMNS, Sentence, WordVectors, read_conllu, word_vectors
from tagger_report import Run, draw_picture, to_report

choose_kernels()  # as the command does, before TensorFlow is imported

# What imports it:
import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

from bert_extract.model.devices import set_up_tensorflow, usable_cores  # noqa: E402

LINEAR, BILSTM = "linear", "BiLSTM"
# Sentences are put into batches with others of about their length.
_BATCH_SIZE = 32
# Words that are enough to see how large a layer's numbers are; at most twice as many.
_NUM_MEASURED = 20_000
_NUM_LSTMS = 2  # layers of them, as in the paper


@dataclass(frozen=True)
class Row:
    """A row of the paper's table."""

    name: str
    layers: slice  # of the embeddings and all encoder layers
    is_sum: bool  # its weights are learned; else layers are laid one after another


ROWS = (
    Row("embeddings", slice(0, 1), False),
    Row("second-to-last layer", slice(-2, -1), False),
    Row("last layer", slice(-1, None), False),
    Row("weighted sum of the last four", slice(-4, None), True),
    Row("concat of the last four", slice(-4, None), False),
    Row("weighted sum of all layers", slice(1, None), True),
)


@dataclass(frozen=True)
class Tagger:
    """A kind of tagger, and how it is trained."""

    name: str
    num_epochs: int
    learning_rate: float  # at the start
    lstm_units: int = 0  # of each direction; 0: there is no LSTM
    dropout: float = 0.0  # of what the last LSTM gives


@dataclass(frozen=True)
class TaggedVectors:
    """A file, ready to train with or to test with."""

    vectors: WordVectors
    tags: list[NDArray[np.int32]]  # [num_words] of each sentence; -1 is none known
    scales: NDArray[np.float32]  # [num_layers], what vectors are multiplied with

    def batch(
        self, sentences: Sequence[int], layers: slice
    ) -> tuple[tuple[Any, Any], Any, Any]:
        """Pads some sentences.

        Returns:
          (vectors float32 [batch_size, seq_length, num_layers, hidden_size], and which
          are words, bool [batch_size, seq_length]), their tags, int32 of this shape,
          and how much each counts, float32 of this shape.
        """
        lengths = [len(self.tags[sentence]) for sentence in sentences]
        shape = (len(sentences), max(lengths))
        scales = self.scales[layers, None]
        vectors = np.zeros(
            (*shape, len(scales), self.vectors.vectors.shape[-1]), np.float32
        )
        tags = np.zeros(shape, np.int32)
        is_word = np.arange(shape[1]) < np.array(lengths)[:, None]
        for place, sentence in enumerate(sentences):
            own = self.vectors.of(sentence)[:, layers]
            vectors[place, : len(own)] = own * scales
            tags[place, : len(own)] = self.tags[sentence]
        return (vectors, is_word), tags, is_word.astype(np.float32)

    def batches(self, rng: np.random.Generator | None = None) -> list[list[int]]:
        """Sentences of about one length together, in random order if there is one."""
        lengths = np.array([len(tags) for tags in self.tags], np.float64)
        if rng is not None:
            lengths += rng.uniform(0, 3, len(lengths))
        order = np.argsort(lengths, kind="stable").tolist()
        batches = [
            order[i : i + _BATCH_SIZE] for i in range(0, len(order), _BATCH_SIZE)
        ]
        if rng is not None:
            rng.shuffle(batches)
        return batches


# ------------------------------------------------------------------------ the model


@keras.saving.register_keras_serializable(package="bert_extract_scripts")
class WeightedSum(keras.layers.Layer):
    """scale * sum of softmax(weights)[i] * layer i, all of them learned, as in ELMo."""

    def build(self, input_shape: Any) -> None:
        """Makes the weights: at the start it is the mean."""
        self.layer_weights = self.add_weight(
            shape=(input_shape[-2],), initializer="zeros", name="layer_weights"
        )
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

    def call(self, vectors: Any) -> Any:
        """[batch, seq, layers, hidden_size] -> [batch, seq, hidden_size]."""
        weights = self.scale * keras.ops.softmax(self.layer_weights)
        return keras.ops.einsum("bslh,l->bsh", vectors, weights)

    def shares(self) -> list[float]:
        """What each layer has of the sum; together 1."""
        return [float(share) for share in keras.ops.softmax(self.layer_weights)]


def build_tagger(
    tagger: Tagger, is_sum: bool, num_layers: int, hidden_size: int, num_tags: int
) -> Any:
    """Makes a Keras model.

    Returns:
      (vectors float32 [batch, seq, num_layers, hidden_size], is_word bool [batch, seq])
      -> logits float32 [batch, seq, num_tags].
    """
    vectors = keras.Input((None, num_layers, hidden_size))
    is_word = keras.Input((None,), dtype="bool")
    if is_sum:
        hidden = WeightedSum(name="weighted_sum")(vectors)
    else:
        hidden = keras.layers.Reshape((-1, num_layers * hidden_size))(vectors)
    if tagger.lstm_units:
        for _ in range(_NUM_LSTMS):
            lstm = keras.layers.LSTM(tagger.lstm_units, return_sequences=True)
            hidden = keras.layers.Bidirectional(lstm)(hidden, mask=is_word)
        hidden = keras.layers.Dropout(tagger.dropout)(hidden)
    return keras.Model([vectors, is_word], keras.layers.Dense(num_tags)(hidden))


class Trainer:
    """One tagger on one row: compiled once, trained for each seed."""

    def __init__(
        self, tagger: Tagger, row: Row, train: TaggedVectors, num_tags: int
    ) -> None:
        """Builds and compiles it.

        Args:
          tagger: which.
          row: which layers.
          train: what it will see.
          num_tags: how many there are to choose from.
        """
        self._tagger, self._row, self._train = tagger, row, train
        num_layers = len(train.scales[row.layers])
        hidden_size = train.vectors.vectors.shape[-1]
        self._sizes = (row.is_sum, num_layers, hidden_size, num_tags)
        self._num_batches = len(train.batches())
        self._model = build_tagger(tagger, *self._sizes)
        num_steps = tagger.num_epochs * self._num_batches
        schedule = keras.optimizers.schedules.CosineDecay(
            tagger.learning_rate, num_steps
        )
        loss = keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, reduction="mean_with_sample_weight"
        )
        # Compiling for each length of sentences takes longer than it saves.
        self._model.compile(keras.optimizers.Adam(schedule), loss, jit_compile=False)
        shape = (None, None, num_layers, hidden_size)
        self._inputs = (
            tf.TensorSpec(shape, tf.float32),
            tf.TensorSpec((None, None), tf.bool),
        )
        # Not Keras's predict: it is traced anew for each length of sentences.
        self._predict = tf.function(
            lambda vectors, is_word: self._model([vectors, is_word], training=False),
            input_signature=self._inputs,
        )

    def run(self, seed: int, test: TaggedVectors, bar: Any) -> Run:
        """Trains it from the start, and tests it once.

        Args:
          seed: of the weights at the start, and of the order of the sentences.
          test: what it is tested with.
          bar: counts the epochs.
        """
        keras.utils.set_random_seed(seed)
        # Not compiled again: that takes as long as some epochs.
        fresh = build_tagger(self._tagger, *self._sizes)
        self._model.set_weights(fresh.get_weights())
        for variable in self._model.optimizer.variables:
            variable.assign(keras.ops.zeros_like(variable))
        count = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: bar.update()
        )
        self._model.fit(
            self._batches(np.random.default_rng(seed)),
            epochs=self._tagger.num_epochs,
            callbacks=[count],
            shuffle=False,  # they are shuffled already
            verbose=0,
        )
        shares = (
            self._model.get_layer("weighted_sum").shares() if self._row.is_sum else None
        )
        accuracy = self._accuracy(test)
        return Run(self._tagger.name, self._row.name, seed, accuracy, shares)

    def _batches(self, rng: np.random.Generator) -> Any:
        """Every epoch in an order of its own."""
        signature = (
            self._inputs,
            tf.TensorSpec((None, None), tf.int32),
            tf.TensorSpec((None, None), tf.float32),
        )

        def generate() -> Iterator[Any]:
            for sentences in self._train.batches(rng):
                yield self._train.batch(sentences, self._row.layers)

        dataset = tf.data.Dataset.from_generator(generate, output_signature=signature)
        return dataset.apply(
            tf.data.experimental.assert_cardinality(self._num_batches)
        ).prefetch(2)

    def _accuracy(self, test: TaggedVectors) -> float:
        """The share of the words whose tag is right."""
        num_right = num_words = 0
        for sentences in test.batches():
            inputs, tags, counts = test.batch(sentences, self._row.layers)
            found = np.argmax(self._predict(*inputs), axis=-1)
            num_right += int(((found == tags) * counts).sum())
            num_words += int(counts.sum())
        return num_right / num_words


# ------------------------------------------------------------------------ the runs


def train_all(
    flags: argparse.Namespace, train: TaggedVectors, test: TaggedVectors, num_tags: int
) -> list[Run]:
    """Trains every tagger on every row with every seed, unless it was done before."""
    taggers = [tagger for tagger in _taggers(flags) if tagger.name in flags.taggers]
    settings = {
        "features": [train.vectors.key, test.vectors.key, flags.column],
        "taggers": [dataclasses.asdict(tagger) for tagger in _taggers(flags)],
        "libraries": [tf.__version__, keras.__version__],
    }
    runs_file = Path(flags.cache_dir) / "runs.json"
    done = {run.place: run for run in read_runs(runs_file, settings)}
    wanted: list[Run] = []
    num_epochs = flags.num_seeds * len(ROWS) * sum(t.num_epochs for t in taggers)
    with tqdm(total=num_epochs, unit=" epochs", smoothing=0.05) as bar:
        for tagger in taggers:
            for row in ROWS:
                trainer: Trainer | None = None
                for seed in range(1, flags.num_seeds + 1):
                    bar.set_description(f"{tagger.name}, {row.name}, seed {seed}")
                    run = done.get((tagger.name, row.name, seed))
                    if run is None:
                        trainer = trainer or Trainer(tagger, row, train, num_tags)
                        run = trainer.run(seed, test, bar)
                        done[run.place] = run
                        write_runs(runs_file, settings, list(done.values()))
                    else:
                        bar.update(tagger.num_epochs)
                    wanted.append(run)
                keras.backend.clear_session()
    return wanted


def _taggers(flags: argparse.Namespace) -> list[Tagger]:
    return [
        Tagger(LINEAR, flags.linear_epochs, 5e-3),
        Tagger(BILSTM, flags.lstm_epochs, 4e-3, flags.lstm_units, 0.3),
    ]


def read_runs(runs_file: Path, settings: dict[str, Any]) -> list[Run]:
    """What was done before with the same settings."""
    if not runs_file.exists():
        return []
    content = json.loads(runs_file.read_text("utf-8"))
    if content["settings"] != settings:
        return []  # of another table
    return [Run(**run) for run in content["runs"]]


def write_runs(runs_file: Path, settings: dict[str, Any], runs: list[Run]) -> None:
    """Writes them in one go: a run that is stopped leaves a whole file."""
    content = {"settings": settings, "runs": [dataclasses.asdict(run) for run in runs]}
    partial = runs_file.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    partial.replace(runs_file)


def _load(
    flags: argparse.Namespace,
) -> tuple[TaggedVectors, TaggedVectors, list[str]]:
    """Reads both files, and extracts the vectors of both."""
    options = Options(
        model_dir=flags.model_dir,
        layers="embeddings,all",
        unit="word",
        word_pooling=flags.word_pooling,
        max_seq_length=flags.max_seq_length,
        long_text="window",  # no word is left out
        pairs=False,  # a word may be |||
    )
    files = (Path(flags.train_file), Path(flags.test_file))
    sentences = [read_conllu(path, flags.column) for path in files]
    train, test = (word_vectors(s, options, Path(flags.cache_dir)) for s in sentences)
    num_layers = train.vectors.shape[1]
    if num_layers < 5:
        raise InputError(
            f"{flags.model_dir}: the model has {num_layers - 1} encoder layers, and "
            "the table takes the last four; take a larger model"
        )
    scales = _scales(train.vectors)
    names = sorted({tag for sentence in sentences[0] for tag in sentence.tags})
    tags = [[_tag_ids(sentence, names) for sentence in part] for part in sentences]
    return (
        TaggedVectors(train, tags[0], scales),
        TaggedVectors(test, tags[1], scales),
        names,
    )


def _scales(vectors: NDArray[np.float16]) -> NDArray[np.float32]:
    """1 / standard deviation of each layer: float32 [num_layers]."""
    some = vectors[:: max(1, len(vectors) // _NUM_MEASURED)]
    deviations = [np.std(layer, dtype=np.float64) for layer in some.swapaxes(0, 1)]
    return (1 / np.array(deviations)).astype(np.float32)


def _tag_ids(sentence: Sentence, names: Sequence[str]) -> NDArray[np.int32]:
    ids = {name: number for number, name in enumerate(names)}
    return np.array([ids.get(tag, -1) for tag in sentence.tags], np.int32)


def _parse(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--model_dir", required=True, help="a BERT's folder, as the command takes it")
    add("--train_file", required=True, help="CoNLL-U to train with")
    add("--test_file", required=True, help="CoNLL-U to test with")
    add("--column", choices=list(COLUMNS), default="upos", help="where the tags are")
    add("--word_pooling", default="first", help="as of the command; the paper's: first")
    add("--max_seq_length", type=int, default=128, help="wordpieces of a window")
    both = [LINEAR, BILSTM]
    add("--taggers", nargs="+", choices=both, default=both, help="which are trained")
    add("--num_seeds", type=int, default=3, help="how often each tagger is trained")
    add("--linear_epochs", type=int, default=12)
    add("--lstm_epochs", type=int, default=8)
    add("--lstm_units", type=int, default=64, help="of each direction, in two layers")
    add(
        "--cache_dir",
        default="tagger_cache",
        help="vectors, and the runs that are done",
    )
    add("--picture", help="a .png or .svg to draw the table into (needs matplotlib)")
    add("--title", help="what the picture says of your column; else the test file")
    return parser.parse_args(args)


def _title(flags: argparse.Namespace, num_tags: int) -> str:
    """What the picture says of our column."""
    files = f"{Path(flags.test_file).name}, {num_tags} tags,"
    return (
        f"{flags.title or files}\naccuracy, mean and spread of {flags.num_seeds} seeds"
    )


def main(args: Sequence[str] | None = None) -> int:
    """Prints the table, and draws it."""
    flags = _parse(args)
    set_up_tensorflow(usable_cores())
    try:
        train, test, names = _load(flags)
        for title, part in (("train", train), ("test", test)):
            num_words = len(part.vectors.vectors)
            print(f"{title}: {len(part.tags):,} sentences, {num_words:,} words")
        runs = train_all(flags, train, test, len(names))
        print(to_report(runs))
        if flags.picture:
            draw_picture(runs, flags.picture, _title(flags, len(names)))
    except BertExtractError as error:
        print(f"train_tagger.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
