"""modules.json, 1_Pooling/config.json -> how a sentence-transformers model pools.

These files lie in the folder of a model that was trained to give one vector a text, and
say what its library does with the last layer. What that library does and this tool does
not is refused by its name.
"""

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from bert_extract.errors import ConfigError, as_shown
from bert_extract.files import find_json
from bert_extract.model.pooling import SentencePooling

_MODULES_NAME = "modules.json"
# Which of them there may be, in this order; each is a class of the library.
_MODULES = ("Transformer", "Pooling", "Normalize")
_LIBRARY = "sentence_transformers."
# Where the BERT is: in the folder itself, or in one of this name.
_TRANSFORMER_DIRS = ("", "0_Transformer")
_TRANSFORMER_CONFIG_NAME = "sentence_bert_config.json"
_PROMPTS_NAME = "config_sentence_transformers.json"

# Key of a pooling's config.json -> what we call it. The library has more ways, whose
# keys begin alike.
_MODE_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
}
_MODE_PREFIX = "pooling_mode_"
# Newer versions of the library have one key for all.
_MODE_KEY = "pooling_mode"
_SIZE_KEYS = ("word_embedding_dimension", "embedding_dimension")
_PROMPT_KEY = "include_prompt"


@dataclass(frozen=True)
class SentenceModel:
    """How a sentence-transformers model makes one vector of a text."""

    pooling: SentencePooling
    warnings: tuple[str, ...]  # where what is done here is not what the library does


def has_own_pooling(model_dir: str) -> bool:
    """Whether a folder says how its model pools, as far as can be seen."""
    try:
        return bool(tf.io.gfile.exists(_in(model_dir, _MODULES_NAME)))
    except tf.errors.OpError:
        return False


def read_sentence_model(
    model_dir: str, do_lower_case: bool, max_seq_length: int
) -> SentenceModel:
    """Reads what a model's folder says.

    Args:
      model_dir: the folder.
      do_lower_case: whether the tokenizer lower-cases.
      max_seq_length: the longest sequence in wordpieces.

    Raises:
      ConfigError: the folder does not say it, or asks for what is not done here.
    """
    path = _in(model_dir, _MODULES_NAME)
    modules = find_json(path, list)
    if modules is None:
        raise ConfigError(
            f"{path}: --sentence_pooling=model reads there how the model pools, and "
            "there is no such file: it is not a sentence-transformers model; say which "
            "pooling is meant, as in --sentence_pooling=mean"
        )
    folders = _module_folders(path, modules)
    pooling_file = _in(model_dir, folders["Pooling"], "config.json")
    settings = find_json(pooling_file, dict)
    if settings is None:
        raise ConfigError(
            f"{pooling_file}: {path} names it, and there is no such file: copy or "
            "download the whole folder again"
        )
    return SentenceModel(
        SentencePooling(
            _mode(pooling_file, settings),
            has_special_tokens=True,
            is_normalized="Normalize" in folders,
        ),
        (
            *_prompt_warnings(model_dir, pooling_file, settings),
            *_transformer_warnings(
                _in(model_dir, folders["Transformer"], _TRANSFORMER_CONFIG_NAME),
                do_lower_case,
                max_seq_length,
            ),
        ),
    )


def _in(folder: str, *names: str) -> str:
    return "/".join([folder.rstrip("/"), *filter(None, names)])


def _module_folders(path: str, modules: list[Any]) -> dict[str, str]:
    """The folder of each module, by its class.

    Raises:
      ConfigError: there are others, or one is missing.
    """
    folders: dict[str, str] = {}
    for number, module in enumerate(modules):
        kind, folder = (
            module.get(key) if isinstance(module, dict) else None
            for key in ("type", "path")
        )
        if not isinstance(kind, str) or not isinstance(folder, str):
            raise ConfigError(
                f'{path}: module {number}: expected an object with a "type" and a '
                f'"path"; found {as_shown(module)}'
            )
        name = kind.rpartition(".")[2]
        if not kind.startswith(_LIBRARY) or _MODULES[number : number + 1] != (name,):
            raise ConfigError(
                f"{path}: module {number} is {as_shown(kind)}: "
                "--sentence_pooling=model does what Transformer and Pooling do, and "
                "Normalize after them, and no more; the vectors would not be the "
                "intended ones"
            )
        folders[name] = folder
    if "Pooling" not in folders:
        raise ConfigError(
            f"{path}: expected a Transformer and a Pooling; found no more"
        )
    if folders["Transformer"] not in _TRANSFORMER_DIRS:
        raise ConfigError(
            f"{path}: expected the Transformer in the folder itself, or in "
            f"{_TRANSFORMER_DIRS[1]}; found {as_shown(folders['Transformer'])}"
        )
    return folders


def _mode(path: str, settings: dict[str, Any]) -> str:
    """How tokens are pooled: "mean", "max" or "cls"."""
    named = settings.get(_MODE_KEY)
    if named is not None:
        wanted = [named] if isinstance(named, str) else named
    else:
        # The mean is the library's default.
        keys = {"pooling_mode_mean_tokens": True} | {
            key: value
            for key, value in settings.items()
            if key not in (_MODE_KEY, _PROMPT_KEY, *_SIZE_KEYS)
        }
        for key, value in keys.items():
            if not key.startswith(_MODE_PREFIX) or not isinstance(value, bool):
                raise ConfigError(
                    f"{path}: expected {_MODE_PREFIX}...: true or false; found "
                    f"{as_shown({key: value})}, which is not known here"
                )
        wanted = [_MODE_KEYS.get(key, key) for key, value in keys.items() if value]
    known = tuple(_MODE_KEYS.values())
    if not isinstance(wanted, list) or len(wanted) != 1 or wanted[0] not in known:
        raise ConfigError(
            f"{path}: expected one way of pooling, {', '.join(known)}; found "
            f"{as_shown(wanted)}, which --sentence_pooling=model does not do"
        )
    mode: str = wanted[0]
    return mode


def _prompt_warnings(
    model_dir: str, pooling_file: str, settings: dict[str, Any]
) -> list[str]:
    """Says what the library puts before each text, if it does."""
    path = _in(model_dir, _PROMPTS_NAME)
    said = find_json(path, dict) or {}
    name, prompts = said.get("default_prompt_name"), said.get("prompts")
    prompt = prompts.get(name) if isinstance(prompts, dict) and name else None
    if not prompt:
        return []
    if settings.get(_PROMPT_KEY) is False:
        raise ConfigError(
            f"{path}: puts {as_shown(prompt)} before each text, and {pooling_file} "
            "leaves that out of the pooling, which --sentence_pooling=model cannot do"
        )
    return [
        f"{path}: sentence-transformers puts {as_shown(prompt)} before each text; here "
        "it has to stand in the lines"
    ]


def _transformer_warnings(
    path: str, do_lower_case: bool, max_seq_length: int
) -> list[str]:
    """Says where texts are cut, if that is elsewhere in the library.

    Raises:
      ConfigError: it lower-cases texts that the tokenizer does not.
    """
    settings = find_json(path, dict) or {}
    if settings.get("do_lower_case") and not do_lower_case:
        raise ConfigError(
            f'{path}: "do_lower_case" is true, and the tokenizer is a cased one: '
            "sentence-transformers lower-cases and keeps accents then, which is not "
            "done here; lower-case the text, and set it to false"
        )
    most = settings.get("max_seq_length")
    if most in (None, max_seq_length):
        return []
    return [
        f"{path}: sentence-transformers cuts texts at {as_shown(most)} wordpieces, and "
        f"--max_seq_length is {max_seq_length}: longer texts get other vectors"
    ]
