"""Text -> tokens and where each stood, one rule at a time and one character at a time.

What reference_tokenizer.py does, with each character carrying the place it came from.
"""

import unicodedata
from collections.abc import Container

from bert_extract.tokenization import unicode14
from support import reference_tokenizer as reference

# A character and its place in the text.
Placed = tuple[str, int]


def aligned_tokens(
    text: str, vocab: Container[str], do_lower_case: bool
) -> list[tuple[str, int, int]]:
    """Each wordpiece with its first place and the one behind its last."""
    tokens = []
    for word in placed_words(text, do_lower_case):
        spelt = "".join(character for character, _ in word)
        begin = 0
        for piece in reference.wordpieces(spelt, vocab):
            if piece == "[UNK]":
                length = len(spelt)  # it is alone
            else:
                length = len(piece) - (2 if begin else 0)
            places = [place for _, place in word[begin : begin + length]]
            tokens.append((piece, min(places), max(places) + 1))
            begin += length
        assert begin == len(word)
    return tokens


def placed_words(text: str, do_lower_case: bool) -> list[list[Placed]]:
    """The words of the basic tokenizer."""
    spaced: list[Placed] = []
    for place, character in enumerate(text):
        kind = reference.category(character)
        if character in "\t\n\r" or kind == "Zs":
            spaced.append((" ", place))
        elif character in "\0\ufffd" or kind in ("Cc", "Cf"):
            continue
        elif is_ideograph(character):
            spaced += [(" ", place), (character, place), (" ", place)]
        else:
            spaced.append((character, place))
    words = split(spaced)
    if do_lower_case:
        words = [without_accents(lowered(word)) for word in words]
    cut = []
    for word in words:
        spaced = []
        for character, place in word:
            if is_punctuation(character):
                spaced += [(" ", place), (character, place), (" ", place)]
            else:
                spaced.append((character, place))
        cut += split(spaced)
    return cut


def is_ideograph(character: str) -> bool:
    code = ord(character)
    return (
        0x4E00 <= code <= 0x9FFF
        or 0x3400 <= code <= 0x4DBF
        or 0x20000 <= code <= 0x2A6DF
        or 0x2A700 <= code <= 0x2B73F
        or 0x2B740 <= code <= 0x2B81F
        or 0x2B820 <= code <= 0x2CEAF
        or 0xF900 <= code <= 0xFAFF
        or 0x2F800 <= code <= 0x2FA1F
    )


def is_punctuation(character: str) -> bool:
    is_symbol = "!" <= character <= "~" and not character.isalnum()
    return is_symbol or reference.category(character).startswith("P")


def split(characters: list[Placed]) -> list[list[Placed]]:
    """What `str.split` does."""
    words: list[list[Placed]] = [[]]
    for character, place in characters:
        if character.isspace():
            words.append([])
        else:
            words[-1].append((character, place))
    return [word for word in words if word]


def lowered(word: list[Placed]) -> list[Placed]:
    """One may become several; which sigma it is, the whole word says."""
    places = [place for character, place in word for _ in reference.lower(character)]
    whole = reference.lower("".join(character for character, _ in word))
    return list(zip(whole, places, strict=True))


def without_accents(word: list[Placed]) -> list[Placed]:
    """Decomposed, sorted by swapping neighbours, and then the marks go."""
    parts = [
        (part, place) for character, place in word for part in reference.nfd(character)
    ]
    is_in_order = False
    while not is_in_order:
        is_in_order = True
        for i in range(len(parts) - 1):
            before, after = (combining_class(part) for part, _ in parts[i : i + 2])
            if before > after > 0:
                parts[i : i + 2] = parts[i + 1], parts[i]
                is_in_order = False
    return [(part, place) for part, place in parts if reference.category(part) != "Mn"]


def combining_class(character: str) -> int:
    if reference.IS_UNICODE_14:
        return unicodedata.combining(character)
    return unicode14.combining_classes().get(character, 0)
