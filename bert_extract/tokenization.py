"""Text -> wordpiece ids, token for token as google-research/bert cuts it.

A text is first cut into words in Python; then tensorflow-text cuts the words of many
texts into wordpieces in one call.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bert_extract.alignment import AlignedWordpieces, align, sources
from bert_extract.cutting import parts
from bert_extract.errors import VocabError
from bert_extract.long_lines import Text
from bert_extract.tokenizer_config import read_wordpieces
from bert_extract.words import MAX_CHARS_PER_WORD, basic_tokens

UNKNOWN_TOKEN = "[UNK]"
_SPECIAL_TOKENS = (UNKNOWN_TOKEN, "[CLS]", "[SEP]")

_MAX_UTF8_BYTES_PER_CHAR = 4

_SURROGATE = re.compile("[\ud800-\udfff]")

# The longest wordpiece, in bytes without "##", that tensorflow-text can hold.
_MAX_BYTES_PER_WORDPIECE = 256


@dataclass(frozen=True, slots=True)
class Vocab:
    """The wordpieces of a vocab file, whose line numbers from 0 are the ids."""

    tokens: tuple[str, ...]  # by id, duplicates and blank lines included
    ids: dict[str, int]  # of a duplicate, the last
    warnings: tuple[str, ...]  # full sentences about a file that reads oddly
    vocab_file: str

    @property
    def unk_id(self) -> int:
        """The id of [UNK], for a word that no wordpieces spell."""
        return self.ids[UNKNOWN_TOKEN]

    @property
    def cls_id(self) -> int:
        """The id of [CLS], which starts every example."""
        return self.ids["[CLS]"]

    @property
    def sep_id(self) -> int:
        """The id of [SEP], which ends every text of an example."""
        return self.ids["[SEP]"]

    @classmethod
    def load(cls, vocab_file: str) -> "Vocab":
        r"""Reads a vocab file as upstream does.

        "[PAD]\r\nun\n\n un \n" -> tokens ("[PAD]", "un", "", "un"), "un" has id 3

        Raises:
            VocabError: the file cannot be read, is not UTF-8, or lacks [UNK], [CLS]
                or [SEP].
        """
        tokens = _read_tokens(vocab_file)
        ids = {token: i for i, token in enumerate(tokens)}
        missing = [token for token in _SPECIAL_TOKENS if token not in ids]
        if missing:
            mark = "\ufeff"
            cause = (
                " The file starts with a byte order mark, which became part of the "
                "first wordpiece; save the file without it."
                if tokens and tokens[0].startswith(mark)
                else " Is it the vocab.txt that came with the checkpoint?"
            )
            raise VocabError(
                f"{vocab_file}: expected the wordpieces [UNK], [CLS] and [SEP], each "
                f"alone on a line; found {len(tokens)} lines and no "
                f"{' or '.join(missing)}.{cause}"
            )
        return cls(tokens, ids, tuple(_oddities(vocab_file, tokens, ids)), vocab_file)


def case_warning(vocab: Vocab, do_lower_case: bool) -> str | None:
    """Says that the vocab and do_lower_case do not go together, where that is plain.

    A cased vocab is full of names; an uncased one has no capitals but [UNK] and its
    like. Single letters are not counted: some vocabs hold whole alphabets. A vocab
    between the two, or with hardly a letter in it, gets no warning.

    Returns:
        A sentence that names the flag to use, or None.
    """
    words = [
        token.removeprefix("##") for token in vocab.tokens if not token.startswith("[")
    ]
    words = [w for w in words if len(w) > 1 and w.lower() != w.upper()]
    if len(words) < 20:
        return None
    share = sum(word != word.lower() for word in words) / len(words)
    if do_lower_case and share > 0.05:
        return (
            f"{vocab.vocab_file}: {share:.0%} of the wordpieces of two letters or more "
            "have capitals, so it looks like a cased vocab, but the text is "
            "lower-cased and will never match them; use --do_lower_case=false."
        )
    if not do_lower_case and share < 0.01:
        return (
            f"{vocab.vocab_file}: hardly a wordpiece has a capital letter, so it looks "
            "like an uncased vocab, but the text is not lower-cased and every word "
            "with a capital will become [UNK] or single letters; use "
            "--do_lower_case=true."
        )
    return None


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
        self._first_lengths = np.array([len(t) for t in vocab.tokens], np.int64)
        self._inner_lengths = self._first_lengths - len("##")
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
        return [cut.ids[own] for own in cut.slices]

    def tokenize_aligned(self, texts: Sequence[str]) -> list[AlignedWordpieces]:
        """Cuts many texts in one call, and says where in them the wordpieces stand.

        A wordpiece starts at the first and ends behind the last character of the text
        that it has something of. So an accent that was taken off its last letter lies
        outside, and all wordpieces of one Hangul syllable have the same place. [UNK]
        stands for its whole word.

        Returns:
            For each text, in order, what `tokenize` gives, and the positions.
        """
        cut = self._cut(texts)
        starts, ends = align(
            self._piece_lengths(cut), sources(texts, self.do_lower_case)
        )
        aligned = []
        offset = 0
        for text, own in zip(texts, cut.slices, strict=True):
            aligned.append(
                AlignedWordpieces(
                    cut.ids[own], starts[own] - offset, ends[own] - offset
                )
            )
            offset += len(text)
        return aligned

    def tokenize_start(self, text: Text, num_wordpieces: int) -> NDArray[np.int32]:
        """Cuts the beginning of a text, for one so long that the rest costs too much.

        Returns:
            int32: the text's first wordpiece ids, `num_wordpieces` of them or more, or
            all if there are no more.
        """
        pieces = [np.empty(0, np.int32)]
        num_missing = num_wordpieces
        for ids in self.tokenize_parts(text):
            pieces.append(ids)
            num_missing -= len(ids)
            if num_missing <= 0:
                break
        return np.concatenate(pieces)

    def tokenize_parts(self, text: Text) -> Iterator[NDArray[np.int32]]:
        """Cuts a long text some at a time, so that it takes no more memory than a part.

        Yields:
            int32 [num_wordpieces]: ids that, one after the other, are the text's.
        """
        for part in parts(text, self.do_lower_case):
            yield from self.tokenize([part.text])

    def tokenize_aligned_parts(self, text: Text) -> Iterator[AlignedWordpieces]:
        """Does to a long text, some at a time, what `tokenize_aligned` does.

        Yields:
            The text's next wordpieces, with positions in the whole text.
        """
        for part in parts(text, self.do_lower_case):
            (aligned,) = self.tokenize_aligned([part.text])
            yield AlignedWordpieces(
                aligned.ids,
                part.starts_in_text(aligned.starts),
                part.ends_in_text(aligned.ends),
            )

    def _cut(self, texts: Sequence[str]) -> "_Cut":
        words: list[str] = []
        ends = [0]  # ends[i]: the number of words before text i
        for text in texts:
            words += basic_tokens(text, self.do_lower_case)
            ends.append(len(words))
        ids, row_splits = self._wordpiece_ids(words)
        bounds = row_splits[ends].tolist()
        slices = [slice(bounds[i], bounds[i + 1]) for i in range(len(texts))]
        return _Cut(words, ids, row_splits, slices)

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
        if max(map(len, words), default=0) > MAX_CHARS_PER_WORD:
            words = _replace(words, lambda word: len(word) > MAX_CHARS_PER_WORD)
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


class _Cut(NamedTuple):
    """Texts, laid end to end, in words and in wordpieces."""

    words: list[str]  # as normalised
    ids: NDArray[np.int32]  # [num_wordpieces]
    row_splits: NDArray[np.int64]  # [num_words + 1], where the wordpieces of each start
    slices: list[slice]  # one a text, into ids


def _replace(words: list[str], is_unknown: Callable[[str], object]) -> list[str]:
    """Puts "[UNK]", whose id is that of any unknown word, for the words meant."""
    return [UNKNOWN_TOKEN if is_unknown(word) else word for word in words]


def _wordpiece_model(vocab: Vocab, build: Callable[..., bytes]) -> bytes:
    """Builds tensorflow-text's model, in which a wordpiece's place is its id."""
    pieces = [
        # What tensorflow-text refuses and no word can hold leaves its place to a
        # piece with a space, which no word can hold either.
        token if vocab.ids[token] == i and _is_buildable(token) else f" {i}"
        for i, token in enumerate(vocab.tokens)
    ]
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


def _is_buildable(token: str) -> bool:
    num_bytes = len(token.removeprefix("##").encode())
    return bool(token) and "\0" not in token and num_bytes <= _MAX_BYTES_PER_WORDPIECE


def _read_tokens(vocab_file: str) -> tuple[str, ...]:
    content = _read_bytes(vocab_file)
    wordpieces = read_wordpieces(vocab_file, content)
    if wordpieces is not None:
        return wordpieces
    content = content.replace(b"\r", b"")
    lines = content.split(b"\n")
    if not lines[-1]:
        lines.pop()  # what follows the last newline is not a line
    if not lines:
        raise VocabError(
            f"{vocab_file}: expected a wordpiece on each line, found an empty file."
        )
    tokens = []
    for line_number, line in enumerate(lines, 1):
        try:
            tokens.append(line.decode().strip())
        except UnicodeDecodeError as error:
            raise VocabError(
                f"{vocab_file} (line {line_number}): expected UTF-8, found the byte "
                f"0x{line[error.start]:02x} ({error.reason}). Is it a vocab.txt?"
            ) from error
    return tuple(tokens)


def _read_bytes(vocab_file: str) -> bytes:
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", vocab_file):
        return _read_remote_bytes(vocab_file)
    try:
        return Path(vocab_file).read_bytes()
    except OSError as error:
        raise VocabError(
            f"{vocab_file}: expected a vocab file, but it cannot be read: "
            f"{error.strerror}."
        ) from error


def _read_remote_bytes(vocab_file: str) -> bytes:
    import tensorflow as tf  # only those who read from afar wait for it

    try:
        with tf.io.gfile.GFile(vocab_file, "rb") as file:
            return bytes(file.read())
    except tf.errors.OpError as error:
        raise VocabError(
            f"{vocab_file}: expected a vocab file, but it cannot be read: "
            f"{error.message}."
        ) from error


def _oddities(
    vocab_file: str, tokens: tuple[str, ...], ids: dict[str, int]
) -> Iterator[str]:
    """Says what upstream accepts in silence."""
    if tokens[0].startswith("\ufeff"):
        yield (
            f"{vocab_file}: the file starts with a byte order mark, which is read as "
            "part of the first wordpiece, as upstream reads it, so that no text "
            "matches that one; save the file without the mark."
        )
    blank = [i for i, token in enumerate(tokens) if not token]
    if blank:
        yield (
            f"{vocab_file}: {_count(len(blank), 'line')} blank, line {blank[0] + 1} "
            "first; each takes up an id, as upstream counts, and the wordpieces below "
            "it must have been trained with that count."
        )
    repeated = [i for i, token in enumerate(tokens) if token and ids[token] != i]
    if repeated:
        token = tokens[repeated[0]]
        yield (
            f"{vocab_file}: {_count(len(repeated), 'line')} repeated further down; the "
            f"first is {token!r} of line {repeated[0] + 1}, which gets the id of line "
            f"{ids[token] + 1}: the last one counts, as upstream reads it."
        )
    too_long = [
        i for i, token in enumerate(tokens) if token and not _is_buildable(token)
    ]
    if too_long:
        yield (
            f"{vocab_file}: {_count(len(too_long), 'line')} longer than "
            f"{_MAX_BYTES_PER_WORDPIECE} bytes or with a NUL, line {too_long[0] + 1} "
            "first; no text will match them."
        )


def _count(number: int, noun: str) -> str:
    return f"1 {noun} is" if number == 1 else f"{number} {noun}s are"
