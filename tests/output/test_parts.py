"""A folder of parts: each is whole or not there, and all together are the output."""

import errno
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas
import pyarrow.dataset
import pytest

from bert_extract import InputError, OutputError, Record, read_features
from bert_extract.cluster.join import join_parts
from bert_extract.formats import format_of
from bert_extract.output import parts as parts_module
from bert_extract.output.checksum import crc32
from bert_extract.output.parts import (
    Part,
    PartsFolder,
    commit,
    is_parts_folder,
    part_name,
    temporary_file,
)
from bert_extract.output.record import RecordSchema
from bert_extract.output.writers import OutputSpec, Writer, encoder_for, open_writer
from support.nasty_records import make_record, with_lines

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".h5", ".parquet")
NUM_LINES = 7
ARITHMETIC = {"arithmetic": "Eigen, AVX2"}


def kind_of(suffix: str) -> OutputSpec:
    return OutputSpec(format_of(suffix), RecordSchema((-1, 0), 12))


def records_of(first: int, num_lines: int) -> list[Record]:
    return [
        make_record(index, 3, indexes=(-1, 0))
        for index in range(first, first + num_lines)
    ]


def write_output(path: Path, records: Sequence[Record]) -> bytes:
    kind = kind_of(path.name)
    encode, _ = encoder_for(kind)
    writer = open_writer(str(path), kind, {}, resume=False)
    writer.write(encode(with_lines(records)), len(records), is_whole=True)
    writer.finish()
    return path.read_bytes()


def add_part(
    folder: PartsFolder, suffix: str, first: int, num_lines: int, run: str = "run"
) -> Part:
    """Does what a worker does with a split."""
    name = part_name(0, first, format_of(suffix))
    temporary = Path(temporary_file(folder.path, run, name))
    content = write_output(temporary, records_of(first, num_lines))
    part = Part(name, first, num_lines, len(content), crc32(content), ARITHMETIC, "n1")
    commit(folder.path, str(temporary), part)
    return part


def make_folder(path: Path, suffix: str = ".jsonl") -> tuple[PartsFolder, list[Part]]:
    folder = PartsFolder(str(path))
    folder.begin("run", {"layers": [-1, 0]}, {"split_bytes": 3})
    # As they come: in any order.
    parts = [add_part(folder, suffix, first, 3) for first in (3, 0)]
    parts.append(add_part(folder, suffix, 6, 1))
    return folder, sorted(parts, key=lambda part: part.name)


