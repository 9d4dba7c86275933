"""The pages: each block is run, each list is whole, links lead on."""

import ast
import gzip
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import bert_extract
from bert_extract import inspect
from bert_extract.cli import make_flags
from make_flags_table import TABLE_FILE, with_table
from support.house import ORDER, PACKAGE_DIR
from support.make_checkpoints import read_tf1_checkpoint, write_tf1_checkpoint
from support.running import REPOSITORY, TIMEOUT

# In the order in which they are read: a block may need what one before it made.
README, CONFIGS, OUTPUT, CODE, *OTHERS = (
    REPOSITORY / name
    for name in (
        "README.md",
        "configs/README.md",
        "bert_extract/output/README.md",
        "bert_extract/README.md",
        "bert_extract/model/README.md",
        "bert_extract/inspecting/README.md",
        "bert_extract/cluster/README.md",
        "bert_extract/network/README.md",
        "scripts/README.md",
        "tests/README.md",
        "configs/TROUBLE.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
    )
)
PAGES = (README, CONFIGS, OUTPUT, CODE, *OTHERS)
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
# A block of text that is no output: it needs the network, and 400 MB.
DOWNLOAD = "wget https://storage.googleapis.com/bert_models/"
# Diagrams, not outputs.
DIAGRAMS = (' "Who was Jim Henson ?', " errors, options")
NUM_POSITIONS = 512  # of every published checkpoint
CORPUS = {
    "a.txt": "the river bank\nWho was Jim Henson ? ||| Jim Henson was a puppeteer\n",
    "b.txt": "the bank took the money\n\nthe last line\none more\n",
}


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    language: str
    text: str
    page: Path
    line: int


def blocks() -> list[Block]:
    return [
        Block(match[1], match[2], page, text.count("\n", 0, match.start()) + 1)
        for page, text in TEXTS.items()
        for match in re.finditer(
            r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL
        )
    ]


def one_block(language: str, starts: str = "") -> Block:
    (block,) = (
        block
        for block in blocks()
        if block.language == language and block.text.startswith(starts)
    )
    return block


