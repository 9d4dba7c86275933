"""A long line, in blocks, is what it is as a str: texts, places, errors."""

import itertools
import random

import numpy as np
import pytest

from bert_extract.errors import InputError
from bert_extract.text import examples, long_lines
from bert_extract.text.examples import (
    Example,
    is_unsplit_pair,
    parse_line,
    read_example,
)
from bert_extract.text.long_lines import LongLine, LongText
from bert_extract.tokenization import long_text
from bert_extract.tokenization.alignment import word_spans
from bert_extract.tokenization.tokenizer import Tokenizer
from support.nasty_text import nasty_lines
from support.vocabs import make_letter_vocab

block_sizes = pytest.mark.parametrize("block_size", [4, 5, 16])


@pytest.fixture
def small_blocks(block_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line is long, and of many blocks."""
    monkeypatch.setattr(long_lines, "_BLOCK_SIZE", block_size)
    monkeypatch.setattr(examples, "_LONG_LINE", -1)
    monkeypatch.setattr(examples, "_LONG_TEXT", -1)


def read(line: bytes, errors: str = "strict") -> Example:
    return read_example(line, errors, "x.txt", 3, 7)


def hostile_lines(seed: int, num_lines: int) -> list[bytes]:
    """Bytes in which whatever can be wrong with UTF-8 is wrong, and some that are."""
    rng = random.Random(seed)
    parts = [b"a", b" ", b"\r", b" ||| ", b"|", b"\xc3\xa9", b"\xe4\xb8\xad", b"\x80"]
    parts += [b"\xf0\x9f\x98\x80", b"\xc3", b"\xe4\xb8", b"\xf0\x9f", b"\xff", b"\xc2"]
    parts += [b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe3\x80\x80", b"\x1c", b"\xc0"]
    return [b"".join(rng.choices(parts, k=rng.randrange(12))) for _ in range(num_lines)]


def good_lines(seed: int, num_lines: int) -> list[bytes]:
    rng = random.Random(seed)
    parts = ["a", "b", "\r", " ", " ||| ", " |", "\t", "\u3000", "\x85", "|", "é", "😀"]
    return [
        "".join(rng.choices(parts, k=rng.randrange(14))).encode()
        for _ in range(num_lines)
    ]


def check(line: bytes, errors: str) -> None:
    """Read in blocks, the line is what it is as a str."""
    plain = parse_line(line.decode("utf-8", errors), 7)
    example = read(line, errors)
    assert isinstance(example.text_a, LongText)
    assert str(example.text_a) == plain.text_a
    assert (example.text_b is None) == (plain.text_b is None)
    assert str(example.text_b or "") == (plain.text_b or "")
    assert is_unsplit_pair(example) == is_unsplit_pair(plain)
    for name in ("a", "b"):
        text = (plain.text_a if name == "a" else plain.text_b) or ""
        every = np.arange(len(text))
        for is_end in (False, True):
            found = example.raw_positions(name, every + is_end, is_end)
            expected = plain.raw_positions(name, every + is_end, is_end)
            assert found.tolist() == expected.tolist(), (name, line)


@block_sizes
def test_a_line_in_blocks_is_the_line(block_size: int, small_blocks: None) -> None:
    for line in good_lines(1, 4000):
        check(line, "strict")
    for nasty in nasty_lines(2, 500):
        check(nasty.encode("utf-8", "replace"), "strict")


@block_sizes
@pytest.mark.parametrize("errors", ["replace", "ignore"])
def test_broken_bytes_in_blocks_are_what_they_are_in_the_line(
    block_size: int, errors: str, small_blocks: None
) -> None:
    for line in hostile_lines(3, 4000):
        check(line, errors)


@block_sizes
def test_the_first_broken_byte_is_named_as_it_is_in_the_line(
    block_size: int, small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_broken = 0
    for line in hostile_lines(4, 4000):
        try:
            line.decode()
        except UnicodeDecodeError:
            num_broken += 1
        else:
            continue
        with pytest.raises(InputError) as in_blocks:
            read(line)
        with monkeypatch.context() as patch:
            patch.setattr(examples, "_LONG_LINE", 1000)
            with pytest.raises(InputError) as whole:
                read(line)
        assert str(in_blocks.value) == str(whole.value)
    assert num_broken > 1000


@block_sizes
def test_a_part_of_a_long_text_is_that_of_the_text(
    block_size: int, small_blocks: None
) -> None:
    line = "aé😀 中\rb\r\r😀😀c ||| xé\ry".encode()
    example, plain = read(line), parse_line(line.decode(), 0)
    for ours, text in (
        (example.text_a, plain.text_a),
        (example.text_b, plain.text_b),
    ):
        assert isinstance(ours, LongText)
        assert isinstance(text, str)
        assert len(ours) == len(text)
        for start, end in itertools.product(range(-2, len(text) + 2), repeat=2):
            assert ours[start:end] == text[start:end]
        for start in range(len(text)):
            assert "".join(ours.pieces(start)) == text[start:]
        assert "b😀" in ours or "xéy" in ours
        assert "é b" not in ours


@block_sizes
@pytest.mark.parametrize("do_lower_case", [True, False])
def test_a_long_text_is_tokenized_as_the_text(
    block_size: int,
    small_blocks: None,
    do_lower_case: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(long_text, "_LONG_WORD", 5)
    tokenizer = Tokenizer(make_letter_vocab(), do_lower_case)
    for nasty in nasty_lines(6, 200):
        line = nasty.encode("utf-8", "replace")
        text = read(line).text_a
        (whole,) = tokenizer.tokenize_aligned([str(text)])
        parts = list(tokenizer.tokenize_aligned_parts(text))
        for name in ("ids", "starts", "ends"):
            found = [getattr(part, name).tolist() for part in parts]
            expected = getattr(whole, name).tolist()
            assert list(itertools.chain(*found)) == expected, ascii(nasty)
        ids = [part.tolist() for part in tokenizer.tokenize_parts(text)]
        assert list(itertools.chain(*ids)) == whole.ids.tolist()


def test_a_long_line_may_be_one_text() -> None:
    line = b"a ||| b " + b"c" * (1 << 20)
    (pair, single) = (
        read_example(line, "strict", "in.txt", 1, 0, pairs) for pairs in (True, False)
    )
    assert pair.text_a == "a"
    assert single.text_b is None
    assert str(single.text_a) == line.decode()


def test_only_long_texts_are_kept_as_bytes() -> None:
    half, full = "é" * (1 << 18), "é" * ((1 << 18) + 1)
    assert isinstance(read(half.encode()).text_a, str)  # half a megabyte
    blanks = " " * (1 << 20)
    short = read(f"{blanks}ab ||| c\rd{blanks}".encode())
    assert (short.text_a, short.text_b) == ("ab", "cd")
    assert short.raw_positions("b", np.array([0, 1]), is_end=False).tolist() == [
        (1 << 20) + 7,
        (1 << 20) + 9,
    ]
    pair = read(f"{blanks}{full} ||| {half}".encode())
    assert isinstance(pair.text_a, LongText)
    assert isinstance(pair.text_b, str)
    assert len(pair.text_a) == (1 << 18) + 1
    assert read(blanks.encode() + b"\n").text_a == ""
    assert read(b"\r" * ((1 << 20) + 1)).text_a == ""


def test_a_block_of_nothing_but_broken_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    line = LongLine(b"a" + b"\x80" * 200_000 + b"b", "ignore")
    assert (line.start, line.end) == (0, 2)
    assert list(line.pieces(0, 2)) == ["a", "b"]
    assert word_spans(LongText(line, 0, 2)[:]).tolist() == [[0, 2]]
