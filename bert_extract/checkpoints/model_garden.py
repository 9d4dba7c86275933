"""Object-based TF2 checkpoints of the Model Garden: which variable is which.

Such a checkpoint holds a graph of the objects that were saved: from the root, named
edges lead over models and layers to variables. A variable that several objects share
is stored once, under the name of the shortest way to it; with the heads of pretraining,
the word embeddings are called `masked_lm/embedding_table`. So a variable is found by
following the edges of the graph, and never by its stored name. Values of optimizers and
moving averages are no objects of their own: no edge leads to them.
"""

import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError
from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

from bert_extract.checkpoints.base import (
    NameTable,
    Source,
    StoredVariable,
    WeightLayout,
    look_up,
)
from bert_extract.checkpoints.tensor_bundle import Bundle
from bert_extract.errors import CheckpointError
from bert_extract.files import find_bytes

# The name of the graph among the variables; what has it is an object-based checkpoint.
OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"

# The name of a variable's value in the graph, and what its stored name ends in.
_VALUE = "VARIABLE_VALUE"
VALUE_SUFFIX = f"/.ATTRIBUTES/{_VALUE}"
# What stands between a variable's name and that of a value that an optimizer has of it.
SLOT_MARK = "/.OPTIMIZER_SLOT/"

# More objects that have encoder layers are not looked at.
_MOST_ENCODERS = 32
# Characters of the way to an encoder that are shown; a stored name has fewer.
_LONGEST_WAY = 4096

# What only a FunnelTransformerEncoder has, which is BertEncoderV2's in all else, but
# shortens the sequence between the layers.
_FUNNEL = ("_att_input_pool_layers", "_pool_strides")

# A training run's settings, beside its checkpoints. What they say of norm_first is
# nowhere in a checkpoint: the variables are the same, and of the same shapes.
_PARAMS_NAME = "params.yaml"
_NORM_FIRST = re.compile(
    rb"^[ \t]*norm_first:[ \t]*true\b", re.MULTILINE | re.IGNORECASE
)

# The way from an encoder layer to each of its variables, by its TF1 name.
_IN_LAYER: Mapping[str, Source] = {
    "attention/self/query/kernel": Source(
        ("_attention_layer/_query_dense/kernel",), WeightLayout.HEADS_LAST
    ),
    "attention/self/query/bias": Source(
        ("_attention_layer/_query_dense/bias",), WeightLayout.HEADS_LAST
    ),
    "attention/self/key/kernel": Source(
        ("_attention_layer/_key_dense/kernel",), WeightLayout.HEADS_LAST
    ),
    "attention/self/key/bias": Source(
        ("_attention_layer/_key_dense/bias",), WeightLayout.HEADS_LAST
    ),
    "attention/self/value/kernel": Source(
        ("_attention_layer/_value_dense/kernel",), WeightLayout.HEADS_LAST
    ),
    "attention/self/value/bias": Source(
        ("_attention_layer/_value_dense/bias",), WeightLayout.HEADS_LAST
    ),
    # The second name is the one of 2020, which some published checkpoints have.
    "attention/output/dense/kernel": Source(
        ("_attention_layer/_output_dense/kernel", "_attention_output_dense/kernel"),
        WeightLayout.HEADS_FIRST,
    ),
    "attention/output/dense/bias": Source(
        ("_attention_layer/_output_dense/bias", "_attention_output_dense/bias")
    ),
    "attention/output/LayerNorm/gamma": Source(("_attention_layer_norm/gamma",)),
    "attention/output/LayerNorm/beta": Source(("_attention_layer_norm/beta",)),
    "intermediate/dense/kernel": Source(("_intermediate_dense/kernel",)),
    "intermediate/dense/bias": Source(("_intermediate_dense/bias",)),
    "output/dense/kernel": Source(("_output_dense/kernel",)),
    "output/dense/bias": Source(("_output_dense/bias",)),
    "output/LayerNorm/gamma": Source(("_output_layer_norm/gamma",)),
    "output/LayerNorm/beta": Source(("_output_layer_norm/beta",)),
}


