"""A checkpoint's report as one page of HTML that needs nothing from elsewhere and runs no script.

It is made of the JSON report when it is asked for. The report names documents by id; their texts
are read from the store at that moment, so a document that was erased is not shown again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from app.manage.report_charts import (
    bar,
    esc,
    finite,
    line_chart,
    matrix,
    reliability_chart,
    shown_labels,
)
from app.schemas.admin import ModelReport

Texts = Callable[[str], str | None]
Json = Mapping[str, Any]
POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'"
)
OPEN_LABELS: Final = 30  # the rest is folded away
VIEWS: Final = {
    "on": "as it serves: head and hits",
    "off": "the same weights, without hits",
    "none": "trained and used without retrieval",
    "neighbours": "hits alone, nothing learned",
    "previous": "the head that served before",
    "given": "the row's own text is read",
}
FIGURES: Final = {
    "accuracy": "accuracy",
    "rival_accuracy": "the rival's accuracy",
    "f1": "F1",
    "rival_f1": "the rival's F1",
    "row_f1": "F1 of a row",
    "rival_row_f1": "the rival's F1 of a row",
    "difference": "difference",
    "lower_90": "difference at least (90 %)",
    "margin": "margin",
    "rows": "rows compared",
    "better": "only the new one right",
    "worse": "only the rival right",
}
STYLE: Final = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#5b6570;--line:#dfe3e8;--back:#fff;
--card:#f6f8fa;--blue:#2563c9;--orange:#c2570c;--green:#18794e;--red:#b42318;--on:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ec;--soft:#9aa4af;--line:#333a42;--back:#14171a;
--card:#1d2125;--blue:#6ea1f5;--orange:#f09a52;--green:#4cc38a;--red:#f97066;--on:#14171a}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1080px;padding:24px 20px 64px;background:var(--back);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;overflow-wrap:anywhere}
h1{font-size:24px;margin:0 0 4px}h2{font-size:20px;margin:40px 0 4px;padding-top:16px;
border-top:1px solid var(--line)}h3{font-size:15px;margin:28px 0 8px}p{margin:4px 0 10px}
.soft,figcaption,caption{color:var(--soft);font-size:13px}caption{caption-side:bottom;text-align:left;
padding-top:6px}
.pill{display:inline-block;border:1px solid var(--line);border-radius:99px;padding:0 10px;
font-size:13px;vertical-align:middle}.live{border-color:var(--green);color:var(--green)}
.gate{background:var(--card);border-left:4px solid var(--soft);border-radius:6px;padding:12px 16px;
margin:20px 0}.gate.yes{border-color:var(--green)}.gate.no{border-color:var(--red)}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(125px,1fr));gap:10px 20px;
margin:12px 0}
dt{color:var(--soft);font-size:13px}dd{margin:0;font-variant-numeric:tabular-nums}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:5px 10px 5px 0;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;font-size:13px}td.n,th.n{text-align:right;white-space:nowrap;overflow-wrap:normal}
.scroll{overflow-x:auto}.pair{display:grid;grid-template-columns:1fr 1fr;gap:12px 32px}
.pair>*{min-width:0}figure{margin:0}
svg{display:block}svg text{fill:var(--soft);font-size:12px}.chart{width:100%;height:auto}
.count{text-anchor:middle}.end{text-anchor:end}.deep{fill:var(--on)}
.grid,.frame{stroke:var(--line);fill:none}.even{stroke:var(--soft);stroke-dasharray:4 4}
polyline{fill:none;stroke-width:2}.step{stroke:var(--line)}polyline.step{stroke-width:1.5}
.train{stroke:var(--blue)}.held{stroke:var(--orange)}circle.train{fill:var(--blue)}
circle.held{fill:var(--orange)}circle.step{display:none}
.bar{fill:var(--blue);fill-opacity:.75}.rail{fill:var(--line)}.mark{fill:var(--orange)}
.f1{width:100%;min-width:60px;height:10px;margin-top:6px}.f1cell{width:36%}
.right{fill:var(--blue)}.wrong{fill:var(--orange)}
i.key{display:inline-block;width:14px;height:3px;margin:0 5px 3px 10px;vertical-align:middle}
i.step{background:var(--line)}i.train{background:var(--blue)}i.held{background:var(--orange)}
article{border:1px solid var(--line);border-radius:6px;padding:10px 14px;margin:10px 0}
article ul{margin:8px 0 0;padding:0 0 0 18px;font-size:14px}
blockquote{margin:6px 0;white-space:pre-wrap}
.was{color:var(--red)}.is{color:var(--green)}code{font-size:12.5px;color:var(--soft)}
summary{cursor:pointer;padding:6px 0;color:var(--soft)}
@media(max-width:640px){body{padding:16px 14px 48px}.pair{grid-template-columns:1fr}
.wide{display:none}
h1{font-size:20px}.f1cell{width:auto}th,td{padding-right:8px}}
@media print{details{display:block}article{break-inside:avoid}}
"""


