"""The order of the house: arrows point upwards in the plan, and TensorFlow is late."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import bert_extract
from support.house import (
    ORDER,
    PACKAGE_DIR,
    UPPER_WING,
    WINGS,
    WITH_TENSORFLOW,
    file_of,
    wing_of,
)

TESTS_DIR = Path(__file__).parent
SCRIPTS_DIR = TESTS_DIR.parent / "scripts"


def imports_of(file: Path) -> Iterator[tuple[str, str]]:
    """What a file imports, inside functions too: modules, and names or "" of them."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield from ((node.module or "", alias.name) for alias in node.names)


def imported_modules(module: str) -> set[str]:
    """The package's modules that a module imports."""
    found = set()
    for source, name in imports_of(file_of(module)):
        if source.partition(".")[0] == "bert_extract":
            path = f"{source}.{name}".removeprefix("bert_extract.").rstrip(".")
            found.add(path if path in ORDER else path.rpartition(".")[0])
    return found


def test_every_module_has_its_place_in_the_order() -> None:
    paths = [path.relative_to(PACKAGE_DIR) for path in PACKAGE_DIR.rglob("*.py")]
    modules = {".".join(path.with_suffix("").parts) for path in paths}
    rooms = {module for module in modules if not module.endswith("__init__")}
    assert rooms == set(ORDER)
    assert modules - rooms == {"__init__", *(f"{wing}.__init__" for wing in WINGS)}


def test_the_wings_stand_between_the_two_parts_of_the_trunk() -> None:
    wings = [wing_of(module) for module in ORDER]
    first_seen = list(dict.fromkeys(wings))
    assert first_seen == ["", *WINGS]
    lower = [wing for wing in WINGS if wing != UPPER_WING]
    begin = wings.index(lower[0])
    end = len(wings) - wings[::-1].index(lower[-1])
    inside = wings[begin:end]
    # Each wing in one piece, and no room of the trunk between them.
    assert inside == sorted(inside, key=lower.index)
    upper = [place for place, wing in enumerate(wings) if wing == UPPER_WING]
    assert upper == list(range(ORDER.index("jobs") + 1, upper[-1] + 1))


@pytest.mark.parametrize("module", ORDER)
def test_a_module_imports_only_from_those_above_it(module: str) -> None:
    above = ORDER[: ORDER.index(module)]
    assert [name for name in imported_modules(module) if name not in above] == []


@pytest.mark.parametrize("module", [name for name in ORDER if wing_of(name)])
def test_a_wing_imports_only_from_those_that_it_may(module: str) -> None:
    allowed = {"", wing_of(module), *WINGS[wing_of(module)]}
    imported = imported_modules(module)
    assert {name for name in imported if wing_of(name) not in allowed} == set()


@pytest.mark.parametrize("wing", WINGS)
def test_a_wing_tells_what_it_is_and_imports_nothing(wing: str) -> None:
    tree = ast.parse((PACKAGE_DIR / wing / "__init__.py").read_bytes())
    assert len(ast.get_docstring(tree) or "") > 100
    assert len(tree.body) == 1


def test_what_imports_tensorflow_for_python_does_it_quietly() -> None:
    homes = {
        name for name, home in bert_extract._HOMES.items() if home in WITH_TENSORFLOW
    }
    assert homes == {*bert_extract._WITH_TENSORFLOW}


def test_most_of_the_package_does_not_import_tensorflow() -> None:
    others = [name for name in ORDER if name not in (*WITH_TENSORFLOW, "__main__")]
    modules = [f"bert_extract.{name}" for name in others]
    code = f"import sys, bert_extract, {', '.join(modules)}; print(*sys.modules)"
    completed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    imported = set(completed.stdout.split())
    assert "bert_extract.cli" in imported
    assert not imported & {"tensorflow", "tensorflow_text", "keras"}
    assert not imported & {"h5py", "matplotlib", "pandas", "pyarrow", "zstandard"}


def test_the_tests_mirror_the_wings() -> None:
    folders = {path.parent.name for path in TESTS_DIR.glob("*/test_*.py")}
    assert folders == set(WINGS)
    names = [path.name for path in TESTS_DIR.rglob("test_*.py")]
    # pytest and mypy know a test file by its name alone.
    assert len(names) == len(set(names))
    helpers = {path.name for path in TESTS_DIR.glob("*.py")} - set(names)
    assert helpers == {"conftest.py"}


def test_nobody_imports_a_test() -> None:
    files = [*TESTS_DIR.rglob("*.py"), *SCRIPTS_DIR.glob("*.py")]
    assert len(files) > 60
    for file in files:
        for source, name in imports_of(file):
            parts = [*source.split("."), name]
            assert not any(part.startswith("test_") for part in parts), file


def test_all_is_what_is_exported() -> None:
    exported = {name for name in dir(bert_extract) if not name.startswith("_")}
    submodules = {module.partition(".")[0] for module in ORDER}
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
