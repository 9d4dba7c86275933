"""Token for token what the original cuts, and vocab files as it reads them."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bert_extract.errors import VocabError
from bert_extract.tokenization.basic_tokenizer import basic_tokens
from bert_extract.tokenization.tokenizer import Tokenizer
from bert_extract.tokenization.vocab import Vocab, case_warning
from support import reference_tokenizer as reference
from support.nasty_text import nasty_lines
from support.vocabs import make_vocab

both_modes = pytest.mark.parametrize("do_lower_case", [True, False])

SPECIAL = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n"


def write_vocab(tmp_path: Path, content: str | bytes) -> str:
    vocab_file = tmp_path / "vocab.txt"
    content = content.encode() if isinstance(content, str) else content
    vocab_file.write_bytes(content)
    return str(vocab_file)


def tokens_of(vocab: Vocab, do_lower_case: bool, *texts: str) -> list[list[str]]:
    ids = Tokenizer(vocab, do_lower_case).tokenize(texts)
    return [[vocab.tokens[i] for i in text_ids] for text_ids in ids]


@pytest.fixture(scope="session")
def real_vocab(minilm_dir: Path) -> Vocab:
    """The list of bert-base-uncased."""
    return Vocab.load(str(minilm_dir / "vocab.txt"))


@pytest.fixture(scope="session")
def character_vocab() -> Vocab:
    """Every character is a piece, so that no [UNK] hides how the words were cut.

    But for Hangul syllables, ideographs and private characters: NFD, or the spaces
    around them, or the want of any rule for them, leave nothing to hide.
    """
    plain = (range(0x3400, 0xA000), range(0xAC00, 0xD7A4), range(0xD800, 0xF900))
    characters = [
        chr(code)
        for code in range(0x21, 0x32000)
        if not any(code in block for block in plain) and chr(code).strip()
    ]
    return make_vocab(*characters, *("##" + character for character in characters))


def every_code_point(below: int = sys.maxunicode + 1) -> Iterator[str]:
    """Yields lines that hold each code point alone and inside a word.

    Spaces part them, and nothing looks across a space, so a line can hold many.
    """
    codes = [code for code in range(below) if not 0xD800 <= code < 0xE000]
    for start in range(0, len(codes), 500):
        characters = map(chr, codes[start : start + 500])
        yield " ".join(f"{c} a{c}b" for c in characters)


def test_the_reference_is_the_original(golden_dir: Path) -> None:
    with (golden_dir / "basic_tokens.jsonl").open(encoding="utf-8") as file:
        samples = [json.loads(line) for line in file]
    assert len(samples) == 500
    for sample in samples:
        assert reference.basic_tokens(sample["text"], True) == sample["lower"]
        assert reference.basic_tokens(sample["text"], False) == sample["cased"]
        assert basic_tokens(sample["text"], True) == sample["lower"]
        assert basic_tokens(sample["text"], False) == sample["cased"]


@both_modes
def test_every_code_point_is_cut_into_the_words_of_the_reference(
    do_lower_case: bool,
) -> None:
    for line in every_code_point():
        words = basic_tokens(line, do_lower_case)
        assert words == reference.basic_tokens(line, do_lower_case)


@both_modes
def test_every_code_point_is_cut_into_the_wordpieces_of_the_reference(
    character_vocab: Vocab, do_lower_case: bool
) -> None:
    tokenizer = Tokenizer(character_vocab, do_lower_case)
    # No character beyond is in a vocab; the words with them are all unknown.
    lines = list(every_code_point(below=0x32000))
    for line, ids in zip(lines, tokenizer.tokenize(lines), strict=True):
        # The words are right by the test above.
        words = basic_tokens(line, do_lower_case)
        expected = [
            character_vocab.ids[piece]
            for word in words
            for piece in reference.wordpieces(word, character_vocab.ids)
        ]
        assert ids.tolist() == expected


@both_modes
@pytest.mark.parametrize("vocab_name", ["real_vocab", "character_vocab"])
def test_nasty_lines_are_cut_as_in_the_reference(
    request: pytest.FixtureRequest, vocab_name: str, do_lower_case: bool
) -> None:
    vocab: Vocab = request.getfixturevalue(vocab_name)
    lines = list(nasty_lines(2, 10_000))
    for line, ids in zip(
        lines, Tokenizer(vocab, do_lower_case).tokenize(lines), strict=True
    ):
        expected = reference.tokens(line, vocab.ids, do_lower_case)
        assert [vocab.tokens[i] for i in ids] == expected, ascii(line)


@pytest.mark.parametrize(
    ("do_lower_case", "digest"),
    [
        (True, "b54672b8a2f710951fa46977e682b03a229f33ada837bb765f90d2a669687ec5"),
        (False, "c957414a87907ba7d366beccb596ee687d4a0351f2d0cc8287c11c1d6c00624f"),
    ],
)
def test_the_words_are_the_same_under_every_python(
    do_lower_case: bool, digest: str
) -> None:
    # The digests are Python 3.11's. Lines with sigmas beside every code point are here
    # because the reference, under another Python, shares the package's lower.
    words = hashlib.sha256()
    for line in every_code_point():
        sigmas = line.replace("a", "AΣ")
        words.update("\n".join(basic_tokens(sigmas, do_lower_case)).encode())
    for line in nasty_lines(3, 10_000):
        words.update("\n".join(basic_tokens(line, do_lower_case)).encode())
    assert words.hexdigest() == digest


@pytest.mark.parametrize(
    ("text", "lower", "cased"),
    [
        ("", [], []),
        (" ", [], []),
        ("?", ["?"], ["?"]),
        ("\0", [], []),
        ("a\0b", ["ab"], ["ab"]),
        ("a\x0bb\x1fc\x85d", ["abcd"], ["abcd"]),
        ("a\tb\nc\u00a0d\u2028e", ["a", "b", "c", "d", "e"], ["a", "b", "c", "d", "e"]),
        ("a\u200bb\ufeffc\u00add", ["abcd"], ["abcd"]),
        ("Ünïcode,", ["unicode", ","], ["Ünïcode", ","]),
        ("U\u0308n", ["un"], ["U\u0308n"]),
        ("Straße", ["straße"], ["Straße"]),
        ("ΟΔΟΣ", ["οδος"], ["ΟΔΟΣ"]),
        ("½ ﬁ ™ …", ["½", "ﬁ", "™", "…"], ["½", "ﬁ", "™", "…"]),
        ("中国x", ["中", "国", "x"], ["中", "国", "x"]),
        ("한", ["\u1112\u1161\u11ab"], ["한"]),
        ("don't $9", ["don", "'", "t", "$", "9"], ["don", "'", "t", "$", "9"]),
        ("[CLS]", ["[", "cls", "]"], ["[", "CLS", "]"]),
        ("\u037e", [";"], ["\u037e"]),
    ],
)
def test_basic_tokens(text: str, lower: list[str], cased: list[str]) -> None:
    assert basic_tokens(text, do_lower_case=True) == lower
    assert basic_tokens(text, do_lower_case=False) == cased


def test_wordpieces_are_the_longest_first() -> None:
    vocab = make_vocab("un", "##aff", "##able", "##a", "a")
    assert tokens_of(vocab, True, "UNaffable", "unaffablex", "a una") == [
        ["un", "##aff", "##able"],
        ["[UNK]"],
        ["a", "un", "##a"],
    ]


@pytest.mark.parametrize("character", ["a", "é", "ก", "😀"])
def test_a_word_of_more_than_200_characters_is_unknown(character: str) -> None:
    vocab = make_vocab(character, "##" + character)
    longest, too_long = character * 200, character * 201
    tokens = tokens_of(vocab, False, longest, too_long, f"{too_long} {character}")
    assert tokens[0] == [character] + ["##" + character] * 199
    assert tokens[1] == ["[UNK]"]
    assert tokens[2] == ["[UNK]", character]


def test_length_is_counted_after_lower_casing() -> None:
    vocab = make_vocab("a", "##a")
    accented = "a\u0301" * 200
    assert tokens_of(vocab, True, accented, accented + "a") == [
        ["a"] + ["##a"] * 199,
        ["[UNK]"],
    ]


def test_half_a_surrogate_pair_is_unknown() -> None:
    vocab = make_vocab("a", "b")
    assert tokens_of(vocab, True, "a \ud800 b", "a\udfffb b") == [
        ["a", "[UNK]", "b"],
        ["[UNK]", "b"],
    ]


def test_ids_are_int32_and_every_text_has_some() -> None:
    tokenizer = Tokenizer(make_vocab("a"), do_lower_case=True)
    ids = tokenizer.tokenize(["", "a a", "\u200b", "x"])
    assert [text_ids.tolist() for text_ids in ids] == [[], [3, 3], [], [0]]
    assert {text_ids.dtype.name for text_ids in ids} == {"int32"}
    assert tokenizer.tokenize([]) == []


def test_neighbours_do_not_matter(real_vocab: Vocab) -> None:
    lines = list(nasty_lines(5, 50))
    tokenizer = Tokenizer(real_vocab, do_lower_case=True)
    together = [ids.tolist() for ids in tokenizer.tokenize(lines)]
    assert together == [tokenizer.tokenize([line])[0].tolist() for line in lines]


def test_vocab_ids_are_line_numbers(tmp_path: Path) -> None:
    vocab = Vocab.load(write_vocab(tmp_path, SPECIAL + "un\n##want"))
    assert vocab.tokens == ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##want")
    assert vocab.ids["##want"] == 5
    assert (vocab.unk_id, vocab.cls_id, vocab.sep_id) == (1, 2, 3)
    assert vocab.warnings == ()


@pytest.mark.parametrize(
    "ending", ["a\nb", "a\nb\n", "a\r\nb\r\n", "a\n\rb", " a\t\n\u00a0b \n", "a\nb\n\r"]
)
def test_carriage_returns_and_outer_spaces_are_not_read(
    tmp_path: Path, ending: str
) -> None:
    vocab = Vocab.load(write_vocab(tmp_path, SPECIAL + ending))
    assert vocab.tokens[4:] == ("a", "b")
    assert vocab.warnings == ()


def test_a_carriage_return_inside_joins(tmp_path: Path) -> None:
    assert Vocab.load(write_vocab(tmp_path, SPECIAL + "u\rn\n")).tokens[4:] == ("un",)


def test_only_a_newline_ends_a_line(tmp_path: Path) -> None:
    vocab = Vocab.load(write_vocab(tmp_path, SPECIAL + "a\u2028b\nc\x85d\x0ce\n"))
    assert vocab.tokens[4:] == ("a\u2028b", "c\x85d\x0ce")


def test_blank_lines_take_up_ids_and_are_reported(tmp_path: Path) -> None:
    vocab_file = write_vocab(tmp_path, SPECIAL + "a\n\n\u2028\nb\n\n")
    vocab = Vocab.load(vocab_file)
    assert vocab.tokens[4:] == ("a", "", "", "b", "")
    assert vocab.ids["b"] == 7
    assert vocab.warnings == (
        f"{vocab_file}: 3 lines are blank, line 6 first; each takes up an id, as "
        "upstream counts, and the wordpieces below it must have been trained with that "
        "count.",
    )
    assert Tokenizer(vocab, True).tokenize(["a b"])[0].tolist() == [4, 7]


def test_the_last_duplicate_counts_and_is_reported(tmp_path: Path) -> None:
    vocab_file = write_vocab(tmp_path, SPECIAL + "a\nb\na\n##c\n[UNK]\na\n")
    vocab = Vocab.load(vocab_file)
    assert vocab.ids["a"] == 9
    assert vocab.unk_id == 8
    assert vocab.warnings == (
        f"{vocab_file}: 3 lines are repeated further down; the first is '[UNK]' of "
        "line 2, which gets the id of line 9: the last one counts, as upstream reads "
        "it.",
    )
    assert Tokenizer(vocab, True).tokenize(["a b ac x"])[0].tolist() == [9, 5, 9, 7, 8]


def test_a_byte_order_mark_is_reported(tmp_path: Path) -> None:
    vocab_file = write_vocab(tmp_path, "\ufeff" + SPECIAL + "a\n")
    vocab = Vocab.load(vocab_file)
    assert vocab.tokens[0] == "\ufeff[PAD]"
    assert vocab.warnings == (
        f"{vocab_file}: The file starts with a byte order mark, which is read as part "
        "of the first wordpiece, as upstream reads it; save the file without the mark.",
    )
    assert Tokenizer(vocab, True).tokenize(["a"])[0].tolist() == [4]


def test_a_byte_order_mark_before_a_special_token_is_an_error(tmp_path: Path) -> None:
    vocab_file = write_vocab(tmp_path, "\ufeff[CLS]\n[UNK]\n[SEP]\n")
    with pytest.raises(VocabError) as caught:
        Vocab.load(vocab_file)
    assert str(caught.value) == (
        f"{vocab_file}: expected the wordpieces [CLS] and [SEP], each alone on a line; "
        "found 3 lines and no [CLS]. The file starts with a byte order mark, which is "
        "read as part of the first wordpiece, as upstream reads it; save the file "
        "without the mark."
    )


def test_pieces_that_tensorflow_text_cannot_hold_keep_their_places(
    tmp_path: Path,
) -> None:
    odd = ["x" * 256, "x" * 257, "##" + "y" * 257, "a\0b", "##", "#", "a b", "[UNK] "]
    vocab_file = write_vocab(tmp_path, SPECIAL + "\n".join([*odd, "a", "##b"]))
    vocab = Vocab.load(vocab_file)
    assert Tokenizer(vocab, True).tokenize(["ab # a b x"])[0].tolist() == [
        *(12, 13, 9, 12, 11, 11)
    ]
    assert vocab.warnings[-1] == (
        f"{vocab_file}: 4 lines are longer than 200 characters or with a NUL, line 5 "
        "first; no text will match them, and none does upstream."
    )


@both_modes
def test_wordpieces_that_tensorflow_text_cannot_hold_are_matched(
    do_lower_case: bool,
) -> None:
    """Words of other scripts have up to 800 bytes, its wordpieces up to 256."""
    thai, emoji = "ภาษาไทย" * 28, "😀" * 65  # 588 and 260 bytes
    vocab = make_vocab(
        *(thai, emoji, "##" + thai, "ภา", "##ษา", "a", "##b", "##😀", "😀", "ไ"),
        *("##ไ", "##ท", "##ย", "##ภ", "##า", "##ษ", "x" * 200, "##" + "ก" * 86),
    )
    words = [
        *(thai, thai + "ภาษา", "a" + thai, "ab" + thai, thai[:-1], thai + "z", emoji),
        *("😀" * 64, "😀" * 66, emoji * 3 + "a", "😀" * 201, "a" + "ก" * 86, "ก" * 86),
        *("a" + "ก" * 85, "a" + "ก" * 87, "ab", "x" * 200, "", "zz", thai[:86]),
    ]
    for text in (" ".join(words), " ".join(reversed(words)), *words):
        expected = reference.tokens(text, vocab.ids, do_lower_case)
        assert tokens_of(vocab, do_lower_case, text) == [expected]
        (aligned,) = Tokenizer(vocab, do_lower_case).tokenize_aligned([text])
        assert [vocab.tokens[i] for i in aligned.ids] == expected
    everything = Tokenizer(vocab, do_lower_case).tokenize(words)
    for word, ids in zip(words, everything, strict=True):
        expected = reference.tokens(word, vocab.ids, do_lower_case)
        assert [vocab.tokens[i] for i in ids] == expected
    # Half a surrogate pair is in no vocab.
    assert tokens_of(vocab, do_lower_case, f"{thai}\ud800 a {thai}")[0][0] == "[UNK]"


@pytest.mark.parametrize("missing", ["[CLS]", "[SEP]"])
def test_a_missing_special_token_is_named(tmp_path: Path, missing: str) -> None:
    vocab_file = write_vocab(tmp_path, SPECIAL.replace(missing, "a"))
    with pytest.raises(VocabError) as caught:
        Vocab.load(vocab_file)
    assert str(caught.value) == (
        f"{vocab_file}: expected the wordpieces [CLS] and [SEP], each alone on a line; "
        f"found 4 lines and no {missing}. Is it the vocab.txt of the checkpoint?"
    )


def test_without_unk_a_word_that_nobody_spells_has_an_id_of_its_own(
    tmp_path: Path,
) -> None:
    vocab_file = write_vocab(tmp_path, "\ufeff[UNK]\n[CLS]\n[SEP]\na\n##b\n")
    vocab = Vocab.load(vocab_file)
    (warning,) = vocab.warnings
    assert warning.startswith(
        f"{vocab_file}: there is no [UNK] among its 5 lines: the first text with a "
        "word that no wordpieces spell will end the run. The file starts with a byte"
    )
    (aligned,) = Tokenizer(vocab, True).tokenize_aligned(["ab xyz a"])
    assert aligned.ids.tolist() == [3, 4, 5, 3]
    assert aligned.starts is not None
    assert aligned.starts.tolist() == [0, 1, 3, 7]
    assert aligned.ends is not None
    assert aligned.ends.tolist() == [1, 2, 6, 8]
    assert vocab.describe(5) == f"[UNK], which {vocab_file} does not have"


def test_blank_lines_at_the_end_are_no_riddle(tmp_path: Path) -> None:
    vocab_file = write_vocab(tmp_path, SPECIAL + "a\n \n\n\n")
    vocab = Vocab.load(vocab_file)
    assert len(vocab.tokens) == 8
    assert vocab.warnings == (
        f"{vocab_file}: 3 lines are blank, line 6 first; each takes up an id, as "
        "upstream counts, and no text needs them.",
    )


def test_an_empty_vocab_is_an_error(tmp_path: Path) -> None:
    vocab_file = write_vocab(tmp_path, "")
    with pytest.raises(VocabError, match="on each line, found an empty file"):
        Vocab.load(vocab_file)


def test_a_line_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    vocab_file = write_vocab(tmp_path, SPECIAL.encode() + b"caf\xe9\n")
    with pytest.raises(VocabError) as caught:
        Vocab.load(vocab_file)
    assert str(caught.value) == (
        f"{vocab_file} (line 5): expected UTF-8, found the byte 0xe9 (unexpected end "
        "of data). Is it a vocab.txt?"
    )


def test_a_vocab_that_is_not_there_is_named(tmp_path: Path) -> None:
    vocab_file = str(tmp_path / "vocab.txt")
    with pytest.raises(VocabError) as caught:
        Vocab.load(vocab_file)
    assert str(caught.value) == (
        f"{vocab_file}: expected a vocab file, but it cannot be read: No such file or "
        "directory"
    )
    with pytest.raises(VocabError, match="it cannot be read: Is a directory"):
        Vocab.load(str(tmp_path))


def test_a_remote_vocab_is_read_by_gfile() -> None:
    import tensorflow as tf

    with tf.io.gfile.GFile("ram://vocab.txt", "wb") as file:
        file.write((SPECIAL + "a\r\n").encode())
    assert Vocab.load("ram://vocab.txt").ids["a"] == 4
    with pytest.raises(VocabError, match=r"ram://no\.txt: expected a vocab file, but"):
        Vocab.load("ram://no.txt")


def test_a_vocab_is_read_without_tensorflow() -> None:
    program = (
        "import sys, bert_extract.tokenization.tokenizer;"
        "from bert_extract.tokenization import basic_tokenizer as words;"
        "words.basic_tokens('Ça va', True);"
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


LOWER_WORDS = [f"{a}{b}" for a in "abcdefgh" for b in "ijklmnop"]


def test_a_cased_vocab_with_lower_casing_is_warned_about() -> None:
    names = [word.title() for word in LOWER_WORDS[:16]]
    vocab = make_vocab(*LOWER_WORDS, *names)
    assert case_warning(vocab, do_lower_case=False) is None
    assert case_warning(vocab, do_lower_case=True) == (
        "vocab.txt: 20% of the wordpieces of two letters or more have capitals, so it "
        "looks like a cased vocab, but the text is lower-cased and will never match "
        "them; use --do_lower_case=false."
    )


def test_an_uncased_vocab_without_lower_casing_is_warned_about(
    real_vocab: Vocab,
) -> None:
    assert case_warning(real_vocab, do_lower_case=True) is None
    assert case_warning(real_vocab, do_lower_case=False) == (
        f"{real_vocab.vocab_file}: almost no wordpiece has a capital letter, so it "
        "looks like an uncased vocab, but the text is not lower-cased and every word "
        "with a capital will become [UNK] or single letters; use --do_lower_case=true."
    )


@both_modes
@pytest.mark.parametrize(
    "tokens",
    [
        pytest.param([], id="nothing"),
        pytest.param(["Ab", "cd", "Ef"], id="too few words"),
        pytest.param(["中", "国", "##文", "1", "##2"] * 9, id="no letters"),
        pytest.param([*LOWER_WORDS, "Paris", "Jim"], id="a few names"),
    ],
)
def test_a_vocab_that_says_nothing_gets_no_warning(
    tokens: list[str], do_lower_case: bool
) -> None:
    assert case_warning(make_vocab(*tokens), do_lower_case) is None


@both_modes
def test_the_golden_vocab_gets_no_warning(tiny_bert: Path, do_lower_case: bool) -> None:
    vocab = Vocab.load(str(tiny_bert / "vocab.txt"))
    assert vocab.warnings == ()
    assert case_warning(vocab, do_lower_case) is None
