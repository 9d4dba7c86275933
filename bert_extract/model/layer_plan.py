"""The layers asked for -> which the model computes, and which a record has."""

from dataclasses import dataclass

from bert_extract.model.config import BertConfig
from bert_extract.options import POOLER, Options, resolve_layers


@dataclass(frozen=True)
class LayerPlan:
    """Which layers are computed, and what becomes of them.

    Of a model of five layers:
    "-1,4,embeddings,-1" -> computed_layers 4, "embeddings"; layer_positions 0, 0, 1, 0
    """

    requested_layers: tuple[int | str, ...]  # "all" resolved; the pooler stands alone
    computed_layers: tuple[int | str, ...]  # what the model gives, each once
    layer_positions: tuple[int, ...]  # of each requested layer among the computed ones
    layer_names: tuple[int | str, ...]  # what the layers of every record are called
    vector_size: int  # how many values a vector of a record has
    is_mixed: bool  # the requested layers become one before a record is made

    @classmethod
    def of(cls, options: Options, config: BertConfig) -> "LayerPlan":
        """Makes the plan of a run.

        Raises:
          OptionsError: a layer is outside the model.
        """
        requested: tuple[int | str, ...] = (POOLER,)
        if options.pools_last_layer and not options.wants_pooler:
            requested = (-1,)
        elif not options.pools_last_layer:
            requested = resolve_layers(options.layers, config.num_hidden_layers)
        # A layer that was asked for twice is computed and copied once.
        numbers = [_number_of(layer, config.num_hidden_layers) for layer in requested]
        computed = tuple(dict.fromkeys(numbers))
        pooling = options.layer_pooling
        num_joined = len(requested) if pooling == "concat" else 1
        return cls(
            requested_layers=requested,
            computed_layers=computed,
            layer_positions=tuple(map(computed.index, numbers)),
            layer_names=requested if pooling == "none" else (pooling,),
            vector_size=num_joined * config.hidden_size,
            is_mixed=pooling != "none",
        )

    @property
    def num_kept_layers(self) -> int:
        """How many arrays are kept of what the model computes."""
        return 1 if self.is_mixed else len(self.computed_layers)

    @property
    def record_positions(self) -> tuple[int, ...]:
        """Where each layer of a record stands among those that are kept."""
        return (0,) if self.is_mixed else self.layer_positions


def _number_of(layer: int | str, num_hidden_layers: int) -> int | str:
    """-1 -> num_hidden_layers - 1: one name for each layer."""
    return layer if isinstance(layer, str) else layer % num_hidden_layers
