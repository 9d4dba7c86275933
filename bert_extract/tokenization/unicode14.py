"""Unicode 14.0.0, whatever version the running interpreter knows.

The original follows its interpreter, so a line with a letter that a newer Unicode
added would be cut otherwise under another Python. This package follows Python 3.11
everywhere: sets of characters come from the tables beside this file, and `lower` and
`nfd` here say what `str.lower` and `unicodedata.normalize` say there. They are slow;
`differing_characters` names the few characters that need them.
"""

import functools
import unicodedata

from bert_extract.tokenization import unicode14_tables as tables

# A Hangul syllable is computed from its position (The Unicode Standard, 3.12).
_HANGUL_FIRST, _HANGUL_LAST = 0xAC00, 0xD7A3
_LEAD_FIRST, _VOWEL_FIRST, _TAIL_FIRST = 0x1100, 0x1161, 0x11A7
_NUM_VOWELS, _NUM_TAILS = 21, 28


def code_points(table: str) -> frozenset[int]:
    """Reads a table of ranges.

    "9-b 20" -> {0x9, 0xa, 0xb, 0x20}
    """
    return frozenset(c for entry in table.split() for c in _range(entry))


@functools.cache
def lower_mapping() -> dict[str, str]:
    """Every character that has a lower case, to that lower case.

    "41-43/2:61" -> {"A": "a", "C": "c"};  "130:69.307" -> {"İ": "i" and a dot above}
    """
    mapping = {}
    for entry in tables.LOWER.split():
        span, _, target = entry.partition(":")
        first_lower, *rest = (int(code, 16) for code in target.split("."))
        span, _, step = span.partition("/")
        characters = _range(span)[:: int(step or "1", 16)]
        offset = first_lower - characters[0]
        suffix = "".join(map(chr, rest))
        mapping.update({chr(c): chr(c + offset) + suffix for c in characters})
    return mapping


@functools.cache
def decompositions() -> dict[str, str]:
    """Every character but Hangul that NFD takes apart, to its full decomposition.

    "e9:65.301" -> {"é": "e" and an acute accent}
    """
    mapping = {}
    for entry in tables.DECOMPOSITIONS.split():
        code, _, target = entry.partition(":")
        parts = (chr(int(part, 16)) for part in target.split("."))
        mapping[chr(int(code, 16))] = "".join(parts)
    return mapping


@functools.cache
def combining_classes() -> dict[str, int]:
    """Every character with a canonical combining class other than 0, to that class.

    "300-301:e6" -> {U+0300: 230, U+0301: 230}
    """
    mapping = {}
    for entry in tables.COMBINING_CLASSES.split():
        span, _, combining_class = entry.partition(":")
        for code in _range(span):
            mapping[chr(code)] = int(combining_class, 16)
    return mapping


@functools.cache
def sigma_classes() -> dict[str, str]:
    """What a character beside a capital sigma means to it: "ignorable" or "cased".

    A character that is both counts as ignorable, as in `str.lower`.
    """
    ignorable = dict.fromkeys(map(chr, code_points(tables.CASE_IGNORABLE)), "ignorable")
    return ignorable | dict.fromkeys(map(chr, code_points(tables.CASED)), "cased")


def lower(text: str) -> str:
    """`text.lower()` as Python 3.11 says it."""
    mapping = lower_mapping()
    lowered = [mapping.get(character, character) for character in text]
    for i, character in enumerate(text):
        if character == "Σ" and _is_final_sigma(text, i):
            lowered[i] = "ς"
    return "".join(lowered)


def nfd(text: str) -> str:
    """`unicodedata.normalize("NFD", text)` as Python 3.11 says it."""
    mapping = decompositions()
    decomposed = "".join(
        _decompose_hangul(ord(character))
        if _HANGUL_FIRST <= ord(character) <= _HANGUL_LAST
        else mapping.get(character, character)
        for character in text
    )
    return _reorder(decomposed)


@functools.cache
def differing_characters() -> frozenset[str]:
    """The characters for which `lower` or `nfd` differ from the running interpreter's.

    Empty on Python 3.11. Elsewhere a sweep over all characters, a tenth of a second.
    """
    if unicodedata.unidata_version == tables.UNIDATA_VERSION:
        return frozenset()
    return compare_with_interpreter()


def compare_with_interpreter() -> frozenset[str]:
    """The sweep of `differing_characters`, whatever version the interpreter has."""
    lowered, decomposed = lower_mapping(), decompositions()
    combining, sigma = combining_classes(), sigma_classes()
    candidates = {chr(code) for span in _SWEPT for code in span}
    # A character that is not assigned has no properties.
    candidates = {c for c in candidates if unicodedata.category(c) != "Cn"}
    candidates.update(lowered, decomposed, combining, sigma)
    return frozenset(
        character
        for character in candidates
        if character.lower() != lowered.get(character, character)
        or unicodedata.normalize("NFD", character)
        != decomposed.get(character, character)
        or unicodedata.combining(character) != combining.get(character, 0)
        or interpreter_sigma_class(character) != sigma.get(character)
    )


# Not ASCII, which never differs; nor ideographs, Hangul syllables, surrogates and
# characters for private use, which no version of Unicode gives a case or an accent.
_SWEPT = (
    range(0x80, 0x3400),
    range(0xA000, _HANGUL_FIRST),
    range(_HANGUL_LAST + 1, 0xD800),
    range(0xF900, 0x17000),
    range(0x18D00, 0x20000),
    range(0xE0000, 0xE1000),
)


def interpreter_sigma_class(character: str) -> str | None:
    """Finds the `sigma_classes` entry that the running interpreter uses.

    Python does not show these properties. The sigma in "AΣ" + character is final
    unless the character is cased; with an "a" behind it, an ignorable one lets the
    sigma see the "a".
    """
    if ("AΣ" + character).lower()[1] == "σ":
        return "cased"
    return "ignorable" if ("AΣ" + character + "a").lower()[1] == "σ" else None


def _range(entry: str) -> range:
    """Reads "41-5a", or "41" alone, as hexadecimal bounds that both belong to it."""
    first, _, last = entry.partition("-")
    return range(int(first, 16), int(last or first, 16) + 1)


def _is_final_sigma(text: str, i: int) -> bool:
    """Whether a cased character comes before text[i] and none after it.

    Ignorable characters, such as accents and full stops, are looked through.
    """
    classes = sigma_classes()
    before, after = i - 1, i + 1
    while before >= 0 and classes.get(text[before]) == "ignorable":
        before -= 1
    if before < 0 or classes.get(text[before]) != "cased":
        return False
    while after < len(text) and classes.get(text[after]) == "ignorable":
        after += 1
    return after == len(text) or classes.get(text[after]) != "cased"


def _decompose_hangul(code: int) -> str:
    """Takes a syllable apart into its lead, vowel and, where it has one, tail."""
    rest, tail = divmod(code - _HANGUL_FIRST, _NUM_TAILS)
    lead, vowel = divmod(rest, _NUM_VOWELS)
    jamo = chr(_LEAD_FIRST + lead) + chr(_VOWEL_FIRST + vowel)
    return jamo + chr(_TAIL_FIRST + tail) if tail else jamo


def _reorder(decomposed: str) -> str:
    """Sorts each run of combining characters by class, keeping order within a class."""
    classes = combining_classes()
    ordered: list[str] = []
    run: list[str] = []
    for character in decomposed:
        if character in classes:
            run.append(character)
            continue
        ordered += sorted(run, key=classes.__getitem__)
        ordered.append(character)
        run.clear()
    return "".join(ordered + sorted(run, key=classes.__getitem__))
