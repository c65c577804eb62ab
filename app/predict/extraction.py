"""Answering a dialogue without a generator: quoting the most relevant sentences.

Sentences of the retrieved passages are compared with the query; the most relevant ones, all of one
document, are quoted in a short frame that names it. Where none is relevant enough, none is quoted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from app.inference.retrieval import read_texts
from app.inference.snapshot import Snapshot
from app.predict.grounding import Sentence
from app.predict.passages import Passages, Query, Vector
from index_data.search.searcher import Hit
from index_data.text.analysis import detect_language, terms
from index_data.text.passages import sentences

MOST_SENTENCES = 64  # that are compared, of the best passages
QUOTED = 3
NEAR = 0.85  # of the best sentence's relevance, for another one to be quoted with it
# Under which nothing is quoted: `python -m benchmarks.dialogue relevance`, in docs/decisions/.
RELEVANT = 0.43
HELD = 0.4  # share of the turns' words in the passage, where there are no vectors to compare
_CLAUSE = re.compile(r"[。！？；，…!?;,]+")


@dataclass(frozen=True, slots=True)
class Quotable:
    """A sentence of a passage, ``hits[place].text[start:end]``, and its relevance to the query."""

    place: int
    start: int
    end: int
    relevance: float


async def quotables(snapshot: Snapshot, query: Query, passages: Passages) -> list[Quotable]:
    """The sentences that are relevant to a query, each text once, the best first.

    By the cosine to the query, times the root of their passage's share of the best score; by words
    where the encoder does not know the query's language.
    """
    hits = passages.hits
    if passages.vector is None:
        return worded(query, hits)
    spans = spans_of(enumerate(hits))
    vectors = [state.vector for state in await read_texts(snapshot.model(), list(spans))]
    words = query.words()
    top = max(hits[0].score, 1e-9) if hits else 1.0
    quotes = []
    for (text, (place, start, end)), near in zip(spans.items(), vectors, strict=True):
        hit = hits[place]
        cosine = relevance(words, passages.vector, text, near, hit.title)
        if cosine >= RELEVANT:
            share = math.sqrt(max(hit.score, 0.0) / top)
            quotes.append(Quotable(place, start, end, cosine * share))
    return in_order(quotes)


def worded(query: Query, hits: Sequence[Hit], *, without: int | None = None) -> list[Quotable]:
    """The sentences of the best passage with words of the query's last clause, most first.

    The best passage that states something. None, where it lacks most of the query's words, its
    document's title included. ``without``: as if the passage of this place had not been found.
    """
    words = query.words()
    for place, hit in enumerate(hits):
        spans = spans_of([(place, hit)]).items()
        stated = [(text, span) for text, span in spans if states(text, words)]
        if stated and place != without:
            break
    else:
        return []
    if query.held(f"{hit.title or ''}\n{hit.text}") < HELD:
        return []
    clauses = [set(terms(clause)) for clause in _CLAUSE.split(query.parts[0][0])]
    last = next((clause for clause in reversed(clauses) if clause), set())
    quotes = [Quotable(*span, float(len(last & set(terms(text))))) for text, span in stated]
    return in_order([quote for quote in quotes if quote.relevance])


def spans_of(places: Iterable[tuple[int, Hit]]) -> dict[str, tuple[int, int, int]]:
    """(place, start, end) of the sentences of some passages, each text once."""
    spans: dict[str, tuple[int, int, int]] = {}
    for place, hit in places:
        for start, end in sentences(hit.text):
            text = hit.text[start:end]
            if sum(map(str.isalnum, text)) > 1 and len(spans) < MOST_SENTENCES:
                spans.setdefault(text, (place, start, end))
    return spans


def in_order(quotes: Iterable[Quotable]) -> list[Quotable]:
    """The most relevant first."""
    return sorted(quotes, key=lambda q: (-q.relevance, q.place, q.start))


def relevance(
    words: frozenset[str], vector: Vector, text: str, near: Vector, title: str | None
) -> float:
    """The relevance of a sentence to a query of these content words: the cosine of their vectors.

    0 for a sentence that states nothing, and where it and its document's title have none of them.
    """
    fits = states(text, words) and not words.isdisjoint([*terms(text), *terms(title or "")])
    return float(near @ vector) if fits else 0.0


def states(text: str, words: frozenset[str]) -> bool:
    """Whether a sentence is no question and has a content word beside those of the query."""
    asks = text.rstrip("\"'”’」』)） ").endswith(("?", "？"))
    return not asks and not words.issuperset(terms(text))


def chosen(quotes: Sequence[Quotable], hits: Sequence[Hit]) -> list[Quotable]:
    """What is quoted: the best sentence and those of its document nearly as good, in order."""
    if not quotes:
        return []
    best = quotes[0]
    source = hits[best.place].doc_id
    near = [
        quote
        for quote in quotes
        if quote.relevance >= NEAR * best.relevance and hits[quote.place].doc_id == source
    ][:QUOTED]
    return sorted(near, key=lambda q: (hits[q.place].start + q.start, q.place))


def framed(quoted: Sequence[Quotable], hits: Sequence[Hit]) -> tuple[str, list[Sentence]]:
    """The quoted sentences with the name of their document, and where each stands.

    The frame is no claim, so it is no sentence of the answer.
    """
    text, places = "", []
    last: str | None = None
    for quote in quoted:
        hit = hits[quote.place]
        sentence = hit.text[quote.start : quote.end]
        chinese = detect_language(sentence) == "zh"
        if hit.doc_id != last:
            title = hit.title
            text = f"{text}\n" if text else text
            text += f"《{title}》：" if title and chinese else f"“{title}”: " if title else ""
            text += ("文档中写道：" if chinese else "A document says: ") if not title else ""
        elif not chinese:
            text += " "
        places.append(Sentence(len(text), len(text) + len(sentence), (hit.rank,)))
        text, last = text + sentence, hit.doc_id
    return text, places


def nothing(language: str) -> str:
    """The answer where no passage is relevant."""
    return "我没有这方面的资料。" if language == "zh" else "I have nothing on that."
