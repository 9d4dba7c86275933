"""The scripts that people start, sample_data/ and the flagfiles of configs/."""

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import bert_extract
from bert_extract.cli import make_flags
from bert_extract.options import Job, Options
from support.make_checkpoints import read_tf1_checkpoint
from support.reference_model import run_bert
from support.running import REPOSITORY, TIMEOUT, files_of

SAMPLE_DATA = REPOSITORY / "sample_data"
FLAGFILES = sorted(REPOSITORY.glob("configs/*.flags"))

# A Python that says which version it is, and makes the virtual environment that it is
# told to make: a folder with itself in it.
FAKE_PYTHON = """#!/bin/sh
case "$1" in
-c) exec "{python}" -c "import sys; sys.version_info = {version} + (0,); $2" ;;
-V | -VV) echo "Python {name}" ;;
-m) echo "$@" >>"{log}"
    if [ "$2" = venv ]; then
        for folder; do :; done
        rm -rf "$folder" # it is asked to --clear
        mkdir -p "$folder/bin" && cp "$0" "$folder/bin/python"
    fi ;;
esac
"""


def write_python(path: Path, version: tuple[int, int], log: Path) -> None:
    name = ".".join(map(str, version))
    path.write_text(
        FAKE_PYTHON.format(python=sys.executable, version=version, name=name, log=log)
    )
    path.chmod(0o755)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What the scripts look at before they install, and a bin/ for the PATH."""
    root = tmp_path / "a clone"
    shutil.copytree(REPOSITORY / "scripts", root / "scripts")
    for wing in ("output", "model"):
        (root / "bert_extract" / wing).mkdir(parents=True)
    kernels = (
        "bert_extract/output/_json_kernel.c",
        "bert_extract/output/_parser_kernel.c",
        "bert_extract/output/_crc_kernel.c",
        "bert_extract/model/_encoder_kernel.c",
        "bert_extract/model/_encoder_forms.h",
    )
    for name in ("pyproject.toml", *kernels):
        shutil.copy(REPOSITORY / name, root / name)
    bin_dir = root / "bin"
    bin_dir.mkdir()
    for command in ("sh", "dirname", "cat", "cksum", "rm", "mkdir", "cp"):
        (bin_dir / command).symlink_to(str(shutil.which(command)))
    return root


def run_script(
    clone: Path, script: str, *args: str, env: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Runs a script with nothing but the clone's bin/ on the PATH, and no HOME."""
    return subprocess.run(
        [clone / "scripts" / script, *args],
        env={"PATH": str(clone / "bin"), **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


# -------------------------------------------------------------------------- set-up


def test_without_a_python_it_says_which_ones_will_do(clone: Path) -> None:
    write_python(clone / "bin" / "python3", (3, 9), clone / "log")
    done = run_script(clone, "quickstart")
    assert done.returncode == 1
    assert "no Python 3.10 to 3.13 on the PATH" in done.stderr
    assert not (clone / ".venv").exists()


def test_a_python_that_is_named_is_taken_or_refused(clone: Path) -> None:
    write_python(clone / "bin" / "python3", (3, 11), clone / "log")
    write_python(clone / "old", (3, 9), clone / "log")
    done = run_script(clone, "check", env={"PYTHON": str(clone / "old")})
    assert done.returncode == 1
    assert done.stderr == (
        f"scripts/check: PYTHON={clone}/old is not Python 3.10 to 3.13\n"
    )


def test_a_copy_in_the_place_of_the_clones_code_is_noticed(clone: Path) -> None:
    venv.create(clone / ".venv")
    (site,) = clone.glob(".venv/lib/python*/site-packages")
    (clone / "bert_extract" / "__init__.py").touch()

    def installation() -> str:
        command = f'root="{clone}"; . "$root/scripts/setup.sh"; installation'
        return subprocess.run(
            ["sh", "-euc", command], capture_output=True, text=True, check=True
        ).stdout

    (site / "editable.pth").write_text(f"{clone}\n")
    editable = installation()
    assert str(clone / "bert_extract" / "__init__.py") in editable.splitlines()
    assert installation() == editable
    # As "pip install '.[all]'" leaves it.
    (site / "editable.pth").unlink()
    (site / "bert_extract").mkdir()
    (site / "bert_extract" / "__init__.py").touch()
    assert installation() != editable


def test_the_first_run_installs_and_the_second_does_not(clone: Path) -> None:
    log = clone / "log"
    write_python(clone / "bin" / "python3.9", (3, 9), log)
    write_python(clone / "bin" / "python3", (3, 12), log)
    run_script(clone, "check")
    assert [line.split()[1] for line in log.read_text().splitlines()] == [
        *("venv", "pip", "pip", "pip", "ruff", "ruff", "mypy", "pytest"),
    ]
    assert f"-e {clone}[dev]\n" in log.read_text()
    all_tests = "-m pytest --numprocesses=2 --dist=worksteal\n"
    assert log.read_text().endswith(all_tests)
    log.unlink()
    assert run_script(clone, "check", "-m", "slow", "-q").returncode == 0
    assert log.read_text() == (
        "-m ruff format --check .\n-m ruff check .\n-m mypy\n-m pytest -m slow -q\n"
    )


@pytest.mark.parametrize("what", ["pyproject.toml", ".venv/bin/python"])
def test_another_state_of_the_project_installs_anew(clone: Path, what: str) -> None:
    log = clone / "log"
    write_python(clone / "bin" / "python3", (3, 12), log)
    run_script(clone, "check")
    log.unlink()
    # The comment makes another checksum; cut off, the interpreter does not start.
    (clone / what).write_text("# another state\nexit 1\n")
    run_script(clone, "check")
    is_new_venv = what != "pyproject.toml"
    assert log.read_text().count("-m venv") == is_new_venv
    assert log.read_text().count("-m pip install") == 2


def test_the_fast_part_of_check_runs_no_test(clone: Path) -> None:
    log = clone / "log"
    write_python(clone / "bin" / "python3", (3, 12), log)
    run_script(clone, "check")
    log.unlink()
    assert run_script(clone, "check", "--fast").returncode == 0
    assert log.read_text() == "-m ruff format --check .\n-m ruff check .\n-m mypy\n"
    hook = (REPOSITORY / ".pre-commit-config.yaml").read_text()
    assert "        entry: scripts/check --fast\n" in hook


def test_what_check_installs_by_itself_is_pinned(clone: Path) -> None:
    log = clone / "log"
    write_python(clone / "bin" / "python3", (3, 12), log)
    run_script(clone, "check")
    constraints = clone / "scripts" / "constraints.txt"
    assert f" --constraint {constraints} -e {clone}[dev]\n" in log.read_text()
    pinned = re.findall(r"^([a-z]+)==[\d.]+$", constraints.read_text(), re.MULTILINE)
    assert pinned == ["mypy", "ruff", "ray"]


def test_check_stops_at_the_first_failure(clone: Path) -> None:
    log = clone / "log"
    write_python(clone / "bin" / "python3", (3, 12), log)
    run_script(clone, "check")
    log.unlink()
    python = clone / ".venv" / "bin" / "python"
    python.write_text(
        python.read_text().replace("esac", "esac\n[ \"$*\" != '-m ruff check .' ]")
    )
    done = run_script(clone, "check")
    assert done.returncode == 1
    assert done.stderr == "scripts/check: the linter found something\n"
    assert "mypy" not in log.read_text()


def test_ci_runs_all_tests_and_those_of_a_cluster_alone(clone: Path) -> None:
    log = clone / "log"
    write_python(clone / "bin" / "python3", (3, 12), log)
    shutil.copytree(REPOSITORY / ".ci", clone / ".ci")
    run_script(clone, "../.ci/run")
    tests = [line for line in log.read_text().splitlines() if "-m pytest" in line]
    assert tests == [
        "-m pytest --numprocesses=2 --dist=worksteal -m not cluster",
        "-m pytest -m cluster",
    ]


# --------------------------------------------------------------------- sample data


def test_sample_data_is_what_a_float64_bert_says(tiny_bert: Path) -> None:
    weights = read_tf1_checkpoint(tiny_bert / "bert_model.ckpt")
    config = json.loads((tiny_bert / "bert_config.json").read_text())
    vocab = (tiny_bert / "vocab.txt").read_text(encoding="utf-8").split("\n")
    for record in bert_extract.read_features(str(SAMPLE_DATA / "expected.jsonl")):
        input_ids = [vocab.index(token) for token in record.tokens]
        len_a = record.tokens.index("[SEP]") + 1
        segments = [0] * len_a + [1] * (len(input_ids) - len_a)
        expected = run_bert(weights, config, input_ids, segments)
        assert record.indexes == (-1, -2, -3, -4)
        for index, layer in zip((-1, -2, -3, -4), record.layers, strict=True):
            np.testing.assert_allclose(layer, expected.layers[index], rtol=0, atol=5e-6)


def test_the_main_job_writes_what_sample_data_expects(tmp_path: Path) -> None:
    quickstart = (REPOSITORY / "scripts" / "quickstart").read_text()
    job = re.search(r"set -- (.*?)\necho", quickstart, re.DOTALL)
    assert job is not None
    flags = job[1].replace("\\\n", " ").split()
    output = tmp_path / "output.jsonl"
    subprocess.run(
        [sys.executable, "-m", "bert_extract", *flags, f"--output_file={output}"],
        cwd=REPOSITORY,
        check=True,
        timeout=TIMEOUT,
    )
    found = list(bert_extract.read_features(str(output)))
    expected = list(bert_extract.read_features(str(SAMPLE_DATA / "expected.jsonl")))
    assert len(found) == len(expected) == 12
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.linex_index, ours.tokens) == (theirs.linex_index, theirs.tokens)
        np.testing.assert_allclose(ours.layers, theirs.layers, rtol=0, atol=5e-6)


def test_show_features_fits_a_terminal() -> None:
    script = REPOSITORY / "scripts" / "show_features.py"
    done = subprocess.run(
        [sys.executable, script, SAMPLE_DATA / "expected.jsonl"],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONUTF8": "1"},
        check=True,
        timeout=TIMEOUT,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 1 + 12 * 4
    assert max(map(len, lines)) <= 88
    assert lines[1].split()[:5] == ["0", "-1", "-0.062", "-0.763", "-0.197"]


def test_show_features_says_what_it_cannot_read(tmp_path: Path) -> None:
    script = REPOSITORY / "scripts" / "show_features.py"
    done = subprocess.run(
        [sys.executable, script, tmp_path / "none.jsonl"],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )
    assert done.returncode == 1
    assert "none.jsonl: cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


# ----------------------------------------------------------------------- flagfiles


def parse(*flags: str) -> tuple[dict[str, object], dict[str, object]]:
    """What the command makes of flags: fields of Options, fields of Job."""
    values = make_flags()
    assert values(["bert-extract", *flags]) == ["bert-extract"]
    found = values.flag_values_dict()
    return (
        {name: found[name] for name in Options.__dataclass_fields__},
        {name: found[name] for name in Job.__dataclass_fields__},
    )


@pytest.mark.parametrize("flagfile", FLAGFILES, ids=lambda path: path.stem)
def test_a_flagfile_runs(flagfile: Path, tiny_bert: Path, tmp_path: Path) -> None:
    paths = {**files_of(tiny_bert), "max_seq_length": "64"}
    paths["input_file"] = str(SAMPLE_DATA / "input.txt")
    paths["output_file"] = str(tmp_path / "output.jsonl")
    options, job = parse(
        f"--flagfile={flagfile}", *(f"--{name}={paths[name]}" for name in paths)
    )
    assert flagfile.read_text().startswith("# ")
    (summary,) = bert_extract.FeatureExtractor(
        Options(**options)  # type: ignore[arg-type] # as the command makes them
    ).run_job(Job(**job))  # type: ignore[arg-type]
    assert summary.num_lines == 12


@pytest.mark.parametrize(
    ("name", "do_lower_case", "layers"),
    [
        ("uncased", True, "-1,-2,-3,-4"),
        ("cased", False, "-1,-2,-3,-4"),
        ("multilingual-cased", False, "-1,-2,-3,-4"),
        ("chinese", True, "-1,-2,-3,-4"),
        ("ner-features", False, "-4,-3,-2,-1"),
        ("all-layers", None, "embeddings,all"),
        ("cron", None, "-1,-2,-3,-4"),
    ],
)
def test_what_a_flagfile_says(
    name: str, do_lower_case: bool | None, layers: str
) -> None:
    options, job = parse(f"--flagfile={REPOSITORY}/configs/{name}.flags")
    assert (options["do_lower_case"], options["layers"]) == (do_lower_case, layers)
    assert job["resume"] == (name == "cron")
    assert {f"{path.stem}" for path in FLAGFILES} >= {name}
