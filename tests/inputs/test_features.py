"""Special tokens, segments and truncation, as the original lays them out."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bert_extract.errors import OptionsError
from bert_extract.inputs.features import (
    Features,
    beginning,
    lay_out,
    lay_out_singles,
    to_features,
    truncated_pair_lengths,
)
from bert_extract.text.examples import Example
from bert_extract.tokenization.alignment import Wordpieces
from bert_extract.tokenization.tokenizer import Tokenizer
from bert_extract.tokenization.vocab import Vocab
from support import reference_tokenizer as reference
from support.nasty_text import nasty_lines

WORDS = tuple("abcdefgh")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Cuts a line of the letters a to h into those letters."""
    tokens = ("[UNK]", "[CLS]", "[SEP]", *WORDS)
    ids = {token: i for i, token in enumerate(tokens)}
    return Tokenizer(Vocab(tokens, ids, (), "vocab.txt"), do_lower_case=True)


def features_of(
    tokenizer: Tokenizer, text_a: str, text_b: str | None, max_seq_length: int
) -> Features:
    return to_features([Example(0, text_a, text_b)], tokenizer, max_seq_length)[0]


def spelt(tokenizer: Tokenizer, input_ids: Sequence[int] | np.ndarray) -> str:
    return " ".join(tokenizer.vocab.tokens[i] for i in input_ids)


@pytest.mark.parametrize(
    ("num_a", "num_b", "max_num_tokens", "lengths"),
    [
        (5, 2, 4, (2, 2)),
        (5, 1, 4, (3, 1)),
        (1, 5, 4, (1, 3)),
        (9, 9, 5, (3, 2)),
        (1, 1, 1, (1, 0)),
        (0, 3, 1, (0, 1)),
        (2, 2, 4, (2, 2)),
        (3, 3, 0, (0, 0)),
    ],
)
def test_truncated_pair_lengths(
    num_a: int, num_b: int, max_num_tokens: int, lengths: tuple[int, int]
) -> None:
    assert truncated_pair_lengths(num_a, num_b, max_num_tokens) == lengths


def test_the_closed_form_is_the_loop() -> None:
    for num_a, num_b, limit in itertools.product(range(30), range(30), range(24)):
        a, b = reference.pair_after_truncation("a" * num_a, "b" * num_b, limit)
        assert truncated_pair_lengths(num_a, num_b, limit) == (len(a), len(b))


@pytest.mark.parametrize(
    ("text_a", "text_b", "max_seq_length", "tokens", "num_second"),
    [
        ("a b", None, 8, "[CLS] a b [SEP]", 0),
        ("", None, 8, "[CLS] [SEP]", 0),
        ("a b c", None, 4, "[CLS] a b [SEP]", 0),
        ("a", None, 2, "[CLS] [SEP]", 0),
        ("a b", "c", 8, "[CLS] a b [SEP] c [SEP]", 2),
        ("\u200b", "c d", 8, "[CLS] [SEP] c d [SEP]", 3),
        ("a b c", "d e f", 7, "[CLS] a b [SEP] d e [SEP]", 3),
        ("a b c", "d e f", 6, "[CLS] a b [SEP] d [SEP]", 2),
        # A text_b without wordpieces is none: the limit is that of a single text.
        ("a b c", "\u200b", 5, "[CLS] a b c [SEP]", 0),
        ("a b c", "", 4, "[CLS] a b [SEP]", 0),
        # Three places were kept free, but an emptied text_b gets no [SEP].
        ("a", "b", 4, "[CLS] a [SEP]", 0),
        ("a", "b", 3, "[CLS] [SEP]", 0),
        ("", "b", 4, "[CLS] [SEP] b [SEP]", 2),
    ],
)
def test_layout(
    tokenizer: Tokenizer,
    text_a: str,
    text_b: str | None,
    max_seq_length: int,
    tokens: str,
    num_second: int,
) -> None:
    features = features_of(tokenizer, text_a, text_b, max_seq_length)
    assert spelt(tokenizer, features.input_ids) == tokens
    num_first = len(features.input_ids) - num_second
    assert features.token_type_ids.tolist() == [0] * num_first + [1] * num_second
    assert features.input_ids.dtype == features.token_type_ids.dtype == np.int32


@pytest.mark.parametrize(
    ("text_a", "text_b", "is_pair", "is_truncated"),
    [
        ("a b c", None, False, False),
        ("a b c d", None, False, True),
        ("a", "b", True, False),
        ("a b", "b", True, True),
        ("a b c", "\u200b", False, False),
        ("a b c d", "\u200b", False, True),
        ("a", "", False, False),
        ("", "a", True, False),
    ],
)
def test_what_is_reported(
    tokenizer: Tokenizer,
    text_a: str,
    text_b: str | None,
    is_pair: bool,
    is_truncated: bool,
) -> None:
    features = features_of(tokenizer, text_a, text_b, 5)
    assert (features.is_pair, features.is_truncated) == (is_pair, is_truncated)


def test_a_pair_emptied_by_truncation_is_still_a_pair(tokenizer: Tokenizer) -> None:
    features = features_of(tokenizer, "a", "b", 4)
    assert features.is_pair
    assert features.is_truncated


