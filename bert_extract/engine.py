"""Examples -> encoded records: every core busy. All decisions about speed are here.

    reader thread    Examples -> Features, cut into windows
    compute threads  Batch -> the model's layers      (one a core, or two a GPU)
    encode           Layers -> records -> bytes       (the same threads on a CPU)
    the caller       takes what was encoded, in input order

At most two windows are in flight, so memory does not grow with the corpus.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple, TypeVar

import numpy as np
import tensorflow as tf
from absl import logging

from bert_extract import doubt
from bert_extract.checkpoints.loading import (
    LoadedWeights,
    load_weights,
    read_config,
)
from bert_extract.checkpoints.model_dir import resolve_options
from bert_extract.checkpoints.sentence_model import (
    has_own_pooling,
    read_sentence_model,
)
from bert_extract.errors import (
    BertExtractError,
    InputError,
    OptionsError,
    VocabError,
)
from bert_extract.inputs import batching
from bert_extract.inputs.arrivals import Arrivals
from bert_extract.inputs.features import Features, to_features
from bert_extract.inputs.line_parts import LineOptions, to_parts
from bert_extract.model import arithmetic, devices, self_check
from bert_extract.model.config import GELU_ERF, GELU_TANH, BertConfig, Dialect
from bert_extract.model.devices import Device
from bert_extract.model.modeling import BertModel, num_layers_needed
from bert_extract.model.pooling import Layers, SentencePooling, mix_layers
from bert_extract.options import MODEL_POOLING, POOLER, Options, resolve_layers
from bert_extract.output.json_lines import Record
from bert_extract.output.record_builder import RecordBuilder
from bert_extract.pipeline import EncodedGroup, Pipeline
from bert_extract.progress import Summary
from bert_extract.text.examples import Example, is_unsplit_pair
from bert_extract.tokenization.tokenizer import Tokenizer
from bert_extract.tokenization.vocab import UNKNOWN_TOKEN, Vocab, case_warning

# Lines that are tokenized in one call: below 256 the call itself costs more than the
# work, above some thousands nothing is gained.
_TOKENIZED_AT_ONCE = 512
# Characters of them after which a call takes no more: lines can be very long.
_TOKENIZED_CHARS = 1 << 20
# How long a line waits for others when there are no more, in seconds.
_PATIENCE = 1.0
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
# Kinds of variables that are named in the line that says how many are ignored.
_MOST_KINDS = 8
# What a person calls the two.
_GELU_FORMS = {GELU_TANH: "gelu in its tanh form", GELU_ERF: "gelu in its erf form"}
_CODES = {Dialect.GOOGLE: "Google's", Dialect.HUGGING_FACE: "Hugging Face's"}

Encoded = TypeVar("Encoded")


class _Computed(NamedTuple):
    """What the model gave for one line, or part of a line."""

    layers: Layers  # each layer once, float32 [num_tokens, size]
    num_slots: int  # tokens that were computed for it, padding included


class Engine:
    """A BERT checkpoint, loaded once, that turns lines of text into vectors.

    Attributes:
      options: as given, with the files and the casing that were found.
      checkpoint: opened once, for the engine and for its jobs.
      config: the model's sizes.
      layers: the layers asked for, "all" resolved; none if it is the pooler.
      indexes: what the layers of every record are called.
      sentence_pooling: how a line gets one vector, if it does.
      device: where the model runs, for people.
      device_kind: what of that the digits depend on.
      num_threads: batches computed at once on the CPU.
      arithmetic: the kernels that compute, and what they ask of the model.
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
        options, self.checkpoint = resolve_options(options)
        self.options = options
        self._do_lower_case = bool(options.do_lower_case)
        self.config = read_config(options.bert_config_file, self.checkpoint)
        self.layers: tuple[int | str, ...] = (POOLER,)
        if options.pools_last_layer and not options.wants_pooler:
            self.layers = (-1,)
        elif not options.pools_last_layer:
            self.layers = resolve_layers(options.layers, self.config.num_hidden_layers)
        self.indexes = self.layers
        if options.layer_pooling != "none":
            self.indexes = (options.layer_pooling,)
        # A layer that was asked for twice is computed and copied once.
        numbers = [self._layer_number(index) for index in self.layers]
        self._wanted = tuple(dict.fromkeys(numbers))
        self._places = tuple(self._wanted.index(number) for number in numbers)
        self.sentence_pooling, self._pooling_warnings = _pooling_of(options)
        self._layout = _layout_of(options, self.sentence_pooling)
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
        self._log_config()
        self._log_vocab(vocab)
        devices.check_precision(self.options.precision, self._devices)
        self.arithmetic = arithmetic.in_force(self.device_kind, self.options.precision)
        self._keeps_bits = self.arithmetic.is_known
        self._vocab = vocab
        self._graphs: list[Callable[..., list[tf.Tensor]]] = []

    def load(self) -> None:
        """Loads the weights, unless they are loaded already.

        Raises:
          BertExtractError: the vocab or the checkpoint cannot work, or this process
            was forked from the one that the engine was made in.
        """
        devices.check_process()
        if self._graphs:
            return
        # Here, and not before: a run that finds its output complete stays silent.
        self._warn_of_doubts()
        num_layers = num_layers_needed(self._wanted, self.config.num_hidden_layers)
        # Before the threads: its import registers operations, and another thread that
        # looks one up meanwhile may wait for it forever.
        import tensorflow_text  # noqa: F401

        with ThreadPoolExecutor(max_workers=1) as pool:
            # Both take a while, and each leaves the interpreter to the other.
            tokenizer = pool.submit(Tokenizer, self._vocab, self._do_lower_case)
            weights = load_weights(
                self.checkpoint,
                self.config,
                num_layers,
                with_pooler=self.options.wants_pooler,
            )
            self._tokenizer = tokenizer.result()
        self._log_weights(weights)
        self._graphs = [self._make_graph(weights, device) for device in self._devices]
        if not self.arithmetic.is_known:
            self._keeps_bits = self._check_bits(weights)

    @property
    def keeps_bits(self) -> bool:
        """Whether a line's vectors have the same bits in any company on this machine.

        Known of many machines; of the others it is found out when the weights are
        loaded, which is done here if it was not.

        Raises:
          BertExtractError: the vocab or the checkpoint cannot work.
        """
        if not self.arithmetic.is_known:
            self.load()
        return self._keeps_bits

    def _check_bits(self, loaded: LoadedWeights) -> bool:
        keeps_bits = self_check.keeps_bits(
            self.config,
            loaded.weights,
            self.options.precision,
            self.arithmetic,
            self._devices[0].name,
        )
        if not keeps_bits:
            logging.warning(
                "%s, %s: on this machine the last digits of a line's vectors depend on "
                "the lines beside it, by 2e-5 at most (scripts/check_arithmetic.py "
                "shows where)",
                self.arithmetic.kernels,
                self.options.precision,
            )
        return keeps_bits

    def _check_vocab_size(self, vocab: Vocab) -> None:
        """Refuses a vocab with which no line could be computed.

        Of other ids that have no embedding, only lines that need them are refused.
        """
        for token_id in (vocab.cls_id, vocab.sep_id):
            if token_id >= self.config.vocab_size:
                raise VocabError(self._has_no_embedding(vocab, token_id))

    def _has_no_embedding(self, vocab: Vocab, token_id: int) -> str:
        return (
            f"{vocab.describe(token_id)} has no embedding: "
            f"{self.options.bert_config_file} says vocab_size "
            f"{self.config.vocab_size}. Is it the vocab of this checkpoint?"
        )

    def _log_config(self) -> None:
        logging.info(
            "%s: read as %s code reads it: hidden_act %s, layer_norm_eps %g",
            self.options.bert_config_file,
            _CODES[self.checkpoint.dialect],
            _GELU_FORMS.get(self.config.hidden_act, self.config.hidden_act),
            self.config.layer_norm_eps,
        )

    def _log_vocab(self, vocab: Vocab) -> None:
        for warning in vocab.warnings:
            logging.warning("%s", warning)

    def _warn_of_doubts(self) -> None:
        """Says what may make every vector wrong, where vectors are computed."""
        vocab = self._vocab
        for warning in self.config.warnings:
            doubt.warn("%s", warning)
        for warning in self._pooling_warnings:
            logging.warning("%s", warning)
        wrong_case = case_warning(vocab, self._do_lower_case)
        if wrong_case:
            doubt.warn("%s", wrong_case)  # it names the file
        beyond = vocab.tokens[self.config.vocab_size :]
        if any(beyond):  # blank lines are no wordpieces, and have their own warning
            doubt.warn(
                "%s: has %d tokens, and %s says vocab_size %d: the last ones have no "
                "embedding, and the first text that needs one will end the run; is it "
                "the vocab of this checkpoint?",
                self.options.vocab_file,
                len(vocab.tokens),
                self.options.bert_config_file,
                self.config.vocab_size,
            )
        num_tokens = len(vocab.tokens)
        while num_tokens and not vocab.tokens[num_tokens - 1]:
            num_tokens -= 1  # a blank line at the end is no token
        if num_tokens < self.config.vocab_size:
            doubt.warn(
                "%s: has %d tokens, and %s says vocab_size %d; is it the vocab of "
                "this checkpoint?",
                self.options.vocab_file,
                num_tokens,
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
            doubt.warn("%s", warning)

    def _make_graph(
        self, loaded: LoadedWeights, device: Device
    ) -> Callable[..., list[tf.Tensor]]:
        """Traces the model for one device; its weights go there."""
        ids = tf.TensorSpec([None, None], tf.int32)
        with tf.device(device.name):
            weights = loaded.weights
            if device.kind == "GPU":
                weights = {name: tf.identity(w) for name, w in weights.items()}
            model = BertModel(
                self.config,
                weights,
                self._wanted,
                self.options.precision,
                self.arithmetic,
            )
            graph = tf.function(model, input_signature=[ids, ids, ids], autograph=False)
            traced: Callable[..., list[tf.Tensor]] = graph.get_concrete_function()
        return traced

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
        keeps_line: bool = False,
        may_pause: bool = False,
    ) -> Generator[EncodedGroup[Features, Encoded], None, None]:
        """Sends examples through the model.

        Args:
          examples: in order; their unique_ids become linex_index.
          encode: what to make of a group of consecutive records and parts of records;
            called from several threads at once.
          summary: its counts go up as groups are yielded.
          keeps_line: whether records, or their first parts, have their line's text.
          may_pause: whether the examples may be slow to come: those that are there
            wait for others for a second at most. Groups depend on it then.

        Yields:
          Groups of consecutive lines and parts of lines, in order.

        Raises:
          BertExtractError: this process was forked from the one that the engine was
            made in, before or during the run.
        """
        devices.check_process()
        is_gpu = self._devices[0].kind == "GPU"
        num_gpus = len(self._devices)
        builder = self._record_builder()

        def encode_group(
            lines: Sequence[Features], outputs: Sequence[_Computed | None]
        ) -> tuple[Encoded, int]:
            layers = [None if o is None else o.layers for o in outputs]
            records = builder.to_records(lines, layers)
            return encode(records), sum(o.num_slots for o in outputs if o is not None)

        pipeline: Pipeline[Features, _Computed, tuple[Encoded, int]] = Pipeline(
            plan=self._plan,
            compute=self._compute,
            encode=encode_group,
            num_compute_threads=(
                _THREADS_PER_GPU * num_gpus if is_gpu else self.num_threads
            ),
            num_encode_threads=self.num_threads if is_gpu else 0,
        )
        arrivals = Arrivals(examples, _PATIENCE, _num_chars)
        source = arrivals if may_pause else examples
        features = self._features(source, summary, keeps_line)
        windows = batching.windows(features, self._window_tokens())
        try:
            for group in pipeline.run(windows):
                encoded, num_slots = group.encoded
                summary.num_slots += num_slots
                for line in group.lines:
                    summary.count(line)
                yield EncodedGroup(group.lines, encoded, group.ends_window)
                devices.check_process()  # whoever took it may have forked
        finally:
            arrivals.close()

    def log_example(self, example: Example) -> None:
        """Shows what becomes of an example, as the original did for the first ones."""
        (line,) = to_features([example], self._tokenizer, self.options.max_seq_length)
        known = (*self._vocab.tokens, UNKNOWN_TOKEN)  # see Vocab.unk_id
        tokens = " ".join(known[i] for i in line.input_ids.tolist())
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
        self, examples: Iterable[Example | None], summary: Summary, keeps_line: bool
    ) -> Iterator[Features | None]:
        layout = replace(self._layout, keeps_line=keeps_line)
        for chunk, failure in _chunks(examples):
            if chunk is None:
                yield None
                continue
            if self.options.pairs:
                summary.num_unsplit += sum(map(is_unsplit_pair, chunk))
            lines = to_parts(chunk, self._tokenizer, layout)
            if self.config.type_vocab_size < 2:
                lines = _single_texts(lines, self.options.bert_config_file)
            if self._may_lack_embeddings():
                lines = self._with_embeddings(lines)
            yield from lines
            if failure is not None:
                raise failure

    def _may_lack_embeddings(self) -> bool:
        vocab = self._vocab
        num_ids = max(len(vocab.tokens), vocab.unk_id + 1)
        return num_ids > min(len(vocab.tokens), self.config.vocab_size)

    def _with_embeddings(self, lines: Iterator[Features]) -> Iterator[Features]:
        """Passes on the lines whose wordpieces all have an embedding.

        Raises:
          InputError: one of a line has none.
        """
        vocab = self._vocab
        num_known = min(len(vocab.tokens), self.config.vocab_size)
        for line in lines:
            unknown = line.input_ids[line.input_ids >= num_known]
            if len(unknown):
                token_id = int(unknown[0])
                reason = self._has_no_embedding(vocab, token_id)
                if token_id == len(vocab.tokens):
                    reason = (
                        f"a word of it is spelled by no wordpieces, and needs "
                        f"{vocab.describe(token_id)}"
                    )
                raise InputError(
                    f"the line with linex_index {line.unique_id}: {reason}"
                )
            yield line

    def _window_tokens(self) -> int:
        num_outputs = max(1, self._num_outputs())
        bytes_per_token = num_outputs * self.vector_size * 4
        num_tokens = _WINDOW_BYTES // bytes_per_token
        is_gpu = self._devices[0].kind == "GPU"
        most = _MAX_WINDOW_TOKENS_GPU if is_gpu else _MAX_WINDOW_TOKENS
        return min(max(num_tokens, _MIN_WINDOW_TOKENS), most)

    def _num_outputs(self) -> int:
        """How many arrays are kept of what the model computes."""
        return len(self._wanted) if self.options.layer_pooling == "none" else 1

    @property
    def vector_size(self) -> int:
        """How many values a vector of a record has."""
        if self.options.layer_pooling == "concat":
            return len(self.layers) * self.config.hidden_size
        return self.config.hidden_size

    def _plan(self, window: Sequence[Features]) -> list[list[int]]:
        lengths = [self._padded_length(line) for line in window]
        return batching.plan_batches(lengths, self._max_slots(sum(lengths)))

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

    def _compute(
        self, thread_number: int, lines: Sequence[Features]
    ) -> list[_Computed]:
        """Runs one batch; what it gives for each line are views of its outputs."""
        seq_length = self._padded_length(lines[0])
        batch = batching.to_batch(lines, seq_length)
        place = thread_number % len(self._devices)
        with tf.device(self._devices[place].name):
            outputs = self._graphs[place](
                tf.constant(batch.input_ids),
                tf.constant(batch.input_mask),
                tf.constant(batch.token_type_ids),
            )
            # Not .numpy(), which would copy what already lies in the memory.
            arrays = tuple(np.asarray(output) for output in outputs)
        if self.options.layer_pooling != "none":
            arrays = mix_layers(
                [arrays[number] for number in self._places], self.options.layer_pooling
            )
        # Rows that are only there for the kernels count with the first line.
        num_slots = [seq_length] * len(lines)
        num_rows = seq_length * len(lines)
        rule = self.arithmetic.rows_for(self.config.hidden_size)
        num_slots[0] += rule.num_rows(num_rows) - num_rows
        return [
            _Computed(
                tuple(array[row, : len(line.input_ids)] for array in arrays),
                num_slots[row],
            )
            for row, line in enumerate(lines)
        ]

    def _record_builder(self) -> RecordBuilder:
        """Makes the builder of one run."""
        mixes = self.options.layer_pooling != "none"
        return RecordBuilder(
            self.options,
            self._vocab.tokens,
            self.indexes,
            (0,) if mixes else self._places,
            self.vector_size,
            self.sentence_pooling,
        )


