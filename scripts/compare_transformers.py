#!/usr/bin/env python3
r"""Compares an output of bert-extract with Hugging Face transformers, layer by layer.

    bert-extract --model_dir=DIR --layers=embeddings,all --max_seq_length=512 \
      --input_file=text.txt --output_file=ours.jsonl
    scripts/compare_transformers.py DIR text.txt ours.jsonl

Runs in an environment of its own, with torch, transformers and numpy. Both cut the
text into wordpieces by themselves. Prints the largest difference of each layer; ends
with 1 if a token differs or a difference is larger than --tolerance. With --pin=FILE
the beginnings of transformers' vectors are written as a golden file.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

# Values of each vector that a golden file keeps.
NUM_PINNED = 6
SEPARATOR = " ||| "


class Reference:
    """A model in torch, on the CPU, in float32."""

    def __init__(self, model_dir: str) -> None:
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(model_dir)
        self.model = transformers.AutoModel.from_pretrained(
            model_dir, dtype=torch.float32, attn_implementation="eager"
        ).eval()

    def __call__(self, line: str) -> tuple[list[str], list[NDArray[np.float32]]]:
        """The wordpieces, and float32 [num_tokens, hidden_size] of each layer.

        The first layer is the embeddings.
        """
        texts = [part.strip() for part in line.rsplit(SEPARATOR, 1)]
        inputs = self.tokenizer(*texts, return_tensors="pt")
        with torch.inference_mode():
            outputs = self.model(**inputs, output_hidden_states=True)
        tokens = self.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
        return tokens, [layer[0].numpy() for layer in outputs.hidden_states]


def read_ours(output_file: Path) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
    """Yields the wordpieces of each line, and float32 [layers, tokens, hidden_size]."""
    with output_file.open(encoding="utf-8") as reader:
        for line in reader:
            features = json.loads(line)["features"]
            tokens = [entry["token"] for entry in features]
            vectors = [[layer["values"] for layer in e["layers"]] for e in features]
            yield tokens, np.array(vectors, np.float32).swapaxes(0, 1)


def pinned(
    lines: list[str], found: list[tuple[list[str], list[NDArray[np.float32]]]]
) -> dict[str, Any]:
    """The golden file: how it was made, and the first values of each vector."""
    return {
        "made_by": f"transformers {transformers.__version__}, torch "
        f"{torch.__version__}, scripts/compare_transformers.py --pin",
        "lines": [
            {
                "text": line,
                "tokens": tokens,
                # [layers, tokens, NUM_PINNED], the embeddings first
                "values": [
                    np.round(layer[:, :NUM_PINNED].astype(np.float64), 7).tolist()
                    for layer in layers
                ],
            }
            for line, (tokens, layers) in zip(lines, found, strict=True)
        ],
    }


def main() -> int:
    """Prints a table, one row a layer."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model_dir", help="a Hugging Face directory")
    parser.add_argument("input_file", type=Path, help="the text that was extracted")
    parser.add_argument("output_file", type=Path, help="ours, --layers=embeddings,all")
    parser.add_argument("--tolerance", type=float, default=2e-5)
    parser.add_argument("--pin", type=Path, help="the golden file to write")
    flags = parser.parse_args()
    torch.set_num_threads(1)  # what runs beside it makes more threads wait
    reference = Reference(flags.model_dir)
    lines = flags.input_file.read_text(encoding="utf-8").splitlines()
    theirs = [reference(line) for line in lines]
    largest: dict[int, float] = {}
    for number, (line, (tokens, layers), (our_tokens, our_layers)) in enumerate(
        zip(lines, theirs, read_ours(flags.output_file), strict=True)
    ):
        if tokens != our_tokens:
            print(f"line {number}: {line!r}: the tokens differ", file=sys.stderr)
            return 1
        for index, (layer, ours) in enumerate(zip(layers, our_layers, strict=True)):
            difference = float(np.abs(layer - ours).max())
            largest[index] = max(largest.get(index, 0.0), difference)
    print(f"{len(lines)} lines, {sum(len(tokens) for tokens, _ in theirs)} tokens")
    for index, difference in largest.items():
        name = "embeddings" if index == 0 else f"layer {index - 1}"
        print(f"{name:>10}  {difference:.1e}")
    if flags.pin:
        content = json.dumps(pinned(lines, theirs), ensure_ascii=False)
        flags.pin.write_text(content + "\n", encoding="utf-8")
    return 0 if max(largest.values()) <= flags.tolerance else 1


if __name__ == "__main__":
    sys.exit(main())
