"""--model_dir and the flags that override it -> the three files and the casing."""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from bert_extract.checkpoints.opened import OpenedCheckpoint, open_checkpoint
from bert_extract.errors import CheckpointError
from bert_extract.model.config import Dialect
from bert_extract.options import Options
from bert_extract.tokenization.tokenizer_config import (
    TOKENIZER_NAME,
    resolve_lower_case,
)

_VOCAB_NAMES = ("vocab.txt", TOKENIZER_NAME)
# Which of two configs is taken depends on whose weights they are.
_CONFIG_NAMES = {
    Dialect.GOOGLE: (Dialect.GOOGLE.value, Dialect.HUGGING_FACE.value),
    Dialect.HUGGING_FACE: (Dialect.HUGGING_FACE.value, Dialect.GOOGLE.value),
}
# Where early sentence-transformers keep the model, beside the pooling's folder.
_TRANSFORMER_DIR = "0_Transformer"
_MOST_SHOWN = 20


def resolve_options(options: Options) -> tuple[Options, OpenedCheckpoint]:
    """Fills in the files of `model_dir`, and `do_lower_case` by the tokenizer's files.

    Args:
      options: checked; a file that is given is taken as it is.

    Returns:
      The same with `vocab_file`, `bert_config_file`, `init_checkpoint` and
      `do_lower_case`; and the checkpoint.

    Raises:
      CheckpointError: the folder is not there or lacks a file.
      ConfigError: the tokenizer's files ask for what is not done here.
    """
    directory = None
    checkpoint = None
    if options.model_dir:
        directory, names = _list_folder(options.model_dir)
        init_checkpoint = options.init_checkpoint or directory.rstrip("/") or "/"
        checkpoint = open_checkpoint(init_checkpoint)
        options = dataclasses.replace(
            options,
            init_checkpoint=init_checkpoint,
            vocab_file=options.vocab_file or _find(directory, names, _VOCAB_NAMES),
            bert_config_file=options.bert_config_file
            or _find(directory, names, _CONFIG_NAMES[checkpoint.dialect]),
        )
    options = dataclasses.replace(
        options,
        do_lower_case=resolve_lower_case(
            options.vocab_file, options.do_lower_case, directory
        ),
    )
    return options, checkpoint or open_checkpoint(options.init_checkpoint)


def _list_folder(model_dir: str) -> tuple[str, list[str]]:
    """The folder with the model, a slash at its end, and what is in it."""
    directory = model_dir.rstrip("/") + "/"
    try:
        if not tf.io.gfile.isdir(directory):
            raise CheckpointError(
                f"--model_dir: {model_dir}: expected a folder with a vocab, a config "
                "and weights; there is no such folder"
            )
        names = _names_in(directory)
        # Beside it may lie a config.json, of another kind.
        if _TRANSFORMER_DIR in names and not {*_VOCAB_NAMES} & {*names}:
            directory += f"{_TRANSFORMER_DIR}/"
            names = _names_in(directory)
    except (tf.errors.OpError, UnicodeEncodeError) as error:
        raise CheckpointError(
            f"--model_dir: {model_dir!r}: cannot list the folder: {error}"
        ) from error
    return directory, names


def _names_in(directory: str) -> list[str]:
    # Remote file systems put a slash behind the name of a folder.
    return sorted(name.rstrip("/") for name in tf.io.gfile.listdir(directory))


def _find(directory: str, names: Sequence[str], usual: Sequence[str]) -> str:
    for name in usual:
        if name in names:
            return directory + name
    shown = ", ".join(names[:_MOST_SHOWN]) or "nothing"
    more = f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
    raise CheckpointError(
        f"--model_dir: {directory}: looked for {' or '.join(usual)}; in the folder is "
        f"{shown}{more}"
    )
