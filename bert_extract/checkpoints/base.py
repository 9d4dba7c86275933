"""What a checkpoint format is: a table of names, a listing, a streaming read.

To add a format, write a module with a class that has what `Checkpoint` says, most of
it a table, and let `opened.open_checkpoint` recognise it by its content. What is
missing, misshapen, of another type or left over, `loading` finds by itself.
"""

import enum
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import tensorflow as tf

Shape = tuple[int, ...]

_LAYER = re.compile(r"(?<=^bert/encoder/layer_)\d+(?=/)")


@dataclass(frozen=True, slots=True)
class StoredVariable:
    """What a checkpoint says of one variable before it is read."""

    shape: Shape
    dtype: str  # as NumPy calls it: "float32", "bfloat16", "int64"


class WeightLayout(enum.Enum):
    """How the TF1 variable's values lie in the stored one."""

    AS_IT_IS = "as it is"
    # A dense kernel of torch, [num_outputs, num_inputs].
    TRANSPOSED = "transposed"
    # The same order of values, the last axis cut into attention heads: the kernel of a
    # query [H, N, D], its bias [N, D].
    HEADS_LAST = "heads last"
    # The first axis cut: the kernel of the attention's output [N, D, H].
    HEADS_FIRST = "heads first"

    def to_stored(self, shape: Shape, num_attention_heads: int) -> Shape:
        """The stored shape of a TF1 variable.

        TRANSPOSED, (8, 32) -> (32, 8); HEADS_LAST with 2 heads, (8, 8) -> (8, 2, 4)
        """
        heads = num_attention_heads
        if self is WeightLayout.TRANSPOSED:
            return shape[::-1]
        if self is WeightLayout.HEADS_LAST:
            return (*shape[:-1], heads, shape[-1] // heads)
        if self is WeightLayout.HEADS_FIRST:
            return (heads, shape[0] // heads, *shape[1:])
        return shape

    def to_tf1(self, shape: Shape) -> Shape:
        """The TF1 shape of a stored variable; () where it has too few axes."""
        if self is WeightLayout.TRANSPOSED:
            return shape[::-1]
        if self is WeightLayout.AS_IT_IS:
            return shape
        if len(shape) < 2:
            return ()
        if self is WeightLayout.HEADS_LAST:
            return (*shape[:-2], shape[-2] * shape[-1])
        return (shape[0] * shape[1], *shape[2:])


@dataclass(frozen=True, slots=True)
class Source:
    """Where a checkpoint keeps one TF1 variable.

    In a table of names "{}" stands for the number of the encoder layer.
    """

    names: tuple[str, ...]  # what it may be called: the first that is there counts
    layout: WeightLayout = WeightLayout.AS_IT_IS


# TF1 name with "{}" for the number of the encoder layer -> Source, the same way.
NameTable = Mapping[str, Source]


def look_up(table: NameTable, tf1_name: str, root: str = "", offset: int = 0) -> Source:
    """Where a table says that a TF1 variable is.

    Args:
      table: its keys are all the variables of `config.variable_shapes`, the pooler's
        among them.
      tf1_name: with a number where the table has "{}".
      root: stands before every stored name.
      offset: is added to the number of the layer.
    """
    layer = _LAYER.search(tf1_name)
    source = table[_LAYER.sub("{}", tf1_name)]
    number = int(layer[0]) + offset if layer else 0
    names = tuple(root + name.format(number) for name in source.names)
    return Source(names, source.layout)


class Checkpoint(Protocol):
    """A checkpoint of some format, opened: its header is read, its weights are not.

    Whoever implements it raises `CheckpointError` for files that are not what they
    should be, and nothing else.
    """

    # What a message calls the checkpoint: the path of a file, or a prefix.
    path: str
    # Every file that is read of it.
    files: tuple[str, ...]
    # Every stored variable, by the name that the format has for it.
    variables: Mapping[str, StoredVariable]

    # For messages. The name that the config file has beside such a checkpoint;
    config_name: str
    # what no variable of the checkpoint is, if it holds no BERT at all, as in "No
    # variable's name begins with bert/";
    not_bert_hint: str
    # and what to ask when variables are missing, and nothing says why.
    missing_hint: str

    def source(self, tf1_name: str) -> Source:
        """Where the variable is; one of `config.variable_shapes`, or the pooler's."""

    def read(self, names: Sequence[str]) -> Iterator[tf.Tensor]:
        """Yields stored variables on the CPU, in order, as they lie there.

        They are of the shape and the dtype that `variables` has; what was yielded is
        not kept, so that the caller decides how much is in memory.
        """

    def checksum(self) -> str:
        """What is equal for two checkpoints only if their weights are, as hex."""
