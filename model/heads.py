"""The kinds of heads that a checkpoint can hold: by task, how one is configured and built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from torch import nn

from model.config import HeadConfig, HeadSettings
from model.encoder.encoder import Encoder
from model.labels.multilabel import label_network
from model.ner.network import TagConfig, TagNetwork
from model.qa.network import SpanConfig, SpanNetwork


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind: `config` from plain data, `network` from a configuration over an encoder."""

    config: Callable[[Mapping[str, Any]], HeadSettings]
    network: Callable[[Any, Encoder], nn.Module]


LABELS: Final = Kind(HeadConfig.from_json, label_network)
SPANS: Final = Kind(SpanConfig.from_json, SpanNetwork)
TAGS: Final = Kind(TagConfig.from_json, TagNetwork)
KINDS: Final[Mapping[str, Kind]] = {
    "classification": LABELS,
    "sentiment": LABELS,
    "qa": SPANS,
    "ner": TAGS,
}


def kind_of(task: object) -> Kind:
    """The kind of a task's heads.

    Raises:
        ValueError: This version has no such task.
    """
    try:
        return KINDS[str(task)]
    except KeyError:
        known = ", ".join(KINDS)
        raise ValueError(f"a head for the task {task!r}; this version reads: {known}") from None
