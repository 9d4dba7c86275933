"""A module imports only from those above it, and TensorFlow only where it computes."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import bert_extract

PACKAGE_DIR = Path(bert_extract.__file__).parent

# The way of the data. `version` is a constant and stands anywhere.
ORDER = (
    *("errors", "version", "doubt", "formats", "options", "long_lines"),
    *("unpacking", "examples", "stamps", "splits"),
    *("unicode14_tables", "unicode14", "words", "alignment", "cutting"),
    *("small_files", "tokenizer_config", "vocab", "tokenization"),
    *("sliding", "pooling", "features", "parts"),
    *("batching", "config", "arithmetic", "modeling", "self_check"),
    *("checkpoint_format", "tensors", "bundle_index", "bundle", "model_garden"),
    *("safetensors_file", "huggingface", "checkpoint", "model_dir"),
    *("records", "entries"),
    *("checksum", "appending", "compression", "spool", "hdf5", "parquet", "reading"),
    *("fingerprints", "partial", "writers", "guard", "pipeline"),
    *("devices", "progress", "engine"),
    *("jobs", "extractor", "parsing", "logs", "cli", "__main__"),
)

# Nobody waits for TensorFlow who only asks for help or reads records back.
WITHOUT_TENSORFLOW = (
    *("errors", "doubt", "formats", "options", "examples", "stamps", "splits"),
    *("unicode14", "words", "alignment", "cutting"),
    *("small_files", "tokenizer_config", "vocab", "tokenization"),
    *("sliding", "pooling", "features", "parts", "batching", "config", "records"),
    *("entries", "arithmetic"),
    *("checksum", "appending", "compression", "spool", "hdf5", "parquet", "reading"),
    *("fingerprints", "partial", "writers", "guard"),
    *("pipeline", "progress"),
    *("parsing", "logs", "cli"),
)


def imported_modules(module: str) -> Iterator[str]:
    """The package's modules that a module imports, inside functions too."""
    tree = ast.parse((PACKAGE_DIR / f"{module}.py").read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            yield from (n.split(".")[1] for n in names if n.startswith("bert_extract."))
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            if node.module == "bert_extract":
                yield from (alias.name for alias in node.names)
            elif (node.module or "").startswith("bert_extract."):
                yield (node.module or "").split(".")[1]


def test_every_module_has_its_place_in_the_order() -> None:
    modules = {path.stem for path in PACKAGE_DIR.glob("*.py")} - {"__init__"}
    assert modules == set(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_a_module_imports_only_from_those_above_it(module: str) -> None:
    above = ORDER[: ORDER.index(module)]
    assert [name for name in imported_modules(module) if name not in above] == []


def test_most_of_the_package_does_not_import_tensorflow() -> None:
    modules = [f"bert_extract.{name}" for name in WITHOUT_TENSORFLOW]
    code = f"import sys, bert_extract, {', '.join(modules)}; print(*sys.modules)"
    completed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    imported = set(completed.stdout.split())
    assert "bert_extract.cli" in imported
    assert not imported & {"tensorflow", "tensorflow_text", "keras"}
    assert not imported & {"h5py", "pandas", "pyarrow", "zstandard"}


def test_all_is_what_is_exported() -> None:
    exported = {name for name in dir(bert_extract) if not name.startswith("_")}
    submodules = {path.stem for path in PACKAGE_DIR.glob("*.py")}
    others = {"TYPE_CHECKING", "Any"}
    documented = {name for name in bert_extract.__all__ if not name.startswith("_")}
    assert exported - submodules - others | {"FeatureExtractor"} == documented
    assert bert_extract.__all__ == sorted(bert_extract.__all__)
    for name in bert_extract.__all__:
        assert getattr(bert_extract, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Extractor'"):
        bert_extract.Extractor  # noqa: B018 - the access is the test


def test_the_package_is_marked_as_typed() -> None:
    assert (PACKAGE_DIR / "py.typed").is_file()
