"""Where in the line a wordpiece stands: exactly what a slow reference says."""

import random
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from bert_extract.text.examples import Example, parse_line
from bert_extract.tokenization import unicode14
from bert_extract.tokenization.alignment import word_spans
from bert_extract.tokenization.basic_tokenizer import basic_tokens
from bert_extract.tokenization.tokenizer import Tokenizer
from bert_extract.tokenization.vocab import Vocab
from support import reference_alignment as reference
from support.nasty_text import nasty_lines, sorted_lines
from support.vocabs import make_letter_vocab, make_vocab

both_modes = pytest.mark.parametrize("do_lower_case", [True, False])

_CHUNK = 1000  # lines in one call


@pytest.fixture(scope="module")
def tiny_vocab(tiny_bert: Path) -> Vocab:
    return Vocab.load(str(tiny_bert / "vocab.txt"))


@pytest.fixture(scope="module")
def real_vocab(minilm_dir: Path) -> Vocab:
    return Vocab.load(str(minilm_dir / "vocab.txt"))


@pytest.fixture(scope="module")
def letter_vocab() -> Vocab:
    return make_letter_vocab()


def aligned(tokenizer: Tokenizer, *texts: str) -> list[list[tuple[str, int, int]]]:
    found = []
    for wordpieces in tokenizer.tokenize_aligned(texts):
        assert wordpieces.ids.dtype == np.int32
        assert wordpieces.starts is not None
        assert wordpieces.ends is not None
        assert wordpieces.starts.dtype == wordpieces.ends.dtype == np.int64
        tokens = [tokenizer.vocab.tokens[i] for i in wordpieces.ids.tolist()]
        starts, ends = wordpieces.starts.tolist(), wordpieces.ends.tolist()
        found.append(list(zip(tokens, starts, ends, strict=True)))
    return found


def check(tokenizer: Tokenizer, lines: list[str]) -> None:
    for begin in range(0, len(lines), _CHUNK):
        chunk = lines[begin : begin + _CHUNK]
        ids = tokenizer.tokenize(chunk)
        found = aligned(tokenizer, *chunk)
        for line, tokens, line_ids in zip(chunk, found, ids, strict=True):
            expected = reference.aligned_tokens(
                line, tokenizer.vocab.ids, tokenizer.do_lower_case
            )
            assert tokens == expected, ascii(line)
            assert [tokenizer.vocab.ids[t] for t, _, _ in tokens] == line_ids.tolist()
            check_words(line, tokens)


def check_words(line: str, tokens: list[tuple[str, int, int]]) -> None:
    """Every wordpiece lies in exactly one word."""
    spans = word_spans(line).tolist()
    for _, start, end in tokens:
        assert [s <= start < end <= e for s, e in spans].count(True) == 1, ascii(line)


@pytest.mark.parametrize(
    ("text", "lower"),
    [
        ("", []),
        (" \t", []),
        ("\u200b\0", []),
        ("ab  c", [("a", 0, 1), ("##b", 1, 2), ("c", 4, 5)]),
        # What was taken off lies outside at the edges and inside in the middle.
        ("e\u0301", [("e", 0, 1)]),
        ("a\u0301b\u0301", [("a", 0, 1), ("##b", 2, 3)]),
        ("\0a\xadb\u200b", [("a", 1, 2), ("##b", 3, 4)]),
        ("x\u0301y\u0301", [("xy", 0, 3)]),
        # One character that becomes several, of which one is left.
        ("İa", [("i", 0, 1), ("##a", 1, 2)]),
        # And of which several are left: each has the place of all.
        ("x 한", [("x", 0, 1), ("\u1112", 2, 3), ("##\u1161\u11ab", 2, 3)]),
        # Unknown words, one of them for its length.
        ("a \u20ac\u0301. b", [("a", 0, 1), ("[UNK]", 2, 3), (".", 4, 5), ("b", 6, 7)]),
        ("a " + "b" * 201 + "\u0301", [("a", 0, 1), ("[UNK]", 2, 203)]),
        ("a \ud800b", [("a", 0, 1), ("[UNK]", 2, 4)]),
        ("[UNK]", [("[UNK]", 0, 1), ("[UNK]", 1, 4), ("[UNK]", 4, 5)]),
        # NFD sorts marks by their class: U+1D165 has 216, U+302E has 224.
        (
            "a\u302e\U0001d165b",
            [("a", 0, 1), ("##\U0001d165", 2, 3), ("##\u302e", 1, 2), ("##b", 3, 4)],
        ),
    ],
)
def test_positions(text: str, lower: list[tuple[str, int, int]]) -> None:
    vocab = make_vocab(
        *("a", "##a", "b", "##b", "c", "e", "i", "x", "xy", ".", "\u1112"),
        *("##\u1161\u11ab", "##\U0001d165", "##\u302e"),
    )
    (found,) = aligned(Tokenizer(vocab, do_lower_case=True), text)
    assert found == lower
    check(Tokenizer(vocab, do_lower_case=True), [text])


