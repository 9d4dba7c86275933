"""Examples -> encoded records: a model at work, with every core busy.

    reader thread    Examples -> Features, cut into stretches
    compute threads  Batch -> the model's layers      (one a core, or two a GPU)
    encode           Layers -> records -> bytes       (the same threads on a CPU)
    the caller       takes what was encoded, in input order

At most two stretches are in flight, so memory does not grow with the corpus.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

import numpy as np
import tensorflow as tf
from absl import logging

from bert_extract.errors import BertExtractError, InputError
from bert_extract.inputs import batching
from bert_extract.inputs.arrivals import Arrivals
from bert_extract.inputs.batching import Batch, PackedBatch
from bert_extract.inputs.features import Features, to_features
from bert_extract.inputs.line_parts import to_parts
from bert_extract.loaded_model import OpenedModel
from bert_extract.model import devices
from bert_extract.model.arithmetic import Arithmetic
from bert_extract.model.layer_plan import LayerPlan
from bert_extract.model.pooling import Layers, mix_layers
from bert_extract.output.record import RecordPart
from bert_extract.output.record_builder import RecordBuilder
from bert_extract.pipeline import EncodedGroup, Pipeline
from bert_extract.progress import Summary
from bert_extract.text.examples import Example, is_unsplit_pair
from bert_extract.tokenization.vocab import UNKNOWN_TOKEN
from bert_extract.work import Work

# Lines that are tokenized in one call: below 256 the call itself costs more than the
# work, above some thousands nothing is gained.
_TOKENIZED_AT_ONCE = 512
# Characters of them after which a call takes no more: lines can be very long.
_TOKENIZED_CHARS = 1 << 20
# How long a line waits for others when there are no more, in seconds.
_PATIENCE = 1.0
# Token slots of a batch on the CPU, and of narrow models, in which what is not products
# weighs more: see `scripts/benchmark_batches.py`. The fewer batches, the fewer shapes
# that TensorFlow meets for the first time, too, which costs it some milliseconds each.
_CPU_SLOTS = 1024
_NARROW_CPU_SLOTS = 2048
_NARROW = 512  # hidden_size, at most
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
# The vectors of one stretch, in bytes. Two stretches are in flight.
_STRETCH_BYTES = 192 << 20
_MIN_STRETCH_TOKENS = 4096
# More tokens fill more batches, but hold more memory the longer the input is, up to
# two stretches; a GPU's batches need them.
_MAX_STRETCH_TOKENS = 32768
_MAX_STRETCH_TOKENS_GPU = 65536
# Numbers of records that are encoded at once, which takes some milliseconds: threads
# hand on work less often where lines are short and models narrow.
_ENCODED_AT_ONCE = 1 << 19
# What each line costs besides, in numbers.
_NUMBERS_PER_LINE = 1 << 8
Encoded = TypeVar("Encoded")


class _Computed(NamedTuple):
    """What the model gave for one line, or part of a line."""

    layers: Layers  # each layer once, float32 [num_tokens, size]
    # Tokens that were computed for it, padding included; 0 of a line that says what
    # another one of its batch does.
    num_slots: int


class Engine:
    """A model that turns lines of text into records.

    Attributes:
      model: what it computes with.
    """

    def __init__(self, model: OpenedModel) -> None:
        """Loads the model's weights, unless they are loaded already.

        Raises:
          BertExtractError: as `OpenedModel.load`.
        """
        self.model = model
        self._loaded = model.load()
        self._is_gpu = model.devices[0].kind == "GPU"
        self._rows = model.arithmetic.rows_for(model.config.hidden_size)

    def run(
        self,
        examples: Iterable[Example],
        encode: Callable[[Sequence[RecordPart]], Encoded],
        summary: Summary,
        keeps_line: bool = False,
        may_pause: bool = False,
        work: Work | None = None,
    ) -> Generator[EncodedGroup[Features, Encoded], None, None]:
        """Sends examples through the model.

        Args:
          examples: in order; their unique_ids become linex_index.
          encode: what to make of a group of consecutive records and parts of records;
            called from several threads at once.
          summary: its counts go up as groups are yielded.
          keeps_line: whether the first part of each record has its line's text.
          may_pause: whether the examples may be slow to come: those that are there
            wait for others for a second at most. Groups depend on it then.
          work: is told of each batch as it is computed.

        Yields:
          Groups of consecutive lines and parts of lines, in order.

        Raises:
          BertExtractError: this process was forked from the one that the engine was
            made in, before or during the run.
        """
        devices.check_process()
        builder = self._record_builder()
        work = work or Work()
        work.is_all_read = False

        def compute(number: int, lines: Sequence[Features]) -> list[_Computed]:
            start = time.perf_counter()
            outputs = self._compute(number, lines)
            work.computed(lines, time.perf_counter() - start)
            return outputs

        def encode_group(
            lines: Sequence[Features], outputs: Sequence[_Computed | None]
        ) -> tuple[Encoded, int, int]:
            start = time.perf_counter()
            try:
                layers = [None if o is None else o.layers for o in outputs]
                encoded = encode(builder.to_parts(lines, layers))
            except BaseException:
                builder.abort(lines)  # nobody may wait for what never comes
                raise
            work.encoded(lines, time.perf_counter() - start)
            num_slots = sum(o.num_slots for o in outputs if o is not None)
            num_repeated = sum(
                len(line.input_ids)
                for line, output in zip(lines, outputs, strict=True)
                if output is not None and not output.num_slots
            )
            return encoded, num_slots, num_repeated

        pipeline: Pipeline[Features, _Computed, tuple[Encoded, int, int]] = Pipeline(
            plan=self._plan,
            compute=compute,
            encode=encode_group,
            num_compute_threads=self._num_compute_threads(),
            num_encode_threads=self.model.num_threads if self._is_gpu else 0,
            weigh=self._weight,
        )
        arrivals = Arrivals(examples, _PATIENCE, _num_chars)
        source = arrivals if may_pause else examples
        features = _counted(self._features(source, summary, keeps_line), work)
        stretches = batching.stretches(features, self._stretch_tokens())
        try:
            for group in pipeline.run(stretches):
                encoded, num_slots, num_repeated = group.encoded
                summary.num_slots += num_slots
                summary.num_repeated += num_repeated
                for line in group.lines:
                    summary.count(line)
                yield EncodedGroup(group.lines, encoded, group.ends_stretch)
                devices.check_process()  # whoever took it may have forked
        finally:
            arrivals.close()
            builder.close()

    def log_example(self, example: Example) -> None:
        """Shows what becomes of an example, as the original did for the first ones."""
        model = self.model
        (line,) = to_features(
            [example], self._loaded.tokenizer, model.options.max_seq_length
        )
        known = (*model.vocab.tokens, UNKNOWN_TOKEN)  # see Vocab.unk_id
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
        options = self.model.options
        line_options = replace(self.model.line_options, keeps_line=keeps_line)
        for chunk, failure in _chunks(examples):
            if chunk is None:
                yield None
                continue
            if options.pairs:
                summary.num_unsplit += sum(map(is_unsplit_pair, chunk))
            lines = to_parts(chunk, self._loaded.tokenizer, line_options)
            if self.model.config.type_vocab_size < 2:
                lines = _single_texts(lines, options.bert_config_file)
            if self._may_lack_embeddings():
                lines = self._with_embeddings(lines)
            yield from lines
            if failure is not None:
                raise failure

    def _may_lack_embeddings(self) -> bool:
        vocab, vocab_size = self.model.vocab, self.model.config.vocab_size
        num_ids = max(len(vocab.tokens), vocab.unk_id + 1)
        return num_ids > min(len(vocab.tokens), vocab_size)

    def _with_embeddings(self, lines: Iterator[Features]) -> Iterator[Features]:
        """Passes on the lines whose wordpieces all have an embedding.

        Raises:
          InputError: one of a line has none.
        """
        vocab = self.model.vocab
        num_known = min(len(vocab.tokens), self.model.config.vocab_size)
        for line in lines:
            unknown = line.input_ids[line.input_ids >= num_known]
            if len(unknown):
                token_id = int(unknown[0])
                reason = self.model.describe_missing_embedding(token_id)
                if token_id == len(vocab.tokens):
                    reason = (
                        f"a word of it is spelled by no wordpieces, and needs "
                        f"{vocab.describe(token_id)}"
                    )
                raise InputError(
                    f"the line with linex_index {line.unique_id}: {reason}"
                )
            yield line

    def _stretch_tokens(self) -> int:
        return stretch_tokens(self.model.layer_plan, self._is_gpu)

    def _plan(self, stretch: Sequence[Features]) -> list[list[int]]:
        if self.model.packs_lines:
            lengths = [len(line.input_ids) for line in stretch]
            max_slots = self._max_slots(sum(lengths))
            return batching.plan_packed_batches(lengths, max_slots, self._rows.least)
        lengths = [self._num_slots(line) for line in stretch]
        return batching.plan_batches(lengths, self._max_slots(sum(lengths)))

    def _weight(self, group: Sequence[Features]) -> float:
        """The share of what is encoded at once that a group is."""
        plan = self.model.layer_plan
        num_numbers = len(plan.record_positions) * plan.vector_size
        num_entries = sum(part.part.entries.num_entries for part in group)
        weight = num_entries * num_numbers + len(group) * _NUMBERS_PER_LINE
        return weight / _ENCODED_AT_ONCE

    def _max_slots(self, stretch_slots: int) -> int:
        """The most token slots of one batch of a stretch that has so many."""
        options = self.model.options
        allowed = options.batch_size * options.max_seq_length
        if self._is_gpu:
            return min(allowed, _GPU_SLOTS)
        share = stretch_slots // (_BATCHES_PER_THREAD * self.model.num_threads)
        most = cpu_slots(self.model.config.hidden_size, self.model.arithmetic)
        return min(allowed, most, max(share, _LEAST_CPU_SLOTS))

    def _num_slots(self, line: Features) -> int:
        """How many rows are computed for a line: its tokens, and padding."""
        num_tokens = len(line.input_ids)
        if self.model.packs_lines:
            return num_tokens
        multiple = _GPU_LENGTH_MULTIPLE if self._is_gpu else 1
        length = batching.padded_length(num_tokens, multiple)
        return min(length, self.model.config.max_position_embeddings)

    def _compute(
        self, thread_number: int, lines: Sequence[Features]
    ) -> list[_Computed]:
        """Computes a batch; lines that say the same, as blank ones do, once."""
        keys = [(x.input_ids.tobytes(), x.token_type_ids.tobytes()) for x in lines]
        firsts = dict(zip(reversed(keys), reversed(lines), strict=True))
        if len(firsts) == len(lines):
            return self._run_model(thread_number, lines)
        distinct = list(dict.fromkeys(keys))
        outputs = self._run_model(thread_number, [firsts[key] for key in distinct])
        computed_for = dict(zip(distinct, outputs, strict=True))
        computed = []
        for key in keys:
            output = computed_for[key]
            computed.append(output)
            if output.num_slots:
                computed_for[key] = output._replace(num_slots=0)
        return computed

    def _run_model(
        self, thread_number: int, lines: Sequence[Features]
    ) -> list[_Computed]:
        """Runs the model; what it gives for each line are views of its outputs."""
        layers = self._layers(thread_number % len(self.model.devices), lines)
        num_slots = [self._num_slots(line) for line in lines]
        # The rows of each line: the pooler gives one.
        nums = [1] * len(lines) if self.model.options.wants_pooler else num_slots
        ends = itertools.accumulate(nums)
        # Rows that are only there for the kernels count with the first line.
        sum_slots = sum(num_slots)
        num_slots = [*num_slots]
        num_slots[0] += self._rows.num_rows(sum_slots) - sum_slots
        computed = []
        for line, num, end, slots in zip(lines, nums, ends, num_slots, strict=True):
            start = end - num
            own = slice(start, start + min(num, len(line.input_ids)))
            computed.append(_Computed(tuple(rows[own] for rows in layers), slots))
        return computed

    def _layers(self, device_number: int, lines: Sequence[Features]) -> Layers:
        """The layers of all lines, float32 [num_rows, size] each, as they were made."""
        inputs: Batch | PackedBatch
        if self.model.packs_lines:
            inputs = batching.pack(lines)
        else:
            inputs = batching.to_batch(lines, self._num_slots(lines[0]))
        fields = [getattr(inputs, field.name) for field in dataclasses.fields(inputs)]
        with tf.device(self.model.devices[device_number].name):
            outputs = self._loaded.graphs[device_number](*map(tf.constant, fields))
            # Not .numpy(), which would copy what already lies in the memory.
            arrays = [np.asarray(output) for output in outputs]
        layers = tuple(array.reshape(-1, array.shape[-1]) for array in arrays)
        plan = self.model.layer_plan
        if not plan.is_mixed:
            return layers
        mixed = mix_layers(
            [layers[position] for position in plan.layer_positions],
            self.model.options.layer_pooling,
        )
        for layer in mixed:
            # As TensorFlow's arrays are: lines that say the same share them.
            layer.flags.writeable = False
        return mixed

    def _record_builder(self) -> RecordBuilder:
        """Makes the builder of one run."""
        plan = self.model.layer_plan
        return RecordBuilder(
            self.model.options,
            self.model.vocab.tokens,
            plan.layer_names,
            plan.record_positions,
            plan.vector_size,
            self.model.sentence_pooling,
        )

    def _num_compute_threads(self) -> int:
        if self._is_gpu:
            return _THREADS_PER_GPU * len(self.model.devices)
        return self.model.num_threads


def cpu_slots(hidden_size: int, kernels: Arithmetic) -> int:
    """How many token slots a full batch has on the CPU: more would gain less than 2 %.

    Args:
      hidden_size: the model's width.
      kernels: those that compute; of more rows than were looked at, nobody knows
        whether each has the same bits.
    """
    most_rows = kernels.most_rows_for(hidden_size)
    is_larger = hidden_size <= _NARROW and most_rows >= _NARROW_CPU_SLOTS
    return _NARROW_CPU_SLOTS if is_larger else min(_CPU_SLOTS, most_rows)


def stretch_tokens(plan: LayerPlan, is_gpu: bool) -> int:
    """How many tokens a stretch has whose vectors all wait in memory."""
    bytes_per_token = max(1, plan.num_kept_layers) * plan.vector_size * 4
    most = _MAX_STRETCH_TOKENS_GPU if is_gpu else _MAX_STRETCH_TOKENS
    return min(max(_STRETCH_BYTES // bytes_per_token, _MIN_STRETCH_TOKENS), most)


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


def _counted(
    features: Iterable[Features | None], work: Work
) -> Iterator[Features | None]:
    for part in features:
        if part is not None:
            work.read(part)
        yield part
    work.is_all_read = True


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
                f"{bert_config_file} says type_vocab_size 1: the model takes single "
                "texts only; put the two texts on lines of their own, or say "
                "--pairs=false if it is one"
            )
        yield line
