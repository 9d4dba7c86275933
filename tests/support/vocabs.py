"""Small vocabs that show what a real one would hide."""

import itertools
import random

from bert_extract.tokenization.vocab import Vocab
from support.nasty_text import SORTED_MARKS


def make_vocab(*tokens: str) -> Vocab:
    """These wordpieces and the special ones."""
    tokens = ("[UNK]", "[CLS]", "[SEP]", *tokens)
    return Vocab(tokens, {token: i for i, token in enumerate(tokens)}, (), "vocab.txt")


def make_letter_vocab() -> Vocab:
    """Pieces of one and two characters of many scripts, so that words are cut up."""
    singles = [chr(code) for code in range(0x21, 0x3000) if not chr(code).isspace()]
    rng = random.Random(1)
    doubles = ["".join(rng.sample(singles[:600], 2)) for _ in range(3000)]
    doubles += [a + b for a, b in itertools.product("abcdefgimnorstu", repeat=2)]
    jamo = [chr(code) for code in range(0x1100, 0x11FF)]
    doubles += ["".join(rng.sample(jamo, 2)) for _ in range(3000)]
    pieces = dict.fromkeys([*singles, *SORTED_MARKS, *doubles])
    return make_vocab(*pieces, *(f"##{piece}" for piece in pieces))
