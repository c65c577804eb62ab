"""What commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import click

SHOWN: Final = 10  # bad rows that are named

Command = TypeVar("Command", bound=Callable[..., Any])


def json_option(command: Command) -> Command:
    """``--json``: print the server's own answer instead of a table."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, not a table.")(command)


def activate_option(default: str, help: str) -> Callable[[Command], Command]:
    """``--activate``: whether the result of a job is put in use."""
    modes = click.Choice(["never", "if_better", "always"])
    return click.option("--activate", type=modes, default=default, show_default=True, help=help)


def margin_option(command: Command) -> Command:
    """``--margin``: how much worse a result may be under ``--activate if_better``."""
    return click.option(
        "--margin",
        type=click.FloatRange(0, 0.5),
        default=0.0,
        show_default=True,
        help="With if_better: how much worse accuracy (or F1) may be; 0: it has to be better.",
    )(command)


def emit_json(body: Any) -> None:
    """One JSON document on standard output."""
    click.echo(json.dumps(body, ensure_ascii=False, indent=2))


def table(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, empty: str = "none"
) -> None:
    """A plain table, one line a row; a cell is cut to 80 characters."""
    if not rows:
        click.echo(empty)
        return
    lines = [list(columns), *([_cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip())


def note(message: str) -> None:
    """A line on standard error: standard output has only the result."""
    click.echo(message, err=True)


def warn(message: str) -> None:
    """A warning on standard error."""
    click.secho(f"warning: {message}", fg="yellow", err=True)


def shorten(text: str, width: int) -> str:
    """The text on one line, cut to ``width`` code points."""
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def is_terminal() -> bool:
    """Whether standard error is a terminal: no progress bar goes into a log."""
    return sys.stderr.isatty()


class StepBar:
    """Steps of a training or job: a bar for each stage on a terminal, with rate and time left.

    Elsewhere, with ``notes``, a line a minute.
    """

    def __init__(self, name: str, *, notes: bool = True) -> None:
        self._name = name
        self._notes = notes
        self._bar: Any = None
        self._stage = ""
        self._noted = 0.0

    def __enter__(self) -> StepBar:
        return self

    def __call__(
        self, step: int, total: int | None, loss: float | None, left: float | None, stage: str = ""
    ) -> None:
        """A step was made: how many of how many, the loss, the seconds left."""
        if is_terminal():
            from tqdm import tqdm  # a tenth of a second that --help need not pay

            if self._bar is None or stage != self._stage:
                self.__exit__()
                self._stage = stage
                name = f"{self._name}: {stage}" if stage else self._name
                self._bar = tqdm(total=total, initial=max(step - 1, 0), unit="step", desc=name)
            if loss is not None:
                self._bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
            self._bar.update(step - self._bar.n)
        elif self._notes and (time.monotonic() - self._noted > 60 or step == total):
            self._noted = time.monotonic()
            note(f"step {step} of {total}, loss {loss or 0:.3f}, {left or 0:.0f} s left")

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


@contextmanager
def resumable(name: str, *refused: type[Exception]) -> Iterator[StepBar]:
    """A training that the same command goes on with; ``refused`` end the command with a message."""
    with StepBar(name) as bar:
        try:
            yield bar
        except refused as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt:
            raise click.ClickException("interrupted; the same command goes on") from None


class BadRows:
    """Names the first rows that are not taken, and counts them all."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, path: Path, line: int, why: str) -> None:
        """A row was not taken."""
        self._count += 1
        if self._count <= SHOWN:
            warn(f"{path}:{line}: {why}")

    def total(self) -> None:
        """Say how many there were, where not all were named."""
        if self._count > SHOWN:
            warn(f"{self._count} rows were not taken")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return shorten(str(value), 80)
