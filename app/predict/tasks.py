"""The tasks of ``POST /predict``: the one table, and the request that names one of them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from app.inference.snapshot import Snapshot
from app.predict.classification import Classification
from app.predict.dialogue import Dialogue
from app.predict.ner import Ner
from app.predict.qa import Qa
from app.predict.task import AnyTask
from app.predict.text_generation import TextGeneration
from app.schemas.predict import TaskRequest

TASKS: dict[str, AnyTask] = {
    "classification": Classification("label"),
    "sentiment": Classification("sentiment"),
    "ner": Ner(),
    "qa": Qa(),
    "dialogue": Dialogue(),
    "generation": TextGeneration(),
}


def available(snapshot: Snapshot) -> list[str]:
    """The names of the tasks that a server can do."""
    return [name for name, task in TASKS.items() if task.missing(snapshot) is None]


def known_task(name: object) -> object:
    """The name of a task. Raises what pydantic says of a literal of these names."""
    if not isinstance(name, str) or name not in TASKS:
        *names, last = [f"'{known}'" for known in TASKS]
        text = f"{', '.join(names)} or {last}"
        raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": text})
    return name


class PredictRequest(TaskRequest):
    """A request to ``POST /predict``."""

    task: Annotated[
        str,
        BeforeValidator(known_task),
        WithJsonSchema({"type": "string", "enum": [*TASKS]}),
    ]
