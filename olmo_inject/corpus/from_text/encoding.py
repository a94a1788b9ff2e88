"""Token ids of documents, with EOS after each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import UInt

from olmo_inject.errors import UserError
from olmo_inject.vocabulary import Vocabulary


def encode_documents(
    texts: Sequence[str], vocabulary: Vocabulary, dtype: np.dtype, where: Callable[[int], str]
) -> tuple[UInt[np.ndarray, " n"], list[int]]:
    """Tokenize documents. The text of a special token in a document stays text; EOS only marks a document's end.

    Args:
        texts: the documents.
        vocabulary: with a tokenizer.
        dtype: of the ids.
        where: names a document by its index, to begin an error message.

    Returns:
        The ids, and the number of ids up to the end of each document.

    Raises:
        UserError: the tokenizer turns a document's own text into EOS.
    """
    tokenizer, eos = vocabulary.tokenizer, vocabulary.eos_id
    assert tokenizer is not None
    tokenizer.encode_special_tokens = True
    try:
        encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    finally:
        tokenizer.encode_special_tokens = False  # others share the tokenizer
    ids, ends = list[int](), list[int]()
    for encoding in encodings:
        ids += encoding.ids
        ids.append(eos)
        ends.append(len(ids))
    array = np.fromiter(ids, dtype, len(ids))
    if np.count_nonzero(array == eos) != len(texts):
        culprit = next(n for n, encoding in enumerate(encodings) if eos in encoding.ids)
        raise UserError(
            f"{where(culprit)}: the tokenizer turns its text into the EOS token {eos}, which is not one of the "
            "tokenizer's special tokens"
        )
    return array, ends