@both_modes
@pytest.mark.parametrize("vocab_name", ["tiny_vocab", "real_vocab", "letter_vocab"])
def test_nasty_lines_stand_where_the_reference_says(
    request: pytest.FixtureRequest, vocab_name: str, do_lower_case: bool
) -> None:
    vocab: Vocab = request.getfixturevalue(vocab_name)
    check(Tokenizer(vocab, do_lower_case), list(nasty_lines(31, 2000)))


@both_modes
def test_sorted_marks_stand_where_the_reference_says(
    letter_vocab: Vocab, do_lower_case: bool
) -> None:
    check(Tokenizer(letter_vocab, do_lower_case), list(sorted_lines(5, 3000)))


@both_modes
@pytest.mark.slow
def test_many_nasty_lines_stand_where_the_reference_says(
    real_vocab: Vocab, letter_vocab: Vocab, do_lower_case: bool
) -> None:
    for vocab in (real_vocab, letter_vocab):
        tokenizer = Tokenizer(vocab, do_lower_case)
        check(tokenizer, list(nasty_lines(32, 10_000)))
        check(tokenizer, list(sorted_lines(6, 10_000)))


def lines_of_every_code_point(step: int) -> list[str]:
    """Each code point alone, in a word, and beside what looks at its neighbours."""
    codes = [code for code in range(0, sys.maxunicode + 1, step)]
    characters = [chr(code) for code in codes if not 0xD800 <= code < 0xE000]
    return [
        " ".join(f"{c} a{c}b AΣ{c} {c}\u0301\u302e{c}" for c in characters[i : i + 50])
        for i in range(0, len(characters), 50)
    ]


@both_modes
@pytest.mark.parametrize("step", [37, pytest.param(1, marks=pytest.mark.slow)])
def test_every_code_point_stands_where_the_reference_says(
    letter_vocab: Vocab, do_lower_case: bool, step: int
) -> None:
    tokenizer = Tokenizer(letter_vocab, do_lower_case)
    check(tokenizer, lines_of_every_code_point(step))


@both_modes
def test_every_character_of_the_tables_stands_where_the_reference_says(
    letter_vocab: Vocab, do_lower_case: bool
) -> None:
    """Those with a case, a decomposition or a class of their own, all of them."""
    characters = sorted(
        {*unicode14.lower_mapping(), *unicode14.decompositions()}
        | unicode14.combining_classes().keys()
    )
    lines = [
        " ".join(f"{c} a{c}b \u302e{c}" for c in characters[i : i + 50])
        for i in range(0, len(characters), 50)
    ]
    check(Tokenizer(letter_vocab, do_lower_case), lines)


