"""Every setting of Footnote, read from the environment in this one place.

A setting ``queue_size`` is the variable ``FOOTNOTE_QUEUE_SIZE``, of the environment or of the file
``.env`` in the working directory. Each has a help text that says its unit and what it costs;
``docs/settings.md`` is held equal to it by a test.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    SecretStr,
    ValidationError,
    field_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    SettingsConfigDict,
)

from app.records.registry import SHIPPED

PREFIX: Final = "FOOTNOTE_"
SECRET: Final = frozenset({"admin_key", "write_key", "predict_key"})
NOT_SETTINGS: Final = frozenset({"data"})  # the folder of the evaluation data, for tests
Share = Annotated[float, Field(ge=0, le=1)]
Timeout = Annotated[float, Field(ge=0.1)]


class InvalidSetting(ValueError):
    """A variable whose value cannot be used. The message names the variable, never a secret."""


class Settings(BaseSettings):
    """The settings of one process; immutable. What is not given comes from the environment.

    Raises ``pydantic.ValidationError``; :func:`read_settings` says it in words.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        dotenv_filtering="only_existing",
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    store_dir: Path = Path("index_data/store")
    """Folder of the documents, index generations and jobs; one server at a time."""
    checkpoint_dir: Path = Path("model/checkpoints")
    """Folder of the trained checkpoints; the shipped one is used when it holds none."""
    host: str = "127.0.0.1"
    """Address to listen on. Off loopback a key is required: one is made if none is configured."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """TCP port to listen on; 0 takes a free one."""
    admin_key: SecretStr | None = None
    """Bearer key with every scope. Secret."""
    write_key: SecretStr | None = None
    """Bearer key that may predict, write documents and give feedback. Secret."""
    predict_key: SecretStr | None = None
    """Bearer key that may predict and search only. Secret."""
    sample: bool = True
    """1 fills a store that is being created with the sample help desk; 0 starts empty."""
    encoder: str | None = None
    """Base encoder: a local folder or a hub id. Unset: the all-MiniLM-L6-v2 that is installed with
    Footnote. A store keeps its encoder until a reindex, which a change of this setting queues, has
    made the new one's vectors; both go live together."""
    generator: str | None = None
    """Model that writes text (tasks `generation` and `dialogue`, `/v1/chat/completions`): a local
    folder or a hub id of any causal or sequence-to-sequence model of transformers, in safetensors,
    or the folder of a language model that was pre-trained here (it continues texts only);
    `shipped`: the small one of that kind that comes with Footnote. Unset: dialogue quotes the
    retrieved documents, nothing is generated."""
    generator_context: Annotated[int, Field(ge=64)] = 4_096
    """Most tokens of prompt, documents and answer together; less where the generator was made for
    less. Memory and time grow with it."""
    generator_streams: PositiveInt = 8
    """Texts that the generator writes at once, in one batch; more wait. Each takes memory for a
    whole context and slows the others."""
    device: str = "auto"
    """Where the model runs: auto, cpu, cuda or cuda:N."""
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format of the model; auto is bf16 where the processor has it, else fp32."""
    threads: NonNegativeInt = 0
    """Inference threads; 0 leaves one core to the rest, at most 8. While a job runs it is one. A
    generator takes half as many more."""
    scorer: Literal["compiled", "whoosh"] = "compiled"
    """What answers BM25 queries: the compiled arrays, or Whoosh itself (equal, slower)."""
    passage_words: NonNegativeInt = 200
    """Longer documents are split into passages of about this many words; 0 never splits. Applies
    from the next reindex on."""
    reindex_after: NonNegativeInt = 5_000
    """Documents written since the last generation after which a new one is built in the background
    (and at least a quarter of what it holds); 0 leaves that to you."""
    max_tokens: Annotated[int, Field(ge=8)] = 256
    """Tokens that the model reads in one window. Cost grows in proportion."""
    windows: PositiveInt = 4
    """Windows that are read of a longer text to classify: the first, the last and others spread
    between them. Each costs as much as a text of one; 1 cuts the rest off."""
    max_body: Annotated[int, Field(ge=1024)] = 8 * 1024 * 1024
    """Largest request body in bytes (NDJSON imports are read as a stream and have none)."""
    max_input_chars: PositiveInt = 100_000
    """Largest text to predict or search for, in code points."""
    queue_size: PositiveInt = 256
    """Inputs admitted at once, being answered or waiting; more are refused with 429 before any
    work. Larger means longer waits under load, not more throughput."""
    batch_tokens: PositiveInt = 2048
    """Tokens in one forward pass, padding included. Larger batches wait longer."""
    batch_wait_ms: NonNegativeFloat = 2.0
    """How long a forward pass waits for company, in milliseconds, and only under load."""
    min_confidence: Share = 0.0
    """Confidence under which no label is given, 0 to 1; a request may say otherwise."""
    min_support: Share = 0.0
    """Support under which no label is given, 0 to 1: texts unlike anything in the index. A request
    may say otherwise."""
    ablation_share: Share = 0.01
    """Share of the inputs that are also answered with retrieval off, to count what retrieval
    brought; about a millisecond each."""
    keep_snapshots: NonNegativeInt = 16
    """States of the index kept in memory for `pin` and for replaying predictions, of those that
    answered last. They share what did not change; 0 keeps none."""
    store_predictions: bool = False
    """1 keeps the last 10,000 predictions, with the texts that were asked about, in the document
    store too, so that they outlive a restart."""
    impact_checked: NonNegativeInt = 64
    """Recent predictions, the nearest to a correction, that are asked again to tell which of them
    it changes (`impact` of `POST /feedback`); each costs about a prediction."""
    retrieval_threads: PositiveInt = 2
    """Threads that search the index."""
    idle_timeout_s: Timeout = 30.0
    """Seconds without a byte of the body after which a request is given up."""
    header_timeout_s: Timeout = 10.0
    """Seconds for the whole header of a request to arrive; then the connection is closed."""
    shutdown_grace_s: NonNegativeFloat = 30.0
    """Seconds that requests in flight get to finish after SIGTERM."""
    log_format: Literal["json", "text"] = "json"
    """One JSON object a line, or text for people."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe line that is logged."""

    @field_validator("*", mode="before")
    @classmethod
    def _not_empty(cls, value: Any) -> Any:
        if value == "":
            raise PydanticCustomError(
                "empty", "it is empty; give it a value, or remove the variable"
            )
        return value

    @field_validator("generator")
    @classmethod
    def _not_misspelt(cls, named: str | None) -> str | None:
        # Taken for a hub id, it would be missed only when the first text is asked for.
        near = get_close_matches((named or "").lower(), [SHIPPED], cutoff=0.8)
        if named and near and named != SHIPPED and not Path(named).exists():
            raise PydanticCustomError(
                "misspelt", f"write {SHIPPED!r} for the one that comes with Footnote"
            )
        return named

    def public(self) -> dict[str, str | int | float | bool | None]:
        """The settings that may be shown: no secret, folders as text."""
        return self.model_dump(mode="json", exclude=set(SECRET))


