"""No file of the user's is lost: what is read, what is written, what stood there."""

import gzip
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from absl import logging

from bert_extract import (
    FeatureExtractor,
    InputError,
    Job,
    Options,
    OptionsError,
    OutputError,
    cli,
    guard,
    load_features,
)
from bert_extract.formats import FORMATS, JSONL
from bert_extract.loaded_model import LoadedModel
from bert_extract.output.parts import PartsFolder
from bert_extract.output.record import RecordSchema
from bert_extract.output.writers import OutputSpec, open_writer
from support.running import TIMEOUT, flags_for, options_for

TEXT = b"the river\nbank\n"
THEIRS = b"my notes\n"
RECORD = b'{"linex_index": 0, "features": []}\n'


@pytest.fixture(scope="module")
def model(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that a bug may destroy."""
    folder = tmp_path_factory.mktemp("copy") / "model"
    shutil.copytree(tiny_bert, folder)
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    return folder


@pytest.fixture(scope="module")
def extractor(model: Path) -> FeatureExtractor:
    return FeatureExtractor(options_for(model, layers="-1"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(*folders: Path) -> dict[Path, bytes]:
    """All files in folders."""
    files = (path for folder in folders for path in folder.rglob("*"))
    return {path: path.read_bytes() for path in files if path.is_file()}


def assert_refused(
    extractor: FeatureExtractor, folder: Path, *parts: str, **fields: Any
) -> None:
    """Whether a job is refused for what the parts say, and changes nothing."""
    model = Path(extractor.options.vocab_file).parent
    before = contents(folder, model)
    with pytest.raises(OptionsError) as caught:
        extractor.run_job(Job(**fields))
    for part in parts:
        assert part in str(caught.value)
    assert contents(folder, model) == before


# ------------------------------------------------------------------- what is read


def same_name(path: Path) -> str:
    return str(path)


def other_spelling(path: Path) -> str:
    return f"{path.parent}/./{path.name}"


def symbolic_link(path: Path) -> str:
    path.with_name("link").symlink_to(path.name)
    return str(path.with_name("link"))


def hard_link(path: Path) -> str:
    path.with_name("link").hardlink_to(path)
    return str(path.with_name("link"))


def folder_link(path: Path) -> str:
    path.with_name("folder").symlink_to(path.parent)
    return str(path.with_name("folder") / path.name)


def file_url(path: Path) -> str:
    return f"file://{path}"


NAMES = (same_name, other_spelling, symbolic_link, hard_link, folder_link, file_url)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("rename", NAMES)
def test_an_input_is_never_an_output(
    extractor: FeatureExtractor,
    tmp_path: Path,
    rename: Callable[[Path], str],
    overwrite: bool,
) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_bytes(TEXT)
    other = rename(notes)
    for input_file, output_file in ((str(notes), other), (other, str(notes))):
        assert_refused(
            extractor,
            tmp_path,
            f"{output_file} would be written (the output), and it is ",
            "read (--input_file): what is read would be lost; give another --output_fi",
            input_file=input_file,
            output_file=output_file,
            overwrite=overwrite,
        )


def test_the_command_ends_with_2(
    model: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("q.partial").write_bytes(TEXT)
    flags = flags_for(model, input_file="q.partial", output_file="q", layers="-1")
    assert cli.main(["bert-extract", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line == (
        "bert-extract: q.partial would be written (the output while it is unfinished), "
        "and it is read (--input_file): what is read would be lost; give another "
        "--output_file"
    )
    assert contents(here) == {here / "q.partial": TEXT}


BESIDE = (
    *(".run.json", ".partial", ".partial.whole", ".partial.run.json"),
    ".partial.run.json.tmp",
)


@pytest.mark.parametrize("suffix", BESIDE)
def test_an_input_is_nothing_that_stands_beside_the_output(
    extractor: FeatureExtractor, here: Path, suffix: str
) -> None:
    Path(f"q{suffix}").write_bytes(TEXT)
    for resume in (False, True):
        assert_refused(
            extractor,
            here,
            f"q{suffix} would be written (",
            "and it is read (--input_file)",
            input_file=f"q{suffix}",
            output_file="q",
            resume=resume,
            overwrite=True,
        )


@pytest.mark.parametrize("summary_file", ["notes.txt", "./notes.txt", "notes"])
def test_an_input_is_never_the_summary(
    extractor: FeatureExtractor, here: Path, summary_file: str
) -> None:
    input_file = "notes.tmp" if summary_file == "notes" else "notes.txt"
    Path(input_file).write_bytes(TEXT)
    assert_refused(
        extractor,
        here,
        "(the summary",
        "read (--input_file): what is read would be lost; give another --summary_file",
        input_file=input_file,
        output_file="out.jsonl",
        summary_file=summary_file,
        overwrite=True,
    )


@pytest.mark.parametrize("pattern", ["file://{}/*.txt", "{}/*.txt,file://{}/a.md"])
def test_an_input_that_a_glob_names_is_never_the_summary(
    extractor: FeatureExtractor, here: Path, pattern: str
) -> None:
    """Where one name has a scheme, names on this machine are looked up all the same."""
    for name in ("in.txt", "a.md"):
        Path(name).write_bytes(TEXT)
    assert_refused(
        extractor,
        here,
        "in.txt would be written (the summary)",
        input_file=pattern.format(here, here),
        output_file="out.jsonl",
        summary_file="in.txt",
        overwrite=True,
    )


@pytest.mark.parametrize("option", ["output_file", "summary_file"])
def test_a_flagfile_is_never_written(
    model: Path, here: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    """One within another neither."""
    Path("in.txt").write_bytes(TEXT)
    Path("inner.flags").write_text("--layers=-1\n")
    Path("outer.flags").write_text("--flagfile=inner.flags\n--overwrite\n")
    names = {"input_file": "in.txt", "output_file": "out", option: "inner.flags"}
    flags = [f"--{name}={value}" for name, value in names.items()]
    before = contents(here)
    command = ["bert-extract", *flags_for(model), "--flagfile=outer.flags", *flags]
    assert cli.main(command) == 2
    assert "and it is read (--flagfile)" in capsys.readouterr().err
    assert contents(here) == before


MODEL_FILES = (
    *("vocab.txt", "bert_config.json", "tokenizer_config.json"),
    *("bert_model.ckpt.index", "bert_model.ckpt.data-00000-of-00001"),
)


@pytest.mark.parametrize("option", ["output_file", "summary_file"])
@pytest.mark.parametrize("name", MODEL_FILES)
def test_no_file_of_the_model_is_written(
    extractor: FeatureExtractor, model: Path, here: Path, option: str, name: str
) -> None:
    Path("in.txt").write_bytes(TEXT)
    path = str(model / name)
    fields = {
        "input_file": "in.txt",
        "output_file": "o",
        "overwrite": True,
        option: path,
    }
    assert_refused(extractor, here, f"{path} would be written", **fields)
    by_folder = Options(model_dir=str(model))
    job = Job(input_file="in.txt", output_file="o", summary_file=path)
    with pytest.raises(OptionsError, match=r"is read \(--model_dir\)"):
        guard.check_summary(by_folder, job)


def test_no_part_of_safetensors_is_written(tmp_path: Path) -> None:
    names = ["model.safetensors.index.json", "a.safetensors", "model.safetensors"]
    for name in names:
        (tmp_path / name).write_bytes(b"{}")
    for init_checkpoint in (tmp_path, tmp_path / names[0]):
        options = options_for(tmp_path, init_checkpoint=str(init_checkpoint))
        for name in names:
            job = Job(output_file=str(tmp_path / name), overwrite=True)
            with pytest.raises(OptionsError, match=r"is read \(--init_checkpoint\)"):
                guard.check_outputs(options, job, [], [job.output_file])
        job = Job(output_file=str(tmp_path / "features.json"))
        guard.check_outputs(options, job, [], [job.output_file])


def test_redirections_are_files(model: Path, tmp_path: Path) -> None:
    """`< notes.txt`, `>> notes.txt`, and a summary that goes to a log."""
    notes, log = tmp_path / "notes.txt", tmp_path / "log"
    notes.write_bytes(TEXT)
    log.write_bytes(THEIRS)
    command = shlex.join([sys.executable, "-m", "bert_extract", *flags_for(model)])
    ends = {
        f"{command} --input_file=- --output_file={notes} < {notes}": "standard input, ",
        f"{command} --input_file={notes} --output_file=- >> {notes}": "standard output",
    }
    for line, part in ends.items():
        done = subprocess.run(
            ["sh", "-c", f"{line} --summary_file=/dev/stderr 2>> {log}"],
            timeout=TIMEOUT,
            check=False,
        )
        assert done.returncode == 2, line
        assert notes.read_bytes() == TEXT
        said = log.read_text()
        assert said.startswith(THEIRS.decode())
        assert part in said.rpartition("bert-extract: ")[2]
    assert said.count('"error"') == 2
    assert sorted(os.listdir(tmp_path)) == ["log", "notes.txt"]


def test_devices_and_pipes_are_what_they_were(extractor: FeatureExtractor) -> None:
    job = Job(input_file="/dev/null", output_file="/dev/null", summary_file="/dev/null")
    (summary,) = extractor.run_job(job)
    assert summary.num_lines == 0


def test_remote_names_are_compared_as_they_are(
    extractor: FeatureExtractor, here: Path
) -> None:
    import tensorflow as tf

    for name, content in (("notes", TEXT), ("theirs", THEIRS)):
        with tf.io.gfile.GFile(f"ram://guard/{name}", "wb") as file:
            file.write(content)
    notes = "ram://guard/notes"
    assert_refused(
        extractor,
        here,
        f"{notes} would be written (the output), and it is read",
        input_file=notes,
        output_file=notes,
    )
    # What is there is replaced as ever, and is no input of the next run.
    for output_file in ("ram://guard/theirs", "ram://guard/notes2"):
        for _ in range(2):
            job = Job(input_file="ram://guard/notes*", output_file=output_file)
            (summary,) = extractor.run_job(job)
            assert summary.num_lines == 2


def test_outputs_in_a_remote_folder_are_left_out_of_a_glob(
    extractor: FeatureExtractor,
) -> None:
    import tensorflow as tf

    # Records of somebody else's, in a folder that is not the outputs': a text.
    for path, content in (
        ("far/a.txt", TEXT),
        ("farther/b.jsonl", b'{"linex_index": 0}\n'),
    ):
        with tf.io.gfile.GFile(f"ram://{path}", "wb") as file:
            file.write(content)
    names = "ram://far/*,ram://farther/*"
    for output_format in ("jsonl", "jsonl.gz", ""):
        job = Job(input_file=names, output_dir="ram://far", output_format=output_format)
        summaries = extractor.run_job(job)
        assert [summary.num_lines for summary in summaries] == [2, 1], output_format
    assert sorted(tf.io.gfile.glob("ram://far/*.jsonl*")) == [
        f"ram://far/{name}" for name in ("a.jsonl", "a.jsonl.gz", "b.jsonl.jsonl")
    ] + ["ram://far/b.jsonl.jsonl.gz"]


# ------------------------------------------------------------ what is written twice


@pytest.mark.parametrize(
    "summary_file",
    [
        *("out/o.jsonl", "out/./o.jsonl", "link/o.jsonl", "out/o.jsonl.run.json"),
        *("out/o.jsonl.partial", "link/o.jsonl.partial.run.json", "link.jsonl"),
    ],
)
def test_the_summary_is_nothing_of_the_output(
    extractor: FeatureExtractor, here: Path, summary_file: str
) -> None:
    Path("in.txt").write_bytes(TEXT)
    Path("out").mkdir()
    Path("link").symlink_to("out")
    Path("link.jsonl").symlink_to("out/o.jsonl")  # which is not there yet
    for output_file in ("out/o.jsonl", "link/o.jsonl"):
        assert_refused(
            extractor,
            here,
            f"{summary_file} (the summary) and {output_file}",
            "are one file, and both would be written; give another --summary_file",
            input_file="in.txt",
            output_file=output_file,
            summary_file=summary_file,
        )
    assert_refused(
        extractor,
        here,
        "are one file",
        input_file="in.txt",
        output_dir="out",
        summary_file="link/in.jsonl",
    )


def test_outputs_of_a_folder_are_not_each_other_nor_an_input(
    extractor: FeatureExtractor, here: Path
) -> None:
    Path("in").mkdir()
    Path("out").mkdir()
    for name in ("a.txt", "b.txt", "a.jsonl"):
        (Path("in") / name).write_bytes(TEXT)
    assert_refused(
        extractor,
        here,
        "in/a.jsonl would be written (the output), and it is read",
        input_file="in/*",
        output_dir="in",
    )
    Path("out/b.jsonl").symlink_to("a.jsonl")
    assert_refused(
        extractor,
        here,
        "out/a.jsonl (the output) and out/b.jsonl (the output) are one file",
        input_file="in/*.txt",
        output_dir="out",
    )


# -------------------------------------------------------------- what stands there


@pytest.mark.parametrize("suffix", ["", *BESIDE])
def test_a_file_of_somebody_else_stays_unless_told(
    extractor: FeatureExtractor, here: Path, suffix: str
) -> None:
    Path("in.txt").write_bytes(TEXT)
    theirs = Path(f"out.h5{suffix}")
    theirs.write_bytes(THEIRS)
    fields = {"input_file": "in.txt", "output_file": "out.h5"}
    for resume in (False, True):
        assert_refused(
            extractor,
            here,
            f"{theirs}: ",
            f"which this tool did not write: it begins with {THEIRS!r}",
            "or say --overwrite",
            resume=resume,
            **fields,
        )
    extractor.run_job(Job(**fields, overwrite=True))  # type: ignore[arg-type]
    assert len(load_features("out.h5")) == 2


@pytest.mark.parametrize("suffix", ["", ".tmp"])
def test_a_summary_replaces_summaries_alone(
    extractor: FeatureExtractor, here: Path, suffix: str
) -> None:
    Path("in.txt").write_bytes(TEXT)
    fields: dict[str, Any] = {"input_file": "in.txt", "output_file": "out.jsonl"}
    fields["summary_file"] = "run"
    for content in (THEIRS, RECORD, b"{}", b'{\n "fingerprint": {'):
        Path(f"run{suffix}").write_bytes(content)
        assert_refused(
            extractor, here, f"run{suffix}: the summary", "--overwrite", **fields
        )
    extractor.run_job(Job(**fields, overwrite=True))
    made = Path("run").read_bytes()
    extractor.run_job(Job(**fields))
    if suffix:  # of a run that died while it wrote it
        Path("run.tmp").write_bytes(made[:9])
        extractor.run_job(Job(**fields))
    assert sorted(os.listdir()) == ["in.txt", "out.jsonl", "out.jsonl.run.json", "run"]


def foreign(path: Path, format_name: str) -> None:
    """A file of a format's that holds something else than records."""
    if format_name == "jsonl":
        path.write_bytes(b'{"text": "mine"}\n')
    elif format_name == "jsonl.gz":
        path.write_bytes(gzip.compress(THEIRS))
    elif format_name == "jsonl.zst":
        path.write_bytes(zstandard.compress(THEIRS))
    elif format_name == "hdf5":
        with h5py.File(path, "w") as file:
            file["mine"] = [1, 2]
    else:
        pyarrow.parquet.write_table(pyarrow.table({"mine": [1, 2]}), path)


@pytest.mark.parametrize("format_name", [each.name for each in FORMATS])
def test_an_output_of_any_format_is_replaced_and_nothing_that_looks_like_one(
    extractor: FeatureExtractor, here: Path, format_name: str
) -> None:
    Path("in.txt").write_bytes(TEXT)
    job = Job(input_file="in.txt", output_file="out", output_format=format_name)
    extractor.run_job(job)
    for run_file_is_there in (True, False):
        if not run_file_is_there:
            os.unlink("out.run.json")
        extractor.run_job(Job(input_file="in.txt", output_file="out"))
        extractor.run_job(job)
        assert len(load_features("out")) == 2
    foreign(Path("out"), format_name)
    assert_refused(
        extractor, here, "out: the output", input_file="in.txt", output_file="out"
    )
    # Cut in the middle, and nobody says whose it was.
    foreign(Path("out"), format_name)
    os.truncate("out", os.path.getsize("out") // 2)
    assert_refused(
        extractor, here, "out: the output", input_file="in.txt", output_file="out"
    )


@pytest.mark.parametrize("format_name", [each.name for each in FORMATS])
def test_an_output_of_no_lines_is_replaced(
    extractor: FeatureExtractor, here: Path, format_name: str
) -> None:
    Path("empty.txt").touch()
    job = Job(input_file="empty.txt", output_file="out", output_format=format_name)
    extractor.run_job(job)
    os.unlink("out.run.json")
    extractor.run_job(job)


def test_the_originals_output_is_replaced(
    extractor: FeatureExtractor, golden_dir: Path, here: Path
) -> None:
    Path("in.txt").write_bytes(TEXT)
    originals = [
        path
        for path in golden_dir.rglob("*.jsonl")
        if path.read_bytes().startswith(b'{"linex_index"')
    ]
    assert originals
    shutil.copy(originals[0], "out.jsonl")
    extractor.extract_file("in.txt", "out.jsonl")
    assert len(load_features("out.jsonl")) == 2


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("left", [b"", b'{"lin', RECORD * 3, b"\0" * 40, RECORD + b"{"])
def test_what_a_run_left_that_died_is_ours(
    extractor: FeatureExtractor, here: Path, left: bytes, resume: bool
) -> None:
    Path("in.txt").write_bytes(TEXT)
    kind = OutputSpec(JSONL, RecordSchema((-1,), 32))
    writer = open_writer("out.jsonl", kind, {}, resume=False)
    shutil.copy("out.jsonl.partial.run.json", "run file")
    writer.suspend()
    shutil.move("run file", "out.jsonl.partial.run.json")
    Path("out.jsonl.partial").write_bytes(left)
    Path("out.jsonl.partial.run.json.tmp").write_bytes(b'{\n "fing')
    job = Job(input_file="in.txt", output_file="out.jsonl", resume=resume)
    if resume and left:
        # It is another run's, which is not for the guard to say.
        with pytest.raises(OutputError, match="made by a different run"):
            extractor.run_job(job)
        return
    extractor.run_job(job)
    assert len(load_features("out.jsonl")) == 2


def test_what_comes_while_the_model_is_loaded_is_not_replaced(
    extractor: FeatureExtractor, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("in.txt").write_bytes(TEXT)
    model = extractor._engine.model
    load = model.load

    def load_slowly() -> LoadedModel:
        Path("q.partial").write_bytes(THEIRS)
        return load()

    monkeypatch.setattr(model, "load", load_slowly)
    with pytest.raises(OutputError, match=r"q\.partial: .* this tool did not write"):
        extractor.extract_file("in.txt", "q")
    assert Path("q.partial").read_bytes() == THEIRS


# ---------------------------------------------------------------------------- globs


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    logging.set_verbosity(logging.INFO)
    return caplog


def test_a_glob_with_a_scheme_leaves_it_out_as_well(
    extractor: FeatureExtractor, here: Path
) -> None:
    Path("in.txt").write_bytes(TEXT)
    job = Job(input_file=f"file://{here}/*", output_dir=str(here))
    for _ in range(2):
        (summary,) = extractor.run_job(job)
        assert summary.num_lines == 2


def test_a_glob_leaves_out_log_files(
    model: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of this run, and of others."""
    Path("in.txt").write_bytes(TEXT)
    flags = [*flags_for(model), "--layers=-1", "--input_file=*", "--output_file=out"]
    for _ in range(2):
        assert cli.main(["bert-extract", *flags, "--log_dir=."]) == 0
    assert cli.main(["bert-extract", *flags]) == 0
    assert "log.INFO" in capsys.readouterr().err
    assert Path("out").read_bytes().count(b"\n") == 2


@pytest.mark.parametrize("format_name", [each.name for each in FORMATS])
def test_a_glob_leaves_out_what_this_tool_wrote(
    extractor: FeatureExtractor,
    here: Path,
    format_name: str,
    log: pytest.LogCaptureFixture,
) -> None:
    Path("c").mkdir()
    Path("c/a.txt").write_bytes(TEXT)
    Path("c/b.txt.gz").write_bytes(gzip.compress(TEXT))
    Path("c/none.txt").touch()
    folder = PartsFolder("c/all.parts")
    folder.begin("run", {}, {})
    for output_file in ("c/all", "c/all", "c/other"):
        log.clear()
        job = Job(
            input_file="c/*",
            output_file=output_file,
            output_format=format_name,
            summary_file="c/run.json",
        )
        (summary,) = extractor.run_job(job)
        assert summary.num_lines == 4
    told = [line for line in log.messages if "left out" in line]
    assert told == [
        "--input_file: left out because this tool wrote them: c/all, c/all.parts, "
        "c/all.run.json, c/run.json"
    ]


def test_a_folder_may_hold_texts_and_outputs(
    extractor: FeatureExtractor, here: Path
) -> None:
    Path("c").mkdir()
    Path("c/a.txt").write_bytes(TEXT)
    Path("c/none.txt").touch()
    for resume in (False, True, False):
        summaries = extractor.run_job(
            Job(input_file="c/*", output_dir="c", resume=resume)
        )
        assert [summary.error for summary in summaries] == [None, None]
    assert sorted(os.listdir("c")) == [
        *("a.jsonl", "a.jsonl.run.json", "a.txt"),
        *("none.jsonl", "none.jsonl.run.json", "none.txt"),
    ]


def test_what_is_named_is_read_and_globs_may_match_nothing_else(
    extractor: FeatureExtractor, here: Path
) -> None:
    Path("in.txt").write_bytes(TEXT)
    extractor.extract_file("in.txt", "x.jsonl")
    assert extractor.extract_file("x.jsonl", "y.jsonl").num_lines == 2
    with pytest.raises(
        InputError, match=r"x\*: this tool wrote everything that matches"
    ):
        extractor.extract_file("x*", "z.jsonl")
    # A person's JSON is text like any other.
    Path("{.txt").write_bytes(b"{\n")
    assert extractor.extract_file("*.txt", "z.jsonl").num_lines == 3


# -------------------------------------------------------------------- nothing else


_opened: list[str] | None = None


def _note_writing(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened is None or event != "open" or not isinstance(arguments[0], str):
        return
    if (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        _opened.append(arguments[0])


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """The files that are opened for writing; a hook stays as long as its process."""
    global _opened
    sys.addaudithook(_note_writing)
    _opened = []
    yield _opened
    _opened = None


@pytest.mark.parametrize("output_file", ["out.jsonl", "out.gz", "out.h5", "o.parquet"])
def test_the_guard_knows_every_file_that_is_written(
    extractor: FeatureExtractor, here: Path, output_file: str, opened: list[str]
) -> None:
    Path("in.txt").write_bytes(TEXT)
    del opened[:]
    extractor.extract_file("in.txt", output_file, summary_file="run.json")
    written = {os.path.relpath(path) for path in opened if path != os.devnull}
    named_files = guard._files_of(output_file) + guard._files_of_summary("run.json")
    assert f"{output_file}.partial" in written
    assert written <= {named.path for named in named_files}
