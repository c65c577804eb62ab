# ruff: noqa: RUF009 - setting() is dataclasses.field() with a help text
"""Every setting of Footnote, read from the environment in this one place.

A setting ``queue_size`` is the variable ``FOOTNOTE_QUEUE_SIZE``. Each has a help text that says its
unit and what it costs; ``docs/settings.md`` is held equal to it by a test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args, get_type_hints

from app.records.registry import SHIPPED

PREFIX = "FOOTNOTE_"
SECRET = frozenset({"admin_key", "write_key", "predict_key"})


class InvalidSetting(ValueError):
    """A variable whose value cannot be used. The message names the variable, never a secret."""


def setting(default: Any, text: str, *, choices: tuple[str, ...] = (), at_least: float = 0) -> Any:
    """A field of :class:`Settings` with its help and what values it takes."""
    metadata = {"help": text, "choices": choices, "at_least": at_least}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one process; immutable."""

    store_dir: Path = setting(
        Path("index_data/store"),
        "Folder of the documents, index generations and jobs; one server at a time.",
    )
    checkpoint_dir: Path = setting(
        Path("model/checkpoints"),
        "Folder of the trained checkpoints; the shipped one is used when it holds none.",
    )
    host: str = setting(
        "127.0.0.1",
        "Address to listen on. Off loopback a key is required: one is made if none is configured.",
    )
    port: int = setting(8000, "TCP port to listen on; 0 takes a free one.")
    admin_key: str | None = setting(None, "Bearer key with every scope. Secret.")
    write_key: str | None = setting(
        None, "Bearer key that may predict, write documents and give feedback. Secret."
    )
    predict_key: str | None = setting(None, "Bearer key that may predict and search only. Secret.")
    sample: bool = setting(
        True, "1 fills a store that is being created with the sample help desk; 0 starts empty."
    )
    encoder: str | None = setting(
        None,
        "Base encoder: a local folder or a hub id. Unset: the all-MiniLM-L6-v2 that is installed "
        "with Footnote. A store keeps its encoder until a reindex, which a change of this "
        "setting queues, has made the new one's vectors; both go live together.",
    )
    generator: str | None = setting(
        None,
        "Model that writes text (tasks `generation` and `dialogue`, `/v1/chat/completions`): a "
        "local folder or a hub id of any causal or sequence-to-sequence model of transformers, in "
        "safetensors, or the folder of a language model that was pre-trained here (it continues "
        "texts only); `shipped`: the small one of that kind that comes with Footnote. Unset: "
        "dialogue quotes the retrieved documents, nothing is generated.",
    )
    generator_context: int = setting(
        4_096,
        "Most tokens of prompt, documents and answer together; less where the generator was made "
        "for less. Memory and time grow with it.",
        at_least=64,
    )
    generator_streams: int = setting(
        8,
        "Texts that the generator writes at once, in one batch; more wait. Each takes memory for a "
        "whole context and slows the others.",
        at_least=1,
    )
    device: str = setting("auto", "Where the model runs: auto, cpu, cuda or cuda:N.")
    dtype: str = setting(
        "auto",
        "Number format of the model; auto is bf16 where the processor has it, else fp32.",
        choices=("auto", "fp32", "bf16"),
    )
    threads: int = setting(
        0,
        "Inference threads; 0 leaves one core to the rest, at most 8. While a job runs it is one. "
        "A generator takes half as many more.",
    )
    scorer: str = setting(
        "compiled",
        "What answers BM25 queries: the compiled arrays, or Whoosh itself (equal, slower).",
        choices=("compiled", "whoosh"),
    )
    retriever: str = setting(
        "whoosh", "Where the index lives. Only whoosh is delivered so far.", choices=("whoosh",)
    )
    passage_words: int = setting(
        200,
        "Longer documents are split into passages of about this many words; 0 never splits. "
        "Applies from the next reindex on.",
    )
    reindex_after: int = setting(
        5_000,
        "Documents written since the last generation after which a new one is built in the "
        "background (and at least a quarter of what it holds); 0 leaves that to you.",
    )
    max_tokens: int = setting(
        256,
        "Tokens that the model reads in one window. Cost grows in proportion.",
        at_least=8,
    )
    windows: int = setting(
        4,
        "Windows that are read of a longer text to classify: the first, the last and others spread "
        "between them. Each costs as much as a text of one; 1 cuts the rest off.",
        at_least=1,
    )
    max_body: int = setting(
        8 * 1024 * 1024,
        "Largest request body in bytes (NDJSON imports are read as a stream and have none).",
        at_least=1024,
    )
    max_input_chars: int = setting(
        100_000, "Largest text to predict or search for, in code points.", at_least=1
    )
    queue_size: int = setting(
        256,
        "Inputs admitted at once, being answered or waiting; more are refused with 429 before any "
        "work. Larger means longer waits under load, not more throughput.",
        at_least=1,
    )
    batch_tokens: int = setting(
        2048,
        "Tokens in one forward pass, padding included. Larger batches wait longer.",
        at_least=1,
    )
    batch_wait_ms: float = setting(
        2.0, "How long a forward pass waits for company, in milliseconds, and only under load."
    )
    min_confidence: float = setting(
        0.0,
        "Confidence under which no label is given, 0 to 1; a request may say otherwise.",
    )
    min_support: float = setting(
        0.0,
        "Support under which no label is given, 0 to 1: texts unlike anything in the index. A "
        "request may say otherwise.",
    )
    ablation_share: float = setting(
        0.01,
        "Share of the inputs that are also answered with retrieval off, to count what retrieval "
        "brought; about a millisecond each.",
    )
    keep_snapshots: int = setting(
        16,
        "States of the index kept in memory for `pin` and for replaying predictions, of those that "
        "answered last. They share what did not change; 0 keeps none.",
    )
    store_predictions: bool = setting(
        False,
        "1 keeps the last 10,000 predictions, with the texts that were asked about, in the "
        "document store too, so that they outlive a restart.",
    )
    impact_checked: int = setting(
        64,
        "Recent predictions, the nearest to a correction, that are asked again to tell which of "
        "them it changes (`impact` of `POST /feedback`); each costs about a prediction.",
    )
    retrieval_threads: int = setting(2, "Threads that search the index.", at_least=1)
    idle_timeout_s: float = setting(
        30.0, "Seconds without a byte of the body after which a request is given up.", at_least=0.1
    )
    header_timeout_s: float = setting(
        10.0,
        "Seconds for the whole header of a request to arrive; then the connection is closed.",
        at_least=0.1,
    )
    shutdown_grace_s: float = setting(
        30.0, "Seconds that requests in flight get to finish after SIGTERM."
    )
    log_format: str = setting(
        "json", "One JSON object a line, or text for people.", choices=("json", "text")
    )
    log_level: str = setting(
        "info", "Least severe line that is logged.", choices=("debug", "info", "warning", "error")
    )

    def __post_init__(self) -> None:
        for f in fields(self):
            check(f, getattr(self, f.name))
        for name in ("min_confidence", "min_support", "ablation_share"):
            if getattr(self, name) > 1:
                raise InvalidSetting(f"{variable(name)}: at most 1, not {getattr(self, name)}")
        if not 0 <= self.port <= 65535:
            raise InvalidSetting(f"{variable('port')}: a port is 0 to 65535, not {self.port}")
        if self.generator is not None:
            check_generator(self.generator)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Read ``FOOTNOTE_*`` out of ``environ``; what is absent or empty keeps its default.

        Raises :class:`InvalidSetting` naming the variable.
        """
        hints = get_type_hints(cls)
        given = {
            f.name: parse(f.name, hints[f.name], environ[variable(f.name)])
            for f in fields(cls)
            if environ.get(variable(f.name), "") != ""
        }
        return cls(**given)

    def public(self) -> dict[str, str | int | float | bool | None]:
        """The settings that may be shown: no secret, folders as text."""
        shown = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in SECRET}
        return {k: str(v) if isinstance(v, Path) else v for k, v in shown.items()}


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper()


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """``FOOTNOTE_*`` variables that no setting reads: most likely misspelt, worth a warning."""
    known = {variable(f.name) for f in fields(Settings)}
    return sorted(k for k in environ if k.startswith(PREFIX) and k not in known)


def parse(name: str, kind: Any, text: str) -> Any:
    """The value that the text of a variable stands for. Raises :class:`InvalidSetting`."""
    wanted = next((k for k in get_args(kind) if k is not type(None)), kind)
    if wanted is bool:
        known = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
        if text.lower() not in known:
            raise InvalidSetting(f"{variable(name)}: 1 or 0 is wanted")
        return known[text.lower()]
    try:
        return wanted(text)
    except ValueError:
        raise InvalidSetting(
            f"{variable(name)}: a number is wanted ({wanted.__name__}), not {text[:40]!r}"
        ) from None


def check(f: Field[Any], value: Any) -> None:
    """Raise :class:`InvalidSetting` when ``value`` is outside what the setting takes."""
    choices, at_least = f.metadata["choices"], f.metadata["at_least"]
    if choices and value not in choices:
        raise InvalidSetting(f"{variable(f.name)}: one of {', '.join(choices)}, not {value!r}")
    # `not >=` so that NaN is refused too.
    if isinstance(value, int | float) and not at_least <= value < float("inf"):
        raise InvalidSetting(f"{variable(f.name)}: at least {at_least:g}, not {value}")


def check_generator(named: str) -> None:
    """Raise :class:`InvalidSetting` for a misspelt ``shipped``.

    Taken for a hub id, it would be missed only when the first text is asked for.
    """
    near = get_close_matches(named.lower(), [SHIPPED], cutoff=0.8)
    if near and named != SHIPPED and not Path(named).exists():
        raise InvalidSetting(f"{variable('generator')}: {named!r}: is {SHIPPED!r} meant?")


def documentation() -> str:
    """The table of ``docs/settings.md``, one line a setting."""
    lines = ["| variable | default | what it does |", "|---|---|---|"]
    for f in fields(Settings):
        default = None if f.default is MISSING else f.default
        shown = "none" if default is None else f"`{int(default) if default is True else default}`"
        values = f" One of {', '.join(f'`{c}`' for c in f.metadata['choices'])}." * bool(
            f.metadata["choices"]
        )
        lines.append(f"| `{variable(f.name)}` | {shown} | {f.metadata['help']}{values} |")
    return "\n".join(lines) + "\n"
