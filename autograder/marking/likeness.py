"""Which written answers are alike: those that say the same are read one after the other, by the same measure.

The measure is the course's own encoder (the laptop profile's, all-MiniLM-L6-v2) where it is cached, or else TF-IDF over
words. Whether two texts are nearly the same is asked of their words alone: an encoder
puts "does" and "does not" side by side.
"""

from __future__ import annotations

import io
import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autograder.engine.assignment import digest
from autograder.files import write_whole
from lora_ref import assets

#: Texts with this share of their runs of three words in common are nearly the same.
NEAR = 0.8
#: Tokens of an answer that the encoder reads; 2.8 asks for 200 words.
TOKENS = 256


def words(text: str) -> list[str]:
    """Lower-case words and numbers.

    Example:
        >>> words("B is zero, scaling = 0.5")
        ['b', 'is', 'zero', 'scaling', '0.5']
    """
    return re.findall(r"\w+(?:[.,]\d+)*", text.lower())


def tfidf(texts: Sequence[str]) -> np.ndarray:
    """A row of length 1 for each text: words and pairs of words, rare ones weighing more; (texts, terms)."""
    counts = []
    for text in texts:
        tokens = words(text)
        counts.append(Counter([*tokens, *itertools.pairwise(tokens)]))
    seen = Counter(term for count in counts for term in count)
    place = {term: n for n, term in enumerate(seen)}
    rows = np.zeros((len(texts), max(1, len(place))), dtype=np.float32)
    for row, count in zip(rows, counts, strict=True):
        for term, often in count.items():
            row[place[term]] = (1 + math.log(often)) * math.log((1 + len(texts)) / (1 + seen[term]) + 1)
    return _unit(rows)


def encoder(texts: Sequence[str]) -> np.ndarray:
    """A row of length 1 for each text: the mean of the laptop encoder's last hidden states; (texts, 384)."""
    import torch

    from lora_ref.models import laptop_encoder, laptop_tokenizer

    model, tokenizer = laptop_encoder().roberta, laptop_tokenizer()
    order = sorted(range(len(texts)), key=lambda n: len(texts[n]))  # batches of one length: little padding
    rows = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    for start in range(0, len(order), 16):
        batch = order[start : start + 16]
        some = [texts[n][:20_000] for n in batch]
        tokens = tokenizer(some, padding=True, truncation=True, max_length=TOKENS, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**tokens).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(-1)
        rows[batch] = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
    return _unit(rows)


def vectors(texts: Sequence[str], cache: Path) -> tuple[np.ndarray, str]:
    """A row for each text, and the name of the measure. What the encoder made is kept in ``cache``.

    Args:
        texts: the answers.
        cache: an ``.npz`` file; a damaged one is made again.
    """
    if not assets.cached("encoder"):
        return tfidf(texts), "words"
    keys = [digest(text.encode()) for text in texts]
    try:
        with np.load(cache) as file:
            known = dict(file)
    except (OSError, ValueError, EOFError, KeyError):
        known = {}
    new = list(dict.fromkeys(key for key in keys if key not in known))
    if new:
        known |= dict(zip(new, encoder([texts[keys.index(key)] for key in new]), strict=True))
        file = io.BytesIO()
        np.savez(file, **known)
        write_whole(cache, file.getvalue())
    return np.stack([known[key] for key in keys]) if keys else np.zeros((0, 384)), "the course's encoder"


def order(rows: np.ndarray) -> list[int]:
    """The texts in an order in which neighbours are alike: from the most ordinary one on to the nearest left."""
    if not len(rows):
        return []
    alike = rows @ rows.T
    left = set(range(len(rows)))
    path = [int(np.argmax(alike.sum(1)))]
    left.discard(path[0])
    while left:
        rest = sorted(left)
        path.append(rest[int(np.argmax(alike[path[-1], rest]))])
        left.discard(path[-1])
    return path


def near(texts: Sequence[str]) -> list[list[int]]:
    """For each text, the others that are nearly the same (`NEAR`)."""
    runs: list[frozenset[object]] = []
    for text in texts:
        tokens = words(text)
        runs.append(frozenset(zip(tokens, tokens[1:], tokens[2:], strict=False)) or frozenset(tokens))
    groups: list[list[int]] = [[] for _ in texts]
    for a, left in enumerate(runs):
        for b in range(a + 1, len(runs)):
            right = runs[b]
            if left and right and min(len(left), len(right)) >= NEAR * max(len(left), len(right)):
                common = len(left & right)
                if common >= NEAR * (len(left) + len(right) - common):
                    groups[a].append(b)
                    groups[b].append(a)
    return groups


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
