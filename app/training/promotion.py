"""The gate: whether a head that was just trained is to serve, by a paired test on held-out rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from model.metrics import Compared, Paired

RIVALS: Final = {
    "previous": "the head that serves",
    "neighbours": "the neighbours alone",
    "off": "the closed book",
}
"""Whom a new head is compared with: the first of these that there is."""
METRICS: Final = {"accuracy": "accuracy", "f1": "F1", "row_f1": "F1 of a row"}


def gate(report: dict[str, Any], wish: str, margin: float = 0.0) -> dict[str, Any]:
    """Whether a new head is to serve, why, and the figures of the paired test.

    The figure is the task's own: accuracy of labels, F1 of answers, strict F1 of entities; of sets
    of labels the mean F1 of rows, and rows of a better and of a worse F1 than the rival's are
    counted. Recorded feedback on texts that are in no training row counts as further rows where
    there is any: the test is on both together, and on held-out rows alone the head must not be
    worse by more than the margin.

    Against the head of this name that serves, on rows that neither judges by heart: it goes live
    when the one-sided 90 % bootstrap interval of the difference does not reach below ``-margin``,
    and with a margin of 0 only when the difference is above 0 too. Where no head serves, against
    the neighbours alone: then for labels a difference of ``-margin`` suffices, since the head
    brings a calibrated confidence; entities have to be better. Answers have no neighbours: they are
    compared with the closed book.
    """
    from model.metrics import Compared, Paired

    diagnosis = report["diagnosis"]
    paired = diagnosis["paired"]
    rival = next(name for name in RIVALS if name in paired)
    held_out = _test_of(paired[rival])
    said = diagnosis.get("feedback", {})
    own = said.get("paired", {}).get(rival)
    feedback = _test_of(own) if own else Paired(0, 0, 0)
    test: Paired | Compared
    if isinstance(held_out, Compared):
        test = _test_of(said["together"][rival]) if feedback.rows else held_out
        metric, ours, theirs = held_out.metric, held_out.ours, held_out.theirs
    else:
        test = held_out.plus(Paired(**feedback.to_json()))
        metric = "row_f1" if "row_f1" in report["metrics"]["on"] else "accuracy"
        ours, theirs = (report["metrics"][view][metric] for view in ("on", rival))
    lower = test.lower()
    decision: dict[str, Any] = {
        "wish": wish,
        "margin": margin,
        "against": rival,
        "metric": metric,
        metric: ours,
        f"rival_{metric}": theirs,
        "difference": round(test.difference, 6),
        "lower_90": round(lower, 6),
        "evaluated_on": report["evaluated_on"],
        "rows": test.rows,
        "better": test.better,
        "worse": test.worse,
        "held_out": held_out.to_json(),
        "feedback": feedback.to_json(),
    }
    if report["evaluated_on"] == "training":
        better, why = False, "There were too few rows to hold any out and compare on"
    else:
        better, why = judged(test, lower, margin, first=rival != "previous")
    if better and (not held_out.rows or held_out.difference < -margin):
        better, why = False, "Worse on held-out rows, whatever recorded feedback says"
    if wish != "if_better":
        better = wish == "always"
        why = "Activation was asked for in any case" if better else "Activation was not asked for"
    figures = (
        f"{METRICS[metric]} {ours:.4f}, {RIVALS[rival]} {theirs:.4f}; "
        f"{test.better} rows better, {test.worse} worse of {test.rows}"
        f"{f' ({feedback.rows} of them recorded feedback)' if feedback.rows else ''}, "
        f"difference at least {lower:+.4f} (90 %)"
    )
    return decision | {"activate": better, "reason": f"{why}: {figures}."}


def _test_of(said: dict[str, Any]) -> Paired | Compared:
    """Counts of right and wrong, or a figure with its interval, as the report has them."""
    from model.metrics import Compared, Paired

    return Compared(**said) if "metric" in said else Paired(**said)


def judged(
    test: Paired | Compared, lower: float, margin: float, *, first: bool
) -> tuple[bool, str]:
    """Whether a paired test is passed, and why. ``first``: no head serves that is a rival."""
    from model.metrics import Paired

    if not test.rows:
        return False, "There were no held-out rows to compare on"
    if first and isinstance(test, Paired):
        passed = test.difference >= -margin
        return passed, "As good or better on held-out rows" if passed else "Worse on held-out rows"
    if first:
        passed = test.difference > -margin
        return passed, f"{'Better' if passed else 'Not better'} on held-out rows"
    if margin > 0:
        passed = lower >= -margin
        return passed, f"{'Not worse' if passed else 'Possibly worse'} by more than {margin:g}"
    if test.difference <= 0:
        return False, "Not better on held-out rows"
    if lower < 0:
        return False, "Not surely better on held-out rows"
    return True, "Better on held-out rows"
