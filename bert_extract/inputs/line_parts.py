"""Example -> Features of its parts: words, offsets, and windows over a long text.

A line is one part, unless it is long. What it gives by default, each wordpiece of one
model input, is `features.to_features`; all else is here. A long line is made part by
part while it is read, so that none takes more memory than a short one, but for its
text.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from bert_extract.inputs.features import (
    MAX_CHARS_CUT_AT_ONCE,
    Features,
    LinePart,
    Sentence,
    TakenTokens,
    Words,
    beginning,
    kept_lengths,
    lay_out,
    to_features,
    tokenize,
)
from bert_extract.inputs.windows import Window, slide
from bert_extract.text.examples import Example
from bert_extract.tokenization.alignment import Wordpieces, word_spans
from bert_extract.tokenization.tokenizer import Tokenizer
from bert_extract.tokenization.vocab import Vocab

# The most words of one part; what belongs to a word is a vector for each layer.
_PART_WORDS = 1024

_NO_IDS = np.empty(0, np.int32)
_NO_WORDPIECES = Wordpieces(_NO_IDS)
_NO_SPANS = np.empty((0, 2), np.int64)

Item = TypeVar("Item")
TextName = Literal["a", "b"]


@dataclass(frozen=True, kw_only=True)
class LineOptions:
    """What becomes of a line."""

    max_seq_length: int  # the most tokens of a model input
    unit: str = "wordpiece"  # one of options.UNITS
    has_offsets: bool = False  # entries tell where in the line they stand
    stride: int = 0  # between windows over a long single text; 0: it is truncated
    keeps_line: bool = False  # a line's first part has its text with it

    @property
    def is_plain(self) -> bool:
        """Whether each line is one model input, and nobody asks where things stand."""
        return self.unit != "word" and not self.has_offsets and not self.stride

    @property
    def needs_positions(self) -> bool:
        """Whether it matters where in the text a wordpiece stands."""
        return self.unit == "word" or self.has_offsets


def to_parts(
    examples: list[Example], tokenizer: Tokenizer, layout: LineOptions
) -> Iterator[Features]:
    """Yields the parts of each example, in order.

    Args:
      examples: any number of them; some hundreds at once are fastest. The list is
        emptied when they are not needed any more: they may be long.
      tokenizer: cuts their texts.
      layout: what becomes of them.

    Raises:
      OptionsError: max_seq_length has no room for [CLS] and [SEP], or for the second
        [SEP] of a pair among the examples.
    """
    if layout.is_plain:
        lines = to_features(examples, tokenizer, layout.max_seq_length)
        if layout.unit == "sentence":
            lines = [_as_sentence(features) for features in lines]
        if layout.keeps_line:
            lines = [
                features._replace(line=line_of(example))
                for features, example in zip(lines, examples, strict=True)
            ]
        examples.clear()
        yield from lines
        return
    cut = tokenize(examples, tokenizer, has_positions=layout.needs_positions)
    for example, wordpieces_a, wordpieces_b in zip(examples, *cut, strict=True):
        line = _Line(example, tokenizer.vocab, layout)
        if example.text_b is None and layout.stride:
            parts = line.windows(wordpieces_a)
        else:
            parts = line.truncated(wordpieces_a, wordpieces_b)
        yield from _numbered(parts)
    examples.clear()


def line_of(example: Example) -> str:
    """The line, as it was split; a record's first part has it."""
    if example.text_b is None:
        return example.text_a
    return f"{example.text_a} ||| {example.text_b}"


def _numbered(parts: Iterator[Features]) -> Iterator[Features]:
    """Numbers the parts, marks the last one, and counts the entries before each."""
    position = 0
    for number, (features, is_last) in enumerate(_with_last(parts)):
        is_first = number == 0
        if is_first and is_last:
            yield features
            return
        part = features.part
        yield features._replace(
            # Said once a line.
            is_truncated=features.is_truncated and is_first,
            is_pair=features.is_pair and is_first,
            line=features.line if is_first else None,
            part=replace(part, number=number, is_last=is_last, position=position),
        )
        position += part.entries.num_entries


