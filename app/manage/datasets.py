"""What the dataset routes do. It knows no HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from app.manage.documents import lines
from app.problems import FieldError, Problem
from app.records.datasets import DatasetBroken, Datasets, Upload
from app.schemas import datasets as bodies

AT_ONCE = 500  # lines checked between two looks at the network,
AT_ONCE_BYTES = 1 << 20  # and their bytes

Line = tuple[int, bytes | None]


async def upload_lines(
    sets: Datasets, chunks: AsyncIterator[bytes], *, kind: str | None, name: str
) -> bodies.DatasetMade:
    """Take NDJSON as it arrives, a batch at a time: memory does not grow with its length.

    Raises ``validation`` when no row could be taken; a broken upload leaves nothing behind.
    """
    upload = sets.upload(kind=kind, name=name)
    try:
        batch: list[Line] = []
        size = number = 0
        async for line in lines(chunks):
            number += 1
            batch.append((number, line))
            size += len(line or b"")
            if len(batch) >= AT_ONCE or size >= AT_ONCE_BYTES:
                await asyncio.to_thread(add_all, upload, batch)
                batch, size = [], 0
        await asyncio.to_thread(add_all, upload, batch)
        return await asyncio.to_thread(made, upload)
    except BaseException:
        upload.drop()
        raise


def upload_rows(sets: Datasets, body: bodies.DatasetRequest) -> bodies.DatasetMade:
    """Take the rows of one JSON body. Raises ``validation`` when none could be taken."""
    upload = sets.upload(kind=body.kind, name=body.name)
    try:
        for number, row in enumerate(body.rows, 1):
            upload.add_value(number, row)
        return made(upload)
    except BaseException:
        upload.drop()
        raise


def add_all(upload: Upload, batch: Sequence[Line]) -> None:
    """Check and write some lines. Blocks."""
    for number, line in batch:
        upload.add(number, line)


def made(upload: Upload) -> bodies.DatasetMade:
    """Finish an upload and say what came of it. Raises ``validation`` where there is no row."""
    if not upload.rows:
        errors = [
            FieldError(f"#/rows/{r['line'] - 1}{r['pointer'][1:]}", r["detail"])
            for r in upload.rejected
        ]
        detail = "No row could be taken." if upload.rejections else "There is no row in it."
        raise Problem("validation", detail, errors=errors)
    return bodies.DatasetMade(
        **upload.finish().to_json(),
        rejected=[bodies.Rejected(**r) for r in upload.rejected],
        rejected_count=upload.rejections,
    )


def read(sets: Datasets, name: str) -> bodies.DatasetBody:
    """One set. Raises ``not-found``, and ``validation`` where it does not read any more."""
    try:
        return bodies.DatasetBody.model_validate(sets.find(name))
    except DatasetBroken as broken:
        raise Problem("validation", str(broken)) from broken