# ------------------------------------------------------------------------- a clone


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which scripts/quickstart has been run, and some text.

    It is $HOME/bert-extract, as in the line for crontab.
    """
    root = tmp_path_factory.mktemp("home") / "bert-extract"
    for name in ("bert_extract", "scripts", "sample_data", "configs"):
        shutil.copytree(
            REPOSITORY / name,
            root / name,
            ignore=shutil.ignore_patterns("__pycache__", "output.jsonl*"),
        )
    shutil.copy(REPOSITORY / "pyproject.toml", root)
    (root / "corpus").mkdir()
    for name, text in CORPUS.items():
        (root / "corpus" / name).write_text(text)
    shutil.copy(root / "sample_data" / "input.txt", root / "input.txt")
    (root / "corpus.txt").write_text("".join(CORPUS.values()) * 3)
    link_installation(root)
    return root


def link_installation(root: Path) -> None:
    """Gives the clone a .venv that is the running one, installed and up to date."""
    venv = root / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    for command in ("bert-extract", "bert-inspect"):
        (venv / "bin" / command).symlink_to(Path(sys.executable).parent / command)
    (venv / "bin" / "activate").write_text(f'PATH="{venv}/bin:$PATH"\nexport PATH\n')
    (venv / "lib").symlink_to(Path(sys.prefix) / "lib")
    if (Path(sys.prefix) / "pyvenv.cfg").exists():
        shutil.copy(Path(sys.prefix) / "pyvenv.cfg", venv)
    run(
        root,
        f'root="{root}"; . scripts/setup.sh; installation > .venv/installed-run',
    )


@pytest.fixture(scope="module")
def bert_base_dir(clone: Path, tiny_bert: Path) -> Path:
    """The tiny checkpoint with as many positions as the published ones have."""
    directory = clone / "wide_bert"
    directory.mkdir()
    shutil.copy(tiny_bert / "vocab.txt", directory)
    config = json.loads((tiny_bert / "bert_config.json").read_text())
    config["max_position_embeddings"] = NUM_POSITIONS
    (directory / "bert_config.json").write_text(json.dumps(config))
    weights = read_tf1_checkpoint(tiny_bert / "bert_model.ckpt")
    name = "bert/embeddings/position_embeddings"
    copies = NUM_POSITIONS // weights[name].shape[0]
    weights[name] = np.tile(weights[name], (copies, 1))
    write_tf1_checkpoint(directory / "bert_model.ckpt", weights)
    # "BERT_BASE_DIR" as an --init_checkpoint: a folder with a checkpoint in it.
    (directory / "checkpoint").write_text('model_checkpoint_path: "bert_model.ckpt"\n')
    return directory


def run(
    clone: Path, command: str, shell: str = "sh", **variables: str
) -> "subprocess.CompletedProcess[str]":
    """Runs shell text in the clone as a person would who has no settings at all."""
    path = (
        f"{clone}/.venv/bin:{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    )
    return subprocess.run(
        [shell, "-eu", "-c", command],
        cwd=clone,
        env={"PATH": path, "HOME": str(clone.parent), **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=TIMEOUT,
        check=False,
    )


def run_well(clone: Path, command: str, shell: str = "sh", **variables: str) -> str:
    """Runs it and returns standard output; it must end well."""
    done = run(clone, command, shell, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_shows(output: str, expected: str) -> None:
    """Each expected line is a line of the output, numbers to the digits shown."""
    lines = [line.split() for line in output.splitlines()]
    for line in expected.splitlines():
        assert any(is_like(found, line.split()) for found in lines), line


def is_like(found: list[str], expected: list[str]) -> bool:
    return len(found) == len(expected) and all(
        a == b
        or (
            is_number(a)
            and is_number(b)
            and math.isclose(float(a), float(b), abs_tol=0.011)
        )
        for a, b in zip(found, expected, strict=True)
    )


def is_number(word: str) -> bool:
    return re.fullmatch(r"-?\d+\.\d+", word) is not None


# ---------------------------------------------------------------- the blocks, run


@pytest.fixture(scope="module")
def outputs(clone: Path, bert_base_dir: Path) -> dict[Block, str]:
    """Runs the pages' sh and python blocks in order; what each of them printed."""
    found: dict[Block, str] = {}
    for block in blocks():
        if block.language == "sh":
            found[block] = run_well(clone, block.text, BERT_BASE_DIR=str(bert_base_dir))
        elif block.language == "python":
            (clone / "README.py").write_text(block.text, encoding="utf-8")
            found[block] = run_well(clone, "python README.py")
    return found


@pytest.fixture(scope="module")
def bert_flags(clone: Path, outputs: dict[Block, str]) -> Path:
    """The flagfile that a block of the README made, which the recipes use."""
    assert outputs
    return clone / "bert.flags"


def test_every_kind_of_block_is_run() -> None:
    assert {block.language for block in blocks()} == {
        *("sh", "python", "text", "json", "make", "crontab", "slurm"),
    }


def test_what_is_shown_as_output_is_the_output_of_the_block_before(
    outputs: dict[Block, str],
) -> None:
    before, num_compared = "", 0
    for block in blocks():
        before = outputs.get(block, before)
        if block.language == "text" and not block.text.startswith(
            (DOWNLOAD, *DIAGRAMS)
        ):
            assert_shows(before, block.text)
            num_compared += 1
    assert num_compared == 7


def test_the_outputs_of_the_blocks_are_whole(
    clone: Path, outputs: dict[Block, str]
) -> None:
    assert outputs
    for name, num_records in (
        ("output.jsonl", 12),
        ("features.jsonl.gz", 6),
        ("words.jsonl", 12),
        ("sentences.jsonl", 12),
        ("long.jsonl", 12),
        ("corpus.jsonl", 18),
        ("sample.jsonl.gz", 12),
        ("sample.h5", 12),
        ("sample.parquet", 12),
        ("sample_data/output.jsonl", 12),
    ):
        records = list(bert_extract.read_features(str(clone / name)))
        assert [r.linex_index for r in records] == list(range(num_records)), name
    summary = json.loads((clone / "run.json").read_text())
    assert summary["outputs"][0]["num_lines"] == 18
    with gzip.open(clone / "features.jsonl.gz") as reader:
        assert reader.readline().startswith(b'{"linex_index": 0, "features": [{"token"')


