"""Random lines with everything in them that a tokenizer can get wrong."""

import random
from collections.abc import Iterator

# Ranges of code points; a script or kind each.
_ALPHABETS = (
    ((0x20, 0x7E),),
    ((0xA0, 0x24F), (0x1E00, 0x1EFF)),  # Latin with accents
    ((0x370, 0x3FF), (0x1F00, 0x1FFF)),  # Greek, old and new
    ((0x400, 0x52F),),  # Cyrillic
    ((0x531, 0x58F), (0x10A0, 0x10FF), (0x1C90, 0x1CBF)),  # Armenian, Georgian
    ((0x13A0, 0x13FF), (0xAB70, 0xABBF)),  # Cherokee, whose small letters came later
    ((0x590, 0x6FF), (0xFB1D, 0xFDFF)),  # Hebrew, Arabic
    ((0x900, 0xDFF),),  # the scripts of India
    ((0xE00, 0xFFF),),  # Thai, Lao, Tibetan
    ((0x1000, 0x109F), (0x1780, 0x17FF), (0x1B00, 0x1BFF)),  # Burmese, Khmer, Balinese
    ((0x1100, 0x11FF), (0xAC00, 0xD7FB)),  # Hangul
    ((0x3000, 0x312F), (0x31F0, 0x33FF)),  # Kana, squared letters
    ((0x3400, 0x34FF), (0x4E00, 0x4FFF), (0xF900, 0xFAFF), (0x20000, 0x200FF)),  # Han
    ((0x2000, 0x206F),),  # spaces, dashes, joiners
    ((0x2070, 0x2BFF),),  # symbols
    ((0xFE00, 0xFFFD),),  # presentation forms, full width
    ((0x1F300, 0x1FAFF),),  # emoji
    ((0x10400, 0x104FF), (0x10570, 0x105BF), (0x1E900, 0x1E95F)),  # cased, far away
    ((0x1D000, 0x1D7FF),),  # music and mathematics
    ((0x11000, 0x11FFF), (0x1E000, 0x1E4FF)),  # where newer versions add characters
    ((0x0, 0x1F), (0x7F, 0x9F)),  # controls
    ((0xE000, 0xE0FF), (0xE0000, 0xE01FF), (0x10FF00, 0x10FFFF)),  # private, tags
)
_MARKS = ((0x300, 0x36F), (0x591, 0x5BD), (0x64B, 0x65F), (0x1DC0, 0x1DFF))
_SPACES = " \u00a0\u2003\u3000\t\u2028\u2029\x0b\x0c\x1c\x1f\x85\u200b\ufeff\u1680"
_LITERALS = (
    *("[CLS]", "[SEP]", "[UNK]", "[MASK]", "[PAD]", "[unused5]", "##s", "##", "#"),
    *("don't", "Zürich", "naïve", "İstanbul", "ΟΔΟΣ", "ΣΑΣ.", "Σ", "ς", "straße"),
    *("ΑΣ\u0301 Β", "ΑΣ'Β", "\ufb01", "½", "…", "™", "e\u0301\u0327", "\u1e9b\u0323"),
    *("👩‍👩‍👧", "🇩🇪", "❤️", "各国", "한국어", "ประเทศไทย", "\0", "\ufffd", "|||"),
    *("embeddings", "unaffable", "Tokenization", "x86-64", "$9.99", "C++", "a_b"),
)

# The marks that lower-casing leaves but sorts.
SORTED_MARKS = "\u302e\u302f\U00016ff0\U00016ff1\U0001d165\U0001d166\U0001d16d"
# What may stand between them and matter, or look as if it did.
_AMONG_MARKS = "aéΣ\u0301\u0323\u0327\0\u200b \u00a0.中한\u0f73\u0344\ufffd\u1161\u0902"

# What a capital sigma looks at, looks through, or stops at.
_AMONG_SIGMAS = "Αα.'’:\u0301\0\u200b\ufffd 1中,≠-"


def nasty_lines(seed: int, num_lines: int) -> Iterator[str]:
    """Yields the same lines for the same seed, on every version of Python."""
    rng = random.Random(seed)
    for _ in range(num_lines):
        yield "".join(_part(rng) for _ in range(rng.randrange(12)))


def sorted_lines(seed: int, num_lines: int) -> Iterator[str]:
    """Yields lines full of marks that NFD sorts."""
    rng = random.Random(seed)
    for _ in range(num_lines):
        num_characters = rng.randrange(1, 30)
        yield "".join(rng.choices(SORTED_MARKS + _AMONG_MARKS, k=num_characters))


def sigma_lines(seed: int, num_lines: int) -> Iterator[str]:
    """Yields lines full of capital sigmas, which one is final depends on the others."""
    rng = random.Random(seed)
    for _ in range(num_lines):
        num_characters = rng.randrange(40)
        yield "".join(rng.choices("ΣΣΣ" + _AMONG_SIGMAS, k=num_characters))


def _part(rng: random.Random) -> str:
    kind = rng.randrange(10)
    if kind < 4:
        return _word(rng, rng.randrange(1, 9))
    if kind < 6:
        return rng.choice(_LITERALS)
    if kind == 6:
        return rng.choice("ΣΑα\u0345.'") + rng.choice(_LITERALS)
    if kind == 7 and rng.random() < 0.1:
        return _word(rng, rng.randrange(195, 206))
    return rng.choice(_SPACES) if rng.random() < 0.5 else " "


def _word(rng: random.Random, num_characters: int) -> str:
    alphabet = rng.choice(_ALPHABETS)
    characters = []
    for _ in range(num_characters):
        ranges = _MARKS if rng.random() < 0.1 else alphabet
        characters.append(chr(rng.randint(*rng.choice(ranges))))
    return "".join(characters)
