"""Promotion: whether a head that was just trained is activated, by a paired test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from model.metrics import Compared, Paired

BASELINES: Final = {
    "previous": "the head that serves",
    "neighbours": "the neighbours alone",
    "off": "the closed book",
}
"""What a new head is compared with: the first of these that there is."""
METRICS: Final = {"accuracy": "accuracy", "f1": "F1", "row_f1": "F1 of a row"}


@dataclass(frozen=True, slots=True)
class Comparison:
    """A new head against a baseline: on held-out rows, on recorded feedback, and on both.

    ``metric``: the task's own figure, which is ``ours`` and ``theirs`` on held-out rows.
    """

    baseline: str
    metric: str
    ours: float
    theirs: float
    held_out: Paired | Compared
    feedback: Paired | Compared
    both: Paired | Compared

    @classmethod
    def of(cls, report: dict[str, Any]) -> Comparison:
        """From a report of training."""
        from model.metrics import Compared, Paired

        diagnosis, metrics = report["diagnosis"], report["metrics"]
        baseline = next(name for name in BASELINES if name in diagnosis["paired"])
        held_out = _test_of(diagnosis["paired"][baseline])
        recorded = diagnosis.get("feedback", {})
        own = recorded.get("paired", {}).get(baseline)
        feedback = _test_of(own) if own else Paired(0, 0, 0)
        if isinstance(held_out, Compared):
            both = _test_of(recorded["together"][baseline]) if feedback.rows else held_out
            metric, ours, theirs = held_out.metric, held_out.ours, held_out.theirs
        else:
            both = held_out.plus(Paired(**feedback.to_json()))
            metric = "row_f1" if "row_f1" in metrics["on"] else "accuracy"
            ours, theirs = metrics["on"][metric], metrics[baseline][metric]
        return cls(baseline, metric, ours, theirs, held_out, feedback, both)

    def figures(self, lower: float) -> str:
        """For the reason of a decision."""
        test, feedback = self.both, self.feedback.rows
        return (
            f"{METRICS[self.metric]} {self.ours:.4f}, {BASELINES[self.baseline]} "
            f"{self.theirs:.4f}; {test.better} rows better, {test.worse} worse of {test.rows}"
            f"{f' ({feedback} of them recorded feedback)' if feedback else ''}, "
            f"difference at least {lower:+.4f} (90 %)"
        )


def decide(report: dict[str, Any], mode: str, margin: float = 0.0) -> dict[str, Any]:
    """Whether a new head is activated, why, and the figures of the paired test.

    ``mode``: ``if_better`` (by the test), ``always`` or ``never``.

    The figure is the task's own: accuracy of labels, F1 of answers, strict F1 of entities; of sets
    of labels the mean F1 of rows, and rows of a better and of a worse F1 than the baseline's are
    counted. Recorded feedback on texts that are in no training row counts as further rows where
    there is any: the test is on both together, and on held-out rows alone the head must not be
    worse by more than the margin.

    Against the head of this name that serves, on rows that neither was trained on: it is activated
    when the one-sided 90 % bootstrap interval of the difference does not reach below ``-margin``,
    and with a margin of 0 only when the difference is above 0 too. Where no head serves, against
    the neighbours alone: then for labels a difference of ``-margin`` suffices, since the head
    brings a calibrated confidence; entities have to be better. Answers have no neighbours: they are
    compared with the closed book.
    """
    comparison = Comparison.of(report)
    test, held_out, metric = comparison.both, comparison.held_out, comparison.metric
    lower = test.lower()
    if mode != "if_better":
        better = mode == "always"
        why = "Activation was asked for in any case" if better else "Activation was not asked for"
    elif report["evaluated_on"] == "training":
        better, why = False, "There were too few rows to hold any out and compare on"
    else:
        better, why = judged(test, lower, margin, first=comparison.baseline != "previous")
        if better and (not held_out.rows or held_out.difference < -margin):
            better, why = False, "Worse on held-out rows, whatever recorded feedback says"
    return {
        "wish": mode,
        "margin": margin,
        "against": comparison.baseline,
        "metric": metric,
        metric: comparison.ours,
        f"rival_{metric}": comparison.theirs,
        "difference": round(test.difference, 6),
        "lower_90": round(lower, 6),
        "evaluated_on": report["evaluated_on"],
        "rows": test.rows,
        "better": test.better,
        "worse": test.worse,
        "held_out": held_out.to_json(),
        "feedback": comparison.feedback.to_json(),
        "activate": better,
        "reason": f"{why}: {comparison.figures(lower)}.",
    }


def _test_of(counts: dict[str, Any]) -> Paired | Compared:
    """Counts of right and wrong, or a figure with its interval, as the report has them."""
    from model.metrics import Compared, Paired

    return Compared(**counts) if "metric" in counts else Paired(**counts)


def judged(
    test: Paired | Compared, lower: float, margin: float, *, first: bool
) -> tuple[bool, str]:
    """Whether a paired test is passed, and why. ``first``: no head serves that is a baseline."""
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
