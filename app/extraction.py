"""Answering a dialogue without a generator: the best-supported sentences of what was retrieved.

Sentences of the retrieved passages are compared with what is asked; those that bear on it most are
quoted in a short frame that names their documents. With nothing near enough nothing is quoted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.grounding import Query, Vector, vectors_of
from app.snapshot import Snapshot
from app.support import Sentence
from index_data.analysis import detect_language, terms
from index_data.passages import sentences
from index_data.searcher import Hit

MOST_SENTENCES = 64  # that are compared, of the best passages
QUOTED = 3
NEAR = 0.85  # of the best sentence's relevance, for another one to be quoted with it
# Under which nothing is quoted: `python -m benchmarks.dialogue relevance`, in docs/log.md.
RELEVANT = 0.43


@dataclass(frozen=True, slots=True)
class Quotable:
    """A sentence of a passage, ``hits[place].text[start:end]``, and how it bears on the query."""

    place: int
    start: int
    end: int
    relevance: float


async def quotables(
    snapshot: Snapshot, query: Query, vector: Vector | None, hits: Sequence[Hit]
) -> list[Quotable]:
    """The sentences of the hits with their relevance, each text once, the best first."""
    if vector is None:
        return []
    spans: dict[str, tuple[int, int, int]] = {}
    for place, hit in enumerate(hits):
        for start, end in sentences(hit.text):
            text = hit.text[start:end]
            if sum(map(str.isalnum, text)) > 1 and len(spans) < MOST_SENTENCES:
                spans.setdefault(text, (place, start, end))
    vectors = await vectors_of(snapshot, list(spans))
    found = [
        Quotable(*span, relevance(query, vector, text, near, hits[span[0]].document.title))
        for (text, span), near in zip(spans.items(), vectors, strict=True)
    ]
    return sorted(found, key=lambda q: (-q.relevance, q.place, q.start))


def relevance(query: Query, vector: Vector, text: str, near: Vector, title: str | None) -> float:
    """How a sentence bears on a query: the cosine of their vectors.

    0 for a question, which answers nothing, and where the sentence, with the title of its document,
    says none of the query's content words; of a Chinese question, half of the last turn's.
    """
    if text.rstrip("\"'”’」』)） ").endswith(("?", "？")):
        return 0.0
    held = {*terms(text), *terms(title or "")}
    last = query.parts[0][0]
    if detect_language(last) == "zh":  # what few encoders know; without its words it means little
        asked = set(terms(last))
        fits = bool(asked) and 2 * len(asked & held) >= len(asked)
    else:
        fits = any(term in held for part, _ in query.parts for term in terms(part))
    return float(near @ vector) if fits else 0.0


def chosen(found: Sequence[Quotable]) -> list[Quotable]:
    """What is quoted: the best sentence and those nearly as good, by document and place."""
    if not found or found[0].relevance < RELEVANT:
        return []
    best = [q for q in found if q.relevance >= NEAR * found[0].relevance][:QUOTED]
    first = {q.place: i for i, q in reversed(list(enumerate(best)))}
    return sorted(best, key=lambda q: (first[q.place], q.start))


def framed(quoted: Sequence[Quotable], hits: Sequence[Hit]) -> tuple[str, list[Sentence]]:
    """The quoted sentences with the names of their documents, and where each stands.

    The frame is no claim, so it is no sentence of the answer.
    """
    text, places = "", []
    last: int | None = None
    for quote in quoted:
        hit = hits[quote.place]
        said = hit.text[quote.start : quote.end]
        chinese = detect_language(said) == "zh"
        if quote.place != last:
            title = hit.document.title
            text = f"{text}\n" if text else text
            text += f"《{title}》：" if title and chinese else f"“{title}”: " if title else ""
            text += ("文档中写道：" if chinese else "A document says: ") if not title else ""
        elif not chinese:
            text += " "
        places.append(Sentence(len(text), len(text) + len(said), (hit.rank,)))
        text, last = text + said, quote.place
    return text, places


def nothing(language: str) -> str:
    """What is said when nothing supports an answer."""
    return "我没有这方面的资料。" if language == "zh" else "I have nothing on that."
