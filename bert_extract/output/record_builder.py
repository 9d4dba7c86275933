"""Features, what the model computed for them -> Record: which entries, with what."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bert_extract.inputs.features import Features, LinePart
from bert_extract.model.pooling import Layers, pool_sentence, pool_words
from bert_extract.options import Options
from bert_extract.output.json_lines import Record


class RecordBuilder:
    """Makes the records of one kind of entry: wordpieces, words, or sentences."""

    def __init__(
        self,
        options: Options,
        wordpieces: Sequence[str],
        indexes: Sequence[int | str],
        places: Sequence[int],
        size: int,
    ) -> None:
        """Takes what all records have in common.

        Args:
          options: what the vectors are.
          wordpieces: the vocab, by id.
          indexes: the layers of a record, as it names them.
          places: which of the layers that are computed each of them is.
          size: of a vector.
        """
        self._options = options
        self._wordpieces = wordpieces
        self._indexes = tuple(indexes)
        self._places = tuple(places)
        self._size = size
        # "[MEAN]", the token of a sentence
        self._sentence = (f"[{options.sentence_pooling.upper()}]",)

    def to_record(self, features: Features, layers: Layers | None) -> Record:
        """Makes the record of a line, or of a part of a long one.

        Args:
          features: what the model got.
          layers: what it gave, each layer once, float32 [num_tokens, size]; None if
            it got nothing, and the entries are zeros.

        Raises:
          CarryLostError: the part before it failed.
        """
        part = features.part or _WHOLE
        if layers is None:
            nothing = np.zeros((0, self._size), np.float32)
            layers = (nothing,) * (max(self._places, default=-1) + 1)
        texts = None
        if self._options.unit == "word":
            assert part.words is not None
            tokens, texts = part.words.tokens, part.words.texts
            layers = self._word_layers(part, layers)
        elif self._options.unit == "sentence":
            tokens = self._sentence if part.is_last else ()
            layers = self._sentence_layers(features, part, layers)
        else:
            ids = features.input_ids
            if part.taken is not None:
                start, end = part.taken
                ids = ids[start:end]
                layers = tuple(layer[start:end] for layer in layers)
            wordpieces = self._wordpieces
            tokens = tuple(wordpieces[i] for i in ids.tolist())
        return Record(
            linex_index=features.unique_id,
            tokens=tokens,
            indexes=self._indexes,
            layers=tuple(layers[place] for place in self._places),
            texts=texts,
            offsets=None if part.offsets is None else _spans(part.offsets),
            line=features.line,
            position=part.position,
            is_first=part.is_first,
            is_last=part.is_last,
        )

    def _word_layers(self, part: LinePart, layers: Layers) -> Layers:
        words, pooling = part.words, self._options.word_pooling
        assert words is not None
        if part.carry is None:
            return pool_words(layers, words.ranges, pooling)
        with part.carry.in_order(part.turn):
            return pool_words(
                layers,
                words.ranges,
                pooling,
                part.carry,
                first_word_continues=words.first_word_continues,
                last_word_continues=words.last_word_continues,
            )

    def _sentence_layers(
        self, features: Features, part: LinePart, layers: Layers
    ) -> Layers:
        rows, pooling = _wordpiece_rows(features, part), self._options.sentence_pooling
        if part.carry is None:
            return pool_sentence(layers, rows, pooling)
        with part.carry.in_order(part.turn):
            return pool_sentence(
                layers, rows, pooling, part.carry, is_last=part.is_last
            )


_WHOLE = LinePart()


def abort_pooling(parts: Sequence[Features]) -> None:
    """Lets those fail that wait for what these would have handed on."""
    for features in parts:
        if features.part is not None and features.part.carry is not None:
            features.part.carry.abort()


def _wordpiece_rows(features: Features, part: LinePart) -> list[slice]:
    """The tokens that are neither [CLS] nor [SEP]."""
    num_tokens = len(features.input_ids)
    start, end = part.taken or (0, num_tokens)
    num_second = int(np.count_nonzero(features.token_type_ids))
    if num_second:  # [CLS] a [SEP] b [SEP]; a pair has no windows
        num_first = num_tokens - num_second
        return [slice(1, num_first - 1), slice(num_first, num_tokens - 1)]
    return [slice(max(start, 1), min(end, num_tokens - 1))]


def _spans(offsets: NDArray[np.int64]) -> tuple[tuple[int, int] | None, ...]:
    return tuple(
        (start, end) if start >= 0 else None for start, end in offsets.tolist()
    )
