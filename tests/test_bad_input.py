"""What cannot work ends with one message, and with nothing under the output's name."""

import errno
import gzip
import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from bert_extract import cli
from support.make_checkpoints import read_tf1_checkpoint, write_tf1_checkpoint
from support.running import flags_for, run_command


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


class Run:
    """One run over a copy of the tiny checkpoint that a test may break."""

    def __init__(self, folder: Path, tiny_bert: Path) -> None:
        self.folder = folder
        self.model = folder / "model"
        shutil.copytree(tiny_bert, self.model)
        self.input = folder / "input.txt"
        self.input.write_bytes(b"the river bank\n" * 20)
        self.outputs = folder / "outputs"
        self.outputs.mkdir()
        self.output = self.outputs / "output.jsonl"
        self.options: dict[str, Any] = {}

    def flags(self) -> list[str]:
        options = {"input_file": self.input, "output_file": self.output, **self.options}
        return flags_for(self.model, **options)


@pytest.fixture
def run(tmp_path: Path, tiny_bert: Path) -> Run:
    return Run(tmp_path, tiny_bert)


Break = Callable[[Run], Any]


def options(**values: Any) -> Break:
    return lambda run: run.options.update(values)


def rewrite_vocab(edit: Callable[[list[str]], Any]) -> Break:
    def rewrite(run: Run) -> None:
        path = run.model / "vocab.txt"
        tokens = path.read_text(encoding="utf-8").split("\n")[:-1]
        edit(tokens)
        path.write_text("\n".join(tokens) + "\n", encoding="utf-8")

    return rewrite


def rewrite_config(**values: Any) -> Break:
    """Sets keys of the config; None takes them away."""

    def rewrite(run: Run) -> None:
        path = run.model / "bert_config.json"
        config = {**json.loads(path.read_bytes()), **values}
        path.write_text(
            json.dumps({key: v for key, v in config.items() if v is not None})
        )

    return rewrite


def rewrite_weights(edit: Callable[[dict[str, Any]], Any]) -> Break:
    def rewrite(run: Run) -> None:
        weights = read_tf1_checkpoint(run.model / "bert_model.ckpt")
        edit(weights)
        write_tf1_checkpoint(run.model / "bert_model.ckpt", weights)

    return rewrite


def drop_layer_norm(weights: dict[str, Any]) -> None:
    del weights["bert/embeddings/LayerNorm/gamma"]
    del weights["bert/encoder/layer_3/output/dense/bias"]


def cut(name: str, num_bytes: int) -> Break:
    def cut_file(run: Run) -> None:
        path = run.model / name
        os.truncate(path, path.stat().st_size - num_bytes)

    return cut_file


def write(name: str, content: bytes) -> Break:
    return lambda run: (run.folder / name).write_bytes(content)


def put_nan(weights: dict[str, Any]) -> None:
    # In what the word "bank" is turned into, and nowhere else.
    weights["bert/embeddings/word_embeddings"] = np.array(
        weights["bert/embeddings/word_embeddings"]
    )
    weights["bert/embeddings/word_embeddings"][506, 3] = np.nan


LFS_POINTER = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:"
    + b"0123456789abcdef" * 4
    + b"\nsize 90868376\n"
)

