"""Whether an index of another encoder or analyzer answers better: a paired test before it serves.

The same labelled documents are asked of both sides, each without itself and its near-duplicates
among the hits: of the index, encoder and head that serve, and of what would serve instead. Of a
field that a side has a head for, those are asked that the head held out when it was trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from app.jobs.evaluate import held_out_rows, predict_rows, retrieved_rows
from app.jobs.inputs import load_encoder, opened
from app.records.registry import NO_CHECKPOINT, Registry
from app.training.promotion import judged
from app.worker import Reporter

if TYPE_CHECKING:
    from index_data.documents import Document
    from index_data.search.searcher import Searcher
    from model.encoder.encoder import Encoder
    from model.labels.prediction import Prediction
    from model.reader import Reader
    from model.training.split import Row

DOCUMENTS: Final = 1_000  # labelled documents to compare on, those first that heads hold out


def compare(
    params: dict[str, Any], built: Path, source: str | None, reporter: Reporter
) -> dict[str, Any] | None:
    """The figures of the paired test of a generation that was built by the encoder ``source``.

    None: by encoder and analyzer that serve, so that there is nothing to judge. ``built`` is not
    registered yet. Raises ``CheckpointRefused`` or ``EncoderRefused`` where a side cannot be read,
    :class:`JobRefused` where the field has fewer than two labels.
    """
    from model.checkpoint import verify
    from model.metrics import Paired
    from model.reader import Reader

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
    old = Reader.load(serving, old_encoder)
    new = old if same else Reader.load(registry.fitting(new_encoder.sha256).folder, new_encoder)
    with opened(params, old_encoder) as searcher:
        old_rows, labels = _rows(searcher, old, old_encoder, field, reporter)
    with opened(params, new_encoder, built) as searcher:
        new_rows, _ = _rows(searcher, new, new_encoder, field, reporter)
    parts = [held_out_rows([*old_rows.values()], old, field)]
    parts.append(held_out_rows([*new_rows.values()], new, field))
    held = [{row.id for row in part} for part, _ in parts]
    names = [name for name in old_rows if name in new_rows and all(name in part for part in held)]
    right = []
    for side, reader, rows in (("old", old, old_rows), ("new", new, new_rows)):
        part = [rows[name] for name in names]
        predictions = predict_rows(reader, part, field, labels, reporter, f"compare: {side}")
        right.append([_right(one, row) for one, row in zip(predictions, part, strict=True)])
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

    test = Paired(figures["rows"], figures["better"], figures["worse"])
    lower = test.lower()
    better, why = judged(test, lower, margin, first=False)
    comparison = (
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
        "reason": f"{why}: {comparison}.",
    }


def _rows(
    searcher: Searcher, reader: Reader, encoder: Encoder, field: str, reporter: Reporter
) -> tuple[dict[str, Row], list[str]]:
    """The rows to compare on with their hits, by id, and all labels of the field."""
    documents = _first_held_out(searcher.documents(), field)
    k = reader.wanted(field)
    info, rows = retrieved_rows(searcher, encoder, field, k, reporter, documents)
    return {row.id: row for row in rows}, sorted(info.labels)


def _first_held_out(documents: Iterable[Document], field: str) -> Iterator[Document]:
    """The labelled documents in the order in which texts are held out."""
    from model.training.split import bucket

    labelled = [d for d in documents if d.labels.get(field) is not None]
    labelled.sort(key=lambda document: bucket(document.text))
    yield from labelled[:DOCUMENTS]


def _right(prediction: Prediction, row: Row) -> bool:
    """Whether a row is answered rightly; of several labels, all have to be right."""
    if isinstance(row.label, str):
        return prediction.label == row.label
    return {*prediction.answered} == {*row.names}
