"""Example -> Features: wordpiece ids, special tokens, segment ids. No padding.

single  [CLS] the dog is hairy . [SEP]
         0    0   0   0  0     0  0
pair    [CLS] is this jack ##son ? [SEP] no it is not [SEP]
         0    0  0    0    0     0  0    1  1  1  1   1
"""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bert_extract.errors import OptionsError
from bert_extract.inputs.windows import joined
from bert_extract.text.examples import Example
from bert_extract.tokenization.alignment import Wordpieces
from bert_extract.tokenization.tokenizer import Tokenizer
from bert_extract.tokenization.vocab import Vocab

# Characters from which on a text is only cut as far as it matters. Cutting all of it
# takes 80 times its size in memory and half a second a megabyte.
MAX_CHARS_CUT_AT_ONCE = 100_000

_NO_IDS = np.empty(0, np.int32)


@dataclass(frozen=True, slots=True)
class TakenTokens:
    """Tokens of the model input, each of which is an entry."""

    start: int  # the first one's position in input_ids; it may be [CLS]
    end: int  # one behind the last one, which may be [SEP]

    @property
    def num_entries(self) -> int:
        """How many entries the part gives."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Words:
    """Words, each of which is an entry."""

    tokens: tuple[str, ...]  # as they stand in the line
    texts: tuple[str, ...] | None  # "a" or "b" for each word of a pair
    # Positions in input_ids, from which on to which: of each word, and of the one that
    # goes on in the next part, if there is one.
    ranges: NDArray[np.int64]  # [num_words, 2], or [num_words + 1, 2]
    first_word_continues: bool = False  # the first one began in the part before
    last_word_continues: bool = False  # the last one goes on in the next part
    num_without_vector: int = 0  # words of which the model saw nothing
    num_cut: int = 0  # words of which the model saw only the beginning

    @property
    def num_entries(self) -> int:
        """How many entries the part gives."""
        return len(self.tokens)


@dataclass(frozen=True, slots=True)
class Sentence:
    """Tokens of the model input that are pooled; the whole line is one entry."""

    start: int  # the first one's position in input_ids; it may be [CLS]
    end: int  # one behind the last one, which may be [SEP]
    is_complete: bool = True  # the line ends with them, and the part gives its entry

    @property
    def num_entries(self) -> int:
        """How many entries the part gives."""
        return int(self.is_complete)


Entries = TakenTokens | Words | Sentence


@dataclass(frozen=True, slots=True)
class LinePart:
    """What a model input gives to the record of its line, and where in that."""

    entries: Entries
    number: int = 0  # of the line's parts, from 0; its record begins with the first
    is_last: bool = True  # the line's record ends with it
    position: int = 0  # entries of the line in the parts before it
    is_windowed: bool = False  # the line took more than one window
    # Of each entry: characters of the line as it stands in the file; -1: nothing there.
    offsets: NDArray[np.int64] | None = None  # [num_entries, 2]

    @property
    def is_first(self) -> bool:
        """Whether the line's record begins with it."""
        return self.number == 0


class Features(NamedTuple):
    """One example, or a part of a long one, as the model takes it, but for padding.

    A part may give entries, and have no token for the model: those are zeros. A tuple,
    since a frozen dataclass takes three times as long to make, and each line has one.
    """

    unique_id: int
    input_ids: NDArray[np.int32]  # [num_tokens], [CLS] .. [SEP] (.. [SEP])
    token_type_ids: NDArray[np.int32]  # [num_tokens], 0 up to the first [SEP], then 1
    is_truncated: bool  # wordpieces were left out to keep to max_seq_length
    is_pair: bool  # text_b gave wordpieces, even if truncation left none of them
    part: LinePart
    line: str | None = None  # the line's text, if it was asked for

    @property
    def is_last(self) -> bool:
        """Whether the line ends with it."""
        return self.part.is_last

    @property
    def size(self) -> int:
        """Tokens or entries, whichever are more: what it takes to go through all."""
        return max(len(self.input_ids), self.part.entries.num_entries)