def page(report: ModelReport, text_of: Texts) -> str:
    """The page. ``text_of`` gives a document's text by its id, or nothing where it is gone."""
    kind, said = ("pill live", "in use") if report.active else ("pill", "not in use")
    state = f'<span class="{kind}">{said}</span>'
    made = f" · made {esc(report.created)}" if report.created else ""
    heads = "".join(_head(field, head, text_of) for field, head in report.heads.items())
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"<title>Report of {esc(report.version)}</title><style>{STYLE}</style></head><body>"
        f'<h1>{esc(report.version)} {state}</h1><p class="soft">Report of a checkpoint{made}</p>'
        f"{_safely(_gate, report.gate or {})}"
        f"{heads or '<p>The checkpoint has no heads.</p>'}</body></html>\n"
    )


def _gate(gate: Json) -> str:
    if not gate:
        return (
            '<div class="gate">The gate has not judged this checkpoint: no decision is kept.</div>'
        )
    verdict, kind = ("To go live", "yes") if gate.get("activate") else ("Not to go live", "no")
    figures = {name: _number(gate[key]) for key, name in FIGURES.items() if key in gate}
    figures |= {"asked for": esc(gate.get("wish", "")), "measured on": _measured(gate)}
    said: Json = gate.get("feedback") or {}
    if said.get("rows"):
        figures["of them feedback"] = (
            f"{_number(said['rows'])} (+{_number(said['better'])}, -{_number(said['worse'])})"
        )
    when = finite(gate.get("decided"))
    if when is not None:
        figures["decided"] = f"{datetime.fromtimestamp(when, UTC):%Y-%m-%d %H:%M} UTC"
    return (
        f'<div class="gate {kind}"><strong>The gate: {verdict}</strong>'
        f"<p>{esc(gate.get('reason', ''), 600)}</p>{_facts(figures)}</div>"
    )


def _measured(report: Json) -> str:
    return f"{esc(report.get('evaluated_on', 'held-out'))} rows"


def _head(field: str, head: Json, text_of: Texts) -> str:
    facts = {
        "rows": _number(head.get("rows")),
        "trained on": _number(head.get("trained_on")),
        "held out": _number(head.get("held_out")),
        "labels": _number(len(head.get("labels") or []) or None),
        "hits (k)": _number(head.get("k")),
        "epochs": _number(head.get("epochs")),
        "seconds": _number(head.get("seconds")),
    }
    facts = {name: value for name, value in facts.items() if value}
    warnings = "".join(f'<p class="was">{esc(one)}</p>' for one in head.get("warnings") or [])
    parts = (_metrics, _charts, _by_label, _confusion)
    return (
        f'<section><h2>{esc(field)} <span class="pill">{esc(head.get("task", ""))}</span></h2>'
        f"{_facts(facts)}{warnings}{''.join(_safely(part, head) for part in parts)}"
        f"{_safely(lambda h: _mistakes(h, text_of), head)}</section>"
    )


def _safely(part: Callable[[Json], str], head: Json) -> str:
    """A part of the page; a report is a file, and one that is not as it should be says so."""
    try:
        return part(head)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError):
        return '<p class="was">A part of this report cannot be read.</p>'


def _metrics(head: Json) -> str:
    if not (views := head.get("metrics") or {}):
        return "<p>Nothing was measured.</p>"
    names = list(dict.fromkeys(name for figures in views.values() for name in figures))
    order = [*(v for v in VIEWS if v in views), *(v for v in views if v not in VIEWS)]
    rows = "".join(
        f'<tr><th scope="row">{esc(view)}</th><td class="wide soft">{VIEWS.get(view, "")}</td>'
        + "".join(f'<td class="n">{_number(views[view].get(name))}</td>' for name in names)
        + "</tr>"
        for view in order
    )
    columns = "".join(f'<th class="n">{esc(n).replace("_", " ")}</th>' for n in names)
    return (
        '<h3>Metrics</h3><div class="scroll"><table><tr><th>view</th><th class="wide"></th>'
        f"{columns}</tr>{rows}<caption>On {_measured(head)}.</caption></table></div>"
    )


def _charts(head: Json) -> str:
    lines: dict[str, tuple[str, list[tuple[float, float]]]] = {}
    wanted = (("loss", "step", "batch"), ("train_loss", "train", "epoch"))
    for key, kind, name in (*wanted, ("held_out_loss", "held", "held out")):
        points = [(finite(p.get("step")), finite(p.get(key))) for p in head.get("curve") or []]
        line = [(x, y) for x, y in points if x is not None and y is not None]
        if line:
            lines[name] = (kind, line)
    drawn = []
    if lines:
        keys = "".join(f'<i class="key {kind}"></i>{n}' for n, (kind, _) in lines.items())
        drawn.append(
            f"<figure><h3>Training</h3>{line_chart(lines, 'step', 'loss')}"
            f"<figcaption>Loss by step: {keys}</figcaption></figure>"
        )
    bins = (head.get("diagnosis") or {}).get("reliability")
    if bins:
        drawn.append(
            f"<figure><h3>Reliability</h3>{reliability_chart(bins)}<figcaption>Accuracy of the "
            "answers by their confidence, with how many there are; on the dashed line a confidence "
            "says what it means.</figcaption></figure>"
        )
    calibration = head.get("calibration") or {}
    figures = {esc(name).replace("_", " "): _number(v) for name, v in calibration.items()}
    return f'<div class="pair">{"".join(drawn)}</div>{_facts(figures)}'


