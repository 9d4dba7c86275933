"""init_checkpoint -> weights by TF1 variable name."""

import dataclasses
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass

import tensorflow as tf

from bert_extract.config import BertConfig, variable_shapes
from bert_extract.errors import CheckpointError

# A checkpoint is a prefix that several files share; people often paste one of the
# files.
_FILE_OF_CHECKPOINT = re.compile(r"(.+)\.(index|meta|data-\d{5}-of-\d{5})")

# The names that an object-based checkpoint (`tf.train.Checkpoint`) has instead.
_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"

# How the encoder's variables are stored; half precision is widened to float32.
_READABLE_DTYPES = (tf.float32, tf.float16, tf.bfloat16)

# Key of bert_config.json -> a variable and its axis that show the checkpoint's own
# value.
_SHOWS_SIZE = {
    "vocab_size": ("bert/embeddings/word_embeddings", 0),
    "hidden_size": ("bert/embeddings/word_embeddings", 1),
    "max_position_embeddings": ("bert/embeddings/position_embeddings", 0),
    "type_vocab_size": ("bert/embeddings/token_type_embeddings", 0),
    "intermediate_size": ("bert/encoder/layer_0/intermediate/dense/kernel", 1),
}
_LAYER = re.compile(r"bert/encoder/layer_(\d+)/")


@dataclass(frozen=True)
class LoadedWeights:
    """The encoder's weights, and what is worth a line in the log."""

    path: str  # the prefix that was read
    weights: dict[str, tf.Tensor]  # float32, by TF1 variable name
    ignored: tuple[str, ...]  # the checkpoint's other variables, sorted
    warnings: tuple[str, ...]  # what may not be what the user meant


@dataclass(frozen=True)
class _Stored:
    """What a checkpoint says of one variable before it is read."""

    shape: tuple[int, ...]
    dtype: tf.DType


def load_weights(
    init_checkpoint: str, config: BertConfig, num_layers: int | None = None
) -> LoadedWeights:
    """Checks that the checkpoint is the config's, and reads the encoder's weights.

    Args:
        init_checkpoint: the prefix of a checkpoint, or a directory that holds one.
        config: every variable that it implies must be there with its exact shape.
        num_layers: read the embeddings and this many encoder layers; all by default.

    Raises:
        CheckpointError: the checkpoint is missing, broken, of another format, or
            lacks an encoder variable of the shape that the config says.
    """
    prefix = resolve_checkpoint(init_checkpoint)
    stored_by_name = _list_variables(prefix)
    expected = variable_shapes(config)
    _check_variables(prefix, stored_by_name, expected, config)
    wanted = expected
    if num_layers is not None:
        wanted = variable_shapes(
            dataclasses.replace(config, num_hidden_layers=num_layers)
        )
    return LoadedWeights(
        path=prefix,
        weights=_read_variables(
            prefix, {name: stored_by_name[name] for name in wanted}
        ),
        ignored=tuple(sorted(stored_by_name.keys() - expected.keys())),
        warnings=_warnings(prefix, stored_by_name, config),
    )


def resolve_checkpoint(init_checkpoint: str) -> str:
    """The prefix that a prefix or a directory stands for.

    A directory stands for the checkpoint that its `checkpoint` file calls the latest.
    Published checkpoints come without that file: then it must hold exactly one.

    Raises:
        CheckpointError: there is no such checkpoint, or more than one.
    """
    prefix = _find_prefix(init_checkpoint)
    # TensorFlow looks for the prefix as for a glob before it opens it as a name. The
    # other characters of globs match themselves.
    if "[" in prefix or "\\" in prefix:
        raise CheckpointError(
            f"{prefix}: TensorFlow opens no checkpoint with [ or \\ in its path: "
            "rename it, or link to it under another name"
        )
    return prefix


def _find_prefix(init_checkpoint: str) -> str:
    try:
        init_checkpoint.encode("utf-8")
        if tf.io.gfile.exists(f"{init_checkpoint}.index"):
            return init_checkpoint
        if tf.io.gfile.isdir(init_checkpoint):
            return _latest_checkpoint(init_checkpoint)
        raise CheckpointError(_not_found_message(init_checkpoint))
    except UnicodeEncodeError as error:
        raise CheckpointError(
            f"{init_checkpoint!r}: the path is not UTF-8, and TensorFlow opens no "
            "other: rename it, or link to it under another name"
        ) from error
    except tf.errors.OpError as error:
        raise CheckpointError(
            f"{init_checkpoint}: cannot look for the checkpoint: {error.message}"
        ) from error


