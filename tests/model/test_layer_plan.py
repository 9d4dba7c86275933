"""Which layers are computed for those that were asked for, and where they end up."""

from typing import Any

import pytest

from bert_extract.errors import OptionsError
from bert_extract.model.config import BertConfig
from bert_extract.model.layer_plan import LayerPlan
from bert_extract.options import Options

FIVE_LAYERS = BertConfig(200, 32, 5, 4, 40, "gelu", 160, 2)


def plan_of(layers: str, **options: Any) -> LayerPlan:
    return LayerPlan.of(
        Options(model_dir="bert", layers=layers, **options), FIVE_LAYERS
    )


def test_a_layer_that_has_two_names_is_computed_once() -> None:
    assert plan_of("-1,4,embeddings,-1") == LayerPlan(
        requested_layers=(-1, 4, "embeddings", -1),
        computed_layers=(4, "embeddings"),
        layer_positions=(0, 0, 1, 0),
        layer_names=(-1, 4, "embeddings", -1),
        vector_size=32,
        is_mixed=False,
    )


@pytest.mark.parametrize(
    ("layer_pooling", "vector_size"), [("mean", 32), ("sum", 32), ("concat", 96)]
)
def test_mixed_layers_are_one_of_the_name_of_the_mixture(
    layer_pooling: str, vector_size: int
) -> None:
    plan = plan_of("-1,0,-1", layer_pooling=layer_pooling)
    assert plan.requested_layers == (-1, 0, -1)
    assert (plan.computed_layers, plan.layer_positions) == ((4, 0), (0, 1, 0))
    assert plan.layer_names == (layer_pooling,)
    assert plan.vector_size == vector_size
    assert (plan.num_kept_layers, plan.record_positions) == (1, (0,))


def test_what_is_not_mixed_is_kept_as_it_is_computed() -> None:
    plan = plan_of("-1,0,-1")
    assert (plan.num_kept_layers, plan.record_positions) == (2, (0, 1, 0))


def test_all_layers_are_those_of_the_encoder() -> None:
    plan = plan_of("all")
    assert plan.layer_names == plan.computed_layers == (0, 1, 2, 3, 4)


def test_the_pooler_stands_alone() -> None:
    plan = plan_of("-1", unit="sentence", sentence_pooling="pooler")
    assert plan.requested_layers == plan.computed_layers == ("pooler",)
    assert plan.layer_names == ("pooler",)


def test_a_layer_outside_the_model_is_refused() -> None:
    with pytest.raises(OptionsError, match="--layers=5: the model has 5 encoder"):
        plan_of("5")