CASES: dict[str, tuple[Break, int, list[str]]] = {
    "no input": (
        options(input_file="/none/input.txt"),
        1,
        ["/none/input.txt: no such file"],
    ),
    "input is a folder": (
        lambda run: run.options.update(input_file=run.outputs),
        1,
        ["outputs: ", "Is a directory"],
    ),
    "glob without match": (
        options(input_file="/none/*.txt"),
        1,
        ["/none/*.txt: no file matches this pattern"],
    ),
    "not UTF-8": (
        write("input.txt", b"fine\n" * 3000 + b"M\xe4rz\n" + b"fine\n" * 10),
        1,
        ["input.txt: line 3001 is not UTF-8: byte 0xe4", "--errors=replace"],
    ),
    "not UTF-8 in gzip": (
        lambda run: [
            (run.folder / "x.gz").write_bytes(gzip.compress(b"fine\n\xff\n")),
            run.options.update(input_file=run.folder / "x.gz"),
        ],
        1,
        ["x.gz: line 2 is not UTF-8: byte 0xff"],
    ),
    "gzip cut off": (
        lambda run: [
            (run.folder / "x.gz").write_bytes(gzip.compress(b"fine\n" * 50)[:-4]),
            run.options.update(input_file=run.folder / "x.gz"),
        ],
        1,
        ["x.gz: not a whole gzip file"],
    ),
    "no vocab": (
        options(vocab_file="/none/vocab.txt"),
        1,
        ["/none/vocab.txt", "No such"],
    ),
    "vocab is empty": (
        write("model/vocab.txt", b""),
        1,
        ["vocab.txt", "an empty file"],
    ),
    "vocab is binary": (
        write("model/vocab.txt", b"[PAD]\n\x80\x02}q\n"),
        1,
        ["vocab.txt (line 2): expected UTF-8, found the byte 0x80"],
    ),
    "no [UNK], and a word that needs it": (
        lambda run: [
            rewrite_vocab(lambda tokens: tokens.remove("[UNK]"))(run),
            run.input.write_text(
                "the river bank\n" * 600 + "the \u2603\n", encoding="utf-8"
            ),
        ],
        1,
        [
            "the line with linex_index 600: a word of it is spelled by no wordpieces, "
            "and needs [UNK], which ",
            "vocab.txt does not have",
        ],
    ),
    "no [CLS] and [SEP]": (
        rewrite_vocab(lambda tokens: tokens.__delitem__(slice(7, 9))),
        1,
        ["vocab.txt: expected the wordpieces", "no [CLS] or [SEP]"],
    ),
    "vocab is too long, and a word needs its end": (
        lambda run: [
            rewrite_vocab(lambda tokens: tokens.extend(["", "zebra"]))(run),
            run.input.write_text("the river bank\n\nthe zebra ||| a bank\n"),
        ],
        1,
        [
            "the line with linex_index 2: 'zebra' (line 725 of ",
            "vocab.txt) has no embedding: ",
            "bert_config.json says vocab_size 723. Is it the vocab of this checkpoint?",
        ],
    ),
    "the last [CLS] has no embedding": (
        rewrite_vocab(lambda tokens: tokens.append("[CLS]")),
        1,
        ["'[CLS]' (line 724 of ", "vocab.txt) has no embedding: "],
    ),
    "no config": (
        options(bert_config_file="/none/c.json"),
        1,
        ["/none/c.json", "No such"],
    ),
    "config is no JSON": (
        write("model/bert_config.json", b"{'vocab_size': 3}"),
        1,
        ["bert_config.json: expected a JSON object; not valid JSON", "line 1 column 2"],
    ),
    "config lacks a key": (
        rewrite_config(vocab_size=None),
        1,
        [
            'bert_config.json: the key "vocab_size" is missing',
            "bert_model.ckpt has vocab_size 723",
        ],
    ),
    "config lacks a key that has another default": (
        rewrite_config(type_vocab_size=None),
        1,
        [
            "token_type_embeddings: expected [16, 32], found [2, 32]",
            "for which the original takes 16, and the checkpoint has 2: add "
            '"type_vocab_size": 2 to it',
        ],
    ),
    "config has nonsense": (
        rewrite_config(hidden_size="32"),
        1,
        ['"hidden_size" must be a whole number from 1', 'found "32"'],
    ),
    "config has another activation": (
        rewrite_config(hidden_act="swish"),
        1,
        ['"hidden_act" must be one of gelu, relu, tanh, linear; found "swish"'],
    ),
    "config of another size": (
        rewrite_config(hidden_size=64, num_attention_heads=8),
        1,
        [
            "bert_model.ckpt: 80 of 85 encoder variables are misshapen",
            "word_embeddings: expected [723, 64], found [723, 32]",
            "bert_config.json says hidden_size 64, the checkpoint has 32",
        ],
    ),
    "config with more layers": (
        rewrite_config(num_hidden_layers=6),
        1,
        [
            "16 of 101 encoder variables are missing",
            "bert/encoder/layer_5/output/dense/",
        ],
    ),
    "no checkpoint": (
        options(init_checkpoint="/none/bert_model.ckpt"),
        1,
        ["/none/bert_model.ckpt: no such checkpoint: there is no folder /none"],
    ),
    "a file of the checkpoint": (
        lambda run: run.options.update(
            init_checkpoint=run.model / "bert_model.ckpt.data-00000-of-00001"
        ),
        1,
        ["give the prefix that its files share: ", "bert_model.ckpt"],
    ),
    "checkpoint index is cut": (
        cut("bert_model.ckpt.index", 100),
        1,
        [
            "bert_model.ckpt.index: expected the index of a TensorFlow checkpoint; "
            "found a damaged or other file"
        ],
    ),
    "checkpoint data are cut": (
        cut("bert_model.ckpt.data-00000-of-00001", 200_000),
        1,
        ["bert_model.ckpt: the weights cannot be read"],
    ),
    "checkpoint lacks variables": (
        rewrite_weights(drop_layer_norm),
        1,
        [
            "2 of 85 encoder variables are missing",
            "bert/embeddings/LayerNorm/gamma",
            "bert/encoder/layer_3/output/dense/bias",
        ],
    ),
    **{
        f"a pointer of git-lfs instead of {name}": (
            write(f"model/{name}", LFS_POINTER),
            1,
            [f"model/{name}: expected the file itself; found git-lfs's po", "lfs pull"],
        )
        for name in (
            *("vocab.txt", "bert_config.json", "bert_model.ckpt.index"),
            "bert_model.ckpt.data-00000-of-00001",
        )
    },
    "a pointer of git-lfs instead of safetensors": (
        lambda run: [
            (run.folder / "model.safetensors").write_bytes(LFS_POINTER),
            run.options.update(init_checkpoint=run.folder / "model.safetensors"),
        ],
        1,
        ["model.safetensors: expected the file itself; found git-lfs's pointer"],
    ),
    "layer outside": (
        options(layers="-1,5"),
        2,
        ["--layers=-1,5: the model has 5 encoder layers, 0 to 4 or -5 to -1; found 5"],
    ),
    "layer is no number": (options(layers="top"), 2, ["--layers must be", "'top'"]),
    "max_seq_length too large": (
        options(max_seq_length=65),
        2,
        ["--max_seq_length=65", "64 positions", "bert_config.json"],
    ),
    "max_seq_length too small": (
        options(max_seq_length=2),
        2,
        ["--max_seq_length must be at least 3", "found 2"],
    ),
    "batch_size": (
        options(batch_size=0),
        2,
        ["--batch_size must be at least 1; found 0"],
    ),
    "no output folder": (
        options(output_file="/none/output.jsonl"),
        1,
        ["/none/output.jsonl: the folder /none is not there"],
    ),
    "output is a folder": (
        lambda run: run.options.update(output_file=run.outputs),
        1,
        ["expected a file to write; found a folder"],
    ),
    "full disk": (
        options(output_file="/dev/full"),
        1,
        ["/dev/full: cannot write it: No space left on device"],
    ),
    "not finite": (
        rewrite_weights(put_nan),
        1,
        ["linex_index 0, token ", "layer -1: expected finite values, found NaN or inf"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_one_message_and_no_output(
    case: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    break_it, exit_code, parts = CASES[case]
    break_it(run)
    assert cli.main(["bert-extract", *run.flags(), "--verbosity=-1"]) == exit_code
    captured = capsys.readouterr()
    message = captured.err
    for part in parts:
        assert part in message
    assert message.startswith("bert-extract: ")
    # All else that is said is what can be gone on with, and what was in doubt before.
    others = message.count(".partial holds") + message.count("bert-extract: WARNING: ")
    assert message.count("bert-extract: ") == 1 + others
    assert "Traceback" not in message
    assert captured.out == ""
    assert not run.output.exists()
    # A partial file is kept where it holds something, and only there.
    for path in run.outputs.glob("*.partial"):
        assert path.stat().st_size > 0


def test_the_first_vector_that_is_not_finite_is_named(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite_weights(put_nan)(run)
    run.input.write_bytes(b"the river\n" * 12 + b"the river bank\n")
    run.options = {"layers": "embeddings"}
    assert cli.main(["bert-extract", *run.flags()]) == 1
    assert (
        "linex_index 12, token 3 ('bank'), layer embeddings: expected finite values"
    ) in capsys.readouterr().err


def test_what_is_advised_of_a_gzip_file_that_was_cut_off_works(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = gzip.compress(b"the river bank\n" * 3000, 0)
    zipped = run.folder / "x.gz"
    zipped.write_bytes(whole[:40_000])
    run.options = {"input_file": zipped}
    assert cli.main(["bert-extract", *run.flags()]) == 1
    message = capsys.readouterr().err
    assert "Get a whole one ('gzip -t' checks it) and run again without --re" in message
    (hint,) = [line for line in message.split("\n") if ".partial holds" in line]
    assert hint.endswith(
        "lines; --resume goes on after them only with the very input that they were "
        "made from, its size and time included; with another one, run without "
        "--resume, from the beginning"
    )
    zipped.write_bytes(whole)
    assert cli.main(["bert-extract", *run.flags(), "--resume"]) == 1
    said = capsys.readouterr().err
    assert "made by a different run:\n" in said
    assert f"the input {zipped} had " in said
    assert cli.main(["bert-extract", *run.flags()]) == 0
    assert run.output.read_bytes().count(b"\n") == 3000


@pytest.mark.parametrize("errors", ["replace", "ignore"])
def test_bytes_that_are_not_utf8_can_be_read_all_the_same(
    run: Run, errors: str
) -> None:
    run.input.write_bytes(b"the ri\xffver\nthe river\n")
    run.options = {"errors": errors}
    assert cli.main(["bert-extract", *run.flags()]) == 0
    first, second = map(json.loads, run.output.read_bytes().splitlines())
    assert first["features"] == second["features"]


@pytest.mark.parametrize(
    "case", ["checkpoint data are cut", "not UTF-8", "layer is no number"]
)
def test_the_real_command_says_nothing_else(case: str, run: Run) -> None:
    break_it, exit_code, parts = CASES[case]
    break_it(run)
    completed = run_command([*run.flags(), "--verbosity=-1"])
    assert completed.returncode == exit_code
    message, *more = completed.stderr.decode().splitlines()
    assert parts[0] in message
    assert all(".partial holds" in line for line in more)
    assert completed.stdout == b""
    assert not run.output.exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("index", "model/bert_model.ckpt.index: cannot read it: "),
        (
            "data-00000-of-00001",
            "cannot be read (.*): give yourself permission to read",
        ),
    ],
)
def test_a_checkpoint_that_one_may_not_read_is_not_called_damaged(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    message: str,
) -> None:
    """Root may read everything, so the system's answer is made up."""

    def refuse(path: str, *arguments: Any) -> Any:
        if path.endswith(name):
            raise tf.errors.PermissionDeniedError(None, None, f"{path}; Permission den")
        return asking(path, *arguments)

    asked = "GFile" if name == "index" else "stat"
    asking = getattr(tf.io.gfile, asked)
    monkeypatch.setattr(tf.io.gfile, asked, refuse)
    assert cli.main(["bert-extract", *run.flags(), "--verbosity=-1"]) == 1
    said = capsys.readouterr().err
    assert re.search(message.replace("(.*)", r"\(.*\)"), said)
    assert "Permission den" in said
    assert "download" not in said


def test_a_disk_on_which_nothing_can_be_begun(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Any, flags: int, *arguments: Any, **more: Any) -> int:
        if flags & os.O_CREAT and str(path).startswith(str(run.outputs)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opening(path, flags, *arguments, **more)

    opening = os.open
    monkeypatch.setattr(os, "open", refuse)
    assert cli.main(["bert-extract", *run.flags(), "--verbosity=-1"]) == 1
    assert capsys.readouterr().err == (
        f"bert-extract: {run.output}.partial: cannot write it: No space left on "
        "device. Make room on its disk, or write to another one\n"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads and writes everything")
@pytest.mark.parametrize("name", ["input.txt", "model/vocab.txt", "outputs"])
def test_permissions(run: Run, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = run.folder / name
    path.chmod(0o555 if path.is_dir() else 0)
    assert cli.main(["bert-extract", *run.flags()]) == 1
    assert "Permission denied" in capsys.readouterr().err
