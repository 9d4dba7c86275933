"""Lines as the pipeline sees them, of any length."""

import numpy as np

from bert_extract.inputs.features import Features, LinePart, TakenTokens


def line_of(num_tokens: int, unique_id: int = 0) -> Features:
    """A line of so many tokens, all of them [PAD]."""
    ids = np.zeros(num_tokens, np.int32)
    part = LinePart(TakenTokens(0, num_tokens))
    return Features(unique_id, ids, ids, False, False, part)
