"""The tables are Python 3.11's Unicode; elsewhere they say where Python differs."""

import importlib.util
import sys
import unicodedata
from pathlib import Path
from types import ModuleType

import pytest

from bert_extract.tokenization import unicode14, unicode14_tables
from support.nasty_text import nasty_lines

ROOT = Path(__file__).parents[2]

only_unicode_14 = pytest.mark.skipif(
    unicodedata.unidata_version != "14.0.0",
    reason="only Python 3.11 knows Unicode 14.0.0",
)


def make_unicode14() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "make_unicode14", ROOT / "scripts" / "make_unicode14.py"
    )
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def all_characters() -> list[str]:
    return [chr(code) for code in range(sys.maxunicode + 1)]


@only_unicode_14
def test_the_tables_are_what_the_script_writes_today() -> None:
    tables_file = ROOT / "bert_extract" / "tokenization" / "unicode14_tables.py"
    assert tables_file.read_text("ascii") == make_unicode14().tables_source()


@only_unicode_14
def test_python_3_11_differs_nowhere() -> None:
    assert unicode14.differing_characters() == frozenset()
    assert unicode14.compare_with_interpreter() == frozenset()


@only_unicode_14
@pytest.mark.parametrize(
    ("table", "categories"),
    [
        (unicode14_tables.CONTROL, ("Cc", "Cf")),
        (unicode14_tables.SPACE, ("Zs",)),
        (unicode14_tables.PUNCTUATION, ("Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps")),
        (unicode14_tables.NONSPACING_MARK, ("Mn",)),
    ],
)
def test_categories_are_python_3_11s(table: str, categories: tuple[str, ...]) -> None:
    expected = {
        ord(c) for c in all_characters() if unicodedata.category(c) in categories
    }
    assert unicode14.code_points(table) == expected


def test_every_character_that_does_not_differ_is_the_interpreters() -> None:
    differing = unicode14.differing_characters()
    combining = unicode14.combining_classes()
    sigma = unicode14.sigma_classes()
    wrong = [
        hex(ord(character))
        for character in all_characters()
        if character not in differing
        and (
            unicode14.lower(character) != character.lower()
            or unicode14.nfd(character) != unicodedata.normalize("NFD", character)
            or combining.get(character, 0) != unicodedata.combining(character)
            or sigma.get(character) != unicode14.interpreter_sigma_class(character)
        )
    ]
    assert wrong == []


def test_lines_without_a_differing_character_are_the_interpreters() -> None:
    differing = unicode14.differing_characters()
    lines = [line for line in nasty_lines(14, 10_000) if differing.isdisjoint(line)]
    assert len(lines) > 5_000
    for line in lines:
        assert unicode14.lower(line) == line.lower()
        assert unicode14.nfd(line) == unicodedata.normalize("NFD", line)


@pytest.mark.parametrize(
    ("unidata_version", "num_differing"),
    [("13.0.0", 304), ("14.0.0", 0), ("15.0.0", 112), ("15.1.0", 112)],
)
def test_few_characters_differ(unidata_version: str, num_differing: int) -> None:
    if unicodedata.unidata_version != unidata_version:
        pytest.skip(f"this Python knows Unicode {unicodedata.unidata_version}")
    assert len(unicode14.differing_characters()) == num_differing


def test_a_letter_that_python_3_10_does_not_know_is_lower_cased() -> None:
    # VITHKUQI CAPITAL LETTER A came with Unicode 14.0.0.
    assert unicode14.lower("\U00010570") == "\U00010597"


def test_a_mark_that_python_3_12_knows_is_not_reordered() -> None:
    # U+1E08F, a combining Cyrillic letter of class 230, came with Unicode 15.0.
    assert unicode14.nfd("a\U0001e08f\u0327") == "a\U0001e08f\u0327"


@pytest.mark.parametrize(
    ("text", "lowered"),
    [
        ("", ""),
        ("ΟΔΟΣ", "οδος"),
        ("Σ", "σ"),
        ("ΑΣ\u0301.", "ας\u0301."),
        ("ΑΣ\u0301.Β", "ασ\u0301.β"),
        ("1Σ", "1σ"),
        ("İI", "i\u0307i"),
        ("ǅ", "ǆ"),
    ],
)
def test_lower(text: str, lowered: str) -> None:
    assert unicode14.lower(text) == lowered


@pytest.mark.parametrize(
    ("text", "decomposed"),
    [
        ("", ""),
        ("ǘ", "u\u0308\u0301"),
        ("e\u0301\u0327", "e\u0327\u0301"),
        ("한", "\u1112\u1161\u11ab"),
        ("하", "\u1112\u1161"),
        ("Ω", "Ω"),
        ("ﬁ", "ﬁ"),
    ],
)
def test_nfd(text: str, decomposed: str) -> None:
    assert unicode14.nfd(text) == decomposed


def test_white_space_is_the_same_in_every_version() -> None:
    # str.split and str.strip cut here; they are the interpreter's on every version.
    expected = [*range(9, 14), *range(0x1C, 0x21), 0x85, 0xA0, 0x1680]
    expected += [*range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000]
    assert [ord(c) for c in all_characters() if c.isspace()] == expected
