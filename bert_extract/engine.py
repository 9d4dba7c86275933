"""Examples -> encoded records: every core busy. All decisions about speed are here.

    reader thread    Examples -> Features, cut into windows
    compute threads  Batch -> the model's layers      (one a core, or two a GPU)
    encode           records -> bytes                 (the same threads on a CPU)
    the caller       takes what was encoded, in input order

At most two windows are in flight, so memory does not grow with the corpus.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import tensorflow as tf
from absl import logging
from numpy.typing import NDArray

from bert_extract import batching, devices
from bert_extract.checkpoint import LoadedWeights, load_weights
from bert_extract.config import BertConfig
from bert_extract.devices import Device
from bert_extract.errors import BertExtractError, OptionsError, VocabError
from bert_extract.examples import Example, is_unsplit_pair
from bert_extract.features import Features, to_features
from bert_extract.modeling import BertModel, num_layers_needed
from bert_extract.options import Options, resolve_layers
from bert_extract.pipeline import Pipeline
from bert_extract.progress import Summary
from bert_extract.records import Record
from bert_extract.tokenization import Tokenizer, Vocab, case_warning

# Lines that are tokenized in one call: below 256 the call itself costs more than the
# work, above some thousands nothing is gained.
_TOKENIZED_AT_ONCE = 512
# Characters of them after which a call takes no more: lines can be very long.
_TOKENIZED_CHARS = 1 << 20
# Token slots of a batch on the CPU. The matrix products reach their rate at 300 rows
# in float32 and at 1,000 in bfloat16; and the fewer batches, the fewer shapes that
# TensorFlow meets for the first time, which costs it some milliseconds each.
_CPU_SLOTS = 1024
# A short input is divided so that each thread has some batches of it, but not into
# batches smaller than this.
_LEAST_CPU_SLOTS = 128
_BATCHES_PER_THREAD = 4
# On a GPU only a large product is fast.
_GPU_SLOTS = 16384
# Tensor cores want lengths that are a multiple of it.
_GPU_LENGTH_MULTIPLE = 8
# Batches in flight on a GPU, so that one is copied while another is computed.
_THREADS_PER_GPU = 2
# The vectors of one window, in bytes. Two windows are in flight.
_WINDOW_BYTES = 192 << 20
_MIN_WINDOW_TOKENS = 4096
# More tokens fill more batches, but hold more memory the longer the input is, up to
# two windows; a GPU's batches need them.
_MAX_WINDOW_TOKENS = 32768
_MAX_WINDOW_TOKENS_GPU = 65536
# With a hidden_size of 1024 and more, the float32 matrix products of up to 100 rows
# add in another order than those of more rows (TensorFlow 2.21 on x86-64). So that a
# line's digits do not depend on its batch, every product gets at least so many rows.
# A product of a single row is different at every size.
_WIDE_HIDDEN_SIZE = 1024
_MIN_SLOTS_WIDE = 128
_MIN_SLOTS = 2

# Kinds of variables that are named in the line that says how many are ignored.
_MOST_KINDS = 8

Encoded = TypeVar("Encoded")
Layers = tuple[NDArray[np.float32], ...]  # float32 [num_tokens, hidden_size] each


class Engine:
    """A BERT checkpoint, loaded once, that turns lines of text into vectors.

    Attributes:
      options: as given.
      config: the model's sizes.
      indexes: the layers of every record, "all" resolved.
      device: where the model runs, for people.
      device_kind: what of that the digits depend on.
      num_threads: batches computed at once on the CPU.
    """

    def __init__(self, options: Options) -> None:
        """Reads vocab and config, and finds the devices; `load` does the rest.

        Args:
          options: what the vectors are.

        Raises:
          BertExtractError: an option, the vocab or the config cannot work; the
            message names it.
        """
        options.check()
        self.options = options
        self.config = BertConfig.from_json_file(self.options.bert_config_file)
        self.indexes = resolve_layers(
            self.options.layers, self.config.num_hidden_layers
        )
        _check_length(self.options, self.config)
        vocab = Vocab.load(self.options.vocab_file)
        self._check_vocab_size(vocab)
        self.num_threads = self.options.num_threads or devices.usable_cores()
        self._devices = devices.set_up_tensorflow(self.num_threads)
        self.device = ", ".join(device.description for device in self._devices)
        self.device_kind = self._devices[0].kind
        if self.device_kind == "GPU":
            self.device_kind = self._devices[0].description.partition(", ")[2]
        logging.info("%s, %s", self.device, self.options.precision)
        if self._devices[0].kind == "CPU":
            devices.warn_of_unusable_gpu()
        self._log_vocab(vocab)
        devices.check_precision(self.options.precision, self._devices)
        self._vocab = vocab
        self._graphs: list[Callable[..., list[tf.Tensor]]] = []

    def load(self) -> None:
        """Loads the weights, unless they are loaded already.

        Raises:
          BertExtractError: the vocab or the checkpoint cannot work.
        """
        if self._graphs:
            return
        num_layers = num_layers_needed(self.indexes, self.config.num_hidden_layers)
        # Before the threads: its import registers operations, and another thread that
        # looks one up meanwhile may wait for it forever.
        import tensorflow_text  # noqa: F401

        with ThreadPoolExecutor(max_workers=1) as pool:
            # Both take a while, and each leaves the interpreter to the other.
            tokenizer = pool.submit(Tokenizer, self._vocab, self.options.do_lower_case)
            weights = load_weights(
                self.options.init_checkpoint, self.config, num_layers
            )
            self._tokenizer = tokenizer.result()
        self._log_weights(weights)
        self._graphs = [self._make_graph(weights, device) for device in self._devices]

    def _check_vocab_size(self, vocab: Vocab) -> None:
        if len(vocab.tokens) > self.config.vocab_size:
            raise VocabError(
                f"{self.options.vocab_file}: has {len(vocab.tokens)} tokens, and "
                f"{self.options.bert_config_file} says vocab_size "
                f"{self.config.vocab_size}: the last ones have no embedding. Is it "
                "the vocab of this checkpoint?"
            )

    def _log_vocab(self, vocab: Vocab) -> None:
        for warning in vocab.warnings:
            logging.warning("%s", warning)
        wrong_case = case_warning(vocab, self.options.do_lower_case)
        if wrong_case:
            logging.warning("%s", wrong_case)  # it names the file
        if len(vocab.tokens) < self.config.vocab_size:
            logging.warning(
                "%s: has %d tokens, and %s says vocab_size %d; is it the vocab of "
                "this checkpoint?",
                self.options.vocab_file,
                len(vocab.tokens),
                self.options.bert_config_file,
                self.config.vocab_size,
            )

    def _log_weights(self, loaded: LoadedWeights) -> None:
        logging.info(
            "%s: %d variables loaded, %d others ignored%s",
            loaded.path,
            len(loaded.weights),
            len(loaded.ignored),
            _some(loaded.ignored_kinds()),
        )
        for name in loaded.ignored:
            logging.debug("ignored: %s", name)
        for warning in loaded.warnings:
            logging.warning("%s", warning)

    def _make_graph(
        self, loaded: LoadedWeights, device: Device
    ) -> Callable[..., list[tf.Tensor]]:
        """Traces the model for one device; its weights go there."""
        # A layer that was asked for twice is computed and copied once.
        wanted = self._distinct_indexes()
        ids = tf.TensorSpec([None, None], tf.int32)
        with tf.device(device.name):
            weights = loaded.weights
            if device.kind == "GPU":
                weights = {name: tf.identity(w) for name, w in weights.items()}
            model = BertModel(self.config, weights, wanted, self.options.precision)
            graph = tf.function(model, input_signature=[ids, ids, ids], autograph=False)
            traced: Callable[..., list[tf.Tensor]] = graph.get_concrete_function()
        return traced

    def _distinct_indexes(self) -> tuple[int | str, ...]:
        return tuple(dict.fromkeys(self._layer_number(i) for i in self.indexes))

    def _layer_number(self, index: int | str) -> int | str:
        """-1 -> num_hidden_layers - 1: one name for each layer."""
        if isinstance(index, str):
            return index
        return index % self.config.num_hidden_layers

    def run(
        self,
        examples: Iterable[Example],
        encode: Callable[[Sequence[Record]], Encoded],
        summary: Summary,
    ) -> Iterator[tuple[Sequence[Features], Encoded, bool]]:
        """Sends examples through the model.

        Args:
          examples: in order; their unique_ids become linex_index.
          encode: what to make of a group of consecutive records; called from several
            threads at once.
          summary: its counts go up as groups are yielded.

        Yields:
          The features of a group of consecutive lines, what they were encoded to, and
          whether a window ends with them.
        """
        is_gpu = self._devices[0].kind == "GPU"
        num_gpus = len(self._devices)
        pipeline: Pipeline[Features, Layers, Encoded] = Pipeline(
            plan=lambda window: self._plan(window, summary),
            compute=self._compute,
            encode=lambda lines, outputs: encode(
                [
                    self._to_record(line, layers)
                    for line, layers in zip(lines, outputs, strict=True)
                ]
            ),
            num_compute_threads=(
                _THREADS_PER_GPU * num_gpus if is_gpu else self.num_threads
            ),
            num_encode_threads=self.num_threads if is_gpu else 0,
            group_size=batching.GROUP_SIZE,
        )
        features = self._features(examples, summary)
        windows = batching.windows(features, self._window_tokens())
        for lines, encoded, is_end in pipeline.run(windows):
            summary.num_lines += len(lines)
            for line in lines:
                summary.num_tokens += len(line.input_ids)
                summary.num_pairs += line.is_pair
                summary.num_truncated += line.is_truncated
            yield lines, encoded, is_end

    def log_example(self, example: Example) -> None:
        """Shows what becomes of an example, as the original did for the first ones."""
        (line,) = to_features([example], self._tokenizer, self.options.max_seq_length)
        tokens = " ".join(self._vocab.tokens[i] for i in line.input_ids.tolist())
        logging.debug(
            "*** Example ***\nunique_id: %s\ntokens: %s\ninput_ids: %s\n"
            "token_type_ids: %s",
            line.unique_id,
            tokens,
            " ".join(map(str, line.input_ids.tolist())),
            " ".join(map(str, line.token_type_ids.tolist())),
        )

    # -- stages

    def _features(
        self, examples: Iterable[Example], summary: Summary
    ) -> Iterator[Features]:
        for chunk, failure in _chunks(examples):
            summary.num_unsplit += sum(map(is_unsplit_pair, chunk))
            lines = to_features(chunk, self._tokenizer, self.options.max_seq_length)
            del chunk[:]  # long texts are not needed any more
            yield from lines
            if failure is not None:
                raise failure

    def _window_tokens(self) -> int:
        num_outputs = max(1, len(self._distinct_indexes()))
        bytes_per_token = num_outputs * self.config.hidden_size * 4
        num_tokens = _WINDOW_BYTES // bytes_per_token
        is_gpu = self._devices[0].kind == "GPU"
        most = _MAX_WINDOW_TOKENS_GPU if is_gpu else _MAX_WINDOW_TOKENS
        return min(max(num_tokens, _MIN_WINDOW_TOKENS), most)

    def _plan(self, window: Sequence[Features], summary: Summary) -> list[list[int]]:
        lengths = [self._padded_length(line) for line in window]
        batches = batching.plan_batches(lengths, self._max_slots(sum(lengths)))
        summary.num_slots += sum(
            batching.num_rows(len(places), lengths[places[0]], self._min_slots())
            * lengths[places[0]]
            for places in batches
        )
        return batches

    def _max_slots(self, window_slots: int) -> int:
        """The most token slots of one batch of a window that has so many."""
        allowed = self.options.batch_size * self.options.max_seq_length
        if self._devices[0].kind == "GPU":
            return min(allowed, _GPU_SLOTS)
        share = window_slots // (_BATCHES_PER_THREAD * self.num_threads)
        return min(allowed, _CPU_SLOTS, max(share, _LEAST_CPU_SLOTS))

    def _padded_length(self, line: Features) -> int:
        multiple = _GPU_LENGTH_MULTIPLE if self._devices[0].kind == "GPU" else 1
        length = batching.padded_length(len(line.input_ids), multiple)
        return min(length, self.config.max_position_embeddings)

    def _min_slots(self) -> int:
        is_wide = self.config.hidden_size >= _WIDE_HIDDEN_SIZE
        return _MIN_SLOTS_WIDE if is_wide else _MIN_SLOTS

    def _compute(self, thread_number: int, lines: Sequence[Features]) -> list[Layers]:
        """Runs one batch; what it gives for each line are views of its outputs."""
        seq_length = self._padded_length(lines[0])
        batch = batching.to_batch(lines, seq_length, self._min_slots())
        place = thread_number % len(self._devices)
        with tf.device(self._devices[place].name):
            outputs = self._graphs[place](
                tf.constant(batch.input_ids),
                tf.constant(batch.input_mask),
                tf.constant(batch.token_type_ids),
            )
            # Not .numpy(), which would copy what already lies in the memory.
            arrays = [np.asarray(output) for output in outputs]
        return [
            tuple(array[row, : len(line.input_ids)] for array in arrays)
            for row, line in enumerate(lines)
        ]

    def _to_record(self, line: Features, layers: Layers) -> Record:
        layer_of = dict(zip(self._distinct_indexes(), layers, strict=True))
        tokens = self._vocab.tokens
        return Record(
            linex_index=line.unique_id,
            tokens=tuple(tokens[i] for i in line.input_ids.tolist()),
            indexes=self.indexes,
            layers=tuple(layer_of[self._layer_number(i)] for i in self.indexes),
        )


def _chunks(
    examples: Iterable[Example],
) -> Iterator[tuple[list[Example], BertExtractError | None]]:
    """Yields what is tokenized at once, and the error that came after it, if any."""
    chunk: list[Example] = []
    num_chars = 0
    try:
        for example in examples:
            chunk.append(example)
            num_chars += len(example.text_a) + len(example.text_b or "")
            del example
            if len(chunk) == _TOKENIZED_AT_ONCE or num_chars >= _TOKENIZED_CHARS:
                yield chunk, None
                chunk, num_chars = [], 0
    except BertExtractError as error:
        yield chunk, error
        return
    yield chunk, None


def _some(kinds: Sequence[str]) -> str:
    """The first of them, behind a colon; nothing if there are none."""
    more = (
        [f"{len(kinds) - _MOST_KINDS} more kinds"] if len(kinds) > _MOST_KINDS else []
    )
    text = ", ".join([*kinds[:_MOST_KINDS], *more])
    return f": {text}" if text else ""


def _check_length(options: Options, config: BertConfig) -> None:
    if options.max_seq_length > config.max_position_embeddings:
        raise OptionsError(
            f"--max_seq_length={options.max_seq_length}: the model was trained with "
            f"{config.max_position_embeddings} positions (max_position_embeddings in "
            f"{options.bert_config_file}); give at most that many"
        )
