"""An opened checkpoint -> weights by TF1 variable name, whatever the format."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

import tensorflow as tf

from bert_extract.checkpoints.base import Checkpoint, Shape, Source, WeightLayout
from bert_extract.checkpoints.model_garden import SLOT_MARK, VALUE_SUFFIX
from bert_extract.checkpoints.opened import OpenedCheckpoint
from bert_extract.checkpoints.tensors import transposed
from bert_extract.errors import CheckpointError, ConfigError
from bert_extract.model.config import (
    POOLER_VARIABLES,
    BertConfig,
    MissingKeyError,
    variable_shapes,
)

# How the encoder's variables are stored; half precision is widened to float32.
_READABLE_DTYPES = ("float32", "float16", "bfloat16")

# Key of bert_config.json -> a variable and its axis that show the checkpoint's own
# value.
_SHOWS_SIZE = {
    "vocab_size": ("bert/embeddings/word_embeddings", 0),
    "hidden_size": ("bert/embeddings/word_embeddings", 1),
    "max_position_embeddings": ("bert/embeddings/position_embeddings", 0),
    "type_vocab_size": ("bert/embeddings/token_type_embeddings", 0),
    "intermediate_size": ("bert/encoder/layer_0/intermediate/dense/kernel", 1),
}
_NUM_LAYERS = "num_hidden_layers"  # which no axis shows
# Nobody has a BERT of more layers; a number in a name may be any.
_MAX_LAYERS = 1000


@dataclass(frozen=True)
class LoadedWeights:
    """The encoder's weights, and what is worth a line in the log."""

    path: str  # what was read: a file, or the prefix of several
    weights: dict[str, tf.Tensor]  # float32, by TF1 variable name
    ignored: tuple[str, ...]  # the checkpoint's other variables, sorted
    warnings: tuple[str, ...]  # what may not be what the user meant

    def ignored_kinds(self) -> list[str]:
        """What the other variables are, in few words, the most frequent kind first.

        "bert/pooler/dense/bias", "bert/pooler/dense/kernel", "global_step" ->
        "bert/pooler/dense/* (2)", "global_step (1)"; an optimizer's values, which stand
        behind the names of other variables: "*/adam_m (197)".
        """
        owners = {*self.weights, *self.ignored}
        kinds = Counter(_kind(name, owners) for name in self.ignored)
        return [f"{kind} ({number})" for kind, number in kinds.most_common()]


def read_config(bert_config_file: str, checkpoint: OpenedCheckpoint) -> BertConfig:
    """Reads the config of a checkpoint.

    Args:
      bert_config_file: its name.
      checkpoint: says whose config it is.

    Raises:
      ConfigError: as `BertConfig.from_json_file`; what a missing key should say is
        in the message if the checkpoint shows it.
      CheckpointError: it should be asked that, and cannot be opened.
    """
    try:
        return BertConfig.from_json_file(bert_config_file, checkpoint.dialect)
    except MissingKeyError as error:
        found = _shown_size(checkpoint.stored, error.key)
        if found is None:
            raise
        raise ConfigError(
            f"{error} By its weights, {checkpoint.init_checkpoint} has {error.key} "
            f"{found}"
        ) from error


def load_weights(
    checkpoint: OpenedCheckpoint,
    config: BertConfig,
    num_layers: int | None = None,
    with_pooler: bool = False,
) -> LoadedWeights:
    """Checks that the checkpoint is the config's, and reads the encoder's weights.

    Args:
      checkpoint: is read as its files are now.
      config: every variable that it implies must be there with its exact shape.
      num_layers: read the embeddings and this many encoder layers; all by default.
      with_pooler: read the pooler, too, which then must be there.

    Raises:
      CheckpointError: the checkpoint is missing, broken, of another format, or
        lacks an encoder variable of the shape that the config says.
    """
    stored = checkpoint.begin_reading()
    expected = variable_shapes(config, with_pooler)
    names = _check_variables(stored, expected, config)
    warnings = _warnings(stored, config)
    wanted = expected
    if num_layers is not None:
        wanted = variable_shapes(
            dataclasses.replace(config, num_hidden_layers=num_layers), with_pooler
        )
    weights = _read_variables(stored, names, wanted)
    checkpoint.end_reading()
    return LoadedWeights(
        path=stored.path,
        weights=weights,
        ignored=tuple(sorted(stored.variables.keys() - names.values())),
        warnings=warnings,
    )


def _check_variables(
    checkpoint: Checkpoint, expected: Mapping[str, Shape], config: BertConfig
) -> dict[str, str]:
    """TF1 name -> stored name of every variable, each of which can be read."""
    names: dict[str, str] = {}
    missing = []
    misshapen = []
    unreadable = []
    for tf1_name, tf1_shape in expected.items():
        source = checkpoint.source(tf1_name)
        name = _stored_name(checkpoint, source)
        if name is None:
            missing.append(" or ".join(source.names))
            continue
        names[tf1_name] = name
        stored = checkpoint.variables[name]
        shape = source.layout.to_stored(tf1_shape, config.num_attention_heads)
        if stored.shape != shape:
            misshapen.append(
                f"{name}: expected {list(shape)}, found {list(stored.shape)}"
            )
        elif stored.dtype not in _READABLE_DTYPES:
            unreadable.append(
                f"{name}: expected float32, float16 or bfloat16, found {stored.dtype}"
            )
    problems = [
        f"{_count(listed, len(expected))} {what}{_listing(listed)}"
        for what, listed in (
            ("missing", missing),
            ("misshapen", misshapen),
            ("of a type that is not read", unreadable),
        )
        if listed
    ]
    if problems:
        lacks_pooler_alone = set(expected) - set(names) <= set(POOLER_VARIABLES)
        hints = _hints(checkpoint, config, holds_bert=bool(names))
        if missing and lacks_pooler_alone:
            hints = [
                "It has no pooler, so --sentence_pooling=pooler cannot be computed: "
                "take mean, cls or max"
            ]
        raise CheckpointError(f"{checkpoint.path}: " + "\n".join(problems + hints))
    return names


