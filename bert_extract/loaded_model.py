"""Options -> a model: its files and devices at once, its weights when they are needed.

A job that finds its output complete asks for no weights, and is told of no doubts about
them.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import tensorflow as tf
from absl import logging

from bert_extract import doubt
from bert_extract.checkpoints.loading import LoadedWeights, load_weights, read_config
from bert_extract.checkpoints.model_dir import resolve_options
from bert_extract.checkpoints.sentence_model import (
    has_own_pooling,
    read_sentence_model,
)
from bert_extract.errors import OptionsError, VocabError
from bert_extract.inputs.line_parts import LineOptions
from bert_extract.model import arithmetic, devices, self_check
from bert_extract.model.arithmetic import BFLOAT16
from bert_extract.model.config import GELU_ERF, GELU_TANH, BertConfig, Dialect
from bert_extract.model.devices import Device
from bert_extract.model.layer_plan import LayerPlan
from bert_extract.model.modeling import BertModel, num_layers_needed
from bert_extract.model.pooling import SentencePooling
from bert_extract.options import MODEL_POOLING, POOLER, Options
from bert_extract.tokenization.tokenizer import Tokenizer
from bert_extract.tokenization.vocab import Vocab, vocab_doubts

# Kinds of variables that are named in the line that says how many are ignored.
_MOST_KINDS = 8
# What a person calls the two.
_GELU_FORMS = {GELU_TANH: "gelu in its tanh form", GELU_ERF: "gelu in its erf form"}
_CODES = {Dialect.GOOGLE: "Google's", Dialect.HUGGING_FACE: "Hugging Face's"}

# What `BertModel.__call__` takes, or `BertModel.compute_packed` where the model packs
# lines -> what it gives: the layers that the plan says.
Graph = Callable[..., Sequence[tf.Tensor]]


@dataclass(frozen=True)
class LoadedModel:
    """What it takes to compute."""

    tokenizer: Tokenizer
    graphs: tuple[Graph, ...]  # one for each device, with the weights there
    keeps_bits: bool  # a line's vectors have the same bits in any company


class OpenedModel:
    """A BERT: what its files say; its weights are read when they are first asked for.

    Attributes:
      options: as given, with the files and the casing that were found.
      checkpoint: opened once, for all that is done with the model.
      config: the model's sizes.
      layer_plan: which layers are computed, and which a record has.
      sentence_pooling: how a line gets one vector, if it does.
      line_options: what is made of each line.
      vocab: the wordpieces.
      num_threads: batches computed at once on the CPU.
      devices: where the model runs: the CPU, or GPUs.
      device: the same for people.
      device_kind: what of that the digits depend on.
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
        self.options, self.checkpoint = resolve_options(options)
        self.config = read_config(self.options.bert_config_file, self.checkpoint)
        self.layer_plan = LayerPlan.of(self.options, self.config)
        self.sentence_pooling, self._pooling_warnings = _pooling_of(self.options)
        self.line_options = _line_options(self.options, self.sentence_pooling)
        _check_length(self.options, self.config)
        self.vocab = Vocab.load(self.options.vocab_file)
        self._check_vocab_size()
        self.num_threads = self.options.num_threads or devices.usable_cores()
        self.devices = devices.set_up_tensorflow(self.num_threads)
        self.device = ", ".join(device.description for device in self.devices)
        self.device_kind = self.devices[0].kind
        if self.device_kind == "GPU":
            self.device_kind = self.devices[0].description.partition(", ")[2]
        self._log()
        devices.check_precision(self.options.precision, self.devices)
        self.arithmetic = arithmetic.in_force(self.device_kind, self.options.precision)
        self._loaded: LoadedModel | None = None

    def load(self) -> LoadedModel:
        """Loads the weights, unless they are loaded already.

        Raises:
          BertExtractError: the vocab or the checkpoint cannot work, or this process
            was forked from the one that the model was opened in.
        """
        devices.check_process()
        if self._loaded is None:
            # Here, and not before: a run that finds its output complete stays silent.
            self._warn_of_doubts()
            self._loaded = self._load()
        return self._loaded

    @property
    def keeps_bits(self) -> bool:
        """Whether a line's vectors have the same bits in any company on this machine.

        Known of many machines; of the others it is found out when the weights are
        loaded, which is done here if it was not.

        Raises:
          BertExtractError: the vocab or the checkpoint cannot work.
        """
        return self.arithmetic.is_known or self.load().keeps_bits

    def describe_missing_embedding(self, token_id: int) -> str:
        """What to say of a wordpiece that the model does not know."""
        return (
            f"{self.vocab.describe(token_id)} has no embedding: "
            f"{self.options.bert_config_file} says vocab_size "
            f"{self.config.vocab_size}. Is it the vocab of this checkpoint?"
        )

    def _check_vocab_size(self) -> None:
        """Refuses a vocab with which no line could be computed.

        Of other ids that have no embedding, only lines that need them are refused.
        """
        for token_id in (self.vocab.cls_id, self.vocab.sep_id):
            if token_id >= self.config.vocab_size:
                raise VocabError(self.describe_missing_embedding(token_id))

    # -- the weights

    def _load(self) -> LoadedModel:
        # Before the threads: its import registers operations, and another thread that
        # looks one up meanwhile may wait for it forever.
        import tensorflow_text  # noqa: F401

        with ThreadPoolExecutor(max_workers=1) as pool:
            # Both take a while, and each leaves the interpreter to the other.
            future = pool.submit(
                Tokenizer, self.vocab, bool(self.options.do_lower_case)
            )
            loaded = load_weights(
                self.checkpoint,
                self.config,
                num_layers_needed(
                    self.layer_plan.computed_layers, self.config.num_hidden_layers
                ),
                with_pooler=self.options.wants_pooler,
            )
            tokenizer = future.result()
        _log_weights(loaded)
        graphs = tuple(self._make_graph(loaded, device) for device in self.devices)
        keeps_bits = self.arithmetic.is_known or self._check_bits(loaded)
        return LoadedModel(tokenizer, graphs, keeps_bits)

    @property
    def packs_lines(self) -> bool:
        """Whether lines of any lengths are computed in one batch, without padding."""
        return self.arithmetic.has_encoder_kernel

    def _make_graph(self, loaded: LoadedWeights, device: Device) -> Graph:
        """Traces the model for one device; its weights go there."""
        ids = tf.TensorSpec([None, None], tf.int32)
        rows = tf.TensorSpec([None], tf.int32)
        with tf.device(device.name):
            weights = loaded.weights
            if device.kind == "GPU":
                weights = {name: tf.identity(w) for name, w in weights.items()}
            model = BertModel(
                self.config,
                weights,
                self.layer_plan.computed_layers,
                self.options.precision,
                self.arithmetic,
            )
            function: Callable[..., Sequence[tf.Tensor]] = model
            inputs = [ids, ids, ids]
            if self.packs_lines:
                function = model.compute_packed
                inputs = [rows, rows, rows, rows]
            graph = tf.function(function, input_signature=inputs, autograph=False)
            traced: Graph = graph.get_concrete_function()
        return traced

    def _check_bits(self, loaded: LoadedWeights) -> bool:
        keeps_bits = self_check.keeps_bits(
            self.config,
            loaded.weights,
            self.options.precision,
            self.arithmetic,
            self.devices[0].name,
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

    # -- what is said

    def _log(self) -> None:
        """Says what was found."""
        logging.info("%s, %s", self.device, self.options.precision)
        if self.devices[0].kind == "CPU":
            devices.warn_of_unusable_gpu()
            if self.options.precision == BFLOAT16:
                devices.warn_of_slow_bfloat16()
        logging.debug(
            "%s: read as %s code reads it: hidden_act %s, layer_norm_eps %g",
            self.options.bert_config_file,
            _CODES[self.checkpoint.dialect],
            _GELU_FORMS.get(self.config.hidden_act, self.config.hidden_act),
            self.config.layer_norm_eps,
        )
        for warning in self.vocab.warnings:
            logging.warning("%s", warning)

    def _warn_of_doubts(self) -> None:
        """Says what may make every vector wrong, where vectors are computed."""
        for warning in self.config.warnings:
            doubt.warn("%s", warning)
        for warning in self._pooling_warnings:
            logging.warning("%s", warning)
        for warning in vocab_doubts(
            self.vocab,
            bool(self.options.do_lower_case),
            self.config.vocab_size,
            self.options.bert_config_file,
        ):
            doubt.warn("%s", warning)


def _log_weights(loaded: LoadedWeights) -> None:
    logging.debug(
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


def _line_options(options: Options, pooling: SentencePooling) -> LineOptions:
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