def test_the_pipe_shows_two_lines(outputs: dict[Block, str]) -> None:
    (piped,) = (text for text in outputs.values() if "{" in text)
    assert [line[:17] for line in piped.splitlines()] == [
        '{"linex_index": 0',
        '{"linex_index": 1',
    ]


def test_the_record_that_is_shown_is_one_that_is_written(
    clone: Path, outputs: dict[Block, str]
) -> None:
    assert outputs
    shown = json.loads(one_block("json").text)
    with (clone / "sample_data" / "output.jsonl").open() as reader:
        record = [json.loads(line) for line in reader][shown["linex_index"]]
    assert list(shown) == list(record)
    for ours, theirs in zip(shown["features"], record["features"], strict=False):
        assert list(ours) == list(theirs)
        assert ours["token"] == theirs["token"]
        for layer, written in zip(ours["layers"], theirs["layers"], strict=False):
            assert list(layer) == list(written)
            assert layer["index"] == written["index"]
            first = written["values"][: len(layer["values"])]
            np.testing.assert_allclose(layer["values"], first, rtol=0, atol=5e-6)


# -------------------------------------------------------------------- the recipes


def make(clone: Path, block: Block, **variables: str) -> str:
    """Runs a make block as its first line says; returns what make printed."""
    head = re.match(r"# (\S+): (make .*)\n", block.text)
    assert head is not None, block.text
    (clone / head[1]).write_text(block.text)
    return run_well(clone, head[2], **variables)


@pytest.fixture(scope="module")
def whole_corpus(clone: Path, bert_flags: Path) -> bytes:
    """What one run makes of corpus.txt."""
    assert bert_flags.exists()
    return (clone / "corpus.jsonl").read_bytes()


def test_make_runs_once_for_each_text_and_then_not_again(
    clone: Path, bert_flags: Path
) -> None:
    block = one_block("make", "# Makefile:")
    assert make(clone, block).count("bert-extract") == len(CORPUS)
    for name, text in CORPUS.items():
        made = clone / "features" / Path(name).with_suffix(".jsonl")
        records = list(bert_extract.read_features(str(made)))
        assert len(records) == text.count("\n")
    assert "bert-extract" not in make(clone, block)
    before = (clone / "features" / "a.jsonl").read_bytes()
    os.utime(clone / "corpus" / "a.txt")
    assert make(clone, block).count("bert-extract") == 1
    assert (clone / "features" / "a.jsonl").read_bytes() == before


def test_cron_is_silent_and_does_only_what_has_changed(
    clone: Path, bert_flags: Path
) -> None:
    (line,) = one_block("crontab").text.splitlines()
    fields = line.split(maxsplit=5)
    assert all(re.fullmatch(r"[\d*/,-]+", field) for field in fields[:5])
    assert "%" not in fields[5]  # cron would take it for a line's end
    shutil.rmtree(clone / "features", ignore_errors=True)
    (clone / "features").mkdir()
    stamps = []
    text = clone / "corpus" / "b.txt"
    content = text.read_bytes()
    try:
        for _ in range(2):
            # cron gives next to nothing; the command has to find its way.
            done = run(clone, fields[5], PATH="/usr/bin:/bin")
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
            made = sorted(clone.glob("features/*.jsonl"))
            assert [path.name for path in made] == ["a.jsonl", "b.jsonl"]
            stamps.append(made[0].stat().st_mtime_ns)
            os.utime(clone / "corpus" / "a.txt")
            text.write_bytes(b"one more\n" + content)
        assert stamps[0] == stamps[1]
        lines = [features.linex_index for features in bert_extract.read_features(made)]
        assert len(lines) == (clone / "corpus" / "a.txt").read_bytes().count(b"\n") + (
            1 + content.count(b"\n")
        )
    finally:
        text.write_bytes(content)


def test_shards_by_make_add_up_to_the_single_run(
    clone: Path, whole_corpus: bytes
) -> None:
    block = one_block("make", "# shards.mk:")
    assert make(clone, block).count("bert-extract") == 3
    assert (clone / "corpus.all.jsonl").read_bytes() == whole_corpus
    assert "bert-extract" not in make(clone, block)


