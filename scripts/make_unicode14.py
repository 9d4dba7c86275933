"""Python 3.11's Unicode 14.0.0 -> bert_extract/tokenization/unicode14_tables.py.

Run it under Python 3.11, the only version that knows Unicode 14.0.0:
    python3.11 scripts/make_unicode14.py
"""

import pathlib
import sys
import textwrap
import unicodedata
from collections.abc import Callable, Iterable

ROOT = pathlib.Path(__file__).resolve().parent.parent
TABLES_FILE = ROOT / "bert_extract" / "tokenization" / "unicode14_tables.py"
UNIDATA_VERSION = "14.0.0"

HEADER = '''"""Unicode 14.0.0 as in Python 3.11; made by scripts/make_unicode14.py.

All numbers are hexadecimal; unicode14.py says how to read each table. They are text,
not literals of Python, so that a process that never looks at them never pays for them.
"""

UNIDATA_VERSION = "14.0.0"
'''


def main() -> None:
    """Writes the tables, or says which Python to use."""
    if unicodedata.unidata_version != UNIDATA_VERSION:
        sys.exit(
            f"This Python knows Unicode {unicodedata.unidata_version}; the tables are "
            f"of {UNIDATA_VERSION}. Run the script with Python 3.11."
        )
    TABLES_FILE.write_text(tables_source(), encoding="ascii")
    print(f"{TABLES_FILE.relative_to(ROOT)}: {TABLES_FILE.stat().st_size:,} bytes")


def tables_source() -> str:
    """The whole text of unicode14_tables.py."""
    # The package holds the one way to ask an interpreter for these two properties,
    # but it cannot be imported before its tables are there.
    ignorable = [c for c in _characters() if _sigma_class(c) == "ignorable"]
    cased = [c for c in _characters() if _sigma_class(c) == "cased"]
    tables = [
        ("CONTROL", "Categories Cc and Cf.", _category_ranges("Cc", "Cf")),
        ("SPACE", "Category Zs.", _category_ranges("Zs")),
        ("PUNCTUATION", "Categories P*.", _category_ranges("P")),
        ("NONSPACING_MARK", "Category Mn.", _category_ranges("Mn")),
        ("CASED", "What keeps a capital sigma from being final.", _ranges(cased)),
        ("CASE_IGNORABLE", "What a capital sigma looks through.", _ranges(ignorable)),
        ("LOWER", "first[-last[/step]]:lower case of the first.", _lower_entries()),
        ("DECOMPOSITIONS", "Full NFD, without Hangul syllables.", _nfd_entries()),
        ("COMBINING_CLASSES", "first[-last]:class.", _class_entries()),
    ]
    return HEADER + "".join(_assignment(*table) for table in tables)


def _assignment(name: str, comment: str, entries: Iterable[str]) -> str:
    body = textwrap.fill(
        " ".join(entries), 88, break_long_words=False, break_on_hyphens=False
    )
    return f'\n# {comment}\n{name} = """\n{body}\n"""\n'


def _characters() -> Iterable[str]:
    return map(chr, range(sys.maxunicode + 1))


def _sigma_class(character: str) -> str | None:
    """As `interpreter_sigma_class` in unicode14.py, which explains it."""
    if ("AΣ" + character).lower()[1] == "σ":
        return "cased"
    return "ignorable" if ("AΣ" + character + "a").lower()[1] == "σ" else None


def _category_ranges(*prefixes: str) -> list[str]:
    return _ranges(
        c for c in _characters() if unicodedata.category(c).startswith(prefixes)
    )


def _runs(
    codes: Iterable[int], continues: Callable[[int, int], bool]
) -> list[tuple[int, int]]:
    """Joins neighbours for which continues(left, right) holds into (first, last)."""
    runs: list[tuple[int, int]] = []
    for code in codes:
        if runs and continues(runs[-1][1], code):
            runs[-1] = (runs[-1][0], code)
        else:
            runs.append((code, code))
    return runs


def _span(first: int, last: int) -> str:
    return f"{first:x}" if first == last else f"{first:x}-{last:x}"


def _ranges(characters: Iterable[str]) -> list[str]:
    runs = _runs(map(ord, characters), lambda left, right: right == left + 1)
    return [_span(first, last) for first, last in runs]


def _lower_entries() -> list[str]:
    """Runs of step 1 ("A" to "Z") and of step 2 (where cases alternate)."""
    single: dict[int, int] = {}
    several: list[str] = []
    for character in _characters():
        lowered = character.lower()
        if len(lowered) > 1:
            several.append(f"{ord(character):x}:{_dotted(lowered)}")
        elif lowered != character:
            single[ord(character)] = ord(lowered)
    entries = several
    while single:
        step_1, step_2 = (_longest_run(single, step) for step in (1, 2))
        run = step_2 if len(step_2) > len(step_1) else step_1
        step = "/2" if run is step_2 else ""
        entries.append(f"{_span(run[0], run[-1])}{step}:{single[run[0]]:x}")
        for code in run:
            del single[code]
    return entries


def _longest_run(single: dict[int, int], step: int) -> range:
    """The run of that step from the first code point left, all with one offset."""
    first = last = min(single)
    offset = single[first] - first
    while single.get(last + step) == last + step + offset:
        last += step
    return range(first, last + 1, step)


def _nfd_entries() -> list[str]:
    entries = []
    for character in _characters():
        decomposed = unicodedata.normalize("NFD", character)
        if decomposed != character and not "가" <= character <= "힣":
            entries.append(f"{ord(character):x}:{_dotted(decomposed)}")
    return entries


def _class_entries() -> list[str]:
    classes = {ord(c): unicodedata.combining(c) for c in _characters()}
    runs = _runs(
        (code for code, combining_class in classes.items() if combining_class),
        lambda left, right: right == left + 1 and classes[left] == classes[right],
    )
    return [f"{_span(first, last)}:{classes[first]:x}" for first, last in runs]


def _dotted(text: str) -> str:
    return ".".join(f"{ord(character):x}" for character in text)


if __name__ == "__main__":
    main()