def _kind(name: str, owners: Set[str]) -> str:
    """What a name has in common with others; `owners` are all names of variables."""
    scope, slash, last = name.removesuffix(VALUE_SUFFIX).rpartition("/")
    _, mark, slot = name.removesuffix(VALUE_SUFFIX).partition(SLOT_MARK)
    if mark:
        return f"*{mark}{slot}"
    if scope in owners:
        return f"*/{last}"
    return f"{scope}/*" if slash else last


def _stored_name(checkpoint: Checkpoint, source: Source) -> str | None:
    found = (name for name in source.names if name in checkpoint.variables)
    return next(found, None)


def _listing(names: Iterable[str]) -> str:
    """One name a line."""
    return ":" + "".join(f"\n  {name}" for name in names)


def _count(names: list[str], num_expected: int) -> str:
    verb = "is" if len(names) == 1 else "are"
    return f"{len(names)} of {num_expected} encoder variables {verb}"


def _hints(checkpoint: Checkpoint, config: BertConfig, holds_bert: bool) -> list[str]:
    """How the checkpoint and the config differ as a whole."""
    if not holds_bert:
        names = sorted(checkpoint.variables)[:3]
        return [
            f"{checkpoint.not_bert_hint}: is this a BERT? Its names are like "
            + (", ".join(names) or "nothing: it is empty")
        ]
    hints = []
    for key in (*_SHOWS_SIZE, _NUM_LAYERS):
        found = _shown_size(checkpoint, key)
        if found is not None and found != getattr(config, key):
            hints.append(_differs(checkpoint, key, config, found))
    hints.append(
        f"Take the {checkpoint.config_name} that came with this checkpoint"
        if hints
        else checkpoint.missing_hint
    )
    return hints


def _tf1_shape(checkpoint: Checkpoint, tf1_name: str) -> Shape:
    """The shape that a stored variable would have in TF1; () if it is not there."""
    source = checkpoint.source(tf1_name)
    name = _stored_name(checkpoint, source)
    if name is None:
        return ()
    return source.layout.to_tf1(checkpoint.variables[name].shape)


def _shown_size(checkpoint: Checkpoint, key: str) -> int | None:
    """What a checkpoint has where its config has some key; None if it does not show."""
    if key == _NUM_LAYERS:
        return _num_layers(checkpoint) or None
    if key not in _SHOWS_SIZE:
        return None
    tf1_name, axis = _SHOWS_SIZE[key]
    shape = _tf1_shape(checkpoint, tf1_name)
    # A scalar where a table should be has no axis to compare.
    return shape[axis] if len(shape) > axis else None


def _differs(checkpoint: Checkpoint, key: str, config: BertConfig, found: int) -> str:
    expected = getattr(config, key)
    if key in config.defaults:
        return (
            f"{checkpoint.config_name} does not set {key}, for which the original "
            f'takes {expected}, and the checkpoint has {found}: add "{key}": '
            f"{found} to it"
        )
    return f"{checkpoint.config_name} says {key} {expected}, the checkpoint has {found}"


def _num_layers(checkpoint: Checkpoint) -> int:
    """The highest encoder layer of which anything is stored, plus 1."""
    numbers = {
        int(number)
        for name in checkpoint.variables
        for number in re.findall(r"\d{1,9}", name)
    }
    # A format may count from another number than 0, but not further than it has names.
    highest = min(max(numbers, default=0), _MAX_LAYERS)
    one_layer = BertConfig(1, 1, 1, 1, 1, "gelu", 1, 1)
    of_layer_0 = [name for name in variable_shapes(one_layer) if "/layer_0/" in name]
    for layer in range(highest, -1, -1):
        for name in of_layer_0:
            tf1_name = name.replace("/layer_0/", f"/layer_{layer}/")
            if _stored_name(checkpoint, checkpoint.source(tf1_name)) is not None:
                return layer + 1
    return 0


def _warnings(checkpoint: Checkpoint, config: BertConfig) -> tuple[str, ...]:
    expected, found = config.num_hidden_layers, _num_layers(checkpoint)
    # Allowed, as in the original: it is how people use the lower part of a model.
    if found <= expected:
        return ()
    difference = _differs(checkpoint, _NUM_LAYERS, config, found)
    if _NUM_LAYERS in config.defaults:  # but who says nothing means all of them
        raise CheckpointError(f"{checkpoint.path}: {difference}")
    return (
        f"{checkpoint.path}: {difference}: the last layer will be layer {expected - 1}",
    )


def _read_variables(
    checkpoint: Checkpoint, names: Mapping[str, str], wanted: Mapping[str, Shape]
) -> dict[str, tf.Tensor]:
    """The variables as float32 tensors, by TF1 name."""
    weights: dict[str, tf.Tensor] = {}
    tensors = checkpoint.read([names[tf1_name] for tf1_name in wanted])
    with tf.device("CPU:0"):
        for (tf1_name, shape), tensor in zip(wanted.items(), tensors, strict=True):
            layout = checkpoint.source(tf1_name).layout
            if layout is WeightLayout.TRANSPOSED and len(shape) > 1:
                tensor = transposed(tensor)
            elif tuple(tensor.shape) != shape:
                tensor = tf.reshape(tensor, shape)
            weights[tf1_name] = tf.cast(tensor, tf.float32)
    return weights
