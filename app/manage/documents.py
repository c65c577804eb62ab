"""Documents in and out of the store, and into the index. It knows no HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from app.inference.indexer import Indexer
from app.inference.retrieval import filter_of
from app.manage import erasure
from app.problems import FieldError, Problem, invalid
from app.schemas.documents import Rejection, WriteResponse
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
    """Where documents are written to; ``imported`` is called after an import."""

    store: DocumentStore
    indexer: Indexer
    imported: Callable[[], None]


def reject(report: WriteResponse, line: int, pointer: str, detail: str) -> None:
    """Note a document that was not taken."""
    report.rejected_count += 1
    if len(report.rejected) < NAMED:
        report.rejected.append(Rejection(line=line, pointer=f"#{pointer}", detail=detail))


async def import_json(target: Target, body: Mapping[str, Any], wait: Wait) -> WriteResponse:
    """Upsert one document, or those of ``{"documents": [...]}``. Raises :class:`Problem`."""
    in_list = "documents" in body
    raws = body["documents"] if in_list else [body]
    if in_list and (len(body) > 1 or not isinstance(raws, list) or not raws):
        raise invalid("#/documents", "must be a list of documents that is not empty, alone")
    report = WriteResponse()
    documents: list[Document] = []
    for line, raw in enumerate(raws, 1):
        take(report, documents, line, raw)
    if not documents:
        raise all_rejected(report, "#/documents/{}" if in_list else "#")
    check_indexing(target.indexer, wait)
    await write(target, documents, report)
    return await finished(target, report, wait, documents[0])


async def import_lines(target: Target, chunks: AsyncIterator[bytes], wait: Wait) -> WriteResponse:
    """Upsert NDJSON as it arrives, a batch at a time: memory does not grow with its length.

    Each batch of :data:`BATCH_LINES` is durable before the next is read, so whatever breaks keeps
    the whole batches. Raises ``validation`` when every line is rejected.
    """
    check_indexing(target.indexer, wait)
    report = WriteResponse(sequence=target.store.sequence)
    batch: list[Document] = []
    first: Document | None = None
    size = 0
    number = 0
    async for line in lines(chunks):
        number += 1
        if line is None:
            reject(report, number, "", f"the line is over {MAX_LINE} bytes")
            continue
        if not line.strip():
            continue
        size += len(line)
        try:
            raw = orjson.loads(line)
        except orjson.JSONDecodeError:
            reject(report, number, "", "not valid JSON")
            continue
        take(report, batch, number, raw)
        first = first or (batch[0] if batch else None)
        if len(batch) >= BATCH_LINES or size >= BATCH_BYTES:
            await write(target, batch, report)
            batch, size = [], 0
    if batch:
        await write(target, batch, report)
    if first is None:
        raise all_rejected(report, "#/documents/{}")
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


def take(report: WriteResponse, batch: list[Document], number: int, raw: object) -> None:
    """Check one document; a bad one is reported and loses nothing else."""
    try:
        batch.append(parse_document(raw))
    except InvalidDocument as error:
        reject(report, number, error.pointer, error.detail)


def all_rejected(report: WriteResponse, place: str) -> Problem:
    """The problem of an import of which nothing is left. ``place``: the pointer of a document."""
    errors = [
        FieldError(place.format(r.line - 1) + r.pointer[1:], r.detail) for r in report.rejected
    ]
    detail = "No document could be taken." if errors else "There is no document in it."
    return Problem("validation", detail, errors=errors)


def check_indexing(indexer: Indexer, wait: Wait) -> None:
    """Raise ``not-ready`` before anything is written that could not be waited for."""
    if wait == "indexed":
        indexer.check_open()


async def write(
    target: Target,
    documents: Sequence[Document],
    report: WriteResponse,
    if_match: str | None = None,
) -> None:
    """Write a batch durably and let the indexer know."""
    result = await asyncio.wrap_future(target.store.upsert(documents, if_match=if_match))
    report.created += result.created
    report.updated += result.updated
    report.accepted = report.created + report.updated
    report.sequence = result.sequence
    report.ids += result.ids[: NAMED - len(report.ids)]
    target.indexer.notify()


async def finished(
    target: Target, report: WriteResponse, wait: Wait, first: Document
) -> WriteResponse:
    """Wait as requested, and warn of the sample where the documents are a user's own."""
    if wait == "indexed":
        await target.indexer.wait(report.sequence)
    if first.metadata.get("source") != "sample":
        report.warnings = await asyncio.to_thread(sample_warning, target.store)
    target.imported()
    return report