def _latest_checkpoint(directory: str) -> str:
    prefixes = _prefixes_in(directory)
    if tf.io.gfile.exists(f"{directory.rstrip('/')}/checkpoint"):
        prefix = _recorded_checkpoint(directory)
        if prefix is None:
            raise CheckpointError(
                f"{directory}: its file `checkpoint` does not name a checkpoint that "
                f"is there; give the prefix of one{_listing(prefixes)}"
            )
        return prefix
    if not prefixes:
        raise CheckpointError(
            f"{directory}: expected a folder with a TF1 checkpoint (files NAME.index "
            "and NAME.data-00000-of-00001); found no file that ends in .index"
        )
    if len(prefixes) > 1:
        raise CheckpointError(
            f"{directory}: holds {len(prefixes)} checkpoints and no file `checkpoint` "
            f"that names the latest; give the prefix of one{_listing(prefixes)}"
        )
    return prefixes[0]


def _recorded_checkpoint(directory: str) -> str | None:
    logger = tf.get_logger()
    level = logger.level
    # What TensorFlow would log here, our error says.
    logger.setLevel(logging.CRITICAL)
    try:
        prefix: str | None = tf.train.latest_checkpoint(directory)
    except ValueError:  # bytes that are not UTF-8, or an empty file
        return None
    finally:
        logger.setLevel(level)
    return prefix


def _not_found_message(init_checkpoint: str) -> str:
    file_of_checkpoint = _FILE_OF_CHECKPOINT.fullmatch(init_checkpoint)
    if file_of_checkpoint is not None:
        return (
            f"{init_checkpoint}: this is one file of a checkpoint; give the prefix "
            f"that its files share: {file_of_checkpoint[1]}"
        )
    if tf.io.gfile.exists(init_checkpoint):
        return (
            f"{init_checkpoint}: expected the prefix of a TF1 checkpoint (files "
            "PREFIX.index and PREFIX.data-00000-of-00001); found a file of that name"
        )
    directory, slash, _ = init_checkpoint.rstrip("/").rpartition("/")
    directory = directory + slash if slash else "."
    if not tf.io.gfile.isdir(directory):
        return f"{init_checkpoint}: no such checkpoint: there is no folder {directory}"
    prefixes = _prefixes_in(directory)
    found = (
        f"these are in its folder{_listing(prefixes)}"
        if prefixes
        else "its folder holds no TF1 checkpoint"
    )
    return (
        f"{init_checkpoint}: no such checkpoint: there is no file "
        f"{init_checkpoint}.index; {found}"
    )


def _prefixes_in(directory: str) -> list[str]:
    root = "" if directory == "." else directory.rstrip("/") + "/"
    return sorted(
        root + name.removesuffix(".index")
        for name in tf.io.gfile.listdir(directory)
        if name.endswith(".index")
    )


def _listing(names: Iterable[str]) -> str:
    """One name a line; nothing where there is none."""
    text = "".join(f"\n  {name}" for name in names)
    return f":{text}" if text else ""


def _list_variables(prefix: str) -> dict[str, _Stored]:
    # Not tf.train.load_checkpoint: where a folder has the prefix's name, it would
    # open that folder's latest checkpoint instead.
    try:
        reader = tf.compat.v1.train.NewCheckpointReader(prefix)
        shapes = reader.get_variable_to_shape_map()
        dtypes = reader.get_variable_to_dtype_map()
    # The reader raises a status "out of range" or "invalid argument" as Python's own.
    except (tf.errors.OpError, IndexError, ValueError) as error:
        raise CheckpointError(
            f"{prefix}.index: expected the index of a TF1 checkpoint; found a damaged "
            f"or other file ({_reason(error)}): copy or download it again"
        ) from error
    if _OBJECT_GRAPH in shapes:
        raise CheckpointError(
            f"{prefix}: expected Google's TF1 checkpoint, with variables such as "
            "bert/embeddings/word_embeddings; found an object-based TF2 checkpoint "
            "(tf.train.Checkpoint), which is not read: take the model's TF1 release"
        )
    return {name: _Stored(tuple(shapes[name]), dtypes[name]) for name in shapes}


