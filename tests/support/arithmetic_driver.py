"""Run in a process of its own: does a line's record depend on its company here?

Its arguments are a JSON object: `hidden_sizes`, `precisions`, and `lengths` of lines.
It prints one JSON object: the kernels in force, and what differed.
"""

import itertools
import json
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bert_extract.model.arithmetic import choose_kernels

choose_kernels()  # before TensorFlow is imported

# What imports it:
from bert_extract import FeatureExtractor  # noqa: E402
from bert_extract.model.devices import set_up_tensorflow  # noqa: E402
from support.running import options_for, write_random_model  # noqa: E402

NUM_HEADS = {128: 2, 256: 4, 384: 12, 512: 8, 768: 12, 1024: 16}
MAX_SEQ_LENGTH = 128
# Each is compared with the same without.
VARIANTS: tuple[dict[str, Any], ...] = (
    {"batch_size": 1},
    {"batch_size": 7},
    {"num_threads": 1},
    {"num_threads": 2, "batch_size": 32},
)
KINDS_OF_ENTRIES: tuple[dict[str, Any], ...] = (
    {},
    {"long_text": "window", "max_seq_length": 32},
    {"unit": "word", "layers": "-1"},
)

Bits = tuple[bytes, ...]


def lines_of(lengths: Sequence[int]) -> list[str]:
    """Three lines of each length in wordpieces, some of them pairs."""
    rng = random.Random(0)
    lines = []
    for length, number in itertools.product(lengths, range(3)):
        words = [f"w{rng.randrange(196)}" for _ in range(length - 2)]
        if number == 2 and length > 4:
            words[length // 2] = "|||"
        lines.append(" ".join(words))
    return lines


def bits_of(extractor: FeatureExtractor, lines: Sequence[str]) -> list[Bits]:
    return [
        tuple(layer.tobytes() for layer in record.layers)
        for record in extractor.extract(lines)
    ]


def differences(
    model_dir: Path, precision: str, lengths: Sequence[int]
) -> Iterator[str]:
    """Names each way of computing in which a line was not the same, with how many."""
    lines = lines_of(lengths)
    order = [*range(len(lines))]
    random.Random(1).shuffle(order)
    for entries in KINDS_OF_ENTRIES:
        fields = {
            "layers": "all,embeddings",
            "max_seq_length": MAX_SEQ_LENGTH,
            "precision": precision,
            **entries,
        }
        extractor = FeatureExtractor(options_for(model_dir, **fields))
        expected = bits_of(extractor, lines)
        found = {
            "shuffled": bits_of(extractor, [lines[place] for place in order]),
            "alone": [bits_of(extractor, [line])[0] for line in lines],
            "many": bits_of(extractor, lines * 8)[-len(lines) :],
        }
        found["shuffled"] = [found["shuffled"][order.index(n)] for n in sorted(order)]
        for variant in VARIANTS[: len(VARIANTS) if not entries else 1]:
            other = FeatureExtractor(options_for(model_dir, **{**fields, **variant}))
            found[str(variant)] = bits_of(other, lines)
        for name, bits in found.items():
            num_bad = sum(
                map(bytes.__ne__, map(b"".join, bits), map(b"".join, expected))
            )
            if num_bad or len(bits) != len(expected):
                yield f"{entries} {name}: {num_bad} of {len(bits)} lines"


def main() -> None:
    wanted = json.loads(sys.argv[1])
    set_up_tensorflow(num_threads=2)
    found: dict[str, Any] = {"kernels": {}, "is_known": {}, "differences": []}
    for hidden_size, precision in itertools.product(
        wanted["hidden_sizes"], wanted["precisions"]
    ):
        with tempfile.TemporaryDirectory() as folder:
            model_dir = write_random_model(
                Path(folder),
                hidden_size=hidden_size,
                num_attention_heads=NUM_HEADS[hidden_size],
                intermediate_size=4 * hidden_size,
                num_hidden_layers=2,
            )
            options = options_for(model_dir, layers="0", precision=precision)
            arithmetic = FeatureExtractor(options)._engine.model.arithmetic
            found["kernels"][precision] = arithmetic.kernels
            found["is_known"][precision] = arithmetic.is_known
            found["differences"] += [
                f"{hidden_size} {precision} {difference}"
                for difference in differences(model_dir, precision, wanted["lengths"])
            ]
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    main()
