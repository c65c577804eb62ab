"""Documents in and out of the store, and into the index. It knows no HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from app.inference.indexer import Indexer
from app.inference.retrieval import filter_of
from app.manage import erasure
from app.problems import FieldError, Problem, invalid
from index_data.documents import Document, InvalidDocument, parse_document
from index_data.filters import Filter, parse_filter
from index_data.storage.store import DocumentStore, InvalidCursor

Wait = Literal["indexed", "durable"]

BATCH_LINES = 1_000
BATCH_BYTES = 8 * 1024 * 1024
MAX_LINE = 8 * 1024 * 1024
NAMED = 1_000  # ids and rejections listed in an answer; all are counted
SAMPLE_WARNED = "sample:warned"
SAMPLE = {"metadata.source": "sample"}


@dataclass(frozen=True, slots=True)
class Target:
    """Where documents are written to; ``imported`` is told after an import."""

    store: DocumentStore
    indexer: Indexer
    imported: Callable[[], None]


@dataclass(slots=True)
class Report:
    """What became of an import so far."""

    created: int = 0
    updated: int = 0
    rejections: int = 0
    rejected: list[dict[str, Any]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    sequence: int = 0

    def reject(self, line: int, pointer: str, detail: str) -> None:
        """Note a document that was not taken."""
        self.rejections += 1
        if len(self.rejected) < NAMED:
            self.rejected.append({"line": line, "pointer": f"#{pointer}", "detail": detail})

    def to_json(self, warnings: Sequence[str] = ()) -> dict[str, Any]:
        """The answer of ``POST /documents``."""
        return {
            "accepted": self.created + self.updated,
            "created": self.created,
            "updated": self.updated,
            "rejected": self.rejected,
            "rejected_count": self.rejections,
            "ids": self.ids,
            "sequence": self.sequence,
            "warnings": list(warnings),
        }


async def import_json(target: Target, body: Mapping[str, Any], wait: Wait) -> dict[str, Any]:
    """Upsert one document, or those of ``{"documents": [...]}``. Raises :class:`Problem`."""
    multilabel = "documents" in body
    raws = body["documents"] if multilabel else [body]
    if multilabel and (len(body) > 1 or not isinstance(raws, list) or not raws):
        raise invalid("#/documents", "must be a list of documents that is not empty, alone")
    report = Report()
    documents: list[Document] = []
    for line, raw in enumerate(raws, 1):
        take(report, documents, line, raw)
    if not documents:
        raise all_rejected(report, multilabel)
    check_indexing(target.indexer, wait)
    await write(target, documents, report)
    return await finished(target, report, wait, documents[0])


async def import_lines(target: Target, chunks: AsyncIterator[bytes], wait: Wait) -> dict[str, Any]:
    """Upsert NDJSON as it arrives, a batch at a time: memory does not grow with its length.

    Each batch of :data:`BATCH_LINES` is durable before the next is read, so whatever breaks keeps
    the whole batches. Raises ``validation`` when every line is rejected.
    """
    check_indexing(target.indexer, wait)
    report = Report(sequence=target.store.sequence)
    batch: list[Document] = []
    first: Document | None = None
    size = 0
    number = 0
    async for line in lines(chunks):
        number += 1
        if line is None:
            report.reject(number, "", f"the line is over {MAX_LINE} bytes")
            continue
        if not line.strip():
            continue
        size += len(line)
        take_line(report, batch, number, line)
        first = first or (batch[0] if batch else None)
        if len(batch) >= BATCH_LINES or size >= BATCH_BYTES:
            await write(target, batch, report)
            batch, size = [], 0
    if batch:
        await write(target, batch, report)
    if first is None:
        raise all_rejected(report, True)
    return await finished(target, report, wait, first)


async def lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes | None]:
    """The lines of a stream; ``None`` for one that is too long to be held."""
    held = bytearray()
    too_long = False
    async for chunk in chunks:
        held += chunk
        *whole, rest = held.split(b"\n")
        for line in whole:
            yield None if too_long or len(line) > MAX_LINE else bytes(line)
            too_long = False
        held = bytearray(rest)
        if len(held) > MAX_LINE:
            too_long, held = True, bytearray()
    if held or too_long:
        yield None if too_long else bytes(held)


def take_line(report: Report, batch: list[Document], number: int, line: bytes) -> None:
    """Decode and check one line; a bad one is reported and loses nothing else."""
    try:
        raw = orjson.loads(line)
    except orjson.JSONDecodeError:
        report.reject(number, "", "not valid JSON")
    else:
        take(report, batch, number, raw)


def take(report: Report, batch: list[Document], number: int, raw: object) -> None:
    """Check one document; a bad one is reported and loses nothing else."""
    try:
        batch.append(parse_document(raw))
    except InvalidDocument as error:
        report.reject(number, error.pointer, error.detail)


def all_rejected(report: Report, multilabel: bool) -> Problem:
    """The problem of an import of which nothing is left."""
    errors = [
        FieldError(
            r["pointer"] if not multilabel else f"#/documents/{r['line'] - 1}{r['pointer'][1:]}",
            r["detail"],
        )
        for r in report.rejected
    ]
    detail = "No document could be taken." if report.rejections else "There is no document in it."
    return Problem("validation", detail, errors=errors)


def check_indexing(indexer: Indexer, wait: Wait) -> None:
    """Raise ``not-ready`` before anything is written that could not be waited for."""
    if wait == "indexed":
        indexer.check_open()


async def write(target: Target, documents: Sequence[Document], report: Report) -> None:
    """Write a batch durably and let the indexer know."""
    result = await asyncio.wrap_future(target.store.upsert(documents))
    report.created += result.created
    report.updated += result.updated
    report.sequence = result.sequence
    report.ids += result.ids[: NAMED - len(report.ids)]
    target.indexer.notify()


async def finished(target: Target, report: Report, wait: Wait, first: Document) -> dict[str, Any]:
    """Wait as asked, and say what there is to say."""
    if wait == "indexed":
        await target.indexer.wait(report.sequence)
    warnings = []
    if first.metadata.get("source") != "sample":
        warnings = await asyncio.to_thread(sample_warning, target.store)
    target.imported()
    return report.to_json(warnings)


def sample_warning(store: DocumentStore) -> list[str]:
    """Once, on the first import of a user's own: that the sample is still there."""
    if store.meta_get(SAMPLE_WARNED) is not None:
        return []
    store.meta_set(SAMPLE_WARNED, "1")
    found, _ = store.list(limit=1, where=parse_filter(SAMPLE))
    if not found:
        return []
    return ["The sample documents are still there; DELETE /admin/sample takes them out."]


