"""NeuroX, which probes representations, loads what the tool writes.

It needs old packages beside it that nobody wants here, so it has an environment of its
own: NEUROX_PYTHON names its Python. Made with
`pip install torch h5py tqdm && pip install --no-deps neurox==1.0.9`.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bert_extract import Job, load_features
from bert_extract.jobs import run_job
from bert_extract.loaded_model import OpenedModel
from support.running import options_for

LINES = (
    "Who was Jim Henson ?",
    "the river bank",
    "the river bank",
    "",
    "the river bank",
    "the river bank (Occurrence 2)",
    "Who ? ||| Jim Henson",
    "",
)
LOAD = """
import sys
import numpy as np
from neurox.data.loader import load_activations
activations, num_layers = load_activations(sys.argv[1])
assert num_layers == 2, num_layers
np.savez(sys.argv[2], *activations)
"""


@pytest.fixture(scope="module")
def neurox_python() -> str:
    python = os.environ.get("NEUROX_PYTHON", "")
    if not python and importlib.util.find_spec("neurox") is not None:
        python = sys.executable
    if not python:
        pytest.skip("NEUROX_PYTHON does not name a Python with neurox")
    return python


@pytest.mark.parametrize("name", ["out.json", "out.hdf5"])
def test_neurox_loads_it(
    tiny_bert: Path, tmp_path: Path, neurox_python: str, name: str
) -> None:
    input_file = tmp_path / "in.txt"
    input_file.write_text("\n".join(LINES) + "\n")
    output_file = tmp_path / name
    model = OpenedModel(options_for(tiny_bert, layers="-1,0"))
    run_job(model, Job(input_file=str(input_file), output_file=str(output_file)), [])
    loaded = tmp_path / "loaded.npz"
    completed = subprocess.run(
        [neurox_python, "-c", LOAD, output_file, loaded],
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    records = load_features(output_file)
    with np.load(loaded) as activations:
        assert len(activations.files) == len(records) == len(LINES)
        for record, key in zip(records, activations.files, strict=True):
            # It puts the layers of a token one after the other.
            expected = np.concatenate(record.layers, axis=1)
            assert (activations[key].astype(np.float32) == expected).all()
