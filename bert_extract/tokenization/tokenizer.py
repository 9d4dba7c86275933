"""Text -> wordpiece ids, token for token as google-research/bert cuts it.

A text is first cut into words in Python; then tensorflow-text cuts the words of many
texts into wordpieces in one call.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bert_extract.errors import VocabError
from bert_extract.tokenization.alignment import Wordpieces, align, sources
from bert_extract.tokenization.basic_tokenizer import MAX_CHARS_PER_WORD, basic_tokens
from bert_extract.tokenization.long_text import parts
from bert_extract.tokenization.vocab import UNKNOWN_TOKEN, Vocab, is_buildable, is_long

_MAX_UTF8_BYTES_PER_CHAR = 4

_SURROGATE = re.compile("[\ud800-\udfff]")


class Tokenizer:
    """Cuts texts into wordpiece ids.

    Args:
      vocab: the wordpieces.
      do_lower_case: lower-case the text and take off its accents, as an uncased
        checkpoint wants it.
    """

    def __init__(self, vocab: Vocab, do_lower_case: bool) -> None:
        # Not at the top: reading a vocab, or asking for help, must not wait seconds
        # for TensorFlow.
        import tensorflow as tf
        import tensorflow_text as tf_text

        self.vocab = vocab
        self.do_lower_case = do_lower_case
        # What a wordpiece spells, in characters: at the start of a word and inside.
        tokens = (*vocab.tokens, UNKNOWN_TOKEN)  # where vocab.unk_id may point to
        self._first_lengths = np.array([len(t) for t in tokens], np.int64)
        self._inner_lengths = self._first_lengths - len("##")
        # A vocab of which tensorflow-text cannot hold some wordpiece is a rarity.
        self._has_long_pieces = any(
            token and not is_buildable(token) for token in vocab.tokens
        )
        self._tf = tf
        model_buffer = _wordpiece_model(vocab, tf_text.build_fast_wordpiece_model)
        # A tensor: bytes would be turned into a list of a million numbers first.
        # On the CPU: the op runs there, and from a GPU it would be copied each call.
        with tf.device("CPU:0"):
            model = tf.constant(np.frombuffer(model_buffer, np.uint8))
        self._wordpiece = tf_text.FastWordpieceTokenizer(
            model_buffer=model, token_out_type=tf.int32
        )

    def tokenize(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Cuts many texts in one call, without [CLS] and [SEP].

        Returns:
          For each text, in order, its wordpiece ids, int32 [num_wordpieces]: views
          of one array.
        """
        cut = self._cut(texts)
        return [cut.ids[start:end] for start, end in pairwise(cut.bounds)]

    def tokenize_aligned(self, texts: Sequence[str]) -> list[Wordpieces]:
        """Cuts many texts in one call, and says where in them the wordpieces stand.

        A wordpiece starts at the first and ends behind the last character of the text
        that it has something of. So an accent that was taken off its last letter lies
        outside, and all wordpieces of one Hangul syllable have the same place. [UNK]
        stands for its whole word.

        Returns:
          For each text, in order, what `tokenize` gives, and the positions.
        """
        cut = self._cut(texts)
        starts, ends = self._positions(cut, texts)
        aligned = []
        offset = 0
        for text, bounds in zip(texts, pairwise(cut.bounds), strict=True):
            own = slice(*bounds)
            aligned.append(
                Wordpieces(cut.ids[own], starts[own] - offset, ends[own] - offset)
            )
            offset += len(text)
        return aligned

    def tokenize_parts(self, text: str) -> Iterator[NDArray[np.int32]]:
        """Cuts a long text some at a time, so that it takes no more memory than a part.

        Yields:
          int32 [num_wordpieces]: ids that, one after the other, are the text's.
        """
        for part in parts(text, self.do_lower_case):
            yield from self.tokenize([part.text])

    def tokenize_aligned_parts(self, text: str) -> Iterator[Wordpieces]:
        """Does to a long text, some at a time, what `tokenize_aligned` does.

        Yields:
          The text's next wordpieces, with positions in the whole text.
        """
        for part in parts(text, self.do_lower_case):
            cut = self._cut([part.text])
            starts, ends = self._positions(cut, [part.text])
            yield Wordpieces(
                cut.ids, part.starts_in_text(starts), part.ends_in_text(ends)
            )

    def _cut(self, texts: Sequence[str]) -> "_Cut":
        words: list[str] = []
        ends = [0]  # ends[i]: the number of words before text i
        for text in texts:
            words += basic_tokens(text, self.do_lower_case)
            ends.append(len(words))
        ids, row_splits = self._wordpiece_ids(words)
        return _Cut(words, ids, row_splits, row_splits[ends].tolist())

    def _positions(
        self, cut: "_Cut", texts: Sequence[str]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Starts and ends in the texts laid end to end: int64 [num_wordpieces] each."""
        return align(self._piece_lengths(cut), sources(texts, self.do_lower_case))

    def _piece_lengths(self, cut: "_Cut") -> NDArray[np.int64]:
        """How many normalised characters each wordpiece has, int64 [num_wordpieces]."""
        first, nums = cut.row_splits[:-1], np.diff(cut.row_splits)
        lengths = self._inner_lengths[cut.ids]
        lengths[first] = self._first_lengths[cut.ids[first]]
        # A word that is one wordpiece may be unknown, and "[UNK]" is not its length.
        is_one = nums == 1
        word_lengths = np.fromiter(map(len, cut.words), np.int64, len(cut.words))
        lengths[first[is_one]] = word_lengths[is_one]
        return lengths

    def _wordpiece_ids(
        self, words: list[str]
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Cuts words: int32 [num_wordpieces], int64 [num_words + 1], where each starts.

        The op is called eagerly: a tf.function costs a tracing and saves nothing here.
        """
        if not words:  # of blank lines, for which the op takes as long as for others
            return np.empty(0, np.int32), np.zeros(1, np.int64)
        if max(map(len, words)) > MAX_CHARS_PER_WORD:
            words = _replace(words, lambda word: len(word) > MAX_CHARS_PER_WORD)
        if self._has_long_pieces:
            long_words = {i: word for i, word in enumerate(words) if is_long(word)}
            if long_words:
                words = _replace(words, is_long)
                return self._with_long_words(*self._look_up(words), long_words)
        return self._look_up(words)

    def _look_up(self, words: list[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        tf = self._tf
        with tf.device("CPU:0"):
            try:
                tensor = tf.constant(words, tf.string)
            except ValueError:
                # A str may hold half a surrogate pair, which no vocab file can spell.
                words = _replace(words, _SURROGATE.search)
                tensor = tf.constant(words, tf.string)
            wordpieces = self._wordpiece.tokenize(tensor)
        return wordpieces.values.numpy(), wordpieces.row_splits.numpy()

    def _with_long_words(
        self,
        ids: NDArray[np.int32],
        row_splits: NDArray[np.int64],
        long_words: dict[int, str],
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Puts the wordpieces of some words where [UNK] stands for them."""
        rows = np.split(ids, row_splits[1:-1])
        for i, word in long_words.items():
            rows[i] = self._long_word_ids(word)
        ends = np.cumsum([len(row) for row in rows])
        return np.concatenate(rows), np.append(np.int64(0), ends)

    def _long_word_ids(self, word: str) -> NDArray[np.int32]:
        """The longest wordpiece that fits, again and again, looked up one by one.

        It is what tensorflow-text does in linear time, for wordpieces of any length.
        """
        ids = []
        start = 0
        while start < len(word):
            mark = "##" if start else ""
            for end in range(len(word), start, -1):
                token_id = self.vocab.ids.get(mark + word[start:end])
                if token_id is not None:
                    break
            else:
                return np.array([self.vocab.unk_id], np.int32)
            ids.append(token_id)
            start = end
        return np.array(ids, np.int32)


class _Cut(NamedTuple):
    """Texts, laid end to end, in words and in wordpieces."""

    words: list[str]  # as normalised
    ids: NDArray[np.int32]  # [num_wordpieces]
    row_splits: NDArray[np.int64]  # [num_words + 1], where the wordpieces of each start
    bounds: list[int]  # [num_texts + 1], where the wordpieces of each text start


def _replace(words: list[str], is_unknown: Callable[[str], object]) -> list[str]:
    """Puts "[UNK]", whose id is that of any unknown word, for the words meant."""
    return [UNKNOWN_TOKEN if is_unknown(word) else word for word in words]


def _wordpiece_model(vocab: Vocab, build: Callable[..., bytes]) -> bytes:
    """Builds tensorflow-text's model, in which a wordpiece's place is its id."""
    pieces = [
        # What tensorflow-text refuses leaves its place to a piece with a space, which
        # no word can hold.
        token if vocab.ids[token] == i and is_buildable(token) else f" {i}"
        for i, token in enumerate(vocab.tokens)
    ]
    if vocab.unk_id == len(pieces):
        pieces.append(UNKNOWN_TOKEN)  # for words that nobody can spell: see Vocab
    try:
        return build(
            pieces,
            MAX_CHARS_PER_WORD * _MAX_UTF8_BYTES_PER_CHAR,  # max_bytes_per_word
            "##",  # suffix_indicator
            UNKNOWN_TOKEN,  # unknown_token
            True,  # no_pretokenization: the words are cut already
            False,  # support_detokenization
        )
    except RuntimeError as error:
        raise VocabError(
            f"{vocab.vocab_file}: expected wordpieces that tensorflow-text can index; "
            f"it says: {error}"
        ) from error