def test_a_slurm_array_adds_up_to_the_single_run(
    clone: Path, whole_corpus: bytes
) -> None:
    script = one_block("slurm").text
    assert script.startswith("#!/bin/bash\n#SBATCH ")
    shutil.rmtree(clone / "features", ignore_errors=True)

    def run_task(task: int) -> str:
        variables = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_COUNT": "2"}
        return run_well(clone, script, "bash", **variables)

    with ThreadPoolExecutor(max_workers=2) as pool:
        assert list(pool.map(run_task, range(2))) == ["", ""]
    join = re.search(r"`(cat features/part-.*?)`", TEXTS[CONFIGS])
    assert join is not None
    run_well(clone, join[1])
    assert (clone / "features.jsonl").read_bytes() == whole_corpus


# ---------------------------------------------------------------------- the lists


def test_the_table_of_flags_is_the_commands() -> None:
    text = TEXTS[TABLE_FILE]
    assert with_table(text) == text, "run scripts/make_flags_table.py"


def test_flags_that_the_pages_name_are_the_commands() -> None:
    named = {
        name
        for page in (README, CONFIGS, OUTPUT)
        for name in re.findall(r"`--(\w+)", TEXTS[page])
    }
    assert len(named) > 30
    # absl has the first for every command; the second shows a flag that there is not.
    commands = {*make_flags(), *inspect.make_flags()}
    assert named - commands == {"undefok", "batch"}


def test_the_table_of_what_to_open_has_every_module_in_order() -> None:
    table = (
        TEXTS[CODE].partition("| I want to change | I open |")[2].partition("\n\n")[0]
    )
    plain = {"version", "tokenization.unicode14_tables", "__main__"}
    modules = [module for module in ORDER if module not in plain]
    found = re.findall(r"\b([\w/]+)\.py\b", table)
    assert [path.replace("/", ".") for path in found] == modules


def test_every_flagfile_is_listed() -> None:
    listed = re.findall(r"^\| `([\w-]+\.flags)` \|", TEXTS[CONFIGS], re.MULTILINE)
    assert sorted(listed) == sorted(p.name for p in REPOSITORY.glob("configs/*.flags"))


def test_every_published_checkpoint_is_listed() -> None:
    names = set(re.findall(r"`20\d\d_\d\d_\d\d/([\w-]+)\.zip`", TEXTS[CONFIGS]))
    small = {f"uncased_L-{layers}" for layers in (2, 4, 6, 8, 10, 12)}
    configs = {path.parent.name for path in REPOSITORY.glob("configs/*/*.json")}
    unlisted = configs - names
    assert {name.partition("_H-")[0] for name in unlisted} == small
    assert names - configs == {"all_bert_models"}


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^##+ (.*)$", text, re.MULTILINE)
    return {re.sub("[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}"
)
def test_what_a_page_links_to_is_there(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", TEXTS[page]):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


def test_what_the_page_of_trouble_quotes_is_said() -> None:
    """Its first column has pieces of messages, and the code has each of them."""
    said = "\n".join(
        literal
        for path in PACKAGE_DIR.rglob("*.py")
        for literal in literals(ast.parse(path.read_text(encoding="utf-8")))
    )
    trouble = TEXTS[REPOSITORY / "configs" / "TROUBLE.md"]
    symptoms = [
        symptom
        for row in re.findall(r"^\| ([^|]+) \|", trouble, re.MULTILINE)
        for symptom in re.findall(r"`([^`]+)`", row)
    ]
    assert len(symptoms) > 30
    assert [symptom for symptom in symptoms if symptom not in said] == []


def literals(tree: ast.AST) -> Iterator[str]:
    """What a module's strings say, without what is put into them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_every_page_is_read_here() -> None:
    folders = ("bert_extract", "configs", "scripts", "tests")
    found = {
        path for name in folders for path in (REPOSITORY / name).rglob("README.md")
    }
    golden = REPOSITORY / "tests" / "golden" / "README.md"
    assert found - {golden} == set(PAGES[1:-3])
    linked = {(REPOSITORY / link.partition("#")[0]) for link in links_of(README)}
    assert set(PAGES) - {README} <= linked


def links_of(page: Path) -> list[str]:
    return re.findall(r"\]\((?!https?:|#)([^)]+)\)", TEXTS[page])


def test_the_first_page_is_a_newcomers() -> None:
    assert TEXTS[README].count("\n") <= 350