@dataclass(frozen=True, slots=True)
class _EncoderClass:
    """How one of the Model Garden's classes names its parts."""

    word_embeddings: str
    position_embeddings: str
    token_type_embeddings: str
    embedding_norm: str
    layer: str  # "{}" stands for the number of the encoder layer, plus first_layer
    first_layer: int
    pooler: str  # "{}" stands for the number that follows the last encoder layer's

    def table(self, num_layers: int) -> NameTable:
        """TF1 name -> the way from the encoder to the variable."""
        pooler = self.pooler.format(self.first_layer + num_layers)
        ways = {
            "embeddings/word_embeddings": f"{self.word_embeddings}/embeddings",
            "embeddings/position_embeddings": f"{self.position_embeddings}/embeddings",
            "embeddings/token_type_embeddings": (
                f"{self.token_type_embeddings}/embeddings"
            ),
            "embeddings/LayerNorm/gamma": f"{self.embedding_norm}/gamma",
            "embeddings/LayerNorm/beta": f"{self.embedding_norm}/beta",
            "pooler/dense/kernel": f"{pooler}/kernel",
            "pooler/dense/bias": f"{pooler}/bias",
        }
        table = {f"bert/{name}": Source((way,)) for name, way in ways.items()}
        for name, source in _IN_LAYER.items():
            names = tuple(f"{self.layer}/{way}" for way in source.names)
            table[f"bert/encoder/layer_{{}}/{name}"] = Source(names, source.layout)
        return table


# BertEncoder has all the ways of BertEncoderV2, too, but only since 2021.
_ENCODER_CLASSES = (
    # BertEncoder, a Keras functional model, and its predecessor TransformerEncoder.
    _EncoderClass(
        word_embeddings="layer_with_weights-0",
        position_embeddings="layer_with_weights-1",
        token_type_embeddings="layer_with_weights-2",
        embedding_norm="layer_with_weights-3",
        layer="layer_with_weights-{}",
        first_layer=4,
        pooler="layer_with_weights-{}",
    ),
    # BertEncoderV2, a Keras layer.
    _EncoderClass(
        word_embeddings="_embedding_layer",
        position_embeddings="_position_embedding_layer",
        token_type_embeddings="_type_embedding_layer",
        embedding_norm="_embedding_norm_layer",
        layer="_transformer_layers/{}",
        first_layer=0,
        pooler="_pooler_layer",
    ),
)


@dataclass(frozen=True, slots=True)
class _Node:
    """An object of the graph."""

    children: Mapping[str, int]  # name of an edge -> index of a node
    key: str | None  # the stored name of its value, if it is a variable


# Node -> the one before it on the shortest way, and the edge; a start is its own.
_Steps = dict[int, tuple[int, str]]


class _ObjectGraph:
    """The objects that were saved; node 0 is the root."""

    def __init__(self, nodes: list[_Node]) -> None:
        self._nodes = nodes

    @classmethod
    def parse(cls, content: bytes) -> "_ObjectGraph":
        """Reads a serialized graph.

        Raises:
          ValueError: it is none.
        """
        try:
            graph = TrackableObjectGraph.FromString(content)
        except DecodeError as error:
            raise ValueError("it is not a message of that kind") from error
        num_nodes = len(graph.nodes)
        if num_nodes == 0:
            raise ValueError("it is empty")
        nodes = []
        for node in graph.nodes:
            children = {child.local_name: child.node_id for child in node.children}
            if any(not 0 <= index < num_nodes for index in children.values()):
                raise ValueError("an edge leads nowhere")
            keys = (a.checkpoint_key for a in node.attributes if a.name == _VALUE)
            nodes.append(_Node(children, next(keys, None)))
        return cls(nodes)

    def follow(self, node: int | None, way: str) -> int | None:
        """The node that edges lead to, "a/b" first a, then b; None if there is none."""
        for name in way.split("/"):
            if node is None:
                return None
            node = self._nodes[node].children.get(name)
        return node

    def key(self, node: int | None) -> str | None:
        """The stored name of a variable; None for another object."""
        return None if node is None else self._nodes[node].key

    def edges(self, node: int) -> list[str]:
        return list(self._nodes[node].children)

    def walk(self, start: int, steps: _Steps) -> Iterator[int]:
        """Yields every node that can be reached by a way that is not gone yet.

        Args:
          start: yielded first, unless `steps` has it.
          steps: the nodes that were reached before; those that are yielded are added.
        """
        if start in steps:
            return
        steps[start] = (start, "")
        queue = deque([start])
        while queue:
            node = queue.popleft()
            yield node
            for name, child in self._nodes[node].children.items():
                if child not in steps:
                    steps[child] = (node, name)
                    queue.append(child)


