"""A long text in parts is the whole text, in ids and in places."""

import itertools
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from bert_extract.tokenization import long_text
from bert_extract.tokenization.alignment import BOUNDARY, COUNT, flags
from bert_extract.tokenization.basic_tokenizer import basic_tokens
from bert_extract.tokenization.tokenizer import Tokenizer
from bert_extract.tokenization.vocab import Vocab
from support.nasty_text import nasty_lines, sigma_lines, sorted_lines
from support.vocabs import make_letter_vocab

both_modes = pytest.mark.parametrize("do_lower_case", [True, False])


@pytest.fixture(scope="module")
def letter_vocab() -> Vocab:
    return make_letter_vocab()


def check(tokenizer: Tokenizer, line: str) -> None:
    """In parts, the text gives what it gives as a whole."""
    (whole,) = tokenizer.tokenize_aligned([line])
    aligned = list(tokenizer.tokenize_aligned_parts(line))
    for name in ("ids", "starts", "ends"):
        in_parts = [getattr(part, name).tolist() for part in aligned]
        expected = getattr(whole, name).tolist()
        assert list(itertools.chain(*in_parts)) == expected, (name, ascii(line))
    ids = itertools.chain(*(part.tolist() for part in tokenizer.tokenize_parts(line)))
    assert list(ids) == whole.ids.tolist()


@both_modes
@pytest.mark.parametrize(("piece_size", "long_word"), [(1, 1), (7, 3), (16, 20)])
@pytest.mark.parametrize("make_lines", [nasty_lines, sorted_lines, sigma_lines])
def test_nasty_text_in_parts_is_the_whole(
    letter_vocab: Vocab,
    do_lower_case: bool,
    piece_size: int,
    long_word: int,
    make_lines: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(long_text, "_PIECE_SIZE", piece_size)
    monkeypatch.setattr(long_text, "_LONG_WORD", long_word)
    tokenizer = Tokenizer(letter_vocab, do_lower_case)
    assert callable(make_lines)
    for line in make_lines(4, 60 if piece_size == 1 else 200):
        check(tokenizer, line)
        words = [
            word
            for part in long_text.parts(line, do_lower_case)
            for word in basic_tokens(part.text, do_lower_case)
        ]
        assert [word[:201] for word in words] == [
            word[:201] for word in basic_tokens(line, do_lower_case)
        ]


_LONG_TEXTS = {
    "words": "the dog is hairy . " * 9000,
    "one word": "a" * 150_000,
    "accents": "a" + "\u0301\u0323" * 15_000 + "b",
    "accents that end no run": "\u302e" + "\u0902\u0301" * 35_000 + "\U0001d165 x",
    "marks": "x\u302e\U0001d165\u302f" * 3_000 + ". x",
    "controls": "a" + "\0\u200b\ufffd" * 50_000 + "b\0c",
    "200 characters": ("ab" + "\u0301" * 2000) * 100 + " x",
    "201 characters": ("ab" + "\u0301" * 2000) * 100 + "y\u0301 x",
    "sigmas": "ΟΔΟΣ.ΣΑΣ.Σ\u0301'" * 9000,
    "a sigma that looks far": ("a" + "." * 90_000 + "Σ" + "'" * 90_000 + "α ") * 2,
    "a sigma that looks in vain": ("1" + "." * 90_000 + "Σ" + "'" * 90_000 + "1 ") * 2,
    "Hangul": "한국어" * 30_000 + " 한",
    "no spaces": "ア、イ。" * 30_000,
}


@both_modes
@pytest.mark.parametrize("name", _LONG_TEXTS)
def test_a_long_text_in_parts_is_the_whole(
    letter_vocab: Vocab, do_lower_case: bool, name: str
) -> None:
    check(Tokenizer(letter_vocab, do_lower_case), _LONG_TEXTS[name])


@both_modes
def test_a_part_is_no_longer_than_a_piece(do_lower_case: bool) -> None:
    for name, text in _LONG_TEXTS.items():
        found = list(long_text.parts(text, do_lower_case))
        longest = max(len(part.text) for part in found)
        assert longest <= long_text._PIECE_SIZE + long_text._LONG_WORD, name
        assert [found[0].start, found[-1].end] == [0, len(text)]
        assert all(a.end == b.start for a, b in itertools.pairwise(found))


@both_modes
@pytest.mark.parametrize("step", [41, pytest.param(1, marks=pytest.mark.slow)])
def test_nothing_but_a_boundary_parts_words(do_lower_case: bool, step: int) -> None:
    for start in range(0, sys.maxunicode, 1 << 16):
        characters = "".join(map(chr, range(start, start + (1 << 16), step)))
        for character, flag in zip(
            characters, flags(characters, do_lower_case).tolist(), strict=True
        ):
            words = basic_tokens(f"a{character}b", do_lower_case)
            # What a character leaves is beside a boundary on both sides, or on none.
            is_parted = words[0] == "a" and words[-1] == "b"
            assert is_parted == bool(flag & BOUNDARY), ascii(character)
            assert sum(map(len, words)) == 2 + (flag & COUNT), ascii(character)


def test_no_part_is_held_longer_than_needed(tiny_bert: Path) -> None:
    tokenizer = Tokenizer(Vocab.load(str(tiny_bert / "vocab.txt")), True)
    text = "the dog's бегемот " * 40_000
    num_wordpieces = 0
    tracemalloc.start()
    for part in tokenizer.tokenize_aligned_parts(text):
        num_wordpieces += len(part.ids)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert num_wordpieces > 200_000
    assert peak < 20 << 20


def test_a_million_accents_are_not_sorted(tiny_bert: Path) -> None:
    tokenizer = Tokenizer(Vocab.load(str(tiny_bert / "vocab.txt")), True)
    text = "a" + "\u0301\u0323" * 500_000 + " dog"
    (plain,) = tokenizer.tokenize(["a dog"])
    start = time.monotonic()
    cut = np.concatenate(list(tokenizer.tokenize_parts(text)))
    assert cut.tolist() == plain.tolist()
    assert time.monotonic() - start < 20  # sorting them takes hours


def test_positions_are_those_of_64_bits() -> None:
    (part,) = long_text.parts("a" * 5000, True)
    assert part.positions is not None
    assert part.positions.dtype == np.int64
    assert part.positions[[0, -1]].tolist() == [0, 4999]
    assert len(part.text) == 201