class _Line:
    """One example on its way to parts."""

    def __init__(self, example: Example, vocab: Vocab, layout: LineOptions) -> None:
        self._example = example
        self._vocab = vocab
        self._layout = layout
        self._line = line_of(example) if layout.keeps_line else None
        self._first_position = -1  # of the first wordpiece, in the line of the file
        self._last_word_continues = False  # a word goes on in the next part
        self._is_windowed = False

    def windows(self, wordpieces: Iterable[Wordpieces]) -> Iterator[Features]:
        """Slides over the single text; one part, or some, a window."""
        spans = _Spans(self._example.text_a)
        room = self._layout.max_seq_length - 2
        for window in slide(wordpieces, room, self._layout.stride):
            self._is_windowed = not (window.is_first and window.is_last)
            features = self._lay_out(window.wordpieces, _NO_WORDPIECES)
            if self._layout.unit == "word":
                yield from self._words_of_window(features, window, spans)
            elif self._layout.unit == "sentence":
                yield self._sentence_of_window(features, window)
            else:
                yield self._wordpieces_of_window(features, window)

    def truncated(
        self, wordpieces_a: Iterable[Wordpieces], wordpieces_b: Iterable[Wordpieces]
    ) -> Iterator[Features]:
        """Takes what there is room for; one part, but for words left out."""
        # One more than there can be room for shows which word was cut.
        most = self._layout.max_seq_length - 1
        start_a = beginning(wordpieces_a, most)
        start_b = beginning(wordpieces_b, most)
        features = self._lay_out(start_a, start_b)
        num_a, num_b = kept_lengths(
            features.unique_id, len(start_a), len(start_b), most + 1
        )
        if self._layout.unit == "word":
            chunks = self._chunks("a", start_a, num_a, 1)
            if self._example.text_b is not None:
                more = self._chunks("b", start_b, num_b, num_a + 2)
                chunks = itertools.chain(chunks, more)
            for merged in _merged(chunks):
                yield self._to_words(features, merged)
        elif self._layout.has_offsets:
            offsets = np.full((len(features.input_ids), 2), -1, np.int64)
            offsets[1 : num_a + 1] = self._offsets("a", start_a.part(0, num_a))
            if num_b:
                offsets[num_a + 2 : -1] = self._offsets("b", start_b.part(0, num_b))
            if self._layout.unit == "sentence":
                yield _as_sentence(features, _whole(offsets))
            else:
                yield features._replace(part=replace(features.part, offsets=offsets))
        elif self._layout.unit == "sentence":
            yield _as_sentence(features)
        else:
            yield features

    def _lay_out(self, start_a: Wordpieces, start_b: Wordpieces) -> Features:
        features = lay_out(
            self._example.unique_id,
            start_a.ids,
            start_b.ids,
            self._vocab,
            self._layout.max_seq_length,
        )
        return features if self._line is None else features._replace(line=self._line)

    # -- wordpieces and sentences

    def _wordpieces_of_window(self, features: Features, window: Window) -> Features:
        has_offsets = self._layout.has_offsets
        if not self._is_windowed and not has_offsets:
            return features  # byte for byte what a truncated one is
        start, end = _taken_tokens(window)
        offsets = None
        if has_offsets:
            offsets = np.full((len(features.input_ids), 2), -1, np.int64)
            offsets[1:-1] = self._offsets("a", window.wordpieces)
            offsets = offsets[start:end]
        part = LinePart(
            TakenTokens(start, end), is_windowed=self._is_windowed, offsets=offsets
        )
        return features._replace(part=part)

    def _sentence_of_window(self, features: Features, window: Window) -> Features:
        offsets = None
        if self._layout.has_offsets:
            of_window = self._offsets("a", window.wordpieces.part(*window.taken))
            if window.is_first and len(of_window):
                self._first_position = int(of_window[0, 0])
            last_position = int(of_window[-1, 1]) if len(of_window) else -1
            offsets = np.array([[self._first_position, last_position]])
        part = LinePart(
            Sentence(*_taken_tokens(window), is_complete=window.is_last),
            is_windowed=self._is_windowed,
            offsets=offsets if window.is_last else None,
        )
        return features._replace(part=part)

    def _offsets(self, name: TextName, wordpieces: Wordpieces) -> NDArray[np.int64]:
        """Where wordpieces stand in the line of the file: int64 [num_wordpieces, 2]."""
        if wordpieces.starts is None or wordpieces.ends is None:
            return _NO_SPANS  # a text without a wordpiece
        spans = np.stack((wordpieces.starts, wordpieces.ends), axis=1)
        return self._in_file(name, spans)

    def _in_file(self, name: TextName, spans: NDArray[np.int64]) -> NDArray[np.int64]:
        """Spans of a text -> of the line as it stands in the file: int64 [n, 2]."""
        starts = self._example.raw_positions(name, spans[:, 0], is_end=False)
        ends = self._example.raw_positions(name, spans[:, 1], is_end=True)
        return np.stack((starts, ends), axis=1)

    # -- words

    def _words_of_window(
        self, features: Features, window: Window, spans: "_Spans"
    ) -> Iterator[Features]:
        first, end = window.taken
        starts = window.wordpieces.part(first, end).starts
        chunks = _to_chunks("a", spans.until(window.next_start), starts, first + 1)
        for chunk in chunks:
            yield self._to_words(features, [chunk])

    def _chunks(
        self, name: TextName, start: Wordpieces, num_kept: int, first_token: int
    ) -> "Iterator[_Chunk]":
        """The words of a text of which the model sees some wordpieces."""
        text = self._example.text_b if name == "b" else self._example.text_a
        spans = _Spans(text or "").until(None)
        starts = start.starts
        kept = None if starts is None else starts[:num_kept]
        for chunk in _to_chunks(name, spans, kept, first_token):
            if starts is not None and len(starts) > num_kept:
                chunk = replace(chunk, num_cut=chunk.num_cut_at(int(starts[num_kept])))
            yield chunk

    def _to_words(self, features: Features, chunks: "Sequence[_Chunk]") -> Features:
        """Makes the part that gives the words of some chunks."""
        spans = np.concatenate([chunk.spans for chunk in chunks])
        ranges = np.concatenate([chunk.ranges for chunk in chunks])
        counts = ranges[:, 1] - ranges[:, 0]
        if not counts.any():  # there is nothing for the model to compute
            features = features._replace(input_ids=_NO_IDS, token_type_ids=_NO_IDS)
        first_word_continues, self._last_word_continues = (
            self._last_word_continues,
            len(ranges) > len(spans),
        )
        offsets = None
        if self._layout.has_offsets:
            offsets = np.concatenate([self._in_file(c.name, c.spans) for c in chunks])
        words = Words(
            tokens=tuple(itertools.chain(*map(self._tokens, chunks))),
            texts=None
            if self._example.text_b is None
            else tuple(name for c in chunks for name in c.name * len(c.spans)),
            ranges=ranges,
            first_word_continues=first_word_continues,
            last_word_continues=self._last_word_continues,
            num_without_vector=len(counts) - int(np.count_nonzero(counts)),
            num_cut=sum(chunk.num_cut for chunk in chunks),
        )
        part = LinePart(words, is_windowed=self._is_windowed, offsets=offsets)
        return features._replace(part=part)

    def _tokens(self, chunk: "_Chunk") -> list[str]:
        text = self._example.text_b if chunk.name == "b" else self._example.text_a
        if text is None:
            return []
        return [text[start:end] for start, end in chunk.spans.tolist()]


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Some words of a text, and which tokens of a model input are theirs."""

    name: TextName
    spans: NDArray[np.int64]  # [num_words, 2], characters of the text
    # From which on to which token. One more where a word goes on behind the tokens.
    ranges: NDArray[np.int64]  # [num_words, 2] or [num_words + 1, 2]
    num_cut: int = 0  # words of which the model sees some wordpieces, but not all

    def num_cut_at(self, position: int) -> int:
        """How many words a wordpiece that the model does not see cuts: 1 or 0."""
        starts, ends = self.spans[:, 0], self.spans[:, 1]
        is_there = (starts <= position) & (position < ends)
        return int(np.count_nonzero(is_there & (self.ranges[:, 1] > self.ranges[:, 0])))


def _to_chunks(
    name: TextName,
    spans: Iterable[NDArray[np.int64]],
    starts: NDArray[np.int64] | None,
    first_token: int,
) -> Iterator[_Chunk]:
    """Divides tokens among words.

    Args:
      name: the text's.
      spans: int64 [num_words, 2] each, words of the text, in order.
      starts: int64 [num_tokens], where the tokens begin in the text, word by word;
        None if there are none. Behind the last word they are of one that goes on.
      first_token: the position of the first of them in the model input.

    Yields:
      A chunk for each of `spans`, and one if there are none.
    """
    starts = np.empty(0, np.int64) if starts is None else starts
    is_empty = True
    for words, is_last in _with_last(spans):
        is_empty = False
        # Within a word they need not be in order: accents may have been sorted.
        own = starts[: np.count_nonzero(starts < words[-1, 1])]
        word_of = np.searchsorted(words[:, 0], own, side="right") - 1
        counts = np.bincount(word_of, minlength=len(words))
        starts = starts[len(own) :]
        if is_last and len(starts):
            counts = np.append(counts, len(starts))
        yield _Chunk(name, words, _ranges(counts, first_token))
        first_token += len(own)
    if is_empty:
        counts = np.array([len(starts)] if len(starts) else [], np.int64)
        yield _Chunk(name, _NO_SPANS, _ranges(counts, first_token))


def _ranges(counts: NDArray[np.int64], first: int) -> NDArray[np.int64]:
    """How many each has -> from which on to which: [2, 0, 1], 5 -> 5 7, 7 7, 7 8."""
    ends = first + np.cumsum(counts)
    return np.stack((ends - counts, ends), axis=1)


def _merged(chunks: Iterable[_Chunk]) -> Iterator[list[_Chunk]]:
    """Puts consecutive chunks together, as many as one part may have."""
    held: list[_Chunk] = []
    for chunk in chunks:
        if held and sum(len(c.spans) for c in [*held, chunk]) > _PART_WORDS:
            yield held
            held = []
        held.append(chunk)
    if held:
        yield held


class _Spans:
    """The words of a text, in order; of a long one, only some are held."""

    def __init__(self, text: str) -> None:
        self._found = _find_spans(text)
        self._held = _NO_SPANS

    def until(self, position: int | None) -> Iterator[NDArray[np.int64]]:
        """Yields the next words that end at a position or before it, or all.

        int64 [num_words, 2] each, some words at a time.
        """
        while len(self._held) or self._fill():
            num_words = len(self._held)
            if position is not None:
                ends = self._held[:, 1]
                num_words = int(np.searchsorted(ends, position, side="right"))
            for start in range(0, num_words, _PART_WORDS):
                yield self._held[start : min(start + _PART_WORDS, num_words)]
            self._held = self._held[num_words:]
            if len(self._held):
                return

    def _fill(self) -> bool:
        for spans in self._found:
            if len(spans):
                self._held = spans
                return True
        return False


def _find_spans(text: str) -> Iterator[NDArray[np.int64]]:
    """Finds a text's words: int64 [num_words, 2], of a long text some at a time."""
    start, size = 0, MAX_CHARS_CUT_AT_ONCE
    while start < len(text):
        end = min(start + size, len(text))
        spans = word_spans(text[start:end]) + start
        if end < len(text) and len(spans) and spans[-1, 1] == end:
            # The last one may go on.
            end = int(spans[-1, 0])
            spans = spans[:-1]
        # Where one word fills it all, its end is farther away.
        size = 2 * size if end == start else MAX_CHARS_CUT_AT_ONCE
        yield spans
        start = end


def _taken_tokens(window: Window) -> tuple[int, int]:
    """Which tokens of the model input a window gives: [CLS] and [SEP] once a line."""
    start, end = window.taken
    return start + (not window.is_first), end + (2 if window.is_last else 1)


def _as_sentence(
    features: Features, offsets: NDArray[np.int64] | None = None
) -> Features:
    """Makes one entry of all tokens of a line that is one part."""
    sentence = Sentence(0, len(features.input_ids))
    return features._replace(part=LinePart(sentence, offsets=offsets))


def _whole(offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """From the first wordpiece to the last: int64 [num_tokens, 2] -> [1, 2]."""
    found = offsets[offsets[:, 0] >= 0]
    if not len(found):
        return np.array([[-1, -1]])
    return np.array([[found[0, 0], found[-1, 1]]])


def _with_last(items: Iterable[Item]) -> Iterator[tuple[Item, bool]]:
    """Yields each item and whether it is the last: [1, 2] -> (1, False), (2, True)."""
    held: list[Item] = []
    for item in items:
        if held:
            yield held.pop(), False
        held.append(item)
    if held:
        yield held.pop(), True