def _way(node: int, steps: _Steps) -> str:
    """The shortest way to a node that `walk` has yielded, as stored names have it."""
    names: list[str] = []
    while steps[node][0] != node:
        node, name = steps[node]
        # A dot and a slash in a name are written like this in keys, too.
        names.append(name.replace(".", "..").replace("/", ".S"))
    return "/".join(reversed(names))


@dataclass(frozen=True, slots=True)
class _Encoder:
    """An encoder in the graph."""

    node: int
    way: str  # from the root, as it stands in stored names; "" is the root itself
    encoder_class: _EncoderClass
    num_layers: int  # up to the highest that is there

    @property
    def name(self) -> str:
        return self.way or "the root"


class ObjectCheckpoint(Bundle):
    """What `tf.train.Checkpoint` saved of a BertEncoder or BertEncoderV2."""

    config_name = "bert_config.json"
    not_bert_hint = "No encoder is in it"
    missing_hint = "Is the checkpoint whole, and a BERT of the TensorFlow Model Garden?"

    def __init__(
        self,
        prefix: str,
        variables: Mapping[str, StoredVariable],
        data_files: Sequence[str],
    ) -> None:
        """Finds the encoder.

        Args:
          prefix: of the files.
          variables: all of the checkpoint's, `OBJECT_GRAPH` among them.
          data_files: that hold them.

        Raises:
          CheckpointError: the graph is damaged, or has no encoder, or several, or one
            of another mathematics than BERT's.
        """
        super().__init__(prefix, variables, data_files)
        self._graph = self._read_graph()
        self.variables = {
            name: stored for name, stored in variables.items() if name != OBJECT_GRAPH
        }
        self._encoder = self._find_encoder()
        self._table = self._encoder.encoder_class.table(self._encoder.num_layers)
        self._check_layers()
        self._check_kind()

    def source(self, tf1_name: str) -> Source:
        """The variable that the ways of the table lead to.

        Where they lead to none, its names are those that it would have.
        """
        ways, key = self._look_up(self._encoder, self._table, tf1_name)
        if key is not None:
            return Source((key,), ways.layout)
        root = f"{self._encoder.way}/" if self._encoder.way else ""
        names = tuple(f"{root}{way}{VALUE_SUFFIX}" for way in ways.names)
        return Source(names, ways.layout)

    def _look_up(
        self, encoder: _Encoder, table: NameTable, tf1_name: str
    ) -> tuple[Source, str | None]:
        """The ways to a variable from the encoder, and the stored name that they give.

        None if they lead to no variable.
        """
        ways = look_up(table, tf1_name, offset=encoder.encoder_class.first_layer)
        keys = (
            self._graph.key(self._graph.follow(encoder.node, way)) for way in ways.names
        )
        return ways, next((key for key in keys if key is not None), None)

    def _read_graph(self) -> _ObjectGraph:
        stored = self.variables[OBJECT_GRAPH]
        if stored != StoredVariable((), "string"):
            raise CheckpointError(
                f"{self.path}: expected {OBJECT_GRAPH} to be one string; found "
                f"{stored.dtype} of shape {list(stored.shape)}: is the checkpoint "
                "whole?"
            )
        (tensor,) = self.read([OBJECT_GRAPH])
        try:
            return _ObjectGraph.parse(tensor.numpy())
        except ValueError as error:
            raise CheckpointError(
                f"{self.path}: expected {OBJECT_GRAPH} to be a graph of saved objects; "
                f"{error}: copy or download the checkpoint's files again"
            ) from error

    def _find_encoder(self) -> _Encoder:
        """The one encoder that is in the graph, wherever it is."""
        # Two objects with the same variables are one encoder.
        encoders: dict[tuple[str | None, ...], _Encoder] = {}
        steps: _Steps = {}
        num_found = 0
        for node in self._graph.walk(0, steps):
            encoder = self._encoder_at(node, steps)
            if encoder is None:
                continue
            num_found += 1
            if num_found > _MOST_ENCODERS:
                raise CheckpointError(
                    f"{self.path}: expected one encoder; found more than "
                    f"{_MOST_ENCODERS} objects with encoder layers: is this a BERT?"
                )
            encoders.setdefault(self._keys(encoder), encoder)
        if not encoders:
            raise CheckpointError(
                f"{self.path}: expected an object-based TF2 checkpoint of the "
                "TensorFlow Model Garden, with layer_with_weights-4/_attention_layer "
                "or _transformer_layers/0/_attention_layer under any name; found no "
                "such encoder: is this a BERT? Its names are like "
                f"{', '.join(self._some_names())}"
            )
        if len(encoders) > 1:
            names = "".join(f"\n  {encoder.name}" for encoder in encoders.values())
            raise CheckpointError(
                f"{self.path}: expected one encoder; found {len(encoders)}, and "
                f"nothing says which of them is meant:{names}\n"
                "Save one of them with tf.train.Checkpoint(encoder=...)"
            )
        (encoder,) = encoders.values()
        return encoder

    def _some_names(self) -> list[str]:
        return sorted(self.variables)[:3] or ["nothing: it is empty"]

    def _encoder_at(self, node: int, steps: _Steps) -> _Encoder | None:
        """The encoder that a node is; it has layers where one of the classes has."""
        for encoder_class in _ENCODER_CLASSES:
            *ways, name = encoder_class.layer.split("/")
            parent = self._graph.follow(node, ways[0]) if ways else node
            if parent is None:
                continue
            # Nobody has a BERT of a thousand layers; a number in a name may be any.
            pattern = re.compile(name.replace("{}", r"(\d{1,3})"))
            matches = (pattern.fullmatch(edge) for edge in self._graph.edges(parent))
            numbers = [
                int(match[1])
                for match in matches
                if match
                and self._graph.follow(parent, f"{match[0]}/_attention_layer")
                is not None
            ]
            num_layers = max(numbers, default=-1) + 1 - encoder_class.first_layer
            if num_layers > 0:
                way = _way(node, steps)
                if len(way) > _LONGEST_WAY:
                    way = f"...{way[-_LONGEST_WAY:]}"
                return _Encoder(node, way, encoder_class, num_layers)
        return None

    def _keys(self, encoder: _Encoder) -> tuple[str | None, ...]:
        """The stored names of an encoder's variables, in the table's order.

        None stands for what it lacks.
        """
        table = encoder.encoder_class.table(encoder.num_layers)
        keys = []
        for tf1_name in table:
            layers = encoder.num_layers if "{}" in tf1_name else 1
            for layer in range(layers):
                _, key = self._look_up(encoder, table, tf1_name.format(layer))
                keys.append(key)
        return tuple(keys)

    def _check_layers(self) -> None:
        """Refuses encoder layers that have more than BERT's.

        Talking heads, relative positions and the like have BERT's variables, too: they
        would load, and the vectors would be wrong.
        """
        known = set(self._keys(self._encoder))
        encoder_class = self._encoder.encoder_class
        unknown = []
        steps: _Steps = {}  # of all layers: they may share what they lead to
        for layer in range(self._encoder.num_layers):
            way = encoder_class.layer.format(encoder_class.first_layer + layer)
            start = self._graph.follow(self._encoder.node, way)
            if start is None:
                continue
            for node in self._graph.walk(start, steps):
                key = self._graph.key(node)
                stored = self.variables.get(key) if key is not None else None
                # The state of a random number generator is no weight.
                if stored and "float" in stored.dtype and key not in known:
                    unknown.append(key)
        if unknown:
            names = "".join(f"\n  {name}" for name in unknown)
            raise CheckpointError(
                f"{self.path}: its encoder layers have variables that BERT's lack, "
                f"so that they compute something else:{names}"
            )

    def _check_kind(self) -> None:
        """Refuses an encoder that computes something else with BERT's variables."""
        edges = self._graph.edges(self._encoder.node)
        funnel = [name for name in _FUNNEL if name in edges]
        if funnel:
            raise CheckpointError(
                f"{self.path}: {self._encoder.name} has {funnel[0]}, so it is a "
                "FunnelTransformerEncoder, which pools the sequence between its "
                "layers; expected a BertEncoder or a BertEncoderV2"
            )
        params_file = self.path[: self.path.rfind("/") + 1] + _PARAMS_NAME
        params = find_bytes(params_file, CheckpointError, "cannot read it")
        if params is not None and _NORM_FIRST.search(params):
            raise CheckpointError(
                f"{params_file}: says norm_first: true, so that the checkpoints beside "
                "it normalize before each layer, and not after it as BERT does: the "
                "vectors would be wrong"
            )