def _by_label(head: Json) -> str:
    diagnosis: Json = head.get("diagnosis") or {}
    views: Json = diagnosis.get("by_label") or {"on": head.get("by_label") or {}}
    ours, support = views["on"], diagnosis.get("support") or {}
    if not ours:
        return ""
    rival = next((v for v in ("previous", "neighbours") if v in views), None)
    others = [v for v in VIEWS if v in views and v != "on"]
    rows = [
        f'<tr><td>{esc(label, 60)}</td><td class="f1cell">'
        f"{bar(f1, finite(views[rival].get(label, 0.0)) if rival else None)}</td>"
        f'<td class="n">{_number(f1)}</td>'
        + "".join(f'<td class="n wide">{_number(views[v].get(label, 0.0))}</td>' for v in others)
        + (f'<td class="n">{_number(support.get(label, 0))}</td></tr>' if support else "</tr>")
        for label, f1 in sorted(ours.items(), key=lambda pair: (pair[1], pair[0]))
    ]
    heading = "".join(f'<th class="n wide">{v}</th>' for v in others)
    heading += '<th class="n">rows</th>' if support else ""
    top = f'<tr><th>label</th><th></th><th class="n">on</th>{heading}</tr>'
    said = f"Worst first. The mark in a bar is <em>{rival}</em>." if rival else "Worst first."
    folded = ""
    if len(rows) > OPEN_LABELS:
        rest = "".join(rows[OPEN_LABELS:])
        folded = f"<details><summary>{len(rows) - OPEN_LABELS} more</summary><table>{top}{rest}"
        folded += "</table></details>"
    return (
        f"<h3>F1 by label</h3><table>{top}{''.join(rows[:OPEN_LABELS])}</table>{folded}"
        f'<p class="soft">{said}</p>'
    )


def _confusion(head: Json) -> str:
    raw = (head.get("diagnosis") or {}).get("confusion")
    if not raw:
        return ""
    pairs = [(str(truth), str(said), int(rows)) for truth, said, rows in raw]
    labels, known = shown_labels(pairs)
    cut = f" The {len(labels)} of {known} labels with most mistakes." if known > len(labels) else ""
    return (
        f'<h3>Confusion</h3><figure><div class="scroll">{matrix(pairs, labels)}</div><figcaption>'
        "A line is a true label, a column an answer; the deeper, the larger its share of the line."
        f"{cut}</figcaption></figure>"
    )


def _mistakes(head: Json, text_of: Texts) -> str:
    worst = (head.get("diagnosis") or {}).get("worst")
    if worst is None:
        return ""
    shown = "".join(_mistake(one, text_of) for one in worst)
    return f"<h3>Surest mistakes</h3>{shown or '<p>None.</p>'}"


def _mistake(one: Json, text_of: Texts) -> str:
    cited = "".join(
        f"<li>{esc(hit['label'], 80)} <code>{esc(hit['doc_id'])}</code> weight "
        f'{_number(hit["weight"])}<div class="soft">{_text(hit["doc_id"], text_of)}</div></li>'
        for hit in one["citations"]
    )
    return (
        f'<article><div><span class="was">{esc(one["said"], 80)}</span> at '
        f'{_number(one["confidence"])}, is <span class="is">{esc(one["truth"], 80)}</span> '
        f"<code>{esc(one['id'])}</code></div><blockquote>{_text(one['id'], text_of)}</blockquote>"
        f"{f'<ul>{cited}</ul>' if cited else ''}</article>"
    )


def _text(doc_id: object, text_of: Texts) -> str:
    text = text_of(doc_id) if isinstance(doc_id, str) else None
    return '<em class="soft">not in the store any more</em>' if text is None else esc(text, 300)


def _facts(figures: Mapping[str, str]) -> str:
    return (
        "<dl>"
        + "".join(f"<div><dt>{n}</dt><dd>{v}</dd></div>" for n, v in figures.items())
        + "</dl>"
    )


def _number(value: object) -> str:
    """A figure as it is read: counts whole, shares with four places; of nothing, nothing."""
    number = finite(value)
    if number is None:
        return "" if value is None else esc(value, 40)
    if isinstance(value, int) or (number.is_integer() and abs(number) > 1):
        return f"{number:,.0f}"
    return f"{number:.4f}" if abs(number) <= 1 else f"{number:,.2f}"
