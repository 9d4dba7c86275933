"""Texts -> input_ids, input_mask, token_type_ids: padded tensors, and tf.data of them.

Wordpieces are cut outside of the model, as they are for the command: what Python and
tensorflow-text do of it is no part of a graph.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from bert_extract import doubt
from bert_extract.checkpoints.loading import read_config
from bert_extract.checkpoints.model_dir import resolve_options
from bert_extract.errors import ArgumentTypeError, InputError
from bert_extract.inputs.batching import to_batch
from bert_extract.inputs.features import Features, to_features
from bert_extract.model.config import BertConfig
from bert_extract.options import Options
from bert_extract.text.examples import Line, to_example
from bert_extract.tokenization.tokenizer import Tokenizer
from bert_extract.tokenization.vocab import Vocab, vocab_doubts

# Texts that are cut in one call.
_AT_ONCE = 512
# Batches in a stretch of shuffled texts, within which those of one length come
# together: half of the tokens of a batch of random sentences are padding.
_STRETCH_BATCHES = 50


class BertInputs:
    """Texts, and pairs of them, as a `BertEncoder` takes them.

    >>> inputs = BertInputs.from_model_dir("uncased_L-12_H-768_A-12")
    >>> inputs(["the river bank", ("Who was he ?", "A puppeteer")])["input_ids"].shape
    TensorShape([2, 10])
    """

    def __init__(self, options: Options) -> None:
        """Reads vocab and config; weights are not looked at.

        Args:
          options: those of `--model_dir`, or of the files; do_lower_case, pairs and
            max_seq_length.

        Raises:
          BertExtractError: an option, the vocab or the config cannot work.
        """
        options.check()
        self._options, checkpoint = resolve_options(options)
        self._config: BertConfig = read_config(
            self._options.bert_config_file, checkpoint
        )
        longest = self._config.max_position_embeddings
        if options.max_seq_length > longest:
            raise ArgumentTypeError(
                f"max_seq_length must be at most {longest}, the positions that the "
                f"model was trained with (max_position_embeddings in "
                f"{self._options.bert_config_file}); found {options.max_seq_length}"
            )
        vocab = Vocab.load(self._options.vocab_file)
        do_lower_case = bool(self._options.do_lower_case)
        for warning in vocab_doubts(
            vocab,
            do_lower_case,
            self._config.vocab_size,
            self._options.bert_config_file,
        ):
            doubt.warn("%s", warning)
        self._tokenizer = Tokenizer(vocab, do_lower_case)

    @classmethod
    def from_model_dir(
        cls, model_dir: str | os.PathLike[str], **fields: Any
    ) -> "BertInputs":
        """Reads what a BERT's folder says of texts.

        Args:
          model_dir: as `--model_dir` takes it.
          **fields: other fields of `Options`, such as max_seq_length, 128 by default.

        Raises:
          BertExtractError: as of the constructor.
        """
        return cls(Options(model_dir=os.fspath(model_dir), **fields))

    def __call__(
        self, texts: Sequence[Line], seq_length: int | None = None
    ) -> dict[str, tf.Tensor]:
        """Makes one batch.

        Args:
          texts: B of them, as `FeatureExtractor.extract` takes them: lines, or pairs
            as tuples. Longer ones than max_seq_length are truncated.
          seq_length: S, the length to which they are padded; by default that of the
            longest one.

        Returns:
          input_ids, input_mask and token_type_ids, int32 [B, S] each.

        Raises:
          BertExtractError: a text cannot be computed, or is longer than seq_length.
        """
        batch = _to_arrays(self._to_features(texts), seq_length)
        return {name: tf.constant(array) for name, array in batch.items()}

    def dataset(
        self,
        texts: Sequence[Line],
        labels: Any = None,
        *,
        batch_size: int = 32,
        shuffle: bool = False,
        seed: int | None = None,
    ) -> "tf.data.Dataset":
        """Makes batches for `model.fit`, `evaluate` and `predict`.

        Args:
          texts: as for a call; they are cut once, here.
          labels: one for each text, any array; None for texts alone.
          batch_size: texts of a batch; the last one may have fewer.
          shuffle: whether every epoch has another order. Texts of about one length
            share a batch then, which saves half of the computation. Else the order is
            that of the texts.
          seed: of the orders.

        Returns:
          Of dicts as a call gives them, each padded to its longest text; with labels
          of tuples (dict, labels).

        Raises:
          BertExtractError: a text cannot be computed, or there is not one label a text.
        """
        features = self._to_features(texts)
        targets = None if labels is None else np.asarray(labels)
        if targets is not None and len(targets) != len(features):
            raise ArgumentTypeError(
                f"labels must be one for each text: expected {len(features)}, found "
                f"{len(targets)}"
            )
        lengths = np.array([len(line.input_ids) for line in features], np.int64)
        random = np.random.default_rng(seed) if shuffle else None

        def batches() -> Iterator[Any]:
            for places in batch_places(lengths, batch_size, random):
                batch = _to_arrays([features[place] for place in places], None)
                yield batch if targets is None else (batch, targets[places])

        ids = tf.TensorSpec([None, None], tf.int32)
        signature: Any = dict.fromkeys(_to_arrays([], None), ids)
        if targets is not None:
            of_labels = tf.TensorSpec([None, *targets.shape[1:]], targets.dtype)
            signature = (signature, of_labels)
        made = tf.data.Dataset.from_generator(batches, output_signature=signature)
        num_batches = -(-len(features) // batch_size)
        return made.apply(
            tf.data.experimental.assert_cardinality(num_batches)
        ).prefetch(2)

    def _to_features(self, texts: Sequence[Line]) -> list[Features]:
        if isinstance(texts, (str, bytes)):
            raise ArgumentTypeError(
                f"expected several texts, as in [text]; found {texts!r}"
            )
        features: list[Features] = []
        examples = [
            to_example(text, index, self._options.pairs)
            for index, text in enumerate(texts)
        ]
        for start in range(0, len(examples), _AT_ONCE):
            features += to_features(
                examples[start : start + _AT_ONCE],
                self._tokenizer,
                self._options.max_seq_length,
            )
        for line in features:
            self._check(line)
        return features

    def _check(self, line: Features) -> None:
        """Refuses what the model has no embedding for.

        Raises:
          InputError: names the text and what is missing.
        """
        config, config_file = self._config, self._options.bert_config_file
        if config.type_vocab_size < 2 and line.token_type_ids.any():
            raise InputError(
                f"text {line.unique_id} is a pair, and {config_file} says "
                "type_vocab_size 1: the model takes single texts only; give the two "
                "texts one by one, or say pairs=False if it is one"
            )
        vocab = self._tokenizer.vocab
        num_known = min(len(vocab.tokens), config.vocab_size)
        unknown = line.input_ids[line.input_ids >= num_known]
        if len(unknown):
            raise InputError(
                f"text {line.unique_id}: {vocab.describe(int(unknown[0]))} has no "
                f"embedding: {config_file} says vocab_size {config.vocab_size}. Is it "
                "the vocab of this checkpoint?"
            )


def _to_arrays(
    lines: Sequence[Features], seq_length: int | None
) -> dict[str, NDArray[np.int32]]:
    longest = max((len(line.input_ids) for line in lines), default=0)
    if seq_length is not None and longest > seq_length:
        raise ArgumentTypeError(
            f"seq_length must be at least {longest}, the longest of the texts in "
            f"wordpieces; found {seq_length}. max_seq_length truncates them"
        )
    batch = to_batch(lines, longest if seq_length is None else seq_length)
    return {
        "input_ids": batch.input_ids,
        "input_mask": batch.input_mask,
        "token_type_ids": batch.token_type_ids,
    }


def batch_places(
    lengths: NDArray[np.int64], batch_size: int, random: np.random.Generator | None
) -> Iterator[NDArray[np.int64]]:
    """Divides texts among batches.

    Args:
      lengths: int64 [num_texts], in tokens.
      batch_size: texts of a batch, but for one.
      random: for another order; None for that of the texts.

    Yields:
      The places of a batch's texts.
    """
    if random is None:
        places = np.arange(len(lengths))
        for start in range(0, len(places), batch_size):
            yield places[start : start + batch_size]
        return
    places = random.permutation(len(lengths))
    for start in range(0, len(places), _STRETCH_BATCHES * batch_size):
        stretch = places[start : start + _STRETCH_BATCHES * batch_size]
        # Stable: texts of one length stay in their random order.
        stretch = stretch[np.argsort(lengths[stretch], kind="stable")]
        starts = np.arange(0, len(stretch), batch_size)
        for first in random.permutation(starts):
            yield stretch[first : first + batch_size]
