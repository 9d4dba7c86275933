"""One text's vectors in a file of every format."""

from pathlib import Path
from typing import Any

from bert_extract import FeatureExtractor
from support.record_files import SUFFIXES


def extract_to_all(
    model_dir: Path, folder: Path, lines: list[str], **fields: Any
) -> dict[str, Path]:
    """Writes the same records in each format; by suffix."""
    text_file = folder / "input.txt"
    text_file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    with FeatureExtractor(
        model_dir=model_dir, max_seq_length=64, **fields
    ) as extractor:
        for suffix in SUFFIXES:
            extractor.extract_file(str(text_file), str(folder / f"records{suffix}"))
    return {suffix: folder / f"records{suffix}" for suffix in SUFFIXES}