def sample_warning(store: DocumentStore) -> list[str]:
    """Once, on the first import of a user's own: that the sample is still there."""
    if store.meta_get(SAMPLE_WARNED) is not None:
        return []
    store.meta_set(SAMPLE_WARNED, "1")
    documents, _ = store.list(limit=1, where=parse_filter(SAMPLE))
    warning = "The sample documents are still there; DELETE /admin/sample takes them out."
    return [warning] if documents else []


async def replace_one(
    target: Target, name: str, body: Mapping[str, Any], *, if_match: str | None, wait: Wait
) -> tuple[WriteResponse, Document]:
    """Put one document under its id. Raises :class:`Problem` and ``PreconditionFailed``."""
    if body.get("id", name) != name:
        raise invalid("#/id", "must equal the id in the path")
    try:
        document = parse_document({**body, "id": name})
    except InvalidDocument as error:
        raise invalid(f"#{error.pointer}", error.detail) from None
    check_indexing(target.indexer, wait)
    report = WriteResponse()
    await write(target, [document], report, if_match)
    return await finished(target, report, wait, document), document


async def delete_one(
    store: DocumentStore, indexer: Indexer, name: str, *, if_match: str | None
) -> dict[str, Any]:
    """Delete one document. Raises ``not-found`` and ``PreconditionFailed``."""
    result = await asyncio.wrap_future(store.delete([name], if_match=if_match))
    if not result.deleted:
        raise Problem("not-found", "There is no document with this id.")
    await indexer.wait(result.sequence)
    return {"deleted": 1, "dry_run": False, "sequence": result.sequence}


async def erase_one(holders: erasure.Holders, name: str, *, if_match: str | None) -> dict[str, Any]:
    """Erase one document, with the receipt. Raises ``not-found`` and ``PreconditionFailed``."""
    receipt = await erasure.erase(holders, name, if_match=if_match)
    return {
        "deleted": int(receipt["document"]),
        "dry_run": False,
        "sequence": receipt["sequence"],
        "receipt": receipt,
    }


async def delete_where(
    store: DocumentStore, indexer: Indexer, raw: dict[str, Any], dry_run: bool
) -> dict[str, Any]:
    """Delete what a filter matches, or only count it. Raises ``validation``."""
    where = filter_of(raw, "#/filter")
    if not where:
        raise invalid("#/filter", "at least one condition is needed")
    if dry_run:
        count = len(await asyncio.to_thread(matching, store, where))
        return {"deleted": count, "dry_run": True, "sequence": store.sequence}
    deleted = await asyncio.to_thread(delete_matching, store, where)
    sequence = store.sequence
    await indexer.wait(sequence)
    return {"deleted": deleted, "dry_run": False, "sequence": sequence}


def matching(store: DocumentStore, where: Filter) -> list[str]:
    """The ids of the documents that a filter matches. Reads the whole store: not on the loop."""
    return [d.id for batch in store.scan() for d in batch if where.matches(d)]


def delete_matching(store: DocumentStore, where: Filter) -> int:
    """Delete what a filter matches, a batch at a time; how many there were. Blocks."""
    ids = matching(store, where)
    return sum(
        store.delete(ids[i : i + BATCH_LINES]).result().deleted
        for i in range(0, len(ids), BATCH_LINES)
    )


async def page(
    store: DocumentStore, *, cursor: str | None, limit: int, raw_filter: str | None
) -> dict[str, Any]:
    """A page of documents. Raises ``validation``."""
    where = None
    if raw_filter is not None:
        try:
            decoded = orjson.loads(raw_filter.encode("utf-8", "replace"))
        except orjson.JSONDecodeError:
            raise invalid("#/filter", "not valid JSON") from None
        if not isinstance(decoded, dict):
            raise invalid("#/filter", "must be a JSON object")
        where = filter_of(decoded, "#/filter")
    try:
        documents, following = await asyncio.to_thread(
            store.list, cursor=cursor, limit=limit, where=where
        )
        total = await asyncio.to_thread(store.count)
    except InvalidCursor:
        raise invalid("#/cursor", "no page of this list has given this cursor") from None
    return {
        "documents": [{**d.to_json(), "sequence": d.sequence} for d in documents],
        "next_cursor": following,
        "total": total,
        "sequence": store.sequence,
    }


async def read_one(store: DocumentStore, name: str) -> Document:
    """One document. Raises ``not-found``."""
    document = await asyncio.to_thread(store.get, name)
    if document is None:
        if name in await asyncio.to_thread(store.damaged):
            raise Problem("not-found", "The stored document is damaged: write it again.")
        raise Problem("not-found", "There is no document with this id.")
    return document