def _chunks(
    examples: Iterable[Example | None],
) -> Iterator[tuple[list[Example] | None, BertExtractError | None]]:
    """Yields what is tokenized at once, and the error that came after it, if any.

    A pause ends a chunk, and stands behind it as None.
    """
    chunk: list[Example] = []
    num_chars = 0
    try:
        for example in examples:
            if example is None:
                yield chunk, None
                yield None, None
                chunk, num_chars = [], 0
                continue
            chunk.append(example)
            num_chars += _num_chars(example)
            del example
            if len(chunk) == _TOKENIZED_AT_ONCE or num_chars >= _TOKENIZED_CHARS:
                yield chunk, None
                chunk, num_chars = [], 0
    except BertExtractError as error:
        yield chunk, error
        return
    yield chunk, None


def _num_chars(example: Example) -> int:
    return len(example.text_a) + len(example.text_b or "")


def _single_texts(
    lines: Iterator[Features], bert_config_file: str
) -> Iterator[Features]:
    """Passes on the lines of a model that has no segment for the text_b of a pair.

    Raises:
      InputError: a line is a pair.
    """
    for line in lines:
        if line.token_type_ids.any():
            raise InputError(
                f"the line with linex_index {line.unique_id} is a pair, and "
                f"{bert_config_file} says type_vocab_size 1: the model knows single "
                "texts only; put the two texts on lines of their own, or say "
                "--pairs=false if it is one"
            )
        yield line


