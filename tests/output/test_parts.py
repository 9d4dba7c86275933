"""A folder of parts: each is whole or not there, and all together are the output."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pandas
import pyarrow.dataset
import pytest

from bert_extract import InputError, OutputError, read_features
from bert_extract.formats import format_of
from bert_extract.output import parts as parts_module
from bert_extract.output.parts import (
    Part,
    PartsFolder,
    commit,
    is_parts_folder,
    part_name,
    temporary_file,
)
from support.parts_folders import (
    ARITHMETIC,
    NUM_LINES,
    add_part,
    make_folder,
    records_of,
    write_output,
)

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".h5", ".parquet")


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
