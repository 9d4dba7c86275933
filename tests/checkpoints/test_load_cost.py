"""The memory that loading takes: BERT-Large's shape, in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bert_extract.model.config import GELU_ERF, BertConfig, variable_shapes
from support.make_checkpoints import write_huggingface_model

LARGE = BertConfig(30522, 1024, 24, 16, 4096, GELU_ERF, 512, 2)

LOAD_AND_MEASURE = """
import json, sys
from pathlib import Path
from bert_extract.model.devices import set_up_tensorflow
set_up_tensorflow(2)
from bert_extract.checkpoints.loading import load_weights
from bert_extract.checkpoints.opened import open_checkpoint
from bert_extract.model.config import Dialect, BertConfig

def memory_bytes(key):
    # Not getrusage, which counts what the process was before it became this one.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024

directory, tiny = sys.argv[1:]
# What the first call sets up is not the weights'.
config = BertConfig.from_json_file(tiny + "/bert_config.json")
load_weights(open_checkpoint(tiny), config)
config = BertConfig.from_json_file(directory + "/config.json", Dialect.HUGGING_FACE)
before = memory_bytes("VmRSS")
load_weights(open_checkpoint(directory), config)
print(json.dumps({"memory": memory_bytes("VmHWM") - before}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_bert_large_is_in_memory_once(tiny_bert: Path, tmp_path: Path) -> None:
    # Repeated values: random ones for 1.3 GB take longer than the test itself.
    some = np.random.default_rng(1).standard_normal(1 << 20, dtype=np.float32)
    weights = {
        name: np.resize(some, shape) for name, shape in variable_shapes(LARGE).items()
    }
    write_huggingface_model(tmp_path, LARGE, weights)
    del weights
    size = (tmp_path / "model.safetensors").stat().st_size
    assert 1.33e9 < size < 1.35e9
    done = subprocess.run(
        [sys.executable, "-c", LOAD_AND_MEASURE, tmp_path, tiny_bert],
        stdout=subprocess.PIPE,
        check=True,
    )
    measured = json.loads(done.stdout)
    # The weights, and no more than the largest of them once more.
    assert 0.98 < measured["memory"] / size < 1.15