def to_features(
    examples: Sequence[Example], tokenizer: Tokenizer, max_seq_length: int
) -> list[Features]:
    """Cuts the texts of all examples in one call and lays them out as upstream does.

    Args:
      examples: any number of them; some hundreds at once are fastest.
      tokenizer: cuts their texts.
      max_seq_length: the most tokens of an example, special ones included.

    Returns:
      One Features an example, in order; each gives all of its tokens.

    Raises:
      OptionsError: max_seq_length has no room for [CLS] and [SEP], or for the
        second [SEP] of a pair among the examples.
    """
    if max_seq_length < 2:
        raise OptionsError(
            f"max_seq_length is {max_seq_length}: expected 2 or more, since [CLS] and "
            "[SEP] take two places."
        )
    texts = [example.text_a for example in examples if example.text_b is None]
    if len(texts) == len(examples) and max(map(len, texts), default=0) <= (
        MAX_CHARS_CUT_AT_ONCE
    ):
        unique_ids = [example.unique_id for example in examples]
        ids_by_text = tokenizer.tokenize(texts)
        return lay_out_singles(unique_ids, ids_by_text, tokenizer.vocab, max_seq_length)
    return [
        lay_out(
            example.unique_id,
            # So many that the rest makes no difference.
            beginning(wordpieces_a, max_seq_length).ids,
            _NO_IDS
            if example.text_b is None
            else beginning(wordpieces_b, max_seq_length).ids,
            tokenizer.vocab,
            max_seq_length,
        )
        for example, wordpieces_a, wordpieces_b in zip(
            examples, *tokenize(examples, tokenizer), strict=True
        )
    ]


def tokenize(
    examples: Sequence[Example], tokenizer: Tokenizer, *, has_positions: bool = False
) -> tuple[list[Iterable[Wordpieces]], list[Iterable[Wordpieces]]]:
    """Cuts the short texts of examples in one call, and long ones when they are read.

    Args:
      examples: any number of them.
      tokenizer: cuts their texts.
      has_positions: whether the wordpieces know where in their text they stand.

    Returns:
      The wordpieces of each text_a, and those of each text_b: none of one that is not
      there.
    """
    texts = [example.text_a for example in examples]
    texts += [example.text_b for example in examples if example.text_b is not None]
    short_texts = [text for text in texts if len(text) <= MAX_CHARS_CUT_AT_ONCE]
    if has_positions:
        short_ones = iter(tokenizer.tokenize_aligned(short_texts))
    else:
        short_ones = map(Wordpieces, tokenizer.tokenize(short_texts))

    def wordpieces_of(text: str | None) -> Iterable[Wordpieces]:
        if text is None:
            return ()
        if len(text) <= MAX_CHARS_CUT_AT_ONCE:
            return (next(short_ones),)
        if has_positions:
            return tokenizer.tokenize_aligned_parts(text)
        return map(Wordpieces, tokenizer.tokenize_parts(text))

    return (
        [wordpieces_of(example.text_a) for example in examples],
        [wordpieces_of(example.text_b) for example in examples],
    )


def beginning(parts: Iterable[Wordpieces], num_wordpieces: int) -> Wordpieces:
    """The first so many wordpieces of a text, or all if there are no more."""
    if isinstance(parts, tuple) and len(parts) == 1 and len(parts[0]) <= num_wordpieces:
        return parts[0]  # nearly always
    taken: list[Wordpieces] = []
    num_taken = 0
    for part in parts:
        taken.append(part)
        num_taken += len(part)
        if num_taken >= num_wordpieces:
            break
    return joined(taken).part(0, num_wordpieces)


def truncated_pair_lengths(
    num_a: int, num_b: int, max_num_tokens: int
) -> tuple[int, int]:
    """Where upstream's loop ends that drops from the longer text, from b on a tie.

    (5, 2), 4 -> (2, 2);  (5, 1), 4 -> (3, 1);  (9, 9), 5 -> (3, 2)
    """
    if num_a + num_b <= max_num_tokens:
        return num_a, num_b
    half_rounded_up = max_num_tokens - max_num_tokens // 2
    num_a = min(num_a, max(max_num_tokens - num_b, half_rounded_up))
    return num_a, max_num_tokens - num_a


