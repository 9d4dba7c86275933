"""tokenizer_config.json, tokenizer.json -> what they say of casing and of the vocab.

Both are Hugging Face's, and lie beside vocab.txt or instead of it. What they ask for
and the tokenizer does not do is refused by its name.
"""

import json
from typing import Any, NamedTuple

from bert_extract.errors import ConfigError, VocabError
from bert_extract.small_files import find_bytes

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
    "tokenizer_class": _TOKENIZER_CLASSES,
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
_PLAIN_MODEL = {"unk_token": "[UNK]", "continuing_subword_prefix": "##"}


def resolve_lower_case(vocab_file: str, do_lower_case: bool | None) -> bool:
    """Whether to lower-case, by what lies beside the vocab unless it is given.

    Args:
      vocab_file: the settings are looked for in its folder.
      do_lower_case: what the user said, or None.

    Returns:
      True where nothing says it, as Google's and Hugging Face's code both take it.

    Raises:
      ConfigError: the settings cannot be read, or ask for what is not done here.
    """
    folder = vocab_file[: vocab_file.rfind("/") + 1]
    tokenizer_file = folder + TOKENIZER_NAME
    settings_file = folder + TOKENIZER_CONFIG_NAME
    settings = _normalizer_settings(tokenizer_file, _read_object(tokenizer_file))
    settings |= _tokenizer_settings(settings_file, _read_object(settings_file))
    said = settings.get("do_lower_case", _Setting(True, ""))
    if not isinstance(said.value, bool):
        raise ConfigError(
            f'{said.path}: "do_lower_case" must be true or false; found '
            f"{_shorten(said.value)}"
        )
    lower_case = said.value if do_lower_case is None else do_lower_case
    strip_accents = settings.get("strip_accents")
    if strip_accents and strip_accents.value not in (None, lower_case):
        raise ConfigError(
            f'{strip_accents.path}: "strip_accents" is '
            f"{_shorten(strip_accents.value)}: accents are stripped here where the "
            f"text is lower-cased, and there only; do_lower_case is "
            f"{_shorten(lower_case)}"
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
                f'{path}: "{key}" must be {_shorten(plain)}, as in BERT; found '
                f"{_shorten(model[key])}"
            )
    vocab: Any = model.get("vocab")
    ids: list[Any] = list(vocab.values()) if isinstance(vocab, dict) else [None]
    if not all(type(i) is int for i in ids) or sorted(ids) != list(range(len(ids))):
        raise VocabError(
            f'{path}: expected in its "vocab" the ids 0, 1, 2, ..., each once: copy or '
            "download it again"
        )
    return tuple(sorted(vocab, key=vocab.__getitem__))


class _Setting(NamedTuple):
    value: Any
    path: str  # the file that says it


def _tokenizer_settings(
    path: str, settings: dict[str, Any] | None
) -> dict[str, _Setting]:
    """Of tokenizer_config.json what the tokenizer heeds; the rest must be BERT's."""
    if settings is None:
        return {}
    for key, allowed in _PLAIN_SETTINGS.items():
        value = settings.get(key, allowed[0])
        if isinstance(value, dict):  # a token with its attributes
            value = value.get("content")
        if value not in allowed:
            raise _refusal(path, key, value, allowed[0])
    names = ("do_lower_case", "strip_accents")
    return {key: _Setting(settings[key], path) for key in names if key in settings}


def _normalizer_settings(
    path: str, tokenizer: dict[str, Any] | None
) -> dict[str, _Setting]:
    """The same of tokenizer.json, under the names of tokenizer_config.json."""
    normalizer = (tokenizer or {}).get("normalizer")
    if normalizer is None:
        return {}
    if not isinstance(normalizer, dict):
        normalizer = {"type": normalizer}
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
        f'{path}: "{key}" is {_shorten(value)}: text is cut here as BERT cuts it, with '
        f"{_shorten(plain)}, and the model's vectors would not be the ones meant"
    )


def _read_object(path: str) -> dict[str, Any] | None:
    """The JSON object in a file; None if there is no such file."""
    content = find_bytes(path, ConfigError, "cannot read it")
    if content is None:
        return None
    try:
        json_object = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path}: expected a JSON object; not valid JSON: {error}"
        ) from error
    if not isinstance(json_object, dict):
        raise ConfigError(
            f"{path}: expected a JSON object; found {_shorten(json_object)}"
        )
    return json_object


def _shorten(value: object) -> str:
    """The value as JSON, cut where it would fill the screen."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
