"""Per-token BERT vectors from text files, on TensorFlow 2."""

from typing import TYPE_CHECKING, Any

from bert_extract.errors import (
    BertExtractError,
    CheckpointError,
    ConfigError,
    InputError,
    NotFiniteError,
    OptionsError,
    OutputError,
    VocabError,
)
from bert_extract.options import Job, Options
from bert_extract.reading import load_features, read_features
from bert_extract.records import Record
from bert_extract.version import __version__

if TYPE_CHECKING:
    from bert_extract.extractor import FeatureExtractor

__all__ = [
    "BertExtractError",
    "CheckpointError",
    "ConfigError",
    "FeatureExtractor",
    "InputError",
    "Job",
    "NotFiniteError",
    "Options",
    "OptionsError",
    "OutputError",
    "Record",
    "VocabError",
    "__version__",
    "load_features",
    "read_features",
]


def __getattr__(name: str) -> Any:
    # Late: it imports TensorFlow, and `--help` and `read_features` do without.
    if name == "FeatureExtractor":
        from bert_extract.arithmetic import choose_kernels

        choose_kernels()
        from bert_extract.extractor import FeatureExtractor

        return FeatureExtractor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
