"""A vocab file -> wordpieces by id, read as the original reads it."""

from collections.abc import Iterator
from dataclasses import dataclass

from bert_extract.errors import VocabError
from bert_extract.small_files import read_bytes
from bert_extract.tokenizer_config import read_wordpieces

UNKNOWN_TOKEN = "[UNK]"
_SPECIAL_TOKENS = (UNKNOWN_TOKEN, "[CLS]", "[SEP]")

# The longest wordpiece, in bytes without "##", that tensorflow-text can hold.
_MAX_BYTES_PER_WORDPIECE = 256

_COMPLAINT = "expected a vocab file, but it cannot be read"


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


def is_buildable(token: str) -> bool:
    """Whether tensorflow-text can hold a wordpiece."""
    num_bytes = len(token.removeprefix("##").encode())
    return bool(token) and "\0" not in token and num_bytes <= _MAX_BYTES_PER_WORDPIECE


def _read_tokens(vocab_file: str) -> tuple[str, ...]:
    content = read_bytes(vocab_file, VocabError, _COMPLAINT)
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
        i for i, token in enumerate(tokens) if token and not is_buildable(token)
    ]
    if too_long:
        yield (
            f"{vocab_file}: {_count(len(too_long), 'line')} longer than "
            f"{_MAX_BYTES_PER_WORDPIECE} bytes or with a NUL, line {too_long[0] + 1} "
            "first; no text will match them."
        )


def _count(number: int, noun: str) -> str:
    return f"1 {noun} is" if number == 1 else f"{number} {noun}s are"
