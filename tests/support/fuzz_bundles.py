"""Loads damaged copies of a checkpoint, each in a way that a seed decides.

A process of its own, so that a test sees when one of them ends it. Prints a line for
each copy: its number, and "loaded" or "refused".
"""

import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bert_extract.checkpoints.loading import load_weights
from bert_extract.checkpoints.opened import open_checkpoint
from bert_extract.errors import CheckpointError
from bert_extract.model.config import BertConfig
from support.make_bundle_index import rewrite_index
from support.make_checkpoints import read_tf1_checkpoint, write_tf1_checkpoint

GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
# Numbers that nobody means.
ABSURD = (-(2**63), -1, 0, 1, 7, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1)

Damage = Callable[[Path, np.random.Generator], None]


def flip_bits(file: Path, rng: np.random.Generator) -> None:
    content = bytearray(file.read_bytes())
    for offset in rng.integers(len(content), size=rng.integers(1, 9)):
        content[offset] ^= 1 << rng.integers(8)
    file.write_bytes(content)


def truncate(file: Path, rng: np.random.Generator) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: rng.integers(len(content))])


def overwrite(file: Path, rng: np.random.Generator) -> None:
    """A run of zeros, of 0xFF, or of anything."""
    content = bytearray(file.read_bytes())
    start = int(rng.integers(len(content)))
    length = min(int(rng.integers(1, 5000)), len(content) - start)
    filling = (bytes(length), b"\xff" * length, rng.bytes(length))[rng.integers(3)]
    content[start : start + length] = filling
    file.write_bytes(content)


def move(file: Path, rng: np.random.Generator) -> None:
    """Bytes are put in, or left out."""
    content = file.read_bytes()
    start, end = sorted(rng.integers(len(content), size=2))
    length = min(int(end - start), 4096)
    inserted = rng.bytes(length) if rng.integers(2) else b""
    file.write_bytes(
        content[:start] + inserted + content[start + length * (not inserted) :]
    )


def absurd_entry(index_file: Path, rng: np.random.Generator) -> None:
    """One entry of the index says what cannot be, and the checksums are right."""
    chosen = int(rng.integers(60))
    field = ("size", "offset", "shard_id", "dtype", "shape", "num_shards")[
        rng.integers(6)
    ]
    value = ABSURD[rng.integers(len(ABSURD))]
    if field in ("shard_id", "dtype", "num_shards"):
        value = int(np.clip(value, -(2**31), 2**31 - 1))
    numbers = iter(range(1_000_000))

    def change(key: str, proto: Any) -> None:
        if next(numbers) != chosen or not key or field == "num_shards":
            if not key and field == "num_shards":
                proto.num_shards = value
        elif field == "shape" and proto.shape.dim and rng.integers(2):
            proto.shape.dim[0].size = value
        elif field == "shape":
            proto.shape.dim.add(size=value)
        else:
            setattr(proto, field, value)

    rewrite_index(str(index_file).removesuffix(".index"), change)


def damaged_graph(index_file: Path, rng: np.random.Generator) -> None:
    """The graph of objects has flipped bits, or is cut, and the checksums are right."""
    prefix = str(index_file).removesuffix(".index")
    variables = read_tf1_checkpoint(prefix)
    graph = bytearray(variables[GRAPH])
    if rng.integers(4) == 0:
        graph = graph[: rng.integers(len(graph))]
    else:
        for offset in rng.integers(len(graph), size=rng.integers(1, 9)):
            graph[offset] ^= 1 << rng.integers(8)
    variables[GRAPH] = np.array(bytes(graph), object)
    write_tf1_checkpoint(prefix, variables)


IN_BYTES: tuple[Damage, ...] = (flip_bits, truncate, overwrite, move)


def damage_copy(files: list[Path], rng: np.random.Generator, has_graph: bool) -> None:
    """Damages one of the files, or all of them."""
    index_files = [file for file in files if file.suffix == ".index"]
    kind = int(rng.integers(4))
    if kind == 0 and index_files:
        absurd_entry(index_files[0], rng)
    elif kind == 1 and has_graph:
        damaged_graph(index_files[0], rng)
    else:
        damage = IN_BYTES[rng.integers(len(IN_BYTES))]
        chosen = files if rng.integers(8) == 0 else [files[rng.integers(len(files))]]
        for file in chosen:
            damage(file, rng)


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Arguments: config file, checkpoint, work folder, first and last seed."""
    config_file, checkpoint, work_dir, first, last = sys.argv[1:]
    config = BertConfig.from_json_file(config_file)
    intact = Path(checkpoint)
    sources = sorted(intact.parent.glob(f"{intact.name}*"))
    has_graph = GRAPH.encode() in b"".join(
        source.read_bytes() for source in sources if source.suffix == ".index"
    )
    load_weights(open_checkpoint(checkpoint), config)
    before = peak_memory()
    slowest = 0.0
    for seed in range(int(first), int(last)):
        copies = [Path(shutil.copy(source, work_dir)) for source in sources]
        damage_copy(copies, np.random.default_rng(seed), has_graph)
        print(seed, end=" ", flush=True)
        start = time.monotonic()
        try:
            load_weights(open_checkpoint(str(Path(work_dir) / intact.name)), config)
        except CheckpointError:
            print("refused", flush=True)
        else:
            print("loaded", flush=True)
        slowest = max(slowest, time.monotonic() - start)
    print("slowest", slowest)
    print("memory", peak_memory() - before)


if __name__ == "__main__":
    main()