@both_modes
def test_what_stands_there_is_cut_into_the_same(
    real_vocab: Vocab, do_lower_case: bool
) -> None:
    """A word of the text, cut out of it, gives the wordpieces that stand there."""
    lines = list(nasty_lines(33, 1000))
    tokenizer = Tokenizer(real_vocab, do_lower_case)
    found = aligned(tokenizer, *lines)
    for line, tokens in zip(lines, found, strict=True):
        words = [line[start:end] for start, end in word_spans(line).tolist()]
        pieces = [piece for word in aligned(tokenizer, *words) for piece, _, _ in word]
        assert pieces == [piece for piece, _, _ in tokens], ascii(line)


# --------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (" \u3000", []),
        ("don't  a\u200bb", ["don't", "a\u200bb"]),
        ("a\tb\u00a0c\u2028d\u2029e\u3000f", ["a", "b", "c", "d", "e", "f"]),
        ("a\x0bb\x0cc\x1cd\x1fe\x85f", ["a\x0bb\x0cc\x1cd\x1fe\x85f"]),
        ("a \0 b", ["a", "\0", "b"]),
        (" x ", ["x"]),
        ("中国 x", ["中国", "x"]),
    ],
)
def test_words_are_what_spaces_separate(text: str, words: list[str]) -> None:
    spans = word_spans(text)
    assert spans.dtype == np.int64
    assert spans.shape == (len(words), 2)
    assert [text[start:end] for start, end in spans.tolist()] == words


def test_what_separates_words_is_what_separates_them_for_the_tokenizer() -> None:
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        is_separator = not len(word_spans(character))
        is_blank = len(basic_tokens(f"a{character}b", False)) == 2
        assert is_separator == (is_blank and basic_tokens(character, False) == [])


# --------------------------------------------------------------- the line in the file

TextName = Literal["a", "b"]
BOTH: tuple[TextName, TextName] = ("a", "b")


def text_of(example: Example, name: TextName) -> str:
    return str(example.text_a if name == "a" else example.text_b or "")


@pytest.mark.parametrize(
    ("line", "spans_a", "spans_b"),
    [
        ("ab c", [(0, 2), (3, 4)], []),
        ("  ab c ", [(2, 4), (5, 6)], []),
        ("\r ab\r", [(2, 4)], []),
        ("\ra\rb c\r\r d\r", [(1, 4), (5, 6), (9, 10)], []),
        ("a ||| b c", [(0, 1)], [(6, 7), (8, 9)]),
        ("\u3000a b ||| c ||| d\u0085", [(1, 2), (3, 4), (5, 8), (9, 10)], [(15, 16)]),
        (" a\r |\r|| \rb\rb\r ", [(1, 2)], [(10, 13)]),
        ("\ufeffa ||| a", [(0, 2)], [(7, 8)]),
    ],
)
def test_positions_in_the_line(
    line: str, spans_a: list[tuple[int, int]], spans_b: list[tuple[int, int]]
) -> None:
    example = parse_line(line, 0)
    for name, expected in zip(BOTH, (spans_a, spans_b), strict=True):
        spans = word_spans(text_of(example, name))
        starts = example.raw_positions(name, spans[:, 0], is_end=False)
        ends = example.raw_positions(name, spans[:, 1], is_end=True)
        assert list(zip(starts.tolist(), ends.tolist(), strict=True)) == expected


def test_every_character_of_a_text_is_found_in_the_line() -> None:
    rng = random.Random(8)
    for _ in range(5000):
        parts = ["a", "b", "\r", " ", " ||| ", "\t", "\u3000", "\x85", "|", "é"]
        line = "".join(rng.choices(parts, k=rng.randrange(14)))
        example = parse_line(line, 0)
        check_positions(line, example)


def check_positions(line: str, example: Example) -> None:
    for name in BOTH:
        text = text_of(example, name)
        every = np.arange(len(text))
        starts = example.raw_positions(name, every, is_end=False)
        ends = example.raw_positions(name, every + 1, is_end=True)
        assert [line[s:e] for s, e in zip(starts, ends, strict=True)] == list(text)
        before = line[: starts[0]] if len(text) else ""
        assert name == "b" or not before.strip()
