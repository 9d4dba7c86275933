"""Text -> tokens, one rule at a time and one character at a time.

The plain statement of what google-research/bert does with a file of lines. It asks the
running Python about characters where that knows Unicode 14.0.0, as the original would
under Python 3.11; elsewhere it asks the package's tables, which a test under 3.11
compares with that Python.
"""

import re
import unicodedata
from collections.abc import Container, Iterable

from bert_extract.tokenization import unicode14, unicode14_tables

IS_UNICODE_14 = unicodedata.unidata_version == "14.0.0"

MAX_CHARS_PER_WORD = 200

_CATEGORIES = {
    code: category
    for category, table in (
        ("Cf", unicode14_tables.CONTROL),
        ("Zs", unicode14_tables.SPACE),
        ("Po", unicode14_tables.PUNCTUATION),
        ("Mn", unicode14_tables.NONSPACING_MARK),
    )
    for code in unicode14.code_points(table)
}

_IDEOGRAPH = re.compile(
    "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f"
    "\U0002b820-\U0002ceaf\U0002f800-\U0002fa1f]"
)


def read_lines(content: bytes) -> list[str]:
    """A newline alone ends a line; a last line needs none."""
    lines = content.decode("utf-8").replace("\r", "").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def read_line(line: str) -> tuple[str, str | None]:
    """A pair has space, three bars, space; the last such place counts."""
    pair = re.match(r"^(.*) \|\|\| (.*)$", line.strip())
    return (pair.group(1), pair.group(2)) if pair else (line.strip(), None)


def basic_tokens(text: str, do_lower_case: bool) -> list[str]:
    words = _IDEOGRAPH.sub(r" \g<0> ", _clean(text)).split()
    if do_lower_case:
        words = [_without_accents(lower(word)) for word in words]
    return [piece for word in words for piece in _split_at_punctuation(word)]


def wordpieces(word: str, vocab: Container[str]) -> list[str]:
    """The longest piece that fits, again and again; [UNK] where none fits."""
    if len(word) > MAX_CHARS_PER_WORD:
        return ["[UNK]"]
    pieces: list[str] = []
    start = 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = word[start:end] if start == 0 else "##" + word[start:end]
            if piece in vocab:
                pieces.append(piece)
                start = end
                break
        else:
            return ["[UNK]"]
    return pieces


def tokens(text: str, vocab: Container[str], do_lower_case: bool) -> list[str]:
    words = basic_tokens(text, do_lower_case)
    return [piece for word in words for piece in wordpieces(word, vocab)]


def pair_after_truncation(
    tokens_a: Iterable[str], tokens_b: Iterable[str], max_num_tokens: int
) -> tuple[list[str], list[str]]:
    """Drops the last of the longer one, of b on a tie, until both fit."""
    a, b = list(tokens_a), list(tokens_b)
    while len(a) + len(b) > max_num_tokens:
        (a if len(a) > len(b) else b).pop()
    return a, b


def laid_out(
    tokens_a: list[str], tokens_b: list[str], max_seq_length: int
) -> tuple[list[str], list[int]]:
    """The tokens of an example and their segments."""
    if tokens_b:
        tokens_a, tokens_b = pair_after_truncation(
            tokens_a, tokens_b, max_seq_length - 3
        )
    else:
        tokens_a = tokens_a[: max_seq_length - 2]
    first = ["[CLS]", *tokens_a, "[SEP]"]
    second = [*tokens_b, "[SEP]"] if tokens_b else []
    return first + second, [0] * len(first) + [1] * len(second)


def category(character: str) -> str:
    """Enough of the category for the rules below."""
    if IS_UNICODE_14:
        return unicodedata.category(character)
    return _CATEGORIES.get(ord(character), "Lo")


def lower(word: str) -> str:
    return word.lower() if IS_UNICODE_14 else unicode14.lower(word)


def nfd(word: str) -> str:
    return unicodedata.normalize("NFD", word) if IS_UNICODE_14 else unicode14.nfd(word)


def _clean(text: str) -> str:
    """Controls go without a trace, spaces of every kind become the space."""
    cleaned = []
    for character in text:
        kind = category(character)
        if character in "\t\n\r" or kind == "Zs":
            cleaned.append(" ")
        elif character not in "\0\ufffd" and kind not in ("Cc", "Cf"):
            cleaned.append(character)
    return "".join(cleaned)


def _without_accents(word: str) -> str:
    return "".join(character for character in nfd(word) if category(character) != "Mn")


def _split_at_punctuation(word: str) -> list[str]:
    """Each punctuation character is a word.

    The original splits at white space once more after this: decomposition may have
    brought some out.
    """
    spaced = ""
    for character in word:
        is_punctuation = _is_ascii_symbol(character) or category(character)[0] == "P"
        spaced += f" {character} " if is_punctuation else character
    return spaced.split()


def _is_ascii_symbol(character: str) -> bool:
    """Also those that Unicode calls symbols: $ + < = > ^ ` | ~."""
    return "!" <= character <= "~" and not character.isalnum()