async def replace_one(
    target: Target, name: str, body: Mapping[str, Any], *, if_match: str | None, wait: Wait
) -> tuple[dict[str, Any], Document]:
    """Put one document under its id. Raises :class:`Problem` and ``PreconditionFailed``."""
    if body.get("id", name) != name:
        raise invalid("#/id", "must equal the id in the path")
    try:
        document = parse_document({**body, "id": name})
    except InvalidDocument as error:
        raise invalid(f"#{error.pointer}", error.detail) from None
    check_indexing(target.indexer, wait)
    result = await asyncio.wrap_future(target.store.upsert([document], if_match=if_match))
    report = Report(result.created, result.updated, ids=result.ids, sequence=result.sequence)
    return await finished(target, report, wait, document), document


async def delete_one(target: Target, name: str, *, if_match: str | None) -> dict[str, Any]:
    """Delete one document. Raises ``not-found`` and ``PreconditionFailed``."""
    result = await asyncio.wrap_future(target.store.delete([name], if_match=if_match))
    if not result.deleted:
        raise Problem("not-found", "There is no document with this id.")
    await target.indexer.wait(result.sequence)
    return {"deleted": 1, "dry_run": False, "sequence": result.sequence}


async def erase_one(holders: erasure.Holders, name: str, *, if_match: str | None) -> dict[str, Any]:
    """Erase one document, with the receipt. Raises ``not-found`` and ``PreconditionFailed``."""
    receipt = await erasure.erase(holders, name, if_match=if_match)
    deleted = int(receipt["document"])
    told = {"deleted": deleted, "dry_run": False, "sequence": receipt["sequence"]}
    return told | {"receipt": receipt}


async def delete_where(target: Target, raw: dict[str, Any], dry_run: bool) -> dict[str, Any]:
    """Delete what a filter matches, or only count it. Raises ``validation``."""
    wanted = filter_of(raw, "#/filter")
    if not wanted:
        raise invalid("#/filter", "at least one condition is needed")
    if dry_run:
        count = len(await asyncio.to_thread(matching, target.store, wanted))
        return {"deleted": count, "dry_run": True, "sequence": target.store.sequence}
    deleted = await asyncio.to_thread(delete_matching, target.store, wanted)
    sequence = target.store.sequence
    await target.indexer.wait(sequence)
    return {"deleted": deleted, "dry_run": False, "sequence": sequence}


def matching(store: DocumentStore, wanted: Filter) -> list[str]:
    """The ids of the documents that a filter matches. Reads the whole store: not on the loop."""
    return [d.id for batch in store.scan() for d in batch if wanted.matches(d)]


def delete_matching(store: DocumentStore, wanted: Filter) -> int:
    """Delete what a filter matches, a batch at a time; how many there were. Blocks."""
    ids = matching(store, wanted)
    return sum(
        store.delete(ids[i : i + BATCH_LINES]).result().deleted
        for i in range(0, len(ids), BATCH_LINES)
    )


async def page(
    store: DocumentStore, *, cursor: str | None, limit: int, raw_filter: str | None
) -> dict[str, Any]:
    """A page of documents. Raises ``validation``."""
    wanted = None
    if raw_filter is not None:
        try:
            decoded = orjson.loads(raw_filter.encode("utf-8", "replace"))
        except orjson.JSONDecodeError:
            raise invalid("#/filter", "not valid JSON") from None
        if not isinstance(decoded, dict):
            raise invalid("#/filter", "must be a JSON object")
        wanted = filter_of(decoded, "#/filter")
    try:
        found, following = await asyncio.to_thread(
            store.list, cursor=cursor, limit=limit, where=wanted
        )
        total = await asyncio.to_thread(store.count)
    except InvalidCursor:
        raise invalid("#/cursor", "no page of this list has given this cursor") from None
    return {
        "documents": [{**d.to_json(), "sequence": d.sequence} for d in found],
        "next_cursor": following,
        "total": total,
        "sequence": store.sequence,
    }


async def read_one(store: DocumentStore, name: str) -> Document:
    """One document. Raises ``not-found``."""
    found = await asyncio.to_thread(store.get, name)
    if found is None:
        if name in await asyncio.to_thread(store.damaged):
            raise Problem("not-found", "The stored document is damaged: write it again.")
        raise Problem("not-found", "There is no document with this id.")
    return found
