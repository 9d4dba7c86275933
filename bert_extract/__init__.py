"""Per-token BERT vectors from text files, on TensorFlow 2."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from bert_extract.extractor import FeatureExtractor, run_on_cluster
    from bert_extract.inspecting.contexts import (
        Contexts,
        WordVectors,
        word_contexts,
        word_vectors,
    )
    from bert_extract.inspecting.lookup import read_line
    from bert_extract.inspecting.nearest import Nearest, nearest_words
    from bert_extract.inspecting.plots import plot_contexts, plot_words
    from bert_extract.inspecting.summary import FileSummary, inspect_features
    from bert_extract.network.encoder import BertEncoder
    from bert_extract.network.text_inputs import BertInputs
    from bert_extract.network.vectors import vectors_dataset
    from bert_extract.options import Job, Options
    from bert_extract.output.reading import load_features, read_features
    from bert_extract.output.record import Record
    from bert_extract.progress import Summary
    from bert_extract.version import __version__

__all__ = [
    "BertEncoder",
    "BertExtractError",
    "BertInputs",
    "CheckpointError",
    "ConfigError",
    "Contexts",
    "FeatureExtractor",
    "FileSummary",
    "InputError",
    "Job",
    "Nearest",
    "NotFiniteError",
    "Options",
    "OptionsError",
    "OutputError",
    "Record",
    "Summary",
    "VocabError",
    "WordVectors",
    "__version__",
    "inspect_features",
    "load_features",
    "nearest_words",
    "plot_contexts",
    "plot_words",
    "read_features",
    "read_line",
    "run_on_cluster",
    "vectors_dataset",
    "word_contexts",
    "word_vectors",
]

# Where a name is defined; those that are not here are errors.
_HOMES = {
    "BertEncoder": "network.encoder",
    "BertInputs": "network.text_inputs",
    "Contexts": "inspecting.contexts",
    "FeatureExtractor": "extractor",
    "FileSummary": "inspecting.summary",
    "Job": "options",
    "Nearest": "inspecting.nearest",
    "Options": "options",
    "Record": "output.record",
    "Summary": "progress",
    "WordVectors": "inspecting.contexts",
    "__version__": "version",
    "inspect_features": "inspecting.summary",
    "load_features": "output.reading",
    "nearest_words": "inspecting.nearest",
    "plot_contexts": "inspecting.plots",
    "plot_words": "inspecting.plots",
    "read_features": "output.reading",
    "read_line": "inspecting.lookup",
    "run_on_cluster": "extractor",
    "vectors_dataset": "network.vectors",
    "word_contexts": "inspecting.contexts",
    "word_vectors": "inspecting.contexts",
}
_WITH_TENSORFLOW = (
    "BertEncoder",
    "BertInputs",
    "FeatureExtractor",
    "run_on_cluster",
    "vectors_dataset",
)


def __getattr__(name: str) -> Any:
    # Late: an extractor imports TensorFlow, which nobody else waits for; and the
    # command, which imports this first, must be able to say early what a signal does.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in ("FeatureExtractor", "run_on_cluster"):
        from bert_extract.model.arithmetic import choose_kernels

        choose_kernels()
    if name in _WITH_TENSORFLOW:
        from bert_extract.process import import_quietly

        import_quietly()
    home = importlib.import_module(f"bert_extract.{_HOMES.get(name, 'errors')}")
    value = globals()[name] = getattr(home, name)
    return value


def __dir__() -> list[str]:
    return __all__
