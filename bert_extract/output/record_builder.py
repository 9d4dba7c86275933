"""Features, what the model computed for them -> RecordPart: which entries it has."""

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bert_extract.inputs.features import Features, Sentence, TakenTokens, Words
from bert_extract.model.pooling import (
    Layers,
    PoolingState,
    SentencePooling,
    normalize,
    pool_sentence,
    pool_words,
)
from bert_extract.options import Options
from bert_extract.output.record import Record, RecordPart


class PoolingAbortedError(Exception):
    """A part of a line failed, and this one comes after it. Nobody gets to see it."""


class RecordBuilder:
    """Makes the records of a run: of wordpieces, words, or sentences.

    It keeps what parts of long lines hand on to the parts after them, so each run has
    its own.
    """

    def __init__(
        self,
        options: Options,
        wordpieces: Sequence[str],
        layer_names: Sequence[int | str],
        layer_positions: Sequence[int],
        size: int,
        sentence_pooling: SentencePooling,
    ) -> None:
        """Takes what all records have in common.

        Args:
          options: what the vectors are.
          wordpieces: the vocab, by id.
          layer_names: the layers of a record, as it names them.
          layer_positions: which of the layers that are computed each of them is.
          size: of a vector.
          sentence_pooling: how a line gets one, if it does.
        """
        self._options = options
        self._wordpieces = wordpieces
        self._layer_names = tuple(layer_names)
        self._layer_positions = tuple(layer_positions)
        # Each layer that is computed is some layer of the record.
        num_computed = 1 + max(layer_positions, default=-1)
        self._takes_all = self._layer_positions == tuple(range(num_computed))
        self._size = size
        self._pooling = sentence_pooling
        # "[MEAN]", the token of a sentence
        self._sentence = (f"[{options.sentence_pooling.upper()}]",)
        self._handover = _Handover()

    def to_parts(
        self, lines: Sequence[Features], outputs: Sequence[Layers | None]
    ) -> list[RecordPart]:
        """Makes the records of a group of consecutive lines and parts of long ones.

        Several threads may make groups at once. One that begins with the middle of a
        line waits for the group before it, which must have been begun: see `abort`.

        Args:
          lines: what the model got.
          outputs: what it gave for each, each layer once, float32 [num_tokens, size];
            None if it got nothing, and the entries are zeros.

        Raises:
          PoolingAbortedError: the group before it failed.
        """
        parts: list[RecordPart] = []
        for place, (features, layers) in enumerate(zip(lines, outputs, strict=True)):
            if place and _is_repeated(lines[place - 1 : place + 1], outputs, place):
                record = parts[-1].record
                record = Record(
                    features.unique_id, record.tokens, record.indexes, record.layers
                )
                parts.append(RecordPart(record, features.line))
            else:
                parts.append(self.to_part(features, layers))
        return parts

    def abort(self, lines: Sequence[Features]) -> None:
        """Lets the group after one that failed fail, if it goes on with its last line.

        Whoever encodes a group says so, whatever it was that failed.
        """
        self._handover.abort(lines[-1])

    def close(self) -> None:
        """Ends the run: lets everyone fail who waits, now or later."""
        self._handover.close()

    def to_part(self, features: Features, layers: Layers | None) -> RecordPart:
        """Makes the record of a line, or of a part of a long one: see `to_parts`."""
        part = features.part
        if layers is None:
            nothing = np.zeros((0, self._size), np.float32)
            layers = (nothing,) * (max(self._layer_positions, default=-1) + 1)
        texts = None
        match part.entries:
            case TakenTokens() as taken:
                ids = features.input_ids
                if taken.num_entries < len(ids):
                    own = slice(taken.start, taken.end)
                    ids = ids[own]
                    layers = tuple(layer[own] for layer in layers)
                tokens = tuple(map(self._wordpieces.__getitem__, ids.tolist()))
            case Words() as words:
                tokens, texts = words.tokens, words.texts
                layers = self._word_layers(features, words, layers)
            case Sentence() as sentence:
                tokens = self._sentence if sentence.is_complete else ()
                layers = self._sentence_layers(features, sentence, layers)
        if not self._takes_all:
            layers = tuple(layers[position] for position in self._layer_positions)
        offsets = None if part.offsets is None else _spans(part.offsets)
        record = Record(
            features.unique_id, tokens, self._layer_names, layers, texts, offsets
        )
        return RecordPart(
            record, features.line, part.position, part.is_first, part.is_last
        )

    def _word_layers(self, features: Features, words: Words, layers: Layers) -> Layers:
        layers, after = pool_words(
            layers,
            words.ranges,
            self._options.word_pooling,
            self._handover.take(features) if words.first_word_continues else None,
            last_word_continues=words.last_word_continues,
        )
        if after is not None:
            self._handover.leave(features, after)
        return layers

    def _sentence_layers(
        self, features: Features, sentence: Sentence, layers: Layers
    ) -> Layers:
        rows = _wordpiece_rows(features, sentence)
        if self._pooling.has_special_tokens:
            rows = [slice(sentence.start, sentence.end)]
        layers, after = pool_sentence(
            layers,
            rows,
            self._pooling.mode,
            None if features.part.is_first else self._handover.take(features),
            is_last=sentence.is_complete,
        )
        if after is not None:
            self._handover.leave(features, after)
        return normalize(layers) if self._pooling.is_normalized else layers


