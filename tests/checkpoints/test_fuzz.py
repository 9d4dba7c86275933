"""Damaged checkpoints: an error that is ours, or a run; never a crash or a hang."""

import json
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bert_extract.model.config import GELU_ERF, BertConfig
from support.make_checkpoints import (
    random_weights,
    to_huggingface_weights,
    write_huggingface_model,
    write_shards,
)

CONFIG = BertConfig(40, 16, 2, 2, 24, GELU_ERF, 16, 2)
TIMEOUT = 900
NUM_PER_PROCESS = 250


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model twice: in one file, and in two with an index."""
    root = tmp_path_factory.mktemp("models")
    weights = random_weights(CONFIG, seed=5)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(36))]
    for name in ("whole", "sharded"):
        directory = root / name
        directory.mkdir()
        write_huggingface_model(directory, CONFIG, weights)
        (directory / "vocab.txt").write_text("\n".join(words))
        vocab = {
            "type": "WordPiece",
            "vocab": {word: i for i, word in enumerate(words)},
        }
        (directory / "tokenizer.json").write_text(json.dumps({"model": vocab}))
        settings = {"do_lower_case": True, "cls_token": "[CLS]", "strip_accents": None}
        (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    (root / "sharded" / "model.safetensors").unlink()
    write_shards(root / "sharded", to_huggingface_weights(weights))
    return root


def run_seeds(models: Path, work_dir: Path, first: int, end: int) -> Counter[str]:
    """What became of the seeds, counted, in a process of its own."""
    driver = Path(__file__).parents[1] / "support" / "fuzz_driver.py"
    done = subprocess.run(
        [sys.executable, driver, models, work_dir / str(first), str(first), str(end)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    last = lines[-1:] or [["nothing"]]
    assert done.returncode == 0, f"{last}: {done.stderr[-3000:]}"
    # The file has 25 kB, and a header of 4 MB would be believed.
    assert int(lines.pop()[2]) < 64 << 10, "KB more than before"
    assert len(lines) == end - first
    return Counter(outcome for _, _, outcome in lines)


def check(outcomes: Counter[str]) -> None:
    """All of the ways to end were seen, and no other."""
    errors = {"CheckpointError", "ConfigError", "VocabError"}
    assert set(outcomes) <= errors | {"loaded", "ran", "NotFiniteError"}
    assert errors | {"loaded", "ran"} <= set(outcomes)
    assert outcomes["CheckpointError"] > sum(outcomes.values()) * 0.25


def test_damaged_hugging_face_directories(models: Path, tmp_path: Path) -> None:
    check(run_seeds(models, tmp_path, 0, 200))


@pytest.mark.slow
def test_two_thousand_damaged_directories(models: Path, tmp_path: Path) -> None:
    firsts = range(1000, 3000, NUM_PER_PROCESS)
    with ThreadPoolExecutor(max_workers=2) as pool:
        counted = pool.map(
            lambda first: run_seeds(models, tmp_path, first, first + NUM_PER_PROCESS),
            firsts,
        )
        outcomes = sum(counted, Counter[str]())
    assert outcomes.total() == 2000
    check(outcomes)