def kept_lengths(
    unique_id: int, num_a: int, num_b: int, max_seq_length: int
) -> tuple[int, int]:
    """How many wordpieces of text_a and of text_b the model sees.

    Raises:
      OptionsError: max_seq_length has no room for the second [SEP] of a pair.
    """
    # A text_b without a wordpiece counts as no text_b: upstream asks `if tokens_b`.
    if not num_b:
        return min(num_a, max_seq_length - 2), 0
    if max_seq_length < 3:
        raise OptionsError(
            f"max_seq_length is {max_seq_length}, but record {unique_id} of the "
            "input is a pair: expected 3 or more, since [CLS] and two [SEP] take "
            "three places."
        )
    return truncated_pair_lengths(num_a, num_b, max_seq_length - 3)


def lay_out(
    unique_id: int,
    ids_a: NDArray[np.int32],
    ids_b: NDArray[np.int32],
    vocab: Vocab,
    max_seq_length: int,
) -> Features:
    """Puts an example's wordpieces, as many as there is room for, between [CLS], [SEP].

    They are one part, which gives each of its tokens.

    Args:
      unique_id: the example's.
      ids_a: int32 [num_wordpieces] of text_a.
      ids_b: int32 [num_wordpieces] of text_b; empty if there is none.
      vocab: knows the ids of [CLS] and [SEP].
      max_seq_length: the most tokens.

    Raises:
      OptionsError: max_seq_length has no room for the second [SEP] of a pair.
    """
    num_a, num_b = kept_lengths(unique_id, len(ids_a), len(ids_b), max_seq_length)
    # A text_b that truncation emptied gets no [SEP], though its place was kept free.
    num_tokens = num_a + 2 + (num_b + 1 if num_b else 0)
    input_ids = np.empty(num_tokens, np.int32)
    token_type_ids = np.zeros(num_tokens, np.int32)
    input_ids[0] = vocab.cls_id
    input_ids[1 : num_a + 1] = ids_a[:num_a]
    input_ids[num_a + 1] = vocab.sep_id
    if num_b:
        input_ids[num_a + 2 : -1] = ids_b[:num_b]
        input_ids[-1] = vocab.sep_id
        token_type_ids[num_a + 2 :] = 1
    is_truncated = num_a + num_b < len(ids_a) + len(ids_b)
    return Features(
        unique_id,
        input_ids,
        token_type_ids,
        is_truncated,
        is_pair=len(ids_b) > 0,
        part=_whole_line(num_tokens),
    )


def lay_out_singles(
    unique_ids: Sequence[int],
    ids_by_text: Sequence[NDArray[np.int32]],
    vocab: Vocab,
    max_seq_length: int,
) -> list[Features]:
    """Does to many single texts at once what `lay_out` does to one.

    Args:
      unique_ids: the examples'.
      ids_by_text: int32 [num_wordpieces] of each.
      vocab: knows the ids of [CLS] and [SEP].
      max_seq_length: the most tokens.

    Returns:
      One Features an example; their arrays are views of what they share.
    """
    room = max_seq_length - 2
    nums = np.fromiter(map(len, ids_by_text), np.int64, len(ids_by_text))
    lengths = np.minimum(nums, room) + 2
    ends = np.cumsum(lengths)
    starts = ends - lengths
    is_truncated = nums > room
    if is_truncated.any():
        ids_by_text = [ids[:room] for ids in ids_by_text]
    input_ids = np.empty(ends[-1] if len(ends) else 0, np.int32)
    is_wordpiece = np.ones(len(input_ids), np.bool_)
    for places, special_id in ((starts, vocab.cls_id), (ends - 1, vocab.sep_id)):
        is_wordpiece[places] = False
        input_ids[places] = special_id
    input_ids[is_wordpiece] = np.concatenate([_NO_IDS, *ids_by_text])
    no_second_text = np.zeros(max_seq_length, np.int32)
    # What lines of a length have in common.
    by_length = {
        length: (no_second_text[:length], _whole_line(length))
        for length in set(lengths.tolist())
    }
    return [
        Features(unique_id, input_ids[start:end], types, is_cut, False, part)
        for unique_id, start, end, is_cut, (types, part) in zip(
            unique_ids,
            starts.tolist(),
            ends.tolist(),
            is_truncated.tolist(),
            map(by_length.__getitem__, lengths.tolist()),
            strict=True,
        )
    ]


@functools.lru_cache(maxsize=1024)
def _whole_line(num_tokens: int) -> LinePart:
    """One object for all lines of a length: making two a line took a tenth of it."""
    return LinePart(TakenTokens(0, num_tokens))
