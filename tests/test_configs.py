"""configs/NAME/bert_config.json: the published sizes, under the published names."""

import json
import math
import re
from pathlib import Path

import pytest

from bert_extract.model.config import BertConfig, variable_shapes

CONFIGS_DIR = Path(__file__).parent.parent / "configs"

# Published name -> its vocab_size, its number of parameters with the pooler.
PUBLISHED = {
    "uncased_L-2_H-128_A-2": (30522, 4_385_920),
    "uncased_L-2_H-256_A-4": (30522, 9_591_040),
    "uncased_L-2_H-512_A-8": (30522, 22_458_880),
    "uncased_L-2_H-768_A-12": (30522, 38_603_520),
    "uncased_L-4_H-128_A-2": (30522, 4_782_464),
    "uncased_L-4_H-256_A-4": (30522, 11_170_560),
    "uncased_L-4_H-512_A-8": (30522, 28_763_648),
    "uncased_L-4_H-768_A-12": (30522, 52_779_264),
    "uncased_L-6_H-128_A-2": (30522, 5_179_008),
    "uncased_L-6_H-256_A-4": (30522, 12_750_080),
    "uncased_L-6_H-512_A-8": (30522, 35_068_416),
    "uncased_L-6_H-768_A-12": (30522, 66_955_008),
    "uncased_L-8_H-128_A-2": (30522, 5_575_552),
    "uncased_L-8_H-256_A-4": (30522, 14_329_600),
    "uncased_L-8_H-512_A-8": (30522, 41_373_184),
    "uncased_L-8_H-768_A-12": (30522, 81_130_752),
    "uncased_L-10_H-128_A-2": (30522, 5_972_096),
    "uncased_L-10_H-256_A-4": (30522, 15_909_120),
    "uncased_L-10_H-512_A-8": (30522, 47_677_952),
    "uncased_L-10_H-768_A-12": (30522, 95_306_496),
    "uncased_L-12_H-128_A-2": (30522, 6_368_640),
    "uncased_L-12_H-256_A-4": (30522, 17_488_640),
    "uncased_L-12_H-512_A-8": (30522, 53_982_720),
    "cased_L-12_H-768_A-12": (28996, 108_310_272),
    "chinese_L-12_H-768_A-12": (21128, 102_267_648),
    "multi_cased_L-12_H-768_A-12": (119547, 177_853_440),
    "multilingual_L-12_H-768_A-12": (105879, 167_356_416),
    "uncased_L-12_H-768_A-12": (30522, 109_482_240),
    "cased_L-24_H-1024_A-16": (28996, 333_579_264),
    "uncased_L-24_H-1024_A-16": (30522, 335_141_888),
    "wwm_cased_L-24_H-1024_A-16": (28996, 333_579_264),
    "wwm_uncased_L-24_H-1024_A-16": (30522, 335_141_888),
}


def load_config(name: str) -> BertConfig:
    return BertConfig.from_json_file(str(CONFIGS_DIR / name / "bert_config.json"))


def test_every_published_size_is_there_and_no_other() -> None:
    found = {path.parent.name for path in CONFIGS_DIR.glob("*/bert_config.json")}
    assert found == set(PUBLISHED)
    assert len(found) == 32


@pytest.mark.parametrize(("name", "published"), PUBLISHED.items())
def test_parameters_are_as_many_as_published(
    name: str, published: tuple[int, int]
) -> None:
    config = load_config(name)
    pooler = config.hidden_size * config.hidden_size + config.hidden_size
    encoder = sum(math.prod(shape) for shape in variable_shapes(config).values())
    assert (config.vocab_size, encoder + pooler) == published


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_name_says_the_sizes(name: str) -> None:
    config = load_config(name)
    sizes = re.search(r"_L-(\d+)_H-(\d+)_A-(\d+)$", name)
    assert sizes is not None
    assert [int(size) for size in sizes.groups()] == [
        config.num_hidden_layers,
        config.hidden_size,
        config.num_attention_heads,
    ]
    assert config.hidden_size // config.num_attention_heads == 64
    assert config.intermediate_size == 4 * config.hidden_size
    assert config.max_position_embeddings == 512
    assert config.type_vocab_size == 2
    assert config.hidden_act == "gelu"


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_file_has_the_keys_of_the_originals_class(name: str) -> None:
    content = (CONFIGS_DIR / name / "bert_config.json").read_bytes()
    assert list(json.loads(content)) == [
        "attention_probs_dropout_prob",
        "hidden_act",
        "hidden_dropout_prob",
        "hidden_size",
        "initializer_range",
        "intermediate_size",
        "max_position_embeddings",
        "num_attention_heads",
        "num_hidden_layers",
        "type_vocab_size",
        "vocab_size",
    ]