def names_in(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_folder_of_parts_is_read_as_one(tmp_path: Path, suffix: str) -> None:
    folder, parts = make_folder(tmp_path / "out.parts", suffix)
    folder.finish(parts, {"layers": [-1, 0]})
    write_output(tmp_path / f"whole{suffix}", records_of(0, NUM_LINES))
    whole = list(read_features(tmp_path / f"whole{suffix}"))
    assert len(whole) == NUM_LINES
    assert list(read_features(folder.path)) == whole
    wanted = range(2, 7, 2)
    assert list(read_features(folder.path, lines=wanted)) == whole[2:7:2]
    assert list(read_features(folder.path, lines=range(0))) == []
    assert names_in(tmp_path / "out.parts") == sorted(
        ["_SUCCESS", "_lock", "_manifest.json", "_run.json"]
        + [f"part-000000-00000000000{first}{suffix}" for first in (0, 3, 6)]
    )


def test_only_the_parts_with_the_lines_are_opened(tmp_path: Path) -> None:
    folder, parts = make_folder(tmp_path / "out.parts")
    folder.finish(parts, {})
    os.unlink(os.path.join(folder.path, parts[0].name))
    indexes = [r.linex_index for r in read_features(folder.path, lines=range(3, 7))]
    assert indexes == [3, 4, 5, 6]
    with pytest.raises(InputError, match=r"part-000000-0{12}.jsonl: cannot be"):
        list(read_features(folder.path))


def test_others_read_a_folder_of_parquet_parts(tmp_path: Path) -> None:
    folder, parts = make_folder(tmp_path / "out.parts", ".parquet")
    folder.finish(parts, {})
    expected = [i // 3 for i in range(21)]
    table = pyarrow.dataset.dataset(folder.path, format="parquet").to_table()
    assert table.column("linex_index").to_pylist() == expected
    assert list(pandas.read_parquet(folder.path)["linex_index"]) == expected


def test_the_manifest_says_who_made_what_and_with_which_arithmetic(
    tmp_path: Path,
) -> None:
    folder, parts = make_folder(tmp_path / "out.parts")
    other = Part(**{**parts_fields(parts[1]), "arithmetic": {"arithmetic": "oneDNN"}})
    folder.finish([parts[0], other, parts[2]], {"layers": [-1]})
    manifest = json.loads((tmp_path / "out.parts" / "_manifest.json").read_bytes())
    assert manifest["num_lines"] == NUM_LINES
    assert manifest["fingerprint"] == {"layers": [-1]}
    assert manifest["arithmetics"] == [ARITHMETIC, {"arithmetic": "oneDNN"}]
    assert manifest["same_arithmetic"] is False
    assert [row[-1] for row in manifest["parts"]] == [0, 1, 0]
    assert [row[-2] for row in manifest["parts"]] == ["n1"] * 3


def parts_fields(part: Part) -> dict[str, Any]:
    return {name: getattr(part, name) for name in Part.__slots__}


@pytest.mark.parametrize("suffix", SUFFIXES[:3])
def test_the_parts_of_json_lines_are_joined_in_order(
    tmp_path: Path, suffix: str
) -> None:
    folder, parts = make_folder(tmp_path / "out.parts", suffix)
    output = tmp_path / f"out{suffix}"
    writer = open_writer(str(output), kind_of(suffix), {"a": 1}, resume=True)
    join_parts(folder.path, parts, writer)
    paths = [os.path.join(folder.path, part.name) for part in parts]
    pieces = [Path(path).read_bytes() for path in paths]
    assert output.read_bytes() == b"".join(pieces)
    whole = write_output(tmp_path / f"whole{suffix}", records_of(0, NUM_LINES))
    assert list(read_features(output)) == list(
        read_features(tmp_path / f"whole{suffix}")
    )
    if suffix == ".jsonl":
        assert output.read_bytes() == whole
    folder.remove()
    assert not os.path.exists(folder.path)
    again = open_writer(str(output), kind_of(suffix), {"a": 1}, resume=True)
    assert again.is_complete
    assert again.num_records_kept == NUM_LINES


class Interrupting:
    """A writer that fails after some calls of write, as a full disk does."""

    def __init__(self, writer: Writer, num_calls: int) -> None:
        self._writer = writer
        self._num_calls = num_calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def write(self, *args: Any, **fields: Any) -> None:
        if self._num_calls == 0:
            raise OutputError("full")
        self._num_calls -= 1
        self._writer.write(*args, **fields)


@pytest.mark.parametrize("num_calls", range(6))
def test_a_join_that_was_stopped_goes_on(tmp_path: Path, num_calls: int) -> None:
    folder, parts = make_folder(tmp_path / "out.parts")
    output = tmp_path / "out.jsonl"
    kind = kind_of(".jsonl")
    writer = open_writer(str(output), kind, {}, resume=True)
    with pytest.raises(OutputError, match="full"):
        join_parts(folder.path, parts, Interrupting(writer, num_calls))
    writer = open_writer(str(output), kind, {}, resume=True)
    # Whole parts only, each of which takes two calls.
    assert writer.num_records_kept == [0, 0, 3, 3, 6, 6][num_calls]
    join_parts(folder.path, parts, writer)
    assert output.read_bytes() == write_output(
        tmp_path / "whole.jsonl", records_of(0, NUM_LINES)
    )
    run = json.loads((tmp_path / "out.jsonl.run.json").read_bytes())
    assert run["num_records"] == NUM_LINES


def test_a_damaged_part_is_not_joined(tmp_path: Path) -> None:
    folder, parts = make_folder(tmp_path / "out.parts")
    path = Path(folder.path) / parts[1].name
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    writer = open_writer(
        str(tmp_path / "out.jsonl"), kind_of(".jsonl"), {}, resume=True
    )
    with pytest.raises(OutputError, match=f"{parts[1].name}: damaged"):
        join_parts(folder.path, parts, writer)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_part_is_not_there_before_it_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Died(BaseException):
        pass

    def die(name: str) -> None:
        if name == wanted:
            raise Died

    monkeypatch.setattr(parts_module, "crash_point", die)
    folder = PartsFolder(str(tmp_path / "out.parts"))
    folder.begin("run", {}, {})
    name = part_name(0, 3, format_of(".jsonl"))
    for wanted, there in (("told", set()), ("committed", {name}), ("", {name})):
        if wanted:
            with pytest.raises(Died):
                add_part(folder, ".jsonl", 3, 3)
        else:
            add_part(folder, ".jsonl", 3, 3)  # a second time: the same
        assert folder.find_parts() == there
        part = folder.read_part(name)
        assert (part is not None) == bool(there)
    os.truncate(os.path.join(folder.path, name), 5)
    assert folder.read_part(name) is None


def test_who_comes_after_the_end_of_the_run_puts_no_part_there(tmp_path: Path) -> None:
    folder = PartsFolder(str(tmp_path / "out.parts"))
    folder.begin("old", {}, {})
    name = part_name(0, 3, format_of(".jsonl"))
    temporary = Path(temporary_file(folder.path, "old", name))
    content = write_output(temporary, records_of(3, 3))
    folder.begin("new", {}, {})
    with pytest.raises(OutputError, match=f"{name}: cannot write it: No such file"):
        commit(folder.path, str(temporary), Part(name, 3, 3, len(content), 0, {}, ""))
    assert folder.find_parts() == set()


def test_what_a_run_left_stays_for_the_next_one_until_it_is_discarded(
    tmp_path: Path,
) -> None:
    folder, parts = make_folder(tmp_path / "out.parts")
    folder.close()
    again = PartsFolder(folder.path)
    assert again.read_run() == ({"layers": [-1, 0]}, {"split_bytes": 3})
    assert not again.is_complete()
    assert again.find_parts() == {part.name for part in parts}
    assert [again.read_part(part.name) for part in parts] == parts
    assert again.discard() == 3
    assert again.find_parts() == set()
    assert again.read_part(parts[0].name) is None


def test_a_worker_of_the_run_before_puts_no_part_where_all_are_discarded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = make_folder(tmp_path / "out.parts")
    clear = folder._clear_temporary

    def clear_behind_a_worker() -> None:
        add_part(folder, ".jsonl", 7, 2)  # at the last moment
        clear()

    monkeypatch.setattr(folder, "_clear_temporary", clear_behind_a_worker)
    assert folder.discard() == 4
    assert names_in(tmp_path / "out.parts") == ["_lock", "_run.json"]


def test_what_nfs_keeps_of_files_that_are_gone_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = make_folder(tmp_path / "out.parts")
    writing = Path(temporary_file(folder.path, "run", "w-part"))
    writing.write_text("a worker has it open")

    def remove_as_nfs(path: str, ignore_errors: bool = False) -> None:
        for number, each in enumerate(sorted(writing.parent.iterdir())):
            each.rename(each.with_name(f".nfs{number}"))
        if not ignore_errors:
            raise OSError(errno.EBUSY, "it is in use")

    monkeypatch.setattr(shutil, "rmtree", remove_as_nfs)
    folder.end_run()
    assert {each.name[:4] for each in writing.parent.iterdir()} == {".nfs"}

    def fail(path: str, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise OSError(errno.EBUSY, "it is in use")

    monkeypatch.setattr(shutil, "rmtree", fail)
    writing.write_text("not one of those")
    with pytest.raises(OutputError, match="in use"):
        folder.end_run()


def test_who_dies_while_the_job_ends_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, parts = make_folder(tmp_path / "out.parts")
    told = tmp_path / "out.parts" / "_told"
    remove = shutil.rmtree

    def die(path: str, ignore_errors: bool = False) -> None:
        if path != str(told):
            remove(path, ignore_errors)
            return
        (told / f"{parts[1].name}.json").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", die)
    with pytest.raises(KeyboardInterrupt):
        folder.finish(parts, {})
    assert folder.is_complete()
    assert len(list(read_features(folder.path))) == NUM_LINES
    assert [folder.read_part(part.name) for part in parts] == parts


def test_parts_of_a_job_that_was_done_are_known(tmp_path: Path) -> None:
    folder, parts = make_folder(tmp_path / "out.parts")
    folder.finish(parts, {})
    folder.close()
    again = PartsFolder(folder.path)
    again.begin("next", {"layers": [-1, 0]}, {"split_bytes": 3})
    os.truncate(os.path.join(folder.path, parts[0].name), 5)
    found = [again.read_part(part.name) for part in parts]
    assert found == [None, *parts[1:]]


def test_two_drivers_do_not_share_a_folder(tmp_path: Path) -> None:
    folder = PartsFolder(str(tmp_path / "out.parts"))
    with pytest.raises(OutputError, match="another run is writing these parts"):
        PartsFolder(folder.path)
    folder.close()
    PartsFolder(folder.path).close()


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out.parts").mkdir()
    (tmp_path / "out.parts" / "thesis.tex").write_text("x")
    with pytest.raises(OutputError, match=r"found one with thesis.tex"):
        PartsFolder(str(tmp_path / "out.parts"))
    assert names_in(tmp_path / "out.parts") == ["thesis.tex"]
    assert not is_parts_folder(str(tmp_path / "out.parts"))


def test_what_is_not_ours_survives_the_end(tmp_path: Path) -> None:
    folder, _ = make_folder(tmp_path / "out.parts")
    (tmp_path / "out.parts" / "notes.txt").write_text("x")
    folder.remove()
    assert names_in(tmp_path / "out.parts") == ["notes.txt"]


def test_a_folder_that_is_not_complete_says_so(tmp_path: Path) -> None:
    folder, _ = make_folder(tmp_path / "out.parts")
    with pytest.raises(InputError, match="run that did not end, which --resume goes"):
        list(read_features(folder.path))
    with pytest.raises(InputError, match="found a folder of something else"):
        list(read_features(tmp_path))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"arithmetics": [], "parts": [[1, 2]]}',
        '{"arithmetics": [{}], "parts": [["../x", 0, 1, 1, 1, "n", 0]]}',
        "[" * 9999,
    ],
)
def test_a_broken_manifest_is_an_error(tmp_path: Path, text: str) -> None:
    folder, parts = make_folder(tmp_path / "out.parts")
    folder.finish(parts, {})
    (tmp_path / "out.parts" / "_manifest.json").write_text(text)
    with pytest.raises(InputError, match=r"_manifest.json: cannot be read"):
        list(read_features(folder.path))
