"""Sentences whose entities a tiny head can learn: tools and music."""

from __future__ import annotations

import random
from typing import Any

from tests.app.tiny import WORDS
from tests.app.tiny_qa import PLAIN

TYPES = {"TOOL": "tool", "MUSIC": "music"}


def sentences(count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of the shape `spans`, no two alike: plain words with one or two names among them."""
    rng = random.Random(seed)
    found: dict[str, dict[str, Any]] = {}
    while len(found) < count:
        words = rng.sample(PLAIN, 5)
        marked: dict[str, str] = {}
        for kind in rng.sample(sorted(TYPES), rng.randint(1, 2)):
            name = rng.choice(WORDS[TYPES[kind]])
            marked[name] = kind
            words.insert(rng.randint(0, len(words)), name)
        text, entities = "", []
        for word in words:
            text += " " * bool(text)
            if word in marked:
                end = len(text) + len(word)
                entities.append({"start": len(text), "end": end, "type": marked[word]})
            text += word
        found[text] = {"text": text, "entities": entities}
    return [*found.values()]
