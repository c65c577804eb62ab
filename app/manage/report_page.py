"""A checkpoint's report as one page of HTML that needs nothing from elsewhere and runs no script.

It is made of the JSON report when it is requested. The report names documents by id; their texts
are read from the store at that moment, so a document that was erased is not shown again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from app.manage.report_charts import finite, line_chart, matrix, reliability_chart, shown_labels
from app.schemas.admin import ModelReport
from app.web.html import cut, render

Texts = Callable[[str], str | None]
Json = Mapping[str, Any]
Builders = Mapping[str, Callable[[Json], Json | None]]  # by the name of the part
Part = tuple[str, Json]  # the name of a template and what it shows
POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'"
)
OPEN_LABELS: Final = 30  # the rest is folded away
CONDITIONS: Final = {
    "on": "as it serves: head and hits",
    "off": "the same weights, without hits",
    "none": "trained and used without retrieval",
    "neighbours": "hits alone, nothing learned",
    "previous": "the head that served before",
    "given": "the row's own text is read",
}
FIGURES: Final = {
    "accuracy": "accuracy",
    "rival_accuracy": "accuracy of the baseline",
    "f1": "F1",
    "rival_f1": "F1 of the baseline",
    "row_f1": "F1 of a row",
    "rival_row_f1": "F1 of a row, baseline",
    "difference": "difference",
    "lower_90": "difference at least (90 %)",
    "margin": "margin",
    "rows": "rows compared",
    "better": "only the new one right",
    "worse": "only the baseline right",
}
CURVES: Final = (  # the key in the report, the CSS class, the name
    ("loss", "step", "batch"),
    ("train_loss", "train", "epoch"),
    ("held_out_loss", "held", "held out"),
)


def page(report: ModelReport, text_of: Texts) -> str:
    """The page. ``text_of`` gives a document's text by its id, or nothing where it is gone."""
    return render(
        "report/page.html",
        report=report,
        parts=_parts({"promotion": _promotion}, report.gate) if report.gate else [],
        heads=[_head(field, head, text_of) for field, head in report.heads.items()],
    )


def _parts(builders: Builders, report: Json) -> list[Part]:
    """The parts that have something to show.

    A report is a file: a part of it that is not as it should be says so, and the others are shown.
    """
    parts: list[Part] = []
    for name, build in builders.items():
        try:
            part = build(report)
        except (AttributeError, KeyError, TypeError, ValueError, IndexError):
            parts.append(("report/unreadable.html", {}))
        else:
            if part is not None:
                parts.append((f"report/{name}.html", part))
    return parts


def _promotion(gate: Json) -> Json:
    figures = {name: _number(gate[key]) for key, name in FIGURES.items() if key in gate}
    figures |= {"activation mode": cut(gate.get("wish", "")), "measured on": _measured_on(gate)}
    feedback: Json = gate.get("feedback") or {}
    if feedback.get("rows"):
        better, worse = _number(feedback["better"]), _number(feedback["worse"])
        figures["of them feedback"] = f"{_number(feedback['rows'])} (+{better}, -{worse})"
    when = finite(gate.get("decided"))
    if when is not None:
        figures["decided"] = f"{datetime.fromtimestamp(when, UTC):%Y-%m-%d %H:%M} UTC"
    activate, reason = bool(gate.get("activate")), gate.get("reason", "")
    return {"activate": activate, "reason": reason, "figures": figures}


def _head(field: str, head: Json, text_of: Texts) -> Json:
    figures = {
        "rows": _number(head.get("rows")),
        "trained on": _number(head.get("trained_on")),
        "held out": _number(head.get("held_out")),
        "labels": _number(len(head.get("labels") or []) or None),
        "hits (k)": _number(head.get("k")),
        "epochs": _number(head.get("epochs")),
        "seconds": _number(head.get("seconds")),
    }
    builders: Builders = {
        "metrics": _metrics,
        "charts": _charts,
        "labels": _labels,
        "confusion": _confusion,
        "mistakes": partial(_mistakes, text_of=text_of),
    }
    return {
        "field": field,
        "task": head.get("task", ""),
        "figures": {name: value for name, value in figures.items() if value},
        "warnings": head.get("warnings") or [],
        "parts": _parts(builders, head),
    }


