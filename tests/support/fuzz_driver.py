"""Loads damaged Hugging Face directories; run by test_fuzz.py in a process of its own.

    fuzz_driver.py MODEL_DIR WORK_DIR FIRST_SEED END_SEED

Prints a line for each: the seed, the damaged file, and what came of it.
"""

import os
import random
import re
import resource
import shutil
import sys
from pathlib import Path

from bert_extract import FeatureExtractor
from bert_extract.checkpoints.loading import load_weights
from bert_extract.checkpoints.opened import open_checkpoint
from bert_extract.errors import BertExtractError, NotFiniteError
from bert_extract.model.config import BertConfig, Dialect
from bert_extract.tokenization.tokenizer_config import resolve_lower_case
from bert_extract.tokenization.vocab import Vocab

ERRORS = BertExtractError.__module__
# Of those that load all the same, so many go through the model.
NUM_RUN = 8
ABSURD = (b"-1", b"0", b"9223372036854775808", b"1e400", b"1" * 5000, b"true", b"null")
FILES = (
    *("model.safetensors",) * 5,
    *("model.safetensors.index.json", "config.json"),
    *("tokenizer_config.json", "tokenizer.json"),
)


def damage(content: bytes, rng: random.Random) -> bytes:
    """Bit flips, truncations, absurd numbers and lengths, bytes that come or go."""
    kind = rng.randrange(8)
    place = rng.randrange(len(content))
    if kind < 3:
        # Half of the flips where the header is.
        most = min(len(content), 3000) if rng.random() < 0.5 else len(content)
        flipped = bytearray(content)
        for _ in range(rng.choice((1, 1, 2, 8))):
            flipped[rng.randrange(most)] ^= 1 << rng.randrange(8)
        return bytes(flipped)
    if kind == 3:
        return content[:place]
    if kind == 4:
        return rng.randbytes(8) + content[8:]
    if kind == 5:
        return content[:place] + rng.randbytes(rng.randrange(1, 9)) + content[place:]
    if kind == 6:
        return content[:place] + content[place + rng.randrange(1, 99) :]
    numbers = list(re.finditer(rb"(?<=[\[ ,:])\d+(?=[\],} ])", content[:4000]))
    if not numbers:
        return b"[" * 50_000
    number = rng.choice(numbers)
    return content[: number.start()] + rng.choice(ABSURD) + content[number.end() :]


def load(directory: Path, is_run: bool) -> str:
    """What comes of a directory, as one word."""
    config_file = str(directory / "config.json")
    try:
        config = BertConfig.from_json_file(config_file, Dialect.HUGGING_FACE)
        resolve_lower_case(str(directory / "vocab.txt"), None)
        Vocab.load(str(directory / "tokenizer.json"))
        load_weights(open_checkpoint(str(directory)), config)
        if not is_run:
            return "loaded"
        extractor = FeatureExtractor(
            model_dir=str(directory), layers="all", max_seq_length=8, num_threads=1
        )
        for _ in extractor.extract(["the river bank", "w"]):
            pass
    except NotFiniteError:
        return "NotFiniteError"
    except BertExtractError as error:
        is_long = len(str(error)) > 20_000
        kinds = [kind for kind in type(error).__mro__ if kind.__module__ == ERRORS]
        return "long" if is_long else kinds[0].__name__
    return "ran"


def main() -> None:
    """Goes through the seeds."""
    model_dir, work_dir = Path(sys.argv[1]), Path(sys.argv[2])
    first, end = int(sys.argv[3]), int(sys.argv[4])
    # What the first run sets up is not the files' doing.
    assert load(model_dir / "whole", is_run=True) == "ran"
    assert load(model_dir / "sharded", is_run=False) == "loaded"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    num_run = 0
    for seed in range(first, end):
        rng = random.Random(seed)
        name = rng.choice(FILES)
        source = model_dir / ("sharded" if "index" in name else "whole")
        shutil.rmtree(work_dir, ignore_errors=True)
        shutil.copytree(source, work_dir, copy_function=os.link)
        content = (source / name).read_bytes()
        (work_dir / name).unlink()
        (work_dir / name).write_bytes(damage(content, rng))
        print(seed, name, end=" ", flush=True)
        is_run = num_run < NUM_RUN and name == "model.safetensors"
        outcome = load(work_dir, is_run)
        num_run += outcome in ("ran", "NotFiniteError")
        print(outcome, flush=True)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print("KB", "more", grown)


if __name__ == "__main__":
    main()
