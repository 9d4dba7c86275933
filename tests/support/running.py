"""The real command and its parts, as tests start them."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bert_extract.model.config import BertConfig
from bert_extract.options import Options
from support.make_checkpoints import random_weights, write_tf1_checkpoint

REPOSITORY = Path(__file__).parents[2]
# Nothing here takes a tenth of it: a command that hangs must fail.
TIMEOUT = 120


def files_of(model_dir: Path) -> dict[str, Any]:
    """The three files of a published checkpoint, by the names of their flags."""
    return {
        "vocab_file": str(model_dir / "vocab.txt"),
        "bert_config_file": str(model_dir / "bert_config.json"),
        "init_checkpoint": str(model_dir / "bert_model.ckpt"),
    }


def options_for(model_dir: Path, **options: Any) -> Options:
    """Options for a checkpoint; 32 wordpieces, which every model here has room for."""
    return Options(**{"max_seq_length": 32, **files_of(model_dir), **options})


def flags_for(model_dir: Path, **options: Any) -> list[str]:
    """The same as flags."""
    options = {"max_seq_length": 32, **files_of(model_dir), **options}
    return [f"--{name}={value}" for name, value in options.items()]


def run_command(
    flags: Sequence[str],
    *,
    stdin: bytes | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> "subprocess.CompletedProcess[bytes]":
    """Runs `bert-extract` to its end, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "bert_extract", *flags],
        input=b"" if stdin is None else stdin,
        capture_output=True,
        cwd=cwd,
        env={**os.environ} if env is None else dict(env),
        timeout=TIMEOUT,
        check=False,
    )


def write_random_model(directory: Path, seed: int = 0, **sizes: Any) -> Path:
    """A small BERT of random weights, of the sizes given, in Google's format."""
    directory.mkdir(exist_ok=True)
    config_object = {
        "vocab_size": 200,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 40,
        "hidden_act": "gelu",
        "max_position_embeddings": 160,
        "type_vocab_size": 2,
        **sizes,
    }
    config_file = directory / "bert_config.json"
    config_file.write_text(json.dumps(config_object))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = [f"w{i}" for i in range(config_object["vocab_size"] - len(special))]
    (directory / "vocab.txt").write_text("\n".join(special + words) + "\n")
    config = BertConfig.from_json_file(str(config_file))
    write_tf1_checkpoint(directory / "bert_model.ckpt", random_weights(config, seed))
    return directory


def real_lines() -> list[str]:
    """English, with blank lines and indents: what the repository has of it."""
    return (REPOSITORY / "LICENSE").read_text(encoding="utf-8").split("\n")[:-1]