def _some(kinds: Sequence[str]) -> str:
    """The first of them, behind a colon; nothing if there are none."""
    more = (
        [f"{len(kinds) - _MOST_KINDS} more kinds"] if len(kinds) > _MOST_KINDS else []
    )
    text = ", ".join([*kinds[:_MOST_KINDS], *more])
    return f": {text}" if text else ""


def _pooling_of(options: Options) -> tuple[SentencePooling, tuple[str, ...]]:
    """How a line gets one vector, and what to say of it where vectors are computed."""
    if options.unit == "sentence" and options.sentence_pooling == MODEL_POOLING:
        model = read_sentence_model(
            options.model_dir, bool(options.do_lower_case), options.max_seq_length
        )
        return model.pooling, model.warnings
    warnings: tuple[str, ...] = ()
    if (
        options.unit == "sentence"
        and options.sentence_pooling == "mean"
        and options.model_dir
        and has_own_pooling(options.model_dir)
    ):
        warnings = (
            f"{options.model_dir}: says how its model pools, and the vectors are of "
            "another pooling, the mean without [CLS] and [SEP]; "
            "--sentence_pooling=model takes the model's own",
        )
    return SentencePooling(options.sentence_pooling), warnings


def _layout_of(options: Options, pooling: SentencePooling) -> LineOptions:
    stride = 0
    if options.long_text == "window":
        stride = options.doc_stride or max(1, (options.max_seq_length - 2) // 2)
    is_of_cls = options.unit == "sentence" and pooling.mode in ("cls", POOLER)
    if stride and is_of_cls:
        logging.warning(
            "--long_text=window changes nothing with --sentence_pooling=%s: [CLS] is "
            "that of the first window",
            options.sentence_pooling,
        )
        stride = 0
    return LineOptions(
        max_seq_length=options.max_seq_length,
        unit=options.unit,
        has_offsets=options.offsets,
        stride=stride,
    )


def _check_length(options: Options, config: BertConfig) -> None:
    if options.max_seq_length > config.max_position_embeddings:
        raise OptionsError(
            f"--max_seq_length={options.max_seq_length}: the model was trained with "
            f"{config.max_position_embeddings} positions (max_position_embeddings in "
            f"{options.bert_config_file}); give at most that many"
        )
