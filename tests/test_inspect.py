"""The command that looks at files: its flags, what it says, what it does not import."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bert_extract import inspect
from bert_extract.inspect import main
from check_inspect import make_file, measure
from support.nasty_records import make_record
from support.record_files import write_records
from support.running import TIMEOUT

TELL_WHAT_IS_IMPORTED = """
import os, sys
written = []
def hook(event, arguments):
    if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        written.append(arguments[0])
sys.addaudithook(hook)
from bert_extract import inspect
code = inspect.main(["bert-inspect", *sys.argv[1:]])
print(code, written, *sorted(name for name in sys.modules if "." not in name))
"""


def run_here(*arguments: object) -> int:
    return main(["bert-inspect", *map(str, arguments)])


@pytest.fixture(scope="module")
def golden_file(golden_dir: Path) -> Path:
    return golden_dir / "expected_short.jsonl"


def test_the_summary(golden_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here(golden_file, "--exact") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{golden_file}: jsonl, {golden_file.stat().st_size:,} bytes"
    assert lines[2] == "  lines    37, numbered 0 to 36"


def test_one_line(golden_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here(golden_file, "--line=0") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("line 0: 8 tokens, layers ")
    assert lines[1].split() == [
        *("place", "token", "layer", "first", "values", "length"),
    ]
    assert lines[2].split()[:2] == ["0", "[CLS]"]
    assert len(lines) == 10
    assert run_here(golden_file, "--line=37") == 1
    message = capsys.readouterr().err
    assert message.endswith(
        "expected the record of line 37, found none of this number\n"
    )


def test_one_line_with_offsets_texts_and_two_layers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = make_record(3, 6, is_annotated=True)
    path = write_records(tmp_path / "output.jsonl", [record])
    assert run_here(path, "--line=3", "--layers=embeddings,-1") == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[0] == "line 3: 6 tokens, layers embeddings, -1 of 12 values"
    assert rows[1].split()[:4] == ["place", "token", "text", "offset"]
    assert len(rows) == 2 + 2 * 6
    assert rows[8].split()[:5] == ["3", '"', "b", "3-1000", "embeddings"]
    assert rows[9].split()[0] == "-1"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "bert-inspect FILE"),
        (["--line=1"], "expected the name of a file"),
        (["FILE", "--line=x"], "expected a whole number"),
        (["FILE", "--line=1", "--exact"], "--exact does not go with --line"),
        (
            ["FILE", "--layers=-1"],
            "--layers goes with --nearest or --contexts or --plot",
        ),
        (["FILE", "--num=3"], "--num goes with --nearest or --contexts or --plot"),
        (["FILE", "--nearest=a", "--layers=-1,-2"], "expected one layer to compare"),
        (["FILE", "--nearest=a", "--num=0"], "found 0"),
        (["FILE", "--nearest=a", "--exact"], "--exact does not go with --nearest"),
        (["FILE", "--nearest=a", "--plot=a.png"], "--plot does not go with --nearest"),
        (["FILE", "--contexts=a", "--words=b"], "--words does not go with --contexts"),
        (["FILE", "--contexts=a", "--num=1"], "found 1"),
        (["FILE", "--plot=a.png", "--num=2"], "found 2"),
        (["ONE", "TWO", "--plot=a.png"], "--plot draws one file; found 2"),
        (["FILE", "--nonsense"], "nonsense"),
    ],
)
def test_wrong_flags_end_with_2(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here(*arguments) == 2
    output = capsys.readouterr()
    assert expected in output.err
    assert output.out == ""


def test_what_cannot_be_read_ends_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here(tmp_path) == 1
    assert capsys.readouterr().err == (
        f"bert-inspect: {tmp_path}: expected a file of records, found a folder\n"
    )


def test_a_file_that_fails_does_not_stop_the_others(
    golden_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here(tmp_path, golden_file, "--line=3") == 1
    output = capsys.readouterr()
    assert output.out.startswith("line 3: ")
    assert "Is a directory" in output.err


def test_tokens_of_any_script_on_a_terminal_of_one(tmp_path: Path) -> None:
    path = write_records(tmp_path / "output.jsonl", [make_record(0, 14)])
    completed = subprocess.run(
        [sys.executable, "-m", "bert_extract.inspect", str(path), "--line=0"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=True,
    )
    assert "\\u5317\\u4eac" in completed.stdout
    assert completed.stderr == ""


def test_help_has_a_sentence_for_each_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here("--help") == 0
    text = capsys.readouterr().out
    for name in inspect.make_flags():
        assert len(inspect.make_flags()[name].help) > 20 or name == "h"
        assert f"--{name}\n" in text or name == "h"
    assert run_here("--version") == 0
    assert capsys.readouterr().out.startswith("bert-inspect 0.")


def test_it_imports_little_and_writes_nothing(golden_file: Path) -> None:
    completed = subprocess.run(
        [sys.executable, "-B", "-c", TELL_WHAT_IS_IMPORTED, str(golden_file)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=True,
    )
    told = completed.stdout.splitlines()[-1]
    assert told.startswith("0 [] ")
    modules = set(told.split()[2:])
    assert "numpy" in modules
    heavy = {"tensorflow", "tensorflow_text", "keras", "matplotlib", "pandas"}
    assert not modules & {*heavy, "h5py", "pyarrow", "zstandard"}


@pytest.mark.parametrize(
    "suffix",
    [
        *(".jsonl", ".jsonl.gz"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in (".h5", ".parquet")),
    ],
)
def test_a_large_file_takes_no_more_than_a_small_one(
    suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"output{suffix}"
    num_lines, num_tokens = make_file(path, 36 << 20)  # more than is read whole
    measured = measure(path, num_lines - 1)
    assert f"lines    {num_lines:,}, numbered" in measured.summary
    assert measured.estimated_tokens == pytest.approx(num_tokens, rel=0.01)
    assert measured.peak_bytes < 300 << 20
    assert f"line {num_lines - 1:,}: " in measured.record


def test_the_nearest_words(
    golden_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here(golden_file, "--nearest=jim", "--layers=4", "--num=3") == 0
    first, *rows = capsys.readouterr().out.splitlines()
    assert first.startswith("closest to who was [jim] jim henson (line 0) by cosine, ")
    assert len(rows) == 3
    assert run_here(golden_file, "--nearest=jim", "--line=37") == 1
    assert "the record of line 37" in capsys.readouterr().err


def test_pictures(
    golden_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contexts, words = tmp_path / "contexts.png", tmp_path / "words.svg"
    assert run_here(golden_file, "--contexts=jim", "--num=3", f"--plot={contexts}") == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].split(maxsplit=3) == [
        *("0", "4", "-5", "cosine to who was [jim] jim henson, layer by layer"),
    ]
    assert len(rows) == 4
    arguments = ["--words=jim,henson", "--layers=4", f"--plot={words}"]
    assert run_here(golden_file, *arguments) == 0
    assert capsys.readouterr().out == f"{words}: 5 words, layer 4\n"
    assert contexts.read_bytes().startswith(b"\x89PNG")
    assert words.read_bytes().startswith(b"<?xml")
    assert run_here(golden_file, f"--plot={golden_file}") == 1
    assert "expected the name of a picture" in capsys.readouterr().err
