"""Lines of JSON become the records that Python's json makes of them, at any speed."""

import dataclasses
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bert_extract.output.json_parser
from bert_extract.errors import InputError
from bert_extract.output.json_lines import JsonFormatter
from bert_extract.output.json_parser import JsonParser
from bert_extract.output.reading import load_features
from bert_extract.output.record import Record, RecordPart
from support.nasty_records import NASTY_TOKENS, annotated, make_record

GOLDEN_DIR = Path(__file__).parents[1] / "golden"

needs_kernel = pytest.mark.skipif(
    bert_extract.output.json_parser._load_kernel() is None,
    reason="the C kernel was not built",
)


@pytest.fixture
def no_plain_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever takes the slow way fails."""

    def fail(line: bytes) -> Record:
        raise AssertionError(f"not of our form: {line[:1000]!r}")

    monkeypatch.setattr(bert_extract.output.json_parser, "_parse_plainly", fail)


def line_of(record: Record) -> bytes:
    return bytes(JsonFormatter(record.indexes).format(RecordPart(record)))


def line_with(values: Iterable[str], before: str = "", after: str = "") -> bytes:
    """A line of one entry and one layer that has these values."""
    texts = ", ".join(values)
    return (
        '{"linex_index": 7, "features": [{"token": "a", "layers": '
        f'[{{"index": -1, "values": [{before}{texts}{after}]}}]}}]}}\n'
    ).encode()


def outcome(parser: JsonParser, line: bytes) -> Record | str:
    try:
        with np.errstate(over="ignore"):  # 1e308 is infinite as a float32
            return parser.parse(line)
    except InputError as error:
        return str(error)


def check_values(values: list[str]) -> None:
    """Held against float() and NumPy."""
    (layer,) = JsonParser(kernel="compiled").parse(line_with(values)).layers
    expected = np.array([float(value) for value in values], dtype=np.float32)
    if layer[0].tobytes() != expected.tobytes():
        wrong = np.flatnonzero(layer[0].view(np.int32) != expected.view(np.int32))
        pytest.fail(f"{[(values[i], layer[0][i], expected[i]) for i in wrong[:5]]}")


# ------------------------------------------------------------------------- values


@needs_kernel
@pytest.mark.usefixtures("no_plain_parser")
def test_values_of_every_length_are_the_nearest_float64s_nearest_float32s() -> None:
    rng = random.Random(1)
    values = []
    for num_digits in range(1, 10):
        for num_decimals in range(1, 7):
            for _ in range(1000):
                low = 10 ** (num_digits - 1) if num_digits > 1 else 0
                integer = rng.randrange(low, 10**num_digits)
                decimals = rng.randrange(10**num_decimals)
                sign = rng.choice(["", "-"])
                values.append(f"{sign}{integer}.{decimals:0{num_decimals}}")
    rng.shuffle(values)
    check_values(values)


@needs_kernel
@pytest.mark.usefixtures("no_plain_parser")
def test_values_between_two_float32s_are_rounded_twice() -> None:
    # 16777217 lies halfway between two float32; and what lies beside such a halfway
    # point by less than float64 can tell was rounded to it first.
    values = ["-0.0", "0.0", "999999999.999999", "0.000001", "16777217.000001"]
    for exponent in range(-8, 29):
        for mantissa in (2**24 + 1, 2**24 + 3, 2**25 - 1, 2**25 - 3):
            halfway = round(mantissa * 2.0 ** (exponent - 24) * 10**6)
            for n in range(max(0, halfway - 3), halfway + 4):
                if n < 10**15:
                    values += [f"{n // 10**6}.{n % 10**6:06}"]
    check_values(values + [f"-{value}" for value in values if value[0] != "-"])


@needs_kernel
@pytest.mark.usefixtures("no_plain_parser")
def test_small_values_have_exponents() -> None:
    values = [repr(n / 1e6) for n in range(1, 100)]
    assert {value[-4:] for value in values} == {"e-06", "e-05"}
    check_values([*values, *(f"-{value}" for value in values), "1.5", "9.5e-05"])


@needs_kernel
@pytest.mark.parametrize(
    "value",
    [
        *("1", "-1", "12", "1e5", "1.5e5", "1.5E-05", "1e-5", "5e-07", "1.25e-05"),
        *("1.5e-06", "15e-05", "0e-06", "1.5e-050", "123.5e-05", "1e-04", "0.1234567"),
        *("1234567890.5", "1e+16", "1.7976931348623157e308", "1e999", "-1e-400"),
        *("NaN", "Infinity", "-Infinity", "null", "true", '"1.5"', "[1.5]", "{}"),
        *("01.5", "-01.5", "00.5", "1.", ".5", "-.5", "+1.5", "--1.5", "1.5.5", "-"),
        *(
            "",
            " 1.5",
            "1.5 ",
            "1 .5",
            "1.5,",
            "1_0.5",
            "0x1.5",
            "1.5f",
            "1,5",
            "\u0661.5",
        ),
    ],
)
@pytest.mark.parametrize("place", ["first", "within", "last", "only"])
def test_any_other_value_is_left_to_json(value: str, place: str) -> None:
    before = "" if place in ("first", "only") else "-0.5, "
    after = "" if place in ("last", "only") else ", -0.5"
    parser = JsonParser(kernel="compiled")
    parser.parse(line_with(["0.25"] * (1 + bool(before) + bool(after))))
    line = line_with([value], before, after)
    assert outcome(parser, line) == outcome(JsonParser(kernel="python"), line)


# ------------------------------------------------------------------------- records


@needs_kernel
@pytest.mark.usefixtures("no_plain_parser")
@pytest.mark.parametrize("indexes", [(-1,), (0, "embeddings", '"]', -1, -1)])
@pytest.mark.parametrize("size", [1, 2, 12])
def test_what_we_write_is_not_left_to_json(
    indexes: tuple[int | str, ...], size: int
) -> None:
    compiled = JsonParser(kernel="compiled")
    for num_tokens in (1, 2, len(NASTY_TOKENS), 100):
        record = make_record(num_tokens, num_tokens, indexes=indexes, size=size)
        texts_only = dataclasses.replace(annotated(record), offsets=None)
        offsets_only = dataclasses.replace(annotated(record), texts=None)
        for each in (record, annotated(record), texts_only, offsets_only):
            found = compiled.parse(line_of(each))
            rounded = tuple(
                np.round(layer.astype(np.float64), 6).astype(np.float32)
                for layer in each.layers
            )
            assert found == dataclasses.replace(each, layers=rounded)
            assert all(layer.flags.c_contiguous for layer in found.layers)


@needs_kernel
@pytest.mark.usefixtures("no_plain_parser")
def test_what_the_original_writes_is_not_left_to_json() -> None:
    for name in ("expected_default.jsonl", "expected_cased.jsonl"):
        path = GOLDEN_DIR / name
        for line, record in zip(
            path.read_bytes().splitlines(), load_features(path), strict=True
        ):
            entries = json.loads(line)["features"]
            assert record.tokens == tuple(entry["token"] for entry in entries)
            values = [[each["values"] for each in entry["layers"]] for entry in entries]
            expected = np.array(values, np.float32).swapaxes(0, 1)
            assert record.vectors.tobytes() == expected.tobytes()


@needs_kernel
def test_lines_of_other_shapes_and_without_entries_may_come_between() -> None:
    compiled, plain = JsonParser(kernel="compiled"), JsonParser(kernel="python")
    lines = [b'{"linex_index": 0, "features": []}\n']
    for size, indexes in ((4, (-1,)), (5, (-1,)), (5, (0, 1)), (4, (-1,))):
        record = make_record(3, 4, size=size, indexes=indexes)
        lines += [line_of(record), line_of(annotated(record)), lines[0]]
    for line in lines:
        assert compiled.parse(line) == plain.parse(line)


@needs_kernel
@pytest.mark.parametrize("separators", [(",", ":"), (",  ", ": "), (", ", " : ")])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b" \n"])
def test_other_spacing_reads_the_same(separators: tuple[str, str], end: bytes) -> None:
    line = line_of(annotated(make_record(2, 30)))
    other = json.dumps(json.loads(line), separators=separators).encode() + end
    compiled = JsonParser(kernel="compiled")
    assert compiled.parse(line) == compiled.parse(other) == compiled.parse(line)


@needs_kernel
def test_a_line_that_is_cut_anywhere_gives_the_same_error() -> None:
    line = line_of(annotated(make_record(1, 3, size=2)))
    compiled, plain = JsonParser(kernel="compiled"), JsonParser(kernel="python")
    whole = compiled.parse(line)
    assert compiled.parse(line[:-1]) == whole
    for size in range(len(line) - 1):
        message = outcome(compiled, line[:size])
        assert message == outcome(plain, line[:size])
        assert "expected a record in JSON" in str(message)


@needs_kernel
@pytest.mark.parametrize("seed", range(4))
def test_damaged_lines_are_read_as_json_reads_them(seed: int) -> None:
    rng = random.Random(seed)
    record = make_record(seed, 4, size=3, is_annotated=seed % 2 == 0)
    line = line_of(record)
    compiled, plain = JsonParser(kernel="compiled"), JsonParser(kernel="python")
    others = b'0123456789.-e+,:[]{}"\\ nu\x00\x7f\x80\xff\n'
    num_read = 0
    for _ in range(5000):
        damaged = bytearray(line)
        for _ in range(rng.choice([1, 1, 2, 3])):
            begin = rng.randrange(len(damaged))
            end = begin + rng.choice([0, 1, 1, 1, 2, 8])
            piece = rng.choices(others, k=rng.choice([0, 1, 1, 1, 2]))
            if rng.random() < 0.2:  # what stands elsewhere in the line
                place = rng.randrange(len(line))
                piece = [*line[place : place + rng.randrange(40)]]
            damaged[begin:end] = bytes(piece)
        found = outcome(compiled, bytes(damaged))
        assert found == outcome(plain, bytes(damaged)), bytes(damaged)
        num_read += isinstance(found, Record)
    assert num_read > 100  # not all of it was broken


@needs_kernel
def test_a_line_does_not_decide_how_much_memory_is_asked_for() -> None:
    # One long vector, and entries as many as its numbers: a table of all would have
    # 10^10 of them.
    start = line_with(["0.5"] * 100_000)[:-3]
    line = start + b', {"token": ""' * 100_000 + b"]}\n"
    with pytest.raises(InputError, match="expected a record in JSON"):
        JsonParser(kernel="compiled").parse(line)


@needs_kernel
def test_records_own_their_memory() -> None:
    parser = JsonParser(kernel="compiled")
    records = [annotated(make_record(number, 5)) for number in range(3)]
    found = [parser.parse(line_of(record)) for record in records]
    again = [JsonParser(kernel="python").parse(line_of(record)) for record in records]
    assert found == again


def test_a_kernel_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="expected compiled or python"):
        JsonParser(kernel="fast")


def _changed(path: tuple[Any, ...], value: Any) -> Any:
    entry: Any = {
        "linex_index": 1,
        "features": [
            {
                "token": "a",
                "text": "b",
                "offset": [0, 1],
                "layers": [{"index": -1, "values": [1.5, 2]}],
            }
        ],
    }
    place = entry
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return entry


_VALUES = ("features", 0, "layers", 0, "values")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (_VALUES, [None, 1.0]),
        (_VALUES, [True, False]),
        (_VALUES, ["1.5", "2"]),
        (_VALUES, [1e39, 0.0]),
        (_VALUES, [10**400, 0]),
        (_VALUES, 1.5),
        (("linex_index",), 1.7),
        (("linex_index",), True),
        (("linex_index",), "1"),
        (("linex_index",), None),
        (("features",), {}),
        (("features",), ""),
        (("features", 0, "token"), None),
        (("features", 0, "token"), 7),
        (("features", 0, "text"), 7),
        (("features", 0, "offset"), [0.5, 1]),
        (("features", 0, "offset"), [0]),
    ],
)
def test_what_has_another_type_is_no_record(path: tuple[Any, ...], value: Any) -> None:
    whole = _changed(("linex_index",), 2)
    assert JsonParser().parse(json.dumps(whole).encode()).linex_index == 2
    line = json.dumps(_changed(path, value)).encode()
    with pytest.raises(InputError, match="linex_index"):
        JsonParser().parse(line)


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 100_000,
        b'{"linex_index": 1, "features": [{"token": "a", "layers": ['
        + b"[" * 100_000
        + b"]}]}",
        b'{"linex_index": 1e999, "features": []}',
    ],
)
def test_absurd_json_is_no_record(line: bytes) -> None:
    with pytest.raises(InputError, match="expected"):
        JsonParser().parse(line)


def test_what_the_original_writes_of_broken_weights_can_be_read() -> None:
    line = json.dumps(_changed(_VALUES, [float("nan"), -float("inf")])).encode()
    (layer,) = JsonParser().parse(line).layers
    assert np.isnan(layer[0, 0])
    assert np.isneginf(layer[0, 1])