def test_examples_keep_their_order_and_ids(tokenizer: Tokenizer) -> None:
    examples = [
        Example(7, "a", "b"),
        Example(8, "c", None),
        Example(9, "", ""),
        Example(10, "d", "e f"),
    ]
    features = to_features(examples, tokenizer, 16)
    assert [f.unique_id for f in features] == [7, 8, 9, 10]
    assert [spelt(tokenizer, f.input_ids) for f in features] == [
        "[CLS] a [SEP] b [SEP]",
        "[CLS] c [SEP]",
        "[CLS] [SEP]",
        "[CLS] d [SEP] e f [SEP]",
    ]
    assert to_features([], tokenizer, 16) == []


@pytest.mark.parametrize("max_seq_length", [2, 3, 5, 64])
def test_single_texts_are_laid_out_together_as_each_alone(
    tokenizer: Tokenizer, max_seq_length: int
) -> None:
    texts = ["a b c d e f", "", "a", "\u200b", "a b c", "", "f e d", "zz"]
    ids = tokenizer.tokenize(texts)
    numbers = [3, 1, 4, 15, 9, 2, 6, 5]
    together = lay_out_singles(numbers, ids, tokenizer.vocab, max_seq_length)
    for number, own, found in zip(numbers, ids, together, strict=True):
        alone = lay_out(number, own, own[:0], tokenizer.vocab, max_seq_length)
        assert found.input_ids.tolist() == alone.input_ids.tolist()
        assert found.token_type_ids.tolist() == alone.token_type_ids.tolist()
        assert found.input_ids.dtype == found.token_type_ids.dtype == np.int32
        found = found._replace(input_ids=own, token_type_ids=own)
        assert found == alone._replace(input_ids=own, token_type_ids=own)
    assert lay_out_singles([], [], tokenizer.vocab, max_seq_length) == []


@pytest.mark.parametrize("max_seq_length", [1, 0, -5])
def test_no_room_for_the_special_tokens(
    tokenizer: Tokenizer, max_seq_length: int
) -> None:
    with pytest.raises(OptionsError) as caught:
        features_of(tokenizer, "a", None, max_seq_length)
    assert str(caught.value) == (
        f"max_seq_length is {max_seq_length}: expected 2 or more, since [CLS] and "
        "[SEP] take two places."
    )


def test_no_room_for_a_pair(tokenizer: Tokenizer) -> None:
    with pytest.raises(OptionsError) as caught:
        to_features([Example(4, "a", None), Example(5, "a", "b")], tokenizer, 2)
    assert str(caught.value) == (
        "max_seq_length is 2, but record 5 of the input is a pair: expected 3 or more, "
        "since [CLS] and two [SEP] take three places."
    )
    assert len(features_of(tokenizer, "a", "\u200b", 2).input_ids) == 2


@pytest.mark.parametrize(
    ("expected_file", "max_seq_length", "do_lower_case"),
    [
        ("expected_default.jsonl", 32, True),
        ("expected_cased.jsonl", 32, False),
        ("expected_short.jsonl", 8, True),
    ],
)
def test_golden_tokens(
    golden_dir: Path, expected_file: str, max_seq_length: int, do_lower_case: bool
) -> None:
    vocab = Vocab.load(str(golden_dir / "tiny_bert" / "vocab.txt"))
    lines = reference.read_lines((golden_dir / "input.txt").read_bytes())
    examples = [Example(i, *reference.read_line(line)) for i, line in enumerate(lines)]
    tokenizer = Tokenizer(vocab, do_lower_case)
    tokens = {
        features.unique_id: [vocab.tokens[i] for i in features.input_ids]
        for features in to_features(examples, tokenizer, max_seq_length)
    }
    with (golden_dir / expected_file).open(encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    assert len(records) == len(examples) == 37
    for record in records:
        expected = [entry["token"] for entry in record["features"]]
        assert tokens[record["linex_index"]] == expected


def test_nasty_pairs_are_laid_out_as_in_the_reference(minilm_dir: Path) -> None:
    vocab = Vocab.load(str(minilm_dir / "vocab.txt"))
    tokenizer = Tokenizer(vocab, do_lower_case=True)
    lines = nasty_lines(6, 1_000)
    examples = [
        Example(i, text_a, text_b)
        for i, (text_a, text_b) in enumerate(zip(lines, lines, strict=True))
    ]
    for max_seq_length in (3, 4, 5, 12, 31):
        features = to_features(examples, tokenizer, max_seq_length)
        for example, laid_out in zip(examples, features, strict=True):
            assert example.text_b is not None
            tokens, token_type_ids = reference.laid_out(
                reference.tokens(str(example.text_a), vocab.ids, True),
                reference.tokens(str(example.text_b), vocab.ids, True),
                max_seq_length,
            )
            assert [vocab.tokens[i] for i in laid_out.input_ids] == tokens
            assert laid_out.token_type_ids.tolist() == token_type_ids


def test_of_a_text_no_more_is_cut_than_its_beginning() -> None:
    part = Wordpieces(np.arange(4, dtype=np.int32), np.arange(4), np.arange(4) + 1)
    parts = iter([part] * 9)
    found = beginning(parts, 10)
    assert len(list(parts)) == 6
    assert found.ids.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert found.starts is not None
    assert found.starts.tolist() == found.ids.tolist()
    nothing = beginning([], 10)
    assert len(nothing) == 0
    assert nothing.ids.dtype == np.int32
    assert nothing.starts is None
