"""What a resume that does not match is told: a line a difference, in words."""

import re
from typing import Any

import pytest

from bert_extract.output.fingerprints import differences

BEFORE: dict[str, Any] = {
    "checkpoint_sha256": "0123456789abcdef" * 4,
    "do_lower_case": True,
    "layers": [-1, "embeddings"],
    "shard": "",
    "tensorflow": "2.21.0",
    "input": [["/a.txt", 12, 1_700_000_000_123_456_789], ["-"]],
}


def after(**changes: Any) -> list[str]:
    return differences(BEFORE, {**BEFORE, **changes})


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"do_lower_case": False}, "--do_lower_case was true, and is now false"),
        ({"layers": [0]}, "--layers was -1,embeddings, and is now 0"),
        ({"shard": "0/2"}, "--shard was not given, and is now 0/2"),
        ({"new_flag": 3}, "--new_flag was not given, and is now 3"),
        (
            {"tensorflow": "2.22.0"},
            "the version of TensorFlow was 2.21.0, and is now 2.22.0",
        ),
        (
            {"checkpoint_sha256": "f" * 64},
            "the checkpoint has changed: its SHA-256 began with 0123456789ab, and "
            "now with ffffffffffff",
        ),
        (
            {"input": [["/b.txt", 12, 0]]},
            "--input_file was /a.txt, -, and is now /b.txt",
        ),
        (
            {"input": [[f"/{i}", 1, 0] for i in range(1007)]},
            "--input_file was /a.txt, -, and is now /0, /1, /2, /3, /4 and 1,002 more",
        ),
        (
            {"input": [["/a.txt", 1234, BEFORE["input"][0][2]], ["-"]]},
            "the input /a.txt had 12 bytes and has 1,234 bytes now",
        ),
    ],
)
def test_a_difference_is_a_line(changes: dict[str, Any], line: str) -> None:
    assert after(**changes) == [line]


def test_times_are_local_and_as_exact_as_need_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moment = BEFORE["input"][0][2]
    (line,) = after(input=[["/a.txt", 13, moment + 60 * 10**9], ["-"]])
    assert re.fullmatch(
        r"the input /a\.txt had 12 bytes and has 13 bytes now, was last changed "
        r"2023-11-1[45]T\d\d:13:20[+-]\d\d:\d\d, and now "
        r"2023-11-1[45]T\d\d:14:20[+-]\d\d:\d\d",
        line,
    )
    (line,) = after(input=[["/a.txt", 12, moment + 10**6], ["-"]])
    assert ":13:20.123456" in line
    assert ":13:20.124456" in line


def test_of_many_inputs_that_changed_some_are_named() -> None:
    was = {"input": [[f"/{i}", 1, 0] for i in range(1000)]}
    now = {"input": [[f"/{i}", 2, 0] for i in range(1000)]}
    lines = differences(was, now)
    assert len(lines) == 6
    assert lines[0] == "the input /0 had 1 byte and has 2 bytes now"
    assert lines[-1] == "995 more inputs have changed"


@pytest.mark.parametrize("odd", [None, 3, "x", [3], [["/a.txt"]], [["/a", 1, "2"]], {}])
def test_what_a_damaged_run_file_says_is_told_all_the_same(odd: Any) -> None:
    assert len(after(input=odd)) == 1
    assert differences({**BEFORE, "input": odd}, BEFORE) != []


def test_a_time_that_no_calendar_has() -> None:
    (line,) = after(input=[["/a.txt", 12, 10**30], ["-"]])
    assert line.endswith("and now 1000000000000000000000 seconds after 1970")


def test_of_the_same_size_and_time_content_is_no_difference() -> None:
    # Not every run reads its inputs for their checksums.
    assert after(input_sha256=["f" * 64, None]) == []


def test_what_is_the_same_is_not_told() -> None:
    assert after() == []
