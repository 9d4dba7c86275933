"""tokenizer_config.json, tokenizer.json -> what they say of casing and of the vocab.

Both are Hugging Face's, and lie beside vocab.txt or instead of it. What they ask for
and the tokenizer does not do is refused by its name.
"""

import json
from typing import Any, NamedTuple

from absl import logging

from bert_extract.errors import ConfigError, VocabError, as_shown
from bert_extract.files import find_json
from bert_extract.tokenization.basic_tokenizer import MAX_CHARS_PER_WORD

TOKENIZER_CONFIG_NAME = "tokenizer_config.json"
TOKENIZER_NAME = "tokenizer.json"

# Classes that cut a text as BERT's does. The last two say that tokenizer.json counts.
_TOKENIZER_CLASSES = (
    *("BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer"),
    *("DistilBertTokenizerFast", "ElectraTokenizer", "ElectraTokenizerFast"),
    *("PreTrainedTokenizerFast", "TokenizersBackend"),
)
# Key of tokenizer_config.json -> what it may be, the value first that it stands for.
_PLAIN_SETTINGS: dict[str, tuple[object, ...]] = {
    "tokenizer_class": (*_TOKENIZER_CLASSES, None),
    "cls_token": ("[CLS]",),
    "sep_token": ("[SEP]",),
    "unk_token": ("[UNK]",),
    "tokenize_chinese_chars": (True,),
    "do_basic_tokenize": (True,),
    "never_split": (None, []),
}
# The same for the normalizer and for the model in tokenizer.json.
_PLAIN_NORMALIZER = {
    "type": "BertNormalizer",
    "clean_text": True,
    "handle_chinese_chars": True,
}
_PRE_TOKENIZER = "BertPreTokenizer"
_PLAIN_MODEL = {"unk_token": "[UNK]", "continuing_subword_prefix": "##"}


def resolve_lower_case(
    vocab_file: str, do_lower_case: bool | None, model_dir: str | None = None
) -> bool:
    """Whether to lower-case, by what lies beside the vocab unless it is given.

    Args:
      vocab_file: the settings are looked for in its folder.
      do_lower_case: what the user said, or None.
      model_dir: the folder, with a slash at its end, where they are looked for if the
        vocab lies elsewhere and has none beside it.

    Returns:
      True where nothing says it, as Google's and Hugging Face's code both take it.

    Raises:
      ConfigError: the settings cannot be read, or ask for what is not done here.
    """
    folder = vocab_file[: vocab_file.rfind("/") + 1]
    settings = _read_settings(folder)
    if settings is None and model_dir not in (None, folder):
        settings = _read_settings(str(model_dir))
    settings = settings or {}
    said = settings.get("do_lower_case", _Setting(True, ""))
    if not isinstance(said.value, bool):
        raise ConfigError(
            f'{said.path}: "do_lower_case" must be true or false; found '
            f"{as_shown(said.value)}"
        )
    lower_case = said.value if do_lower_case is None else do_lower_case
    strip_accents = settings.get("strip_accents")
    if strip_accents and strip_accents.value not in (None, lower_case):
        raise ConfigError(
            f'{strip_accents.path}: "strip_accents" is '
            f"{as_shown(strip_accents.value)}: accents are stripped here where the "
            f"text is lower-cased, and there only; do_lower_case is "
            f"{as_shown(lower_case)}"
        )
    return lower_case


def read_wordpieces(path: str, content: bytes) -> tuple[str, ...] | None:
    """The wordpieces of a tokenizer.json by id; None if the content is not JSON.

    Raises:
      VocabError: it is JSON, and has no WordPiece vocab whose ids are 0, 1, 2, ...
    """
    try:
        tokenizer = json.loads(content) if content.lstrip()[:1] == b"{" else None
    except (ValueError, RecursionError):
        return None  # a vocab.txt may begin with any wordpiece
    if tokenizer is None:
        return None
    model = tokenizer.get("model")
    if not isinstance(model, dict) or model.get("type", "WordPiece") != "WordPiece":
        raise VocabError(
            f"{path}: expected a vocab.txt, or the tokenizer.json of a WordPiece "
            "model; found JSON without one: is it a BERT's?"
        )
    for key, plain in _PLAIN_MODEL.items():
        if model.get(key, plain) != plain:
            raise VocabError(
                f'{path}: "{key}" must be {as_shown(plain)}, as in BERT; found '
                f"{as_shown(model[key])}"
            )
    vocab: Any = model.get("vocab")
    ids: list[Any] = list(vocab.values()) if isinstance(vocab, dict) else [None]
    if not all(type(i) is int for i in ids) or sorted(ids) != list(range(len(ids))):
        raise VocabError(
            f'{path}: expected in its "vocab" the ids 0, 1, 2, ..., each once: copy or '
            "download it again"
        )
    try:
        "".join(vocab).encode()
    except UnicodeEncodeError as error:
        raise VocabError(
            f'{path}: expected in its "vocab" tokens of Unicode characters; found '
            f"{error.object[error.start]!r}, half of one: copy or download it again"
        ) from error
    return tuple(sorted(vocab, key=vocab.__getitem__))