def _is_repeated(
    two: Sequence[Features], outputs: Sequence[Layers | None], place: int
) -> bool:
    """Whether the second of two lines says what the first one does.

    Lines that do and share a batch have the very same arrays. Whole lines of a length
    share their `LinePart`, too, and no other parts do.
    """
    layers = outputs[place]
    return (
        layers is not None
        and layers is outputs[place - 1]
        and two[0].part is two[1].part
        and isinstance(two[1].part.entries, TakenTokens)
    )


class _Handover:
    """What parts of lines have left for the parts after them, until these take it."""

    def __init__(self) -> None:
        self._is_closed = False
        self._changed = threading.Condition()
        # By the line, and by the number of the part that is to take it. None: the part
        # before that one failed.
        self._left: dict[tuple[int, int], PoolingState | None] = {}

    def leave(self, features: Features, state: PoolingState | None) -> None:
        """Leaves what a part has for the one after it, or None to let that one fail."""
        with self._changed:
            self._left[features.unique_id, features.part.number + 1] = state
            self._changed.notify_all()

    def take(self, features: Features) -> PoolingState:
        """Waits for what the part before a part has left for it.

        Raises:
          PoolingAbortedError: that one failed, or the run ended.
        """
        key = (features.unique_id, features.part.number)
        with self._changed:
            self._changed.wait_for(lambda: key in self._left or self._is_closed)
            state = self._left.pop(key, None)
        if state is None:
            raise PoolingAbortedError
        return state

    def close(self) -> None:
        """Lets everyone fail who waits, now or later."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def abort(self, last: Features) -> None:
        """Lets the part after the last one of a group fail, if its line has one."""
        if not last.is_last:
            self.leave(last, None)


def _wordpiece_rows(features: Features, sentence: Sentence) -> list[slice]:
    """The tokens that are neither [CLS] nor [SEP]."""
    num_tokens = len(features.input_ids)
    num_second = int(np.count_nonzero(features.token_type_ids))
    if num_second:  # [CLS] a [SEP] b [SEP]; a pair has no windows
        num_first = num_tokens - num_second
        return [slice(1, num_first - 1), slice(num_first, num_tokens - 1)]
    return [slice(max(sentence.start, 1), min(sentence.end, num_tokens - 1))]


def _spans(offsets: NDArray[np.int64]) -> tuple[tuple[int, int] | None, ...]:
    return tuple(
        (start, end) if start >= 0 else None for start, end in offsets.tolist()
    )
