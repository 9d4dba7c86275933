"""A vocab file -> wordpieces by id, read as the original reads it."""

from collections.abc import Iterator
from dataclasses import dataclass

from bert_extract.errors import VocabError
from bert_extract.files import read_bytes
from bert_extract.tokenization.basic_tokenizer import MAX_CHARS_PER_WORD
from bert_extract.tokenization.tokenizer_config import read_wordpieces

UNKNOWN_TOKEN = "[UNK]"
# Every example has these.
_NEEDED_TOKENS = ("[CLS]", "[SEP]")

# The longest wordpiece, in bytes without "##", that tensorflow-text can hold.
_MAX_BYTES_PER_WORDPIECE = 256
_MAX_UTF8_BYTES_PER_CHAR = 4

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
        """The id of [UNK], for a word that no wordpieces spell.

        Of a vocab without it, the first that is nobody's: only a text with such a word
        cannot be read then.
        """
        return self.ids.get(UNKNOWN_TOKEN, len(self.tokens))

    @property
    def cls_id(self) -> int:
        """The id of [CLS], which starts every example."""
        return self.ids["[CLS]"]

    @property
    def sep_id(self) -> int:
        """The id of [SEP], which ends every text of an example."""
        return self.ids["[SEP]"]

    def describe(self, token_id: int) -> str:
        """What a message calls one of its ids, as in "'un' (line 5 of vocab.txt)"."""
        if token_id == len(self.tokens):
            return f"{UNKNOWN_TOKEN}, which {self.vocab_file} does not have"
        return f"{self.tokens[token_id]!r} (line {token_id + 1} of {self.vocab_file})"

    @classmethod
    def load(cls, vocab_file: str) -> "Vocab":
        r"""Reads a vocab file as upstream does.

        "[PAD]\r\nun\n\n un \n" -> tokens ("[PAD]", "un", "", "un"), "un" has id 3

        Raises:
          VocabError: the file cannot be read, is not UTF-8, or lacks [CLS] or
            [SEP].
        """
        tokens = _read_tokens(vocab_file)
        ids = {token: i for i, token in enumerate(tokens)}
        missing = [token for token in _NEEDED_TOKENS if token not in ids]
        if missing:
            cause = _mark_at_start(tokens) or "Is it the vocab.txt of the checkpoint?"
            raise VocabError(
                f"{vocab_file}: expected the wordpieces [CLS] and [SEP], each alone on "
                f"a line; found {len(tokens)} lines and no {' or '.join(missing)}. "
                f"{cause}"
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
            f"{vocab.vocab_file}: almost no wordpiece has a capital letter, so it "
            "looks like an uncased vocab, but the text is not lower-cased and every "
            "word with a capital will become [UNK] or single letters; use "
            "--do_lower_case=true."
        )
    return None


def vocab_doubts(
    vocab: Vocab, do_lower_case: bool, vocab_size: int, bert_config_file: str
) -> list[str]:
    """What makes it doubtful that a vocab is the model's, or its casing the text's.

    Args:
      vocab: the wordpieces.
      do_lower_case: whether texts are lower-cased.
      vocab_size: how many embeddings the model has.
      bert_config_file: what says so.
    """
    doubts = []
    wrong_case = case_warning(vocab, do_lower_case)
    if wrong_case:
        doubts.append(wrong_case)  # it names the file
    if any(vocab.tokens[vocab_size:]):  # blank lines have their own warning
        doubts.append(
            f"{vocab.vocab_file}: has {len(vocab.tokens)} tokens, and "
            f"{bert_config_file} says vocab_size {vocab_size}: the last ones have no "
            "embedding, and the first text that needs one will end the run; is it the "
            "vocab of this checkpoint?"
        )
    num_tokens = len(vocab.tokens)
    while num_tokens and not vocab.tokens[num_tokens - 1]:
        num_tokens -= 1  # a blank line at the end is no token
    if num_tokens < vocab_size:
        doubts.append(
            f"{vocab.vocab_file}: has {num_tokens} tokens, and {bert_config_file} says "
            f"vocab_size {vocab_size}; is it the vocab of this checkpoint?"
        )
    return doubts


def _mark_at_start(tokens: tuple[str, ...]) -> str:
    if not tokens[0].startswith("\ufeff"):
        return ""
    return (
        "The file starts with a byte order mark, which is read as part of the first "
        "wordpiece, as upstream reads it; save the file without the mark."
    )


def is_buildable(token: str) -> bool:
    """Whether tensorflow-text can hold a wordpiece."""
    return bool(token) and "\0" not in token and not is_long(token.removeprefix("##"))


def is_long(text: str) -> bool:
    """Whether it is longer than the longest wordpiece that tensorflow-text can hold."""
    if len(text) * _MAX_UTF8_BYTES_PER_CHAR <= _MAX_BYTES_PER_WORDPIECE:
        return False
    return len(text.encode("utf-8", "surrogatepass")) > _MAX_BYTES_PER_WORDPIECE


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
    if UNKNOWN_TOKEN not in ids:
        yield (
            f"{vocab_file}: there is no {UNKNOWN_TOKEN} among its {len(tokens)} lines: "
            "the first text with a word that no wordpieces spell will end the run. "
            + (_mark_at_start(tokens) or "Is it the vocab.txt of the checkpoint?")
        )
    elif tokens[0].startswith("\ufeff"):
        yield f"{vocab_file}: {_mark_at_start(tokens)}"
    blank = [i for i, token in enumerate(tokens) if not token]
    if blank:
        num_at_end = len(tokens) - 1 - max(i for i in ids.values() if tokens[i])
        below = (
            "no text needs them"
            if num_at_end == len(blank)
            else "the wordpieces below it must have been trained with that count"
        )
        yield (
            f"{vocab_file}: {_count(len(blank), 'line')} blank, line {blank[0] + 1} "
            f"first; each takes up an id, as upstream counts, and {below}."
        )
    repeated = [i for i, token in enumerate(tokens) if token and ids[token] != i]
    if repeated:
        token = tokens[repeated[0]]
        yield (
            f"{vocab_file}: {_count(len(repeated), 'line')} repeated further down; the "
            f"first is {token!r} of line {repeated[0] + 1}, which gets the id of line "
            f"{ids[token] + 1}: the last one counts, as upstream reads it."
        )
    unmatched = [i for i, token in enumerate(tokens) if _is_in_no_word(token)]
    if unmatched:
        yield (
            f"{vocab_file}: {_count(len(unmatched), 'line')} longer than "
            f"{MAX_CHARS_PER_WORD} characters or with a NUL, line {unmatched[0] + 1} "
            "first; no text will match them, and none does upstream."
        )


def _is_in_no_word(token: str) -> bool:
    return "\0" in token or len(token.removeprefix("##")) > MAX_CHARS_PER_WORD


def _count(number: int, noun: str) -> str:
    return f"1 {noun} is" if number == 1 else f"{number} {noun}s are"