def _metrics(head: Json) -> Json:
    metrics = head.get("metrics") or {}
    names = list(dict.fromkeys(name for figures in metrics.values() for name in figures))
    order = [c for c in CONDITIONS if c in metrics] + [c for c in metrics if c not in CONDITIONS]
    rows = [
        (
            condition,
            CONDITIONS.get(condition, ""),
            [_number(metrics[condition].get(name)) for name in names],
        )
        for condition in order
    ]
    return {"names": names, "rows": rows, "measured_on": _measured_on(head)}


def _charts(head: Json) -> Json:
    lines: dict[str, tuple[str, list[tuple[float, float]]]] = {}
    for key, kind, name in CURVES:
        points = [(finite(p.get("step")), finite(p.get(key))) for p in head.get("curve") or []]
        line = [(x, y) for x, y in points if x is not None and y is not None]
        if line:
            lines[name] = (kind, line)
    bins = (head.get("diagnosis") or {}).get("reliability")
    calibration = head.get("calibration") or {}
    return {
        "training": line_chart(lines, "step", "loss") if lines else None,
        "reliability": reliability_chart(bins) if bins else None,
        "figures": {name.replace("_", " "): _number(v) for name, v in calibration.items()},
    }


def _labels(head: Json) -> Json | None:
    diagnosis: Json = head.get("diagnosis") or {}
    scores: Json = diagnosis.get("by_label") or {"on": head.get("by_label") or {}}
    ours, support = scores["on"], diagnosis.get("support") or {}
    baseline = next((c for c in ("previous", "neighbours") if c in scores), None)
    others = [c for c in CONDITIONS if c in scores and c != "on"]
    rows = []
    for label, f1 in sorted(ours.items(), key=lambda pair: (pair[1], pair[0])):
        mark = finite(scores[baseline].get(label, 0.0)) if baseline else None
        row = {
            "label": label,
            "bar": round(min(max(f1, 0), 1) * 100, 1),
            "mark": None if mark is None else round(min(max(mark, 0), 1) * 99, 1),
            "f1": _number(f1),
            "others": [_number(scores[c].get(label, 0.0)) for c in others],
            "support": _number(support.get(label, 0)),
        }
        rows.append(row)
    if not rows:
        return None
    shown = {"rows": rows, "others": others, "baseline": baseline, "open": OPEN_LABELS}
    return {**shown, "support": bool(support)}


def _confusion(head: Json) -> Json | None:
    raw = (head.get("diagnosis") or {}).get("confusion")
    if not raw:
        return None
    pairs = [(str(truth), str(answer), int(rows)) for truth, answer, rows in raw]
    labels, known = shown_labels(pairs)
    return {"matrix": matrix(pairs, labels), "shown": len(labels), "known": known}


def _mistakes(head: Json, text_of: Texts) -> Json | None:
    worst = (head.get("diagnosis") or {}).get("worst")
    if worst is None:
        return None
    mistakes = [
        {
            "id": one["id"],
            "answer": one["said"],
            "truth": one["truth"],
            "confidence": _number(one["confidence"]),
            "text": _text(one["id"], text_of),
            "citations": [
                {
                    "id": hit["doc_id"],
                    "label": hit["label"],
                    "weight": _number(hit["weight"]),
                    "text": _text(hit["doc_id"], text_of),
                }
                for hit in one["citations"]
            ],
        }
        for one in worst
    ]
    return {"mistakes": mistakes}


def _text(doc_id: object, text_of: Texts) -> str | None:
    return text_of(doc_id) if isinstance(doc_id, str) else None


def _measured_on(report: Json) -> str:
    return f"{cut(report.get('evaluated_on', 'held-out'))} rows"


def _number(value: object) -> str:
    """A figure as it is read: counts whole, shares with four places; of nothing, nothing."""
    number = finite(value)
    if number is None:
        return "" if value is None else cut(value, 40)
    if isinstance(value, int) or (number.is_integer() and abs(number) > 1):
        return f"{number:,.0f}"
    return f"{number:.4f}" if abs(number) <= 1 else f"{number:,.2f}"