class _Setting(NamedTuple):
    value: Any
    path: str  # the file that says it


def _read_settings(folder: str) -> dict[str, _Setting] | None:
    """What the files in a folder say; None if it has none of them."""
    tokenizer_file = folder + TOKENIZER_NAME
    settings_file = folder + TOKENIZER_CONFIG_NAME
    tokenizer, said = (
        find_json(path, dict) for path in (tokenizer_file, settings_file)
    )
    if tokenizer is None and said is None:
        return None
    _check_cutting(tokenizer_file, tokenizer or {})
    settings = _normalizer_settings(tokenizer_file, tokenizer or {})
    return settings | _tokenizer_settings(settings_file, said or {})


def _tokenizer_settings(path: str, settings: dict[str, Any]) -> dict[str, _Setting]:
    """Of tokenizer_config.json what the tokenizer heeds; the rest must be BERT's."""
    for key, allowed in _PLAIN_SETTINGS.items():
        value = settings.get(key, allowed[0])
        if isinstance(value, dict):  # a token with its attributes
            value = value.get("content")
        if value not in allowed:
            raise _refusal(path, key, value, allowed[0])
    names = ("do_lower_case", "strip_accents")
    return {key: _Setting(settings[key], path) for key in names if key in settings}


def _check_cutting(path: str, tokenizer: dict[str, Any]) -> None:
    """Refuses a tokenizer.json that cuts other words out of a text than BERT does."""
    if "pre_tokenizer" in tokenizer:
        kind = _type_of(tokenizer["pre_tokenizer"])
        if kind != _PRE_TOKENIZER:
            raise _refusal(path, "pre_tokenizer", kind, _PRE_TOKENIZER)
    added = tokenizer.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(t, dict) for t in added):
        raise _refusal(path, "added_tokens", added, [])
    words = [token.get("content") for token in added if not token.get("special")]
    if words:
        raise ConfigError(
            f'{path}: "added_tokens" has {len(words)} that '
            f"{'is' if len(words) == 1 else 'are'} not special, {as_shown(words[0])} "
            "first: text is cut here as BERT cuts it, without any, and the model's "
            "vectors would not be the intended ones"
        )
    model = tokenizer.get("model")
    most = model.get("max_input_chars_per_word") if isinstance(model, dict) else None
    if type(most) is int and most < MAX_CHARS_PER_WORD:
        logging.debug(
            "%s: a word of more than %d characters is [UNK] to Hugging Face's "
            "tokenizer; here, as in the original, one of more than %d is",
            path,
            most,
            MAX_CHARS_PER_WORD,
        )


def _type_of(component: object) -> object:
    """The "type" of a part of tokenizer.json; what is there instead, if it is none."""
    return component.get("type") if isinstance(component, dict) else component


def _normalizer_settings(path: str, tokenizer: dict[str, Any]) -> dict[str, _Setting]:
    """The same of tokenizer.json, under the names of tokenizer_config.json."""
    if "normalizer" not in tokenizer:
        return {}
    normalizer = tokenizer["normalizer"]
    if not isinstance(normalizer, dict):
        raise _refusal(path, "normalizer", normalizer, _PLAIN_NORMALIZER["type"])
    for key, plain in _PLAIN_NORMALIZER.items():
        value = normalizer.get(key, plain)
        if value != plain:
            raise _refusal(path, key, value, plain)
    names = {"lowercase": "do_lower_case", "strip_accents": "strip_accents"}
    return {
        ours: _Setting(normalizer[theirs], path)
        for theirs, ours in names.items()
        if theirs in normalizer
    }


def _refusal(path: str, key: str, value: object, plain: object) -> ConfigError:
    return ConfigError(
        f'{path}: "{key}" is {as_shown(value)}: text is cut here as BERT cuts it, with '
        f"{as_shown(plain)}, and the model's vectors would not be the intended ones"
    )
