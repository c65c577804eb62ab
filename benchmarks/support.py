"""What counts as supported by retrieved text: ``python -m benchmarks.support``.

Sentences that two passages say, in other words or fewer, and strings of their words that say
nothing; the percentage of each that `app.predict.grounding` calls grounded:

- the title of an abstract over that abstract and another one (written by people, not quoted);
- a sentence of a MedQuAD answer with a fifth of its words left out, and the first two thirds of one
  with the last two thirds of another, over the answer and another one;
- a sentence with another number, or another name, of the same two answers in the place of its own;
- 14 words of two answers, drawn anywhere, and five runs of three words.

The last line printed is one JSON object.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence

from app.predict.grounding import Source, citations, numbers
from benchmarks.data import rows
from index_data.text.passages import sentences

TITLED = {"cranfield": "cranfield/documents", "cacm": "cacm/documents", "csl": "csl_titles/dev"}
MOST = 600
WORDS = (60, 250)
"""Of a MedQuAD answer that is taken."""


def titles(source: str) -> Iterator[tuple[str, list[str]]]:
    """Titles with their own text, which does not repeat them, and the next one."""
    found = [row for row in rows(source) if row.get("title") and row.get("text")][:MOST]
    texts = [row["text"].replace(row["title"], "") for row in found]
    for i, row in enumerate(found):
        yield row["title"], [texts[i], texts[(i + 1) % len(texts)]]


def made(chance: random.Random) -> dict[str, list[tuple[str, list[str]]]]:
    """Sentences of two answers that are shortened, joined or nothing but their words."""
    answers = [row["answer"] for row in rows("medquad/faq")]
    answers = [a for a in answers if WORDS[0] < len(a.split()) < WORDS[1]][: 2 * MOST]
    kinds = (
        *("shortened", "joined", "another number", "another name"),
        *("salad of words", "salad of runs"),
    )
    out: dict[str, list[tuple[str, list[str]]]] = {kind: [] for kind in kinds}
    for first, second in zip(answers[::2], answers[1::2], strict=True):
        both = [first, second]
        whole = [first[a:b].split() for a, b in sentences(first)]
        whole = [words for words in whole if len(words) > 8]
        if len(whole) > 1:
            x, y = chance.sample(whole, 2)
            out["shortened"].append((" ".join(w for w in x if chance.random() > 0.2), both))
            joined = [*x[: len(x) * 2 // 3], "and", *y[len(y) // 3 :]]
            out["joined"].append((" ".join(joined), both))
        for kind, details in (("another number", numbers), ("another name", capitalised)):
            swapped = exchanged(whole, sorted(details(first) | details(second)), chance)
            if swapped is not None:
                out[kind].append((swapped, both))
        words = [text.split() for text in both]
        out["salad of words"].append((" ".join(chance.sample([*words[0], *words[1]], 14)), both))
        runs: list[str] = []
        for _ in range(5):
            source = chance.choice(words)
            at = chance.randrange(len(source) - 3)
            runs += source[at : at + 3]
        out["salad of runs"].append((" ".join(runs), both))
    return out


def capitalised(text: str) -> frozenset[str]:
    """Words with a capital letter that are not a sentence's first."""
    words = [text[a:b].split()[1:] for a, b in sentences(text)]
    return frozenset(w for one in words for w in one if w.isalpha() and w.istitle() and len(w) > 3)


def exchanged(
    whole: Sequence[Sequence[str]], details: Sequence[str], chance: random.Random
) -> str | None:
    """A sentence with one of the details in the place of one that it has, if there is any."""
    for words in whole:
        own = [i for i, word in enumerate(words) if i and word in details]
        rest = [detail for detail in details if detail not in words]
        if own and rest:
            return " ".join([*words[: own[0]], chance.choice(rest), *words[own[0] + 1 :]])
    return None


def main() -> None:
    cases = {f"title, {name}": list(titles(source)) for name, source in TITLED.items()}
    cases |= made(random.Random(0))
    found = {}
    for kind, items in cases.items():
        told = [
            bool(citations(sentence, [Source.of(i, None, text) for i, text in enumerate(texts, 1)]))
            for sentence, texts in items
        ]
        found[kind] = {"sentences": len(items), "supported": round(100 * sum(told) / len(told), 1)}
        print(f"{kind:20}", found[kind], flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
