"""Every published size agrees with float64: what depends on a width would be seen."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_extract import FeatureExtractor
from support.make_checkpoints import read_tf1_checkpoint
from support.reference_model import run_bert
from support.running import options_for, write_random_model

CONFIGS_DIR = Path(__file__).parents[2] / "configs"
MINIATURES = [
    f"uncased_L-{layers}_H-{hidden}_A-{hidden // 64}"
    for layers in (2, 4, 6, 8, 10, 12)
    for hidden in (128, 256, 512, 768)
]
SIZES = [*MINIATURES, "uncased_L-24_H-1024_A-16"]


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_the_last_layer_agrees_with_float64(size: str, tmp_path: Path) -> None:
    config: dict[str, Any] = json.loads(
        (CONFIGS_DIR / size / "bert_config.json").read_bytes()
    )
    # Few words: the table of 30,522 would be most of a small model.
    model_dir = write_random_model(tmp_path, **{**config, "vocab_size": 100})
    config = json.loads((model_dir / "bert_config.json").read_bytes())
    options = options_for(model_dir, layers="-1")
    (record,) = FeatureExtractor(options).extract(["w1 w2 w3 w4 ||| w5 w6 w95"])
    weights = read_tf1_checkpoint(model_dir / "bert_model.ckpt")
    input_ids = [2, 5, 6, 7, 8, 3, 9, 10, 99, 3]  # [CLS] is 2, [SEP] 3, w1 5
    output = run_bert(weights, config, input_ids, [0] * 6 + [1] * 4)
    assert record.layers[0].shape == (10, config["hidden_size"])
    np.testing.assert_allclose(record.layers[0], output.layers[-1], rtol=0, atol=1e-5)
    (tmp_path / "bert_model.ckpt.data-00000-of-00001").unlink()
