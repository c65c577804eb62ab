"""The task ``qa``: retrieve passages, read them, answer with the place of the answer.

Passages come from the index, with the request, or from the context given with the question. A long
context is cut on sentence borders; of more passages than can be read in a request's time, those
nearest to the question by BM25 are read, and a warning says so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from app.inference.answer import Answered, Cited, Evidence
from app.inference.retrieval import read_and_find, search_options
from app.inference.snapshot import Snapshot
from app.predict.inputs import check_no_ablation, check_no_labels, each
from app.predict.passages import as_evidence, limited, nearest_to, provided
from app.predict.task import Context, Task, item_body
from app.predict.task_influence import passage_influences
from app.problems import Problem, invalid
from app.schemas.predict import AbstainReason, NoAnswer, TaskRequest
from app.schemas.prediction import Influence
from app.settings import Settings
from index_data.documents import Document
from index_data.search.searcher import Hit

if TYPE_CHECKING:
    from model.qa.answers import SpanAnswer
    from model.qa.evidence import Span

HEAD = "qa"
MAX_QUESTION = 2_000  # characters


@dataclass(frozen=True, slots=True)
class QaRequest:
    """One checked question, and the context to read instead of the index, if there is one."""

    text: str
    context: str | None = None

    @property
    def has_words(self) -> bool:
        """Whether there is a word to look for: emoji and marks alone find chance neighbours."""
        return any(map(str.isalnum, self.text))


@dataclass(frozen=True, slots=True, kw_only=True)
class QaAnswer(Answered):
    """The answer to one question. ``hits``: the passages that were read, best first."""

    answer: SpanAnswer
    hits: list[Hit]
    reason: NoAnswer | None  # why nothing is answered


class Qa(Task[QaRequest, QaAnswer]):
    """Answers by the head ``qa``. The server's thresholds do not apply, only the request's."""

    title = "question answering"

    def check(self, request: TaskRequest, settings: Settings) -> TaskRequest:
        """Raises ``capability-missing`` or ``validation`` for what does not go with questions."""
        check_no_ablation(request, "; without retrieval there is no answer")
        check_no_labels(request)
        return request

    def read(self, request: TaskRequest, settings: Settings) -> list[QaRequest | Problem]:
        """A question, an object with ``question`` and perhaps ``context``, or a list of these."""
        return each(request.input, partial(question, max_chars=settings.max_input_chars))

    def missing(self, snapshot: Snapshot) -> str | None:
        """A checkpoint without a head for questions."""
        serving = snapshot.serving
        if serving is not None and HEAD in serving.model.span_heads:
            return None
        return "The loaded checkpoint has no head for questions."

    async def prepare(self, context: Context, inputs: Sequence[QaRequest | Problem]) -> list[str]:
        """Where retrieval is less than the index was made for, if the index is asked at all."""
        if not any(isinstance(one, QaRequest) and one.context is None for one in inputs):
            return []
        return await super().prepare(context, inputs)

    async def answer(
        self, context: Context, given: QaRequest, recorded: Evidence | None
    ) -> QaAnswer:
        """Find the passages of one question (or take those recorded), read them, answer."""
        from model.qa.evidence import PassageText  # torch takes seconds, the port opens before it

        request, engine = context.request, context.snapshot.model().engine
        began = time.perf_counter()
        hits: list[Hit] = []
        warnings: list[str] = []
        from_index = request.retrieval.mode == "index" and given.context is None
        if recorded is not None and from_index:
            hits = recorded.hits
        elif given.has_words:
            hits, warnings = await passages(context, given)
        retrieved_at = time.perf_counter()
        # Only the order of a retriever means something.
        texts = [PassageText(h.text, h.rank if from_index else 1, h.title) for h in hits]
        answer = await asyncio.wrap_future(engine.answer(given.text, texts, HEAD))
        influence: dict[int, Influence] = {}
        if "influence" in request.explain:
            cited = [i for i, hit in enumerate(hits) if hit.doc_id]
            influence = await passage_influences(engine, HEAD, answer, cited)
            if hits and not cited:
                warnings.append("explain.influence: a context that was given is not cited")
        reason = why_not(answer, given, request)
        weighted = zip(hits, answer.mass, range(len(hits)), strict=True)
        return QaAnswer(
            answer=answer,
            hits=hits,
            reason=reason,
            confidence=answer.confidence,
            calibrated=answer.calibrated,
            support=answer.support,
            abstain_reason=abstain_reason(reason),
            cited=[Cited(hit, w, influence.get(i)) for hit, w, i in weighted if hit.doc_id],
            input_text=given.text,
            evidence=Evidence(hits if from_index else []),
            retrieved=len(hits),
            used=sum(weight > 0 for weight in answer.mass),
            tokens=answer.tokens,
            retrieve_ms=1000 * (retrieved_at - began),
            predict_ms=1000 * (time.perf_counter() - retrieved_at),  # waiting included
            warnings=warnings,
        )

    def item(self, request: TaskRequest, answer: QaAnswer) -> dict[str, Any]:
        """The likeliest answer with its place, and others that are possible."""
        spans = answer.answer.spans[: request.params.top_n]
        output: dict[str, Any] = {
            "answer": None,
            "answerable": answer.reason is None,
            "doc_id": None,
            "start": None,
            "end": None,
            "score": None,
            "alternatives": [possible(span, answer.hits) for span in spans],
            "reason": answer.reason,
        }
        if answer.reason is None:
            output |= possible(answer.answer.spans[0], answer.hits)
            output["alternatives"] = output["alternatives"][1:]
        return item_body(request, answer, {"output": output})


def question(given: object, pointer: str, max_chars: int) -> QaRequest | Problem:
    """One input: a text, or an object with ``question`` and perhaps ``context``."""
    text, context, place = given, None, pointer
    if isinstance(given, dict):
        if given.keys() - {"question", "context"}:
            return invalid(pointer, "an object with question and context, nothing else")
        text, context = given.get("question"), given.get("context")
        place = f"{pointer}/question"
    if not isinstance(text, str):
        return invalid(place, "a question is needed, as a string")
    if not text.strip():
        return invalid(place, "the question is empty")
    if len(text) > MAX_QUESTION:
        return invalid(place, f"{len(text)} characters; a question has at most {MAX_QUESTION}")
    if context is None:
        return QaRequest(text)
    place = f"{pointer}/context"
    if not isinstance(context, str):
        return invalid(place, "must be a string")
    if not context.strip():
        return invalid(place, "the context is empty; leave it out to ask the index")
    if len(context) > max_chars:
        return invalid(place, f"{len(context)} characters; at most {max_chars}")
    return QaRequest(text, context)


async def passages(context: Context, given: QaRequest) -> tuple[list[Hit], list[str]]:
    """The passages to read for a question, best first, and warnings."""
    retrieval, snapshot = context.request.retrieval, context.snapshot
    pool, text = context.pipeline.pool, given.text
    if given.context is not None:
        return await nearest_to(text, [Document("", given.context)], pool)
    if retrieval.mode == "off":
        return [], []
    if retrieval.mode == "provided":
        return await nearest_to(text, provided(retrieval), pool)
    k, warnings = limited(retrieval.k or snapshot.model().model.span_heads[HEAD])
    search = search_options(retrieval, k, retrieval.method, passages=True)
    search = as_evidence(snapshot, retrieval, search)
    return await read_and_find(pool, snapshot, text, search), warnings


def why_not(answer: SpanAnswer, given: QaRequest, request: TaskRequest) -> NoAnswer | None:
    """Why nothing is answered; ``None`` where something is."""
    confidence, support = request.abstain.min_confidence, request.abstain.min_support
    if not given.has_words:
        return "no_words"
    if not answer.readable:
        return "unreadable"
    if not answer.mass:
        closed = request.retrieval.mode == "off" and given.context is None
        return "closed_book" if closed else "nothing_found"
    if not answer.spans:
        return "no_words"
    if not answer.answerable:
        return "not_in_passages"
    if support is not None and answer.support < support:
        return "low_support"
    if confidence is not None and answer.confidence < confidence:
        return "low_confidence"
    return None


def possible(span: Span, hits: Sequence[Hit]) -> dict[str, Any]:
    """A span with its place in its document."""
    hit = hits[span.passage]
    return {
        "answer": span.text,
        "doc_id": hit.doc_id or None,
        "start": hit.start + span.start,
        "end": hit.start + span.end,
        "score": round(span.prob, 6),
    }


def abstain_reason(reason: NoAnswer | None) -> AbstainReason | None:
    """The reason in the words that all tasks share."""
    if reason is None or reason == "low_support" or reason == "low_confidence":
        return reason
    return "low_support" if reason == "not_in_passages" else "no_evidence"
