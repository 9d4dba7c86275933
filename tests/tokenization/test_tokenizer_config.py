"""tokenizer_config.json and tokenizer.json: what is heeded, what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from absl import logging

from bert_extract.errors import ConfigError, VocabError
from bert_extract.tokenization.tokenizer_config import resolve_lower_case
from bert_extract.tokenization.vocab import Vocab

TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "##s")
MODEL = {
    "type": "WordPiece",
    "unk_token": "[UNK]",
    "continuing_subword_prefix": "##",
    "max_input_chars_per_word": 100,
    "vocab": {token: i for i, token in reversed(list(enumerate(TOKENS)))},
}
NORMALIZER = {
    "type": "BertNormalizer",
    "clean_text": True,
    "handle_chinese_chars": True,
    "strip_accents": None,
    "lowercase": True,
}


def settings(tmp_path: Path, **keys: Any) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(keys))


def normalizer(tmp_path: Path, **keys: Any) -> None:
    tokenizer = {"normalizer": NORMALIZER | keys, "model": MODEL}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))


def tokenizer(tmp_path: Path, **keys: Any) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": MODEL, **keys}))


def lower_case(tmp_path: Path, given: bool | None = None) -> bool:
    return resolve_lower_case(str(tmp_path / "vocab.txt"), given)


def error(tmp_path: Path, given: bool | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        lower_case(tmp_path, given)
    return str(caught.value).removeprefix(f"{tmp_path}/")


def test_nothing_says_it(tmp_path: Path) -> None:
    assert lower_case(tmp_path) is True
    assert lower_case(tmp_path, False) is False
    assert resolve_lower_case("vocab.txt", None) is True


@pytest.mark.parametrize("said", [True, False])
def test_tokenizer_config_says_it(tmp_path: Path, said: bool) -> None:
    settings(tmp_path, do_lower_case=said, tokenizer_class="BertTokenizer")
    normalizer(tmp_path, lowercase=not said)
    assert lower_case(tmp_path) is said
    assert lower_case(tmp_path, not said) is not said


@pytest.mark.parametrize("said", [True, False])
def test_tokenizer_json_says_it(tmp_path: Path, said: bool) -> None:
    normalizer(tmp_path, lowercase=said)
    assert lower_case(tmp_path) is said
    settings(tmp_path, model_max_length=512)
    assert lower_case(tmp_path) is said


def test_a_remote_folder(tmp_path: Path) -> None:
    folder = f"ram://{tmp_path.name}"
    with tf.io.gfile.GFile(f"{folder}/tokenizer_config.json", "wb") as writer:
        writer.write(b'{"do_lower_case": false}')
    assert resolve_lower_case(f"{folder}/vocab.txt", None) is False


def test_accents_go_with_the_capitals(tmp_path: Path) -> None:
    settings(tmp_path, do_lower_case=False, strip_accents=False)
    assert lower_case(tmp_path) is False
    settings(tmp_path, do_lower_case=True, strip_accents=False)
    assert error(tmp_path) == (
        'tokenizer_config.json: "strip_accents" is false: accents are stripped here '
        "where the text is lower-cased, and there only; do_lower_case is true"
    )
    settings(tmp_path, do_lower_case=True, strip_accents=True)
    assert error(tmp_path, False).endswith("do_lower_case is false")
    settings(tmp_path)
    normalizer(tmp_path, strip_accents=False)
    assert error(tmp_path).startswith('tokenizer.json: "strip_accents" is false')


@pytest.mark.parametrize(
    ("key", "value", "plain"),
    [
        ("tokenize_chinese_chars", False, "true"),
        ("tokenizer_class", "RobertaTokenizer", '"BertTokenizer"'),
        ("tokenizer_class", "BertJapaneseTokenizer", '"BertTokenizer"'),
        ("cls_token", "<s>", '"[CLS]"'),
        ("sep_token", "</s>", '"[SEP]"'),
        ("unk_token", "<unk>", '"[UNK]"'),
        ("do_basic_tokenize", False, "true"),
        ("never_split", ["[E1]"], "null"),
    ],
)
def test_what_is_not_done_is_refused(
    tmp_path: Path, key: str, value: object, plain: str
) -> None:
    settings(tmp_path, **{key: value})
    assert error(tmp_path) == (
        f'tokenizer_config.json: "{key}" is {json.dumps(value)}: text is cut here as '
        f"BERT cuts it, with {plain}, and the model's vectors would not be the "
        "intended ones"
    )


def test_a_token_with_its_attributes(tmp_path: Path) -> None:
    settings(tmp_path, cls_token={"content": "[CLS]", "lstrip": False})
    assert lower_case(tmp_path) is True
    settings(tmp_path, cls_token={"content": "<s>", "lstrip": False})
    assert error(tmp_path).startswith('tokenizer_config.json: "cls_token" is "<s>"')


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("type", "Lowercase"),
        ("clean_text", False),
        ("handle_chinese_chars", False),
    ],
)
def test_another_normalizer_is_refused(tmp_path: Path, key: str, value: object) -> None:
    normalizer(tmp_path, **{key: value})
    assert error(tmp_path).startswith(
        f'tokenizer.json: "{key}" is {json.dumps(value)}: text is cut here as BERT'
    )


@pytest.mark.parametrize(
    ("key", "value", "shown", "plain"),
    [
        ("normalizer", None, "null", "BertNormalizer"),
        ("normalizer", "Lowercase", '"Lowercase"', "BertNormalizer"),
        ("pre_tokenizer", None, "null", "BertPreTokenizer"),
        ("pre_tokenizer", {"type": "Whitespace"}, '"Whitespace"', "BertPreTokenizer"),
    ],
)
def test_a_tokenizer_that_cuts_otherwise_is_refused(
    tmp_path: Path, key: str, value: object, shown: str, plain: str
) -> None:
    tokenizer(tmp_path, **{key: value})
    assert error(tmp_path, True) == (
        f'tokenizer.json: "{key}" is {shown}: text is cut here as BERT cuts it, with '
        f'"{plain}", and the model\'s vectors would not be the intended ones'
    )


def test_berts_own_tokenizer_is_taken(tmp_path: Path) -> None:
    special = {"id": 0, "content": "[PAD]", "special": True}
    tokenizer(
        tmp_path,
        normalizer=NORMALIZER,
        pre_tokenizer={"type": "BertPreTokenizer"},
        added_tokens=[special],
    )
    settings(tmp_path, tokenizer_class=None)
    assert lower_case(tmp_path) is True


def test_added_words_are_refused(tmp_path: Path) -> None:
    special = {"id": 0, "content": "[PAD]", "special": True}
    words = [
        {"id": 6, "content": "covid", "special": False},
        {"id": 7, "content": "e-mail"},
    ]
    tokenizer(tmp_path, added_tokens=[special, *words])
    assert error(tmp_path).startswith(
        'tokenizer.json: "added_tokens" has 2 that are not special, "covid" first: '
    )
    tokenizer(tmp_path, added_tokens=[words[1]])
    assert '"added_tokens" has 1 that is not special, "e-mail"' in error(tmp_path)
    tokenizer(tmp_path, added_tokens={"covid": 6})
    assert error(tmp_path).startswith('tokenizer.json: "added_tokens" is {"covid": 6}')


def test_long_words_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logging.set_verbosity(logging.DEBUG)
    tokenizer(tmp_path, model=MODEL | {"max_input_chars_per_word": 200})
    assert lower_case(tmp_path) is True
    assert caplog.messages == []
    tokenizer(tmp_path)
    assert lower_case(tmp_path) is True
    assert caplog.messages == [
        f"{tmp_path}/tokenizer.json: a word of more than 100 characters is [UNK] to "
        "Hugging Face's tokenizer; here, as in the original, one of more than 200 is"
    ]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b"[1]"])
def test_what_is_not_a_json_object(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer_config.json").write_bytes(content)
    assert error(tmp_path).startswith("tokenizer_config.json: expected a JSON object; ")


def test_casing_is_true_or_false(tmp_path: Path) -> None:
    settings(tmp_path, do_lower_case="yes")
    assert error(tmp_path) == (
        'tokenizer_config.json: "do_lower_case" must be true or false; found "yes"'
    )


# The vocab of tokenizer.json.


def test_the_vocab_of_tokenizer_json(tmp_path: Path) -> None:
    normalizer(tmp_path)
    vocab = Vocab.load(str(tmp_path / "tokenizer.json"))
    assert vocab.tokens == TOKENS
    assert (vocab.unk_id, vocab.cls_id, vocab.sep_id) == (1, 2, 3)


def test_real_vocabs_are_the_same(minilm_dir: Path) -> None:
    vocab = Vocab.load(str(minilm_dir / "vocab.txt"))
    assert Vocab.load(str(minilm_dir / "tokenizer.json")).tokens == vocab.tokens


def test_a_vocab_file_may_begin_with_a_brace(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(("{", *TOKENS)))
    assert Vocab.load(str(path)).tokens == ("{", *TOKENS)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({"type": "BPE"}, "the tokenizer.json of a WordPiece model"),
        ({"vocab": {"a": 0, "b": 2}}, 'expected in its "vocab" the ids 0, 1, 2, ...'),
        ({"vocab": {"a": 0, "b": 0}}, 'expected in its "vocab" the ids 0, 1, 2, ...'),
        ({"vocab": {"a": 0, "b": True}}, 'expected in its "vocab" the ids 0, 1, 2,'),
        ({"vocab": {"a": 0, "\ud800": 1}}, "characters; found '\\ud800', half of one"),
        ({"vocab": [["a", 0.5]]}, 'expected in its "vocab" the ids 0, 1, 2, ..., ea'),
        ({"unk_token": "<unk>"}, '"unk_token" must be "[UNK]", as in BERT; found "<un'),
        ({"continuing_subword_prefix": "@@"}, '"continuing_subword_prefix" must be'),
        ({"vocab": {"a": 0}}, "expected the wordpieces [CLS] and [SEP]"),
    ],
)
def test_the_vocab_of_another_tokenizer(
    tmp_path: Path, model: dict[str, Any], reason: str
) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"model": MODEL | model}))
    with pytest.raises(VocabError) as caught:
        Vocab.load(str(path))
    assert reason in str(caught.value)