def read_settings() -> Settings:
    """The settings of the environment and of ``.env``.

    Raises :class:`InvalidSetting` with a line for each variable that cannot be used.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise InvalidSetting("\n".join(map(_explained, error.errors()))) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSetting(f"the file .env cannot be read: {error}") from None


def unknown_variables() -> list[str]:
    """``FOOTNOTE_`` variables that are no setting, each with the nearest name that is one."""
    given = {*EnvSettingsSource(Settings).env_vars, *DotEnvSettingsSource(Settings).env_vars}
    ours = {name.removeprefix(PREFIX.lower()) for name in given if name.startswith(PREFIX.lower())}
    unknown = sorted(ours - Settings.model_fields.keys() - NOT_SETTINGS)
    near = {name: get_close_matches(name, Settings.model_fields, n=1) for name in unknown}
    return [
        variable(name) + "".join(f" (did you mean {variable(n)}?)" for n in near[name])
        for name in unknown
    ]


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper()


def revealed(secret: SecretStr | None) -> str | None:
    """The text of a secret."""
    return None if secret is None else secret.get_secret_value()


def _explained(error: ErrorDetails) -> str:
    name = str(error["loc"][0])
    hidden = name in SECRET or error["input"] == ""
    value = "used" if hidden else repr(str(error["input"])[:40])
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"{variable(name)} cannot be {value}: {message}. {_help(name)}"


def _help(name: str) -> str:
    return " ".join((Settings.model_fields[name].description or "").split())
