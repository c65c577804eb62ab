"""Whether an index of another encoder or analyzer answers better: a paired test before it serves.

The same labelled documents are asked of both sides, each without itself and its near-duplicates
among the hits: of the index, encoder and head that serve, and of what would serve instead. Of a
field that a side has a head for, those are asked that the head held out when it was trained.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from app.jobs import reindex
from app.jobs.evaluate import ANSWERED_AT_ONCE, held_out_rows
from app.jobs.train import load_encoder, opened
from app.records.registry import NO_CHECKPOINT, Registry
from app.training import label_rows as training_set
from app.training.promotion import judged
from app.worker import JobRefused, Reporter

if TYPE_CHECKING:
    from index_data.documents import Document
    from index_data.search.searcher import Searcher
    from model.encoder.encoder import Encoder
    from model.metrics import Paired
    from model.reader import Reader
    from model.training.split import Row

ASKED: Final = 1_000  # labelled documents, those first that heads hold out


def run(params: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Build a generation and, where it is to be judged, compare it (the child's part)."""
    result = reindex.run(params, reporter)
    if reindex.activation_mode(params.get("activate")) != "if_better":
        return result
    built = Path(result["folder"])
    return result | {"compared": compare(params, built, result["encoder"], reporter)}


def compare(
    params: dict[str, Any], built: Path, source: str | None, reporter: Reporter
) -> dict[str, Any] | None:
    """The figures of the paired test of a generation that was built by the encoder ``source``.

    None: by encoder and analyzer that serve, so that there is nothing to judge. ``built`` is not
    registered yet. Raises :class:`JobRefused` where a side cannot be read, or
    where the field has fewer than two labels.
    """
    from model.checkpoint import verify
    from model.metrics import Paired

    field = str(params["field"])
    registry = Registry(Path(params["_checkpoints"]))
    old_encoder = load_encoder(params, reporter)
    new_encoder = load_encoder({**params, "_encoder": source}, reporter)
    same = old_encoder.sha256 == new_encoder.sha256
    if same and params.get("analyzer") in (None, params["_analyzer"]):
        return None
    active = registry.active
    serving = None if active == NO_CHECKPOINT else registry.find(active)
    if serving is not None and verify(serving).encoder_sha256 != old_encoder.sha256:
        serving = None  # a checkpoint of another encoder is left aside by the server too
    old = _reader(serving, old_encoder)
    new = old if same else _reader(registry.fitting(new_encoder.sha256).folder, new_encoder)
    with opened(params, old_encoder) as searcher:
        old_rows, labels = _rows(searcher, old, old_encoder, field, reporter)
    with opened(params, new_encoder, built) as searcher:
        new_rows, _ = _rows(searcher, new, new_encoder, field, reporter)
    parts = [held_out_rows([*old_rows.values()], old, field)]
    parts.append(held_out_rows([*new_rows.values()], new, field))
    held = [{row.id for row in part} for part, _ in parts]
    names = [name for name in old_rows if name in new_rows and all(name in part for part in held)]
    right = [
        _right(reader, [rows[name] for name in names], field, labels, reporter, side)
        for side, reader, rows in (("old", old, old_rows), ("new", new, new_rows))
    ]
    test = Paired.of(right[1], right[0])
    count = max(len(names), 1)
    return {
        "field": field,
        "head": field in new.heads,
        "rival_head": field in old.heads,
        "evaluated_on": "held-out" if any(which == "held-out" for _, which in parts) else "all",
        "accuracy": round(sum(right[1]) / count, 6),
        "rival_accuracy": round(sum(right[0]) / count, 6),
        **test.to_json(),
    }


def decide(figures: dict[str, Any], margin: float) -> dict[str, Any]:
    """Whether the new generation is to serve, and why: the rule of a trained head."""
    from model.metrics import Paired

    test: Paired = Paired(figures["rows"], figures["better"], figures["worse"])
    lower = test.lower()
    better, why = judged(test, lower, margin, first=False)
    said = (
        f"accuracy {figures['accuracy']:.4f}, the index that serves "
        f"{figures['rival_accuracy']:.4f}; {test.better} rows better, {test.worse} worse of "
        f"{test.rows}, difference at least {lower:+.4f} (90 %)"
    )
    return {
        **figures,
        "wish": "if_better",
        "margin": margin,
        "difference": round(test.difference, 6),
        "lower_90": round(lower, 6),
        "activate": better,
        "reason": f"{why}: {said}.",
    }


def _reader(folder: Path | None, encoder: Encoder) -> Reader:
    from model.folders import CheckpointRefused
    from model.reader import Reader

    try:
        return Reader.load(folder, encoder)
    except CheckpointRefused as refused:
        raise JobRefused(str(refused)) from refused


def _rows(
    searcher: Searcher, reader: Reader, encoder: Encoder, field: str, reporter: Reporter
) -> tuple[dict[str, Row], list[str]]:
    """The labelled documents with what each finds, and all labels of the field."""
    with tempfile.TemporaryDirectory(prefix="footnote-reindex-") as work:
        training_set.freeze(
            searcher,
            Path(work),
            field=field,
            k=reader.wanted(field),
            encode=encoder.encode,
            fits=searcher.has_vectors,
            reporter=reporter,
            learned=_asked(searcher.documents(), field),
        )
        info, rows, _ = training_set.load(Path(work))
    return {row.id: row for row in rows}, sorted(info.labels)


def _asked(documents: Iterable[Document], field: str) -> Iterator[Document]:
    """The documents that are asked: in the order in which texts are held out."""
    from model.training.split import bucket

    found = [d for d in documents if d.labels.get(field) is not None]
    found.sort(key=lambda document: bucket(document.text))
    yield from found[:ASKED]


def _right(
    reader: Reader,
    rows: list[Row],
    field: str,
    labels: list[str],
    reporter: Reporter,
    side: str,
) -> list[bool]:
    """Which of the rows are answered rightly, by the code that serves; of several labels, all."""
    found: list[bool] = []
    for start in range(0, len(rows), ANSWERED_AT_ONCE):
        reporter.progress(start, len(rows), f"compare: {side}")
        part = rows[start : start + ANSWERED_AT_ONCE]
        tokens = [reader.tokenize(row.text) for row in part]
        states = reader.read(tokens, [field] * len(part))
        answers = reader.predict(states, [r.hits for r in part], field, index_labels=labels)
        found += [
            said.label == row.label
            if isinstance(row.label, str)
            else {*said.answered} == {*row.names}
            for said, row in zip(answers, part, strict=True)
        ]
    return found