def _check_variables(
    prefix: str,
    stored_by_name: dict[str, _Stored],
    expected: dict[str, tuple[int, ...]],
    config: BertConfig,
) -> None:
    missing = [name for name in expected if name not in stored_by_name]
    misshapen = []
    unreadable = []
    for name, shape in expected.items():
        if name not in stored_by_name:
            continue
        stored = stored_by_name[name]
        if stored.shape != shape:
            misshapen.append(
                f"{name}: expected {list(shape)}, found {list(stored.shape)}"
            )
        elif stored.dtype not in _READABLE_DTYPES:
            unreadable.append(
                f"{name}: expected float32, float16 or bfloat16, "
                f"found {stored.dtype.name}"
            )
    problems = [
        f"{_count(names, len(expected))} {what}{_listing(names)}"
        for what, names in (
            ("missing", missing),
            ("misshapen", misshapen),
            ("of a type that is not read", unreadable),
        )
        if names
    ]
    if problems:
        hints = _hints(stored_by_name, config)
        raise CheckpointError(f"{prefix}: " + "\n".join(problems + hints))


def _count(names: list[str], num_expected: int) -> str:
    verb = "is" if len(names) == 1 else "are"
    return f"{len(names)} of {num_expected} encoder variables {verb}"


def _hints(stored_by_name: dict[str, _Stored], config: BertConfig) -> list[str]:
    """How the checkpoint and the config differ as a whole."""
    if not any(name.startswith("bert/") for name in stored_by_name):
        names = sorted(stored_by_name)[:3]
        return [
            "No variable's name begins with bert/: is this a BERT? Its names are like "
            + (", ".join(names) or "nothing: it is empty")
        ]
    hints = []
    for key, (name, axis) in _SHOWS_SIZE.items():
        stored = stored_by_name.get(name)
        # A scalar where a table should be has no axis to compare.
        found = stored.shape[axis] if stored and len(stored.shape) > axis else None
        if found is not None and found != getattr(config, key):
            hints.append(_differs(key, getattr(config, key), found))
    num_layers = _num_layers(stored_by_name)
    if num_layers not in (0, config.num_hidden_layers):
        hints.append(
            _differs("num_hidden_layers", config.num_hidden_layers, num_layers)
        )
    hints.append(
        "Take the bert_config.json that came with this checkpoint"
        if hints
        else "Is the checkpoint whole, and a BERT that the original's code saved?"
    )
    return hints


def _differs(key: str, expected: int, found: int) -> str:
    return f"bert_config.json says {key} {expected}, the checkpoint has {found}"


def _num_layers(stored_by_name: dict[str, _Stored]) -> int:
    layers = (_LAYER.match(name) for name in stored_by_name)
    return max((int(layer[1]) + 1 for layer in layers if layer), default=0)


def _warnings(
    prefix: str, stored_by_name: dict[str, _Stored], config: BertConfig
) -> tuple[str, ...]:
    expected, found = config.num_hidden_layers, _num_layers(stored_by_name)
    # Allowed, as in the original: it is how people use the lower part of a model.
    if found <= expected:
        return ()
    difference = _differs("num_hidden_layers", expected, found)
    return (f"{prefix}: {difference}: the last layer will be layer {expected - 1}",)


def _read_variables(
    prefix: str, stored_by_name: dict[str, _Stored]
) -> dict[str, tf.Tensor]:
    """The variables as float32 tensors."""
    # One RestoreV2 reads each variable into the buffer that stays its tensor's: a
    # NumPy array between would double the memory.
    try:
        with tf.device("CPU:0"):
            tensors = tf.raw_ops.RestoreV2(
                prefix=prefix,
                tensor_names=list(stored_by_name),
                shape_and_slices=[""] * len(stored_by_name),
                dtypes=[stored.dtype for stored in stored_by_name.values()],
            )
    except tf.errors.OpError as error:
        raise CheckpointError(
            f"{prefix}: the weights cannot be read ({_reason(error)}): "
            "copy or download the checkpoint's files again"
        ) from error
    return {
        name: tf.cast(tensor, tf.float32)
        for name, tensor in zip(stored_by_name, tensors, strict=True)
    }


def _reason(error: Exception) -> str:
    """TensorFlow's message without the names that it gives to nodes and ops."""
    message = error.message if isinstance(error, tf.errors.OpError) else str(error)
    return re.sub(r"^\{\{.*?\}\} | \[Op:\w+\].*$", "", message, flags=re.DOTALL)
