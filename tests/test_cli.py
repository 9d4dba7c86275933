"""The command: its flags, its streams, its exit codes, what it says and what not."""

import builtins
import gzip
import json
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bert_extract import __version__, cli
from bert_extract.parsing import parse
from support.running import REPOSITORY, TIMEOUT, flags_for, run_command

ORIGINAL_DEFAULTS = {
    "input_file": "",
    "output_file": "",
    "layers": "-1,-2,-3,-4",
    "bert_config_file": "",
    "max_seq_length": 128,
    "init_checkpoint": "",
    "vocab_file": "",
    "do_lower_case": None,  # true, unless a file of the tokenizer says otherwise
    "batch_size": 32,
    "use_tpu": False,
    "master": None,
    "num_tpu_cores": 8,
    "use_one_hot_embeddings": False,
}


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def tiny_flags(tiny_bert: Path) -> list[str]:
    return flags_for(tiny_bert, layers="-1,0")


@pytest.fixture(scope="module")
def text_file(golden_dir: Path) -> Path:
    return golden_dir / "input.txt"


@pytest.fixture(scope="module")
def expected(
    tiny_flags: list[str], text_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> bytes:
    """What the command writes for the text, whichever way it comes and goes."""
    output_file = tmp_path_factory.mktemp("expected") / "output.jsonl"
    assert run_here([*tiny_flags, *io_flags(text_file, output_file)]) == 0
    return output_file.read_bytes()


def io_flags(input_file: Path | str, output_file: Path | str) -> list[str]:
    return [f"--input_file={input_file}", f"--output_file={output_file}"]


def run_here(flags: list[str]) -> int:
    """The command in this process: its exit code."""
    return cli.main(["bert-extract", *flags])


# --------------------------------------------------------------------------- flags


def test_the_flags_of_the_original_have_its_defaults() -> None:
    values = cli.make_flags()
    defaults = {name: values[name].default for name in ORIGINAL_DEFAULTS}
    assert defaults == ORIGINAL_DEFAULTS


@pytest.mark.parametrize("name", list(cli.make_flags()))
def test_every_flag_has_a_sentence_of_help(name: str) -> None:
    help_text = cli.make_flags()[name].help
    assert len(help_text.split()) >= 5
    assert help_text.endswith(".")
    assert f"--{name}" in cli.help_text()


def test_nothing_at_all_shows_how_it_is_used(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_here([]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "--model_dir=uncased_L-12_H-768_A-12" in shown.err
    assert shown.err.endswith("--help lists the flags.\n")


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_shows_defaults_and_choices_once(
    capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    assert run_here([flag]) == 0
    shown = capsys.readouterr().out
    assert "--max_seq_length (default 128)\n" in shown
    assert "--resume (default false)\n" in shown
    assert "--do_lower_case\n" in shown
    assert shown.count("strict|replace|ignore") == 1
    assert max(map(len, shown.splitlines())) <= 79


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here(["--version"]) == 0
    assert capsys.readouterr().out == f"bert-extract {__version__}\n"


def test_help_costs_a_fraction_of_tensorflow() -> None:
    def cpu_seconds(*arguments: str) -> float:
        before = os.times()
        subprocess.run(
            [sys.executable, *arguments],
            check=True,
            capture_output=True,
            timeout=TIMEOUT,
        )
        after = os.times()
        return (
            after.children_user
            + after.children_system
            - before.children_user
            - before.children_system
        )

    of_help = min(cpu_seconds("-m", "bert_extract", "--help") for _ in range(2))
    assert of_help < cpu_seconds("-c", "import tensorflow") / 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--use_tpu=true"], "--use_tpu=true: this tool runs on GPU and CPU"),
        (["--use_tpu"], "--use_tpu=true: this tool runs on GPU and CPU"),
        (["input.txt"], "every argument is a flag, as in --input_file=FILE; found 'i"),
        (["--do_lower_case", "False"], "every argument is a flag"),
        (["--no_such_flag=1"], "Unknown command line flag 'no_such_flag'"),
        (["--batch-size=8"], "Did you mean: batch_size ?"),
        (["--batch_size=many"], "--batch_size=many: expected a whole number ("),
        (["--batch_size=1.5"], "--batch_size=1.5: expected a whole number ("),
        (["--do_lower_case=perhaps"], "--do_lower_case=perhaps: expected true or fal"),
        (["--resume="], "--resume=: expected true or false ("),
        (["--nodo_lower_case=true"], "--nodo_lower_case=true does not take an argum"),
        (["--nouse_tpu=false"], "--nouse_tpu=false does not take an argument"),
        (["--errors=surrogateescape"], "--errors=surrogateescape: value should be "),
        (["--layers"], "Missing value for flag --layers"),
        (["--stderrthreshold=loud"], "--stderrthreshold=loud: value should be one of"),
        (["--log_dir=/none"], "--log_dir: /none: expected a folder that is there"),
        (
            # Even those that it has anyway: they would have no effect.
            [
                *("--unit=sentence", "--sentence_pooling=pooler"),
                "--layers=-1,-2,-3,-4",
            ],
            "--layers: with --sentence_pooling=pooler there are no layers to choose",
        ),
        # So are others whose value is the default's, but are there.
        (["--word_pooling=mean"], "--word_pooling=mean is for --unit=word; found --un"),
        (
            ["--unit=word", "--sentence_pooling=mean"],
            "--sentence_pooling=mean is for --unit=sentence; found --unit=word",
        ),
        (["--doc_stride=0"], "--doc_stride=0 is for --long_text=window; found --long"),
        (["--flagfile=/none/x"], "--flagfile=/none/x: cannot read it: No such file"),
        (["--flagfile=/"], "--flagfile=/: cannot read it: Is a directory ("),
        (["--flagfile"], "--flagfile with no argument"),
        (["--layers=-1"], "--vocab_file must be given"),
    ],
)
def test_wrong_flags_end_with_2(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here(flags) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("bert-extract: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_a_flag_that_changes_nothing_is_found_in_a_flagfile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flagfile = tmp_path / "job.flags"
    flagfile.write_text("--layers=-1,-2,-3,-4\n")
    flags = ["--unit=sentence", "--sentence_pooling=pooler", f"--flagfile={flagfile}"]
    assert run_here(flags) == 2
    assert "--layers: with --sentence_pooling=pooler" in capsys.readouterr().err


def test_a_flagfile_that_is_no_text_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also one that another one names."""
    inner = tmp_path / "inner.flags"
    inner.write_bytes("--input_file=caf\xe9.txt\n".encode("latin-1"))
    outer = tmp_path / "outer.flags"
    outer.write_text(f"--flagfile={inner}\n")
    assert run_here([f"--flagfile={outer}"]) == 2
    assert capsys.readouterr().err == (
        f"bert-extract: --flagfile={inner}: expected flags in UTF-8, one a line; found "
        "the byte 0xe9 (--help lists the flags)\n"
    )
    outer.write_text("--flagfile=a\0b\n")
    assert run_here([f"--flagfile={outer}"]) == 2
    assert "cannot read it: embedded null byte" in capsys.readouterr().err


def test_a_flagfile_within_a_flagfile_is_found_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One where the command runs comes first, as with absl alone."""
    here, far = tmp_path / "here", tmp_path / "far" / "more"
    here.mkdir()
    far.mkdir(parents=True)
    monkeypatch.chdir(here)
    (far.parent / "outer.flags").write_text("--layers=1\n--flagfile=more/inner.flags\n")
    (far / "inner.flags").write_text("--flagfile=last.flags\n--batch_size=3\n")
    (far / "last.flags").write_text("--max_seq_length=17\n--flagfile=\n")
    names = ["../far/outer.flags", "../far/more/inner.flags", "../far/more/last.flags"]
    values = read_flags(["--flagfile=../far/outer.flags"])
    assert (values.layers, values.batch_size, values.max_seq_length) == ("1", 3, 17)
    assert sorted(values.flagfiles) == sorted([*names, ""])
    (here / "last.flags").write_text("--max_seq_length=18\n")
    assert read_flags(["--flagfile=../far/outer.flags"]).max_seq_length == 18


def read_flags(arguments: list[str]) -> Any:
    values = cli.make_flags()
    assert parse(values, ["bert-extract", *arguments]) == []
    return values


def test_a_flagfile_within_a_flagfile_that_is_nowhere_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outer = tmp_path / "outer.flags"
    outer.write_text("--flagfile=inner.flags\n")
    assert run_here([f"--flagfile={outer}"]) == 2
    assert capsys.readouterr().err == (
        "bert-extract: --flagfile=inner.flags: cannot read it: No such file or "
        f"directory, neither here nor beside {outer}, which names it (--help lists the "
        "flags)\n"
    )


def test_flagfiles_that_name_each_other_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever they call each other."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.flags").write_text("--flagfile=../a/y.flags\n--layers=1\n")
    (tmp_path / "a" / "y.flags").write_text("--flagfile=../a/x.flags\n--batch_size=3\n")
    values = read_flags([f"--flagfile={tmp_path}/a/x.flags"])
    assert (values.layers, values.batch_size) == ("1", 3)
    assert "circular" in capsys.readouterr().err


# ------------------------------------------------------------------ absl's own flags


def test_only_check_args_does_nothing_else(
    tiny_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*tiny_flags, *io_flags(tmp_path / "none", tmp_path / "output.jsonl")]
    assert run_here([*flags, "--only_check_args"]) == 0
    assert run_here([*flags, "--only_check_args", "--max_seq_length=2"]) == 2
    assert "--max_seq_length must be at least 3" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def log_of(log_dir: Path) -> str:
    (log_file,) = log_dir.iterdir()
    assert log_file.name.startswith("bert-extract.")
    return log_file.read_text()


@pytest.mark.parametrize(
    ("flags", "is_kept", "num_said"),
    [
        ([], True, 0),
        (["--stderrthreshold=WARN"], True, 2),
        (["--stderrthreshold=0"], True, 4),
        (["--alsologtostderr"], True, 4),
        (["--logtostderr"], False, 4),
    ],
)
def test_a_log_file_gets_what_is_logged(
    tiny_flags: list[str],
    text_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    is_kept: bool,
    num_said: int,
) -> None:
    log_flags = [f"--log_dir={tmp_path}", *flags]
    assert run_here([*tiny_flags, *io_flags(text_file, "/dev/null"), *log_flags]) == 0
    said = capsys.readouterr().err.splitlines()
    assert len(said) == num_said
    if not is_kept:
        assert list(tmp_path.iterdir()) == []
        return
    kept = log_of(tmp_path).splitlines()
    assert len(kept) == 4
    assert all(line.startswith("I") for line in kept[:2])
    assert kept[0].endswith("] CPU, 2 threads, float32")
    assert kept[2].startswith("W")
    assert "lines longer than --max_seq_length" in kept[2]


def test_what_is_in_doubt_is_told_beside_a_log_file_too(
    tiny_bert: Path, text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cron's mail is standard error."""
    vocab_file = tmp_path / "vocab.txt"
    lines = (tiny_bert / "vocab.txt").read_text().split("\n")
    vocab_file.write_text("\n".join(lines[:300] + lines[301:]))
    (tmp_path / "logs").mkdir()
    flags = flags_for(tiny_bert, vocab_file=vocab_file, layers="0")
    flags += [*io_flags(text_file, "/dev/null"), "--verbosity=-1"]
    assert run_here([*flags, f"--log_dir={tmp_path / 'logs'}"]) == 0
    (said,) = capsys.readouterr().err.splitlines()
    assert f"WARNING: {vocab_file}: has 722 tokens" in said
    assert "has 722 tokens" in log_of(tmp_path / "logs")


def test_the_last_error_is_in_the_log_file_too(
    tiny_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "logs").mkdir()
    flags = [*tiny_flags, *io_flags(tmp_path / "none", "/dev/null")]
    assert run_here([*flags, f"--log_dir={tmp_path / 'logs'}"]) == 1
    message = f"{tmp_path / 'none'}: no such file\n"
    assert capsys.readouterr().err == f"bert-extract: {message}"
    assert log_of(tmp_path / "logs").endswith(f"] {message}")
    # What comes after it logs to standard error again.
    assert run_here(flags) == 1
    assert "bert-extract: CPU, " in capsys.readouterr().err
    assert len(list((tmp_path / "logs").iterdir())) == 1


def test_verbosity_has_a_short_name_and_info_a_prefix_that_can_go(
    tiny_flags: list[str], text_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*tiny_flags, *io_flags(text_file, "/dev/null")]
    assert run_here([*flags, "--v=-1"]) == 0
    assert capsys.readouterr().err == ""
    assert run_here([*flags, "-v", "0", "--noshowprefixforinfo"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("CPU, ")
    assert lines[-1].startswith("bert-extract: WARNING: lines with '|||'")
    assert cli.help_text().count("--v ") == 1  # in the sentence of --verbosity


def test_flags_of_the_original_that_mean_nothing_change_nothing(
    tiny_flags: list[str], text_file: Path, tmp_path: Path, expected: bytes
) -> None:
    output_file = tmp_path / "output.jsonl"
    old = ["--use_tpu=false", "--master=grpc://10.0.0.2:8470", "--num_tpu_cores=16"]
    flags = [*tiny_flags, *old, "--use_one_hot_embeddings=true"]
    assert run_here([*flags, *io_flags(text_file, output_file)]) == 0
    assert output_file.read_bytes() == expected


def test_a_flagfile_is_flags(
    tiny_flags: list[str], text_file: Path, tmp_path: Path, expected: bytes
) -> None:
    flagfile = tmp_path / "job.flags"
    flagfile.write_text("# the model\n" + "\n".join(tiny_flags) + "\n--nouse_tpu\n")
    output_file = tmp_path / "output.jsonl"
    flags = [f"--flagfile={flagfile}", *io_flags(text_file, output_file)]
    assert run_here(flags) == 0
    assert output_file.read_bytes() == expected


# --------------------------------------------------------------- inputs and outputs


def run_to_file(tiny_flags: list[str], input_file: str, output_file: Path) -> bytes:
    assert run_here([*tiny_flags, *io_flags(input_file, output_file)]) == 0
    return output_file.read_bytes()


def with_indexes_from_0(lines: list[bytes]) -> bytes:
    numbered = []
    for index, line in enumerate(lines):
        head, comma, rest = line.partition(b",")
        numbered.append(b'{"linex_index": %d' % index + comma + rest)
        assert head.startswith(b'{"linex_index": ')
    return b"".join(numbered)


def test_linex_index_runs_on_over_all_files(
    tiny_flags: list[str],
    text_file: Path,
    expected: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = text_file.read_bytes().split(b"\n")[:-1]
    records = expected.splitlines(keepends=True)
    monkeypatch.chdir(tmp_path)
    # Without a newline at its end, and not joined to the next.
    Path("b.txt").write_bytes(b"\n".join(lines[:5]))
    Path("a,b.txt").write_bytes(b"\n".join(lines[5:7]) + b"\n")
    Path("B.txt.gz").write_bytes(gzip.compress(b"\n".join(lines[7:9])))
    Path("[b].txt").write_bytes(lines[9] + b"\n")
    Path("empty.txt").touch()
    output_file = tmp_path / "output.jsonl"
    cases = {
        "b.txt,B.txt.gz": [*records[:5], *records[7:9]],
        # Sorted by bytes: "B.txt.gz", "[b].txt", "b.txt".
        "[Bb\\[]*": [*records[7:9], records[9], *records[:5]],
        "a,b.txt": records[5:7],
        "[b].txt": [records[9]],
        "empty.txt": [],
        "empty.txt,b.txt,empty.txt": records[:5],
    }
    for input_file, expected_records in cases.items():
        output = run_to_file(tiny_flags, input_file, output_file)
        assert output == with_indexes_from_0(expected_records), input_file


def test_gzip_out_is_the_same_inside(
    tiny_flags: list[str], text_file: Path, expected: bytes, tmp_path: Path
) -> None:
    compressed = run_to_file(tiny_flags, str(text_file), tmp_path / "output.jsonl.gz")
    assert gzip.decompress(compressed) == expected
    assert compressed[4:8] == bytes(4)  # no time: the same bytes each time


def test_a_symbolic_link_is_followed_and_its_target_replaced(
    tiny_flags: list[str], text_file: Path, expected: bytes, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "target.jsonl"
    target.write_text('{"linex_index": 0, old')
    link = tmp_path / "output.jsonl"
    link.symlink_to(target)
    assert run_to_file(tiny_flags, str(text_file), link) == expected
    assert link.is_symlink()
    assert target.read_bytes() == expected
    assert sorted(p.name for p in tmp_path.iterdir()) == ["elsewhere", "output.jsonl"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_permissions_are_the_umasks(
    tiny_flags: list[str], text_file: Path, tmp_path: Path, umask: int, mode: int
) -> None:
    output_file = tmp_path / "output.jsonl"
    before = os.umask(umask)
    try:
        run_to_file(tiny_flags, str(text_file), output_file)
    finally:
        os.umask(before)
    assert stat.S_IMODE(output_file.stat().st_mode) == mode


def test_a_device_is_written_to_and_stays(
    tiny_flags: list[str], text_file: Path
) -> None:
    assert run_here([*tiny_flags, *io_flags(text_file, "/dev/null")]) == 0
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert not os.path.exists("/dev/null.partial")


def test_a_fifo_is_written_to_and_stays(
    tiny_flags: list[str], text_file: Path, expected: bytes, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    output_file = tmp_path / "output.jsonl"
    with (
        output_file.open("wb") as output,
        subprocess.Popen(["cat", str(fifo)], stdout=output) as reader,
    ):
        assert run_here([*tiny_flags, *io_flags(text_file, fifo)]) == 0
        assert reader.wait(TIMEOUT) == 0
    assert output_file.read_bytes() == expected
    assert fifo.is_fifo()


@pytest.fixture(scope="module")
def piped(
    tiny_flags: list[str], text_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> "subprocess.CompletedProcess[bytes]":
    """From - to -, in a folder that cannot be written to, with an empty environment."""
    cwd = tmp_path_factory.mktemp("readonly")
    cwd.chmod(0o555)
    completed = run_command(
        [*tiny_flags, *io_flags("-", "-"), "--verbosity=-1"],
        stdin=text_file.read_bytes(),
        cwd=cwd,
        # But for what says which kernels compute, here as there.
        env={name: value for name, value in os.environ.items() if "ONEDNN" in name},
    )
    assert list(cwd.iterdir()) == []
    return completed


def test_standard_input_and_output(
    piped: "subprocess.CompletedProcess[bytes]", expected: bytes
) -> None:
    assert piped.returncode == 0
    assert piped.stdout == expected


def test_success_is_silent_when_only_errors_are_wanted(
    piped: "subprocess.CompletedProcess[bytes]",
) -> None:
    assert piped.stderr == b""


@pytest.mark.parametrize("redirect", [">", ">>"])
def test_dev_stdout_is_standard_output(
    tiny_flags: list[str],
    text_file: Path,
    expected: bytes,
    tmp_path: Path,
    redirect: str,
) -> None:
    output_file = tmp_path / "output.jsonl"
    output_file.write_bytes(b"before\n")
    command = [sys.executable, "-m", "bert_extract", *tiny_flags]
    command += io_flags(text_file, "/dev/stdout")
    completed = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirect} "$0"', str(output_file), *command],
        env={**os.environ, "LANG": "C", "LC_ALL": "C"},
        timeout=TIMEOUT,
        capture_output=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    before = b"before\n" if redirect == ">>" else b""
    assert output_file.read_bytes() == before + expected
    assert [path.name for path in tmp_path.iterdir()] == ["output.jsonl"]


def test_a_closed_pipe_ends_the_run_quietly(
    tiny_flags: list[str], text_file: Path
) -> None:
    command = [sys.executable, "-m", "bert_extract", *tiny_flags, "--verbosity=-1"]
    with subprocess.Popen(
        [*command, *io_flags(text_file, "-")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert len(process.stdout.read(100)) == 100
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait(TIMEOUT) == 141
    assert said == b""


HELP = '"$0" -m bert_extract --help'


def test_help_into_a_closed_pipe_is_quiet() -> None:
    completed = subprocess.run(
        ["bash", "-c", f"{HELP} | true; echo ${{PIPESTATUS[0]}}", sys.executable],
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert completed.stdout in (b"0\n", b"141\n")
    assert completed.stderr == b""


def test_an_output_that_exists_is_untouched_by_a_run_that_fails(
    tiny_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    input_file = tmp_path / "input.txt"
    input_file.write_bytes(b"fine\n" * 9 + b"M\xe4rz\n")
    output_file = tmp_path / "output.jsonl"
    output_file.write_bytes(b'{"linex_index": 0, old')
    assert run_here([*tiny_flags, *io_flags(input_file, output_file)]) == 1
    assert output_file.read_bytes().endswith(b"old")
    assert f"{input_file}: line 10 is not UTF-8" in capsys.readouterr().err


def test_remote_paths_go_through_tensorflow(
    tiny_flags: list[str], text_file: Path, expected: bytes
) -> None:
    import tensorflow as tf

    lines = text_file.read_bytes().split(b"\n")  # the last one has no newline
    for name, part in (("a.txt", lines[:20]), ("b.txt.gz", lines[20:])):
        content = b"\n".join(part) + b"\n"
        with tf.io.gfile.GFile(f"ram://in/{name}", "wb") as file:
            file.write(gzip.compress(content) if name.endswith("gz") else content)
    for name in ("ram://out.jsonl", "ram://out.jsonl.gz"):
        assert run_here([*tiny_flags, *io_flags("ram://in/*.txt*", name)]) == 0
        with tf.io.gfile.GFile(name, "rb") as file:
            output = file.read()
        assert (gzip.decompress(output) if name.endswith("gz") else output) == expected
    assert not tf.io.gfile.glob("ram://out.jsonl.p*")


# ------------------------------------------------------------------------ what it says


def test_the_first_line_names_the_device_and_the_last_ones_sum_up(
    tiny_flags: list[str],
    text_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output_file = tmp_path / "output.jsonl"
    flags = [*tiny_flags, "--num_threads=3", *io_flags(text_file, output_file)]
    assert run_here(flags) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    first, *_, summary, truncated, unsplit = captured.err.splitlines()
    assert first == "bert-extract: CPU, 3 threads, float32"
    for part in ("37 lines (6 pairs, 4 truncated)", "487 tokens", " s, ", "tokens/s"):
        assert part in summary
    assert summary.startswith(f"bert-extract: {output_file}: ")
    assert truncated.startswith("bert-extract: WARNING: lines longer than --max")
    assert unsplit.startswith("bert-extract: WARNING: lines with '|||' that")
    assert "\r" not in captured.err  # no bar


def test_the_device_comes_before_the_vocabs_warnings(
    tiny_bert: Path,
    text_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    vocab_file = tmp_path / "vocab.txt"
    vocab = (tiny_bert / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
    vocab[100] = vocab[101]
    vocab_file.write_text("\n".join(vocab) + "\n", encoding="utf-8")
    flags = flags_for(tiny_bert, vocab_file=vocab_file)
    assert run_here([*flags, *io_flags(text_file, "/dev/null")]) == 0
    first, second, *_ = capsys.readouterr().err.splitlines()
    assert first.startswith("bert-extract: CPU, ")
    assert second.startswith(f"bert-extract: WARNING: {vocab_file}: 1 line is repeated")


def test_five_examples_are_shown_to_whoever_asks(
    tiny_flags: list[str], text_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*tiny_flags, "--verbosity=1", *io_flags(text_file, "/dev/null")]
    assert run_here(flags) == 0
    shown = capsys.readouterr().err
    assert shown.count("*** Example ***") == 5
    assert (
        "unique_id: 0\n"
        "tokens: [CLS] who was jim henson ? [SEP] jim henson was a puppet ##eer [SEP]\n"
        "input_ids: 7 454 455 456 457 40 8 456 457 455 74 488 693 8\n"
        "token_type_ids: 0 0 0 0 0 0 0 1 1 1 1 1 1 1\n"
    ) in shown


def test_an_error_is_said_even_when_only_errors_are_wanted(
    tiny_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*tiny_flags, "--verbosity=-1", *io_flags(tmp_path / "none", "/dev/null")]
    assert run_here(flags) == 1
    assert capsys.readouterr().err == f"bert-extract: {tmp_path}/none: no such file\n"


def test_a_vocab_that_lacks_a_line_reaches_the_mail_of_cron(
    tiny_bert: Path, text_file: Path, tmp_path: Path
) -> None:
    """All ids behind the line are wrong, and the run ends well."""
    vocab_file = tmp_path / "vocab.txt"
    lines = (tiny_bert / "vocab.txt").read_bytes().splitlines(keepends=True)
    del lines[len(lines) // 2]
    vocab_file.write_bytes(b"".join(lines))
    flags = [
        *flags_for(tiny_bert, vocab_file=vocab_file),
        f"--flagfile={REPOSITORY}/configs/cron.flags",
        *io_flags(text_file, tmp_path / "out.jsonl"),
    ]
    completed = run_command(flags)
    assert completed.returncode == 0
    (line,) = completed.stderr.decode().splitlines()
    assert line == (
        f"bert-extract: WARNING: {vocab_file}: has {len(lines)} tokens, and "
        f"{tiny_bert}/bert_config.json says vocab_size {len(lines) + 1}; is it the "
        "vocab of this checkpoint?"
    )
    completed = run_command(flags)  # it is complete, and was told of
    assert (completed.returncode, completed.stderr) == (0, b"")


def cased_vocab(tiny_bert: Path, folder: Path) -> dict[str, Any]:
    tokens = (tiny_bert / "vocab.txt").read_text(encoding="utf-8").split("\n")
    path = folder / "vocab.txt"
    cased = [token if token[:1] in ("[", "#") else token.title() for token in tokens]
    path.write_text("\n".join(cased), encoding="utf-8")
    return {"vocab_file": path}


def fewer_layers(tiny_bert: Path, folder: Path) -> dict[str, Any]:
    config = json.loads((tiny_bert / "bert_config.json").read_bytes())
    path = folder / "bert_config.json"
    path.write_text(json.dumps({**config, "num_hidden_layers": 4}))
    return {"bert_config_file": path}


def hugging_faces_config(tiny_bert: Path, folder: Path) -> dict[str, Any]:
    config = json.loads((tiny_bert / "bert_config.json").read_bytes())
    path = folder / "bert_config.json"
    path.write_text(json.dumps({**config, "model_type": "bert"}))
    return {"bert_config_file": path}


@pytest.mark.parametrize(
    ("break_it", "part"),
    [
        (cased_vocab, "use --do_lower_case=false."),
        (fewer_layers, "the last layer will be layer 3"),
        (hugging_faces_config, '"gelu" is the tanh form'),
    ],
)
def test_what_may_make_every_vector_wrong_is_told_to_cron(
    tiny_bert: Path,
    text_file: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    break_it: Callable[[Path, Path], dict[str, Any]],
    part: str,
) -> None:
    flags = [
        *flags_for(tiny_bert, **break_it(tiny_bert, tmp_path)),
        f"--flagfile={REPOSITORY}/configs/cron.flags",
        *io_flags(text_file, tmp_path / "out.jsonl"),
    ]
    assert run_here(flags) == 0
    # Lines of that text are truncated, which is no reason for a mail.
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bert-extract: WARNING: ")
    assert part in line


# ------------------------------------------------------------- before there is anything


STOP_AT_AN_IMPORT = """
import importlib.abc, os, runpy, signal, sys
module = sys.argv[1]
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.argv[0:2] = ["bert-extract"]
runpy.run_module("bert_extract", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("bert_extract.cli", ""),
        ("numpy", ""),
        ("bert_extract.logs", ""),
        ("tensorflow_text", "bert-extract: stopped by SIGINT\n"),
    ],
)
def test_whoever_interrupts_an_import_sees_no_traceback(
    tiny_flags: list[str], module: str, message: str
) -> None:
    flags = [*tiny_flags, *io_flags("/none", "/dev/null")]
    completed = subprocess.run(
        [sys.executable, "-c", STOP_AT_AN_IMPORT, module, *flags],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert completed.returncode == -signal.SIGINT  # 130 to a shell
    assert completed.stderr == message


def test_what_has_no_room_for_tensorflow_says_so(tiny_flags: list[str]) -> None:
    def leave_little_room() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (500 << 20, 500 << 20))

    completed = subprocess.run(
        [
            *(sys.executable, "-m", "bert_extract", *tiny_flags),
            *io_flags("/none", "/dev/null"),
        ],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
        preexec_fn=leave_little_room,
    )
    assert completed.returncode == 1
    assert completed.stderr.startswith("bert-extract: TensorFlow cannot be loaded: ")
    assert "ulimit -v" in completed.stderr
    assert completed.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "error", [ImportError("no such library"), MemoryError(), SystemError("odd")]
)
def test_whatever_keeps_tensorflow_away_is_one_message(
    tiny_flags: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
) -> None:
    def fail(name: str, *arguments: Any) -> Any:
        if name == "tensorflow_text":
            raise error
        return importing(name, *arguments)

    importing = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", fail)
    assert run_here([*tiny_flags, *io_flags("/none", "/dev/null")]) == 1
    said = capsys.readouterr().err
    reason = str(error) or "MemoryError"
    assert f"bert-extract: TensorFlow cannot be loaded: {reason}. It needs" in said


def test_a_run_out_of_memory_says_so(
    tiny_flags: list[str],
    text_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from bert_extract.engine import Engine

    def fail(*arguments: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(Engine, "_compute", fail)
    assert run_here([*tiny_flags, *io_flags(text_file, "/dev/null"), "--v=-1"]) == 1
    assert capsys.readouterr().err.startswith("bert-extract: there is not enough memo")


# ------------------------------------------------------------- streams that are closed


@pytest.mark.parametrize(
    ("redirect", "flags", "exit_code", "message"),
    [
        (
            "<&-",
            "--input_file=- --output_file=/dev/null",
            1,
            "standard input: cannot r",
        ),
        (">&-", "--input_file=$INPUT --output_file=-", 1, "standard output: cannot wr"),
        ("2>&-", "--input_file=$INPUT --output_file=$OUTPUT", 0, ""),
    ],
)
def test_streams_that_the_caller_closed(
    tiny_flags: list[str],
    text_file: Path,
    expected: bytes,
    tmp_path: Path,
    redirect: str,
    flags: str,
    exit_code: int,
    message: str,
) -> None:
    output_file = tmp_path / "output.jsonl"
    command = f'exec "$0" -m bert_extract "$@" {flags} {redirect}'
    completed = subprocess.run(
        ["sh", "-c", command, sys.executable, *tiny_flags],
        env={**os.environ, "INPUT": str(text_file), "OUTPUT": str(output_file)},
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert completed.returncode == exit_code
    assert message in completed.stderr.decode()
    assert b"Traceback" not in completed.stderr
    assert completed.stdout == b""
    if exit_code == 0:
        assert output_file.read_bytes() == expected


def test_a_gpu_that_cannot_be_used_is_said_loudly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from bert_extract.model import devices

    exists = os.path.exists
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(
        os.path, "exists", lambda path: path == "/dev/nvidiactl" or exists(path)
    )
    run_here(["--vocab_file=v", "--bert_config_file=b", "--init_checkpoint=c"])
    devices.warn_of_unusable_gpu()
    said = capsys.readouterr().err
    assert "WARNING: THERE IS A GPU THAT TENSORFLOW CANNOT USE" in said
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    devices.warn_of_unusable_gpu()
    assert capsys.readouterr().err == ""


def test_every_record_is_json_with_the_keys_of_the_original(expected: bytes) -> None:
    for index, line in enumerate(expected.splitlines()):
        record: dict[str, Any] = json.loads(line)
        assert list(record) == ["linex_index", "features"]
        assert record["linex_index"] == index
        assert [e["index"] for e in record["features"][0]["layers"]] == [-1, 0]


def test_nothing_is_written_but_beside_the_output(
    tiny_flags: list[str], text_file: Path, tmp_path: Path
) -> None:
    output_file = tmp_path / "output.jsonl"
    flags = [*tiny_flags, *io_flags(text_file, output_file), "--verbosity=-1"]
    completed = subprocess.run(
        [sys.executable, "-B", "-c", TELL_WHAT_IS_WRITTEN, *flags],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=True,
    )
    exit_code, *written = completed.stdout.splitlines()
    assert exit_code == "0"
    assert f"{output_file}.partial" in written
    elsewhere = {path for path in written if not path.startswith(str(output_file))}
    assert elsewhere <= {os.devnull}


TELL_WHAT_IS_WRITTEN = """
import os, sys
written = []
def hook(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        if arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            written.append(arguments[0])
    elif event in ("os.mkdir", "os.rename", "tempfile.mkstemp"):
        written.append(str(arguments[0]))
sys.addaudithook(hook)
from bert_extract import cli
print(cli.main(), *written, sep="\\n")
"""


def test_what_the_command_imports_does_not_find_matplotlib_and_others_do(
    tmp_path: Path,
) -> None:
    (tmp_path / "matplotlib.py").write_text("print('imported')\n")
    code = """
from bert_extract import process
with process.silent_imports():
    try:
        import matplotlib.pyplot
    except ImportError:
        print("hidden")
import matplotlib
with process.silent_imports():
    import matplotlib  # whoever has it keeps it
"""
    completed = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{REPOSITORY}"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=True,
    )
    assert completed.stdout.split() == ["hidden", "imported"]
