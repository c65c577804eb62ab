"""Loading a model onto a thread of its own, and what it takes to be warm."""

from __future__ import annotations

import gc
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from app.inference.engine import Engine
from app.inference.generator_engine import GeneratorEngine
from app.inference.language_models import generator_source
from app.inference.snapshot import ModelInfo, Serving
from app.metrics import Metrics
from app.settings import Settings

if TYPE_CHECKING:
    from app.inference.writer import AnyGenerator
    from model.encoder.encoder import Encoder
    from model.reader import Reader

logger = logging.getLogger(__name__)

WARM_UP = "I was charged twice for one order"
MOST_THREADS = 8


def inference_threads(settings: Settings) -> int:
    """How many threads a forward pass takes."""
    return settings.threads or max(1, min(MOST_THREADS, (os.cpu_count() or 1) - 1))


def generator_threads(settings: Settings) -> int:
    """How many threads a step of the generator takes: beside those of the classifier."""
    return max(1, inference_threads(settings) // 2)


def load_encoder(settings: Settings, source: str | None) -> Encoder:
    """A base encoder (``None``: the one that comes with Footnote) on the device of the settings.

    Raises ``EncoderRefused``, or ``ValueError`` for a device.

    Torch is imported here, on the thread that loads: the port opens before that.
    """
    from model.config import pick_device, pick_dtype
    from model.encoder.encoder import Encoder

    device = pick_device(settings.device)
    dtype = pick_dtype(settings.dtype, device)
    return Encoder.load(source, device=device, dtype=dtype)


def rest_from_collection() -> None:
    """What start-up has made stays: keep later collections of garbage from walking over it.

    A full collection visits every object of the libraries, which holds all threads for tens of
    milliseconds, in the middle of somebody's request.
    """
    gc.collect()
    gc.freeze()


def set_threads(count: int) -> None:
    """Set torch's threads for the thread that calls."""
    import torch

    torch.set_num_threads(count)


def new_engine(
    settings: Settings, metrics: Metrics, checkpoint: Path | None, encoder: Encoder | str | None
) -> Engine:
    """An engine that will load ``checkpoint`` over ``encoder``: a loaded one, or where it is."""

    def load() -> Reader:
        from model.reader import Reader

        set_threads(inference_threads(settings))
        if encoder is None or isinstance(encoder, str):
            base = load_encoder(settings, encoder)
        else:
            base = encoder.fork()
        return Reader.load(checkpoint, base)

    return Engine(
        load,
        max_tokens=settings.max_tokens,
        windows=settings.windows,
        batch_tokens=settings.batch_tokens,
        batch_wait_s=settings.batch_wait_ms / 1000,
        observe=metrics.observe_batch,
    )


def load_serving(
    settings: Settings,
    metrics: Metrics,
    version: str,
    checkpoint: Path | None,
    encoder: Encoder | str | None,
) -> Serving:
    """Load a model and warm it up; blocks. Raises what the loading raises (refusals).

    ``encoder``: a loaded one, or the source of one (``None``: the one that comes with Footnote).
    """
    engine = new_engine(settings, metrics, checkpoint, encoder)
    reader = engine.start().result()
    serving = Serving(engine, ModelInfo.of(reader, version), reader.encoder)
    warm_up(serving)
    return serving


def load_generator(settings: Settings, metrics: Metrics) -> GeneratorEngine:
    """The generator of the settings on a thread of its own; blocks until it has run once.

    Raises ``GeneratorRefused``, or ``ValueError`` for a device.
    """

    def load() -> AnyGenerator:
        from model.config import pick_device, pick_dtype
        from model.lm.generator import LMGenerator, is_language_model
        from model.text_generation.generator import Generator

        set_threads(generator_threads(settings))
        device = pick_device(settings.device)
        source = generator_source(str(settings.generator))
        context, streams = settings.generator_context, settings.generator_streams
        if is_language_model(Path(source)):
            return LMGenerator.load(Path(source), device=device, context=context, streams=streams)
        dtype = pick_dtype(settings.dtype, device)
        return Generator.load(source, device=device, dtype=dtype, context=context, streams=streams)

    engine = GeneratorEngine(
        load, streams=settings.generator_streams, observe=metrics.observe_batch
    )
    engine.start().result()
    return engine


def warm_up(serving: Serving) -> None:
    """Run every head once on a short and a longer text, alone and in company."""
    fields = [*serving.model.heads, "label"]
    for text in (WARM_UP, f"{WARM_UP}. " * 8):
        for field in dict.fromkeys(fields):
            reads = [serving.engine.read(text, field) for _ in range(2)]
            for read in reads:
                state = read.result().state
                serving.engine.predict(state, [], field, index_labels=("a", "b")).result()
    if serving.model.span_heads:
        from model.qa.evidence import PassageText

        passages = [PassageText(f"{WARM_UP}. " * 16)] * 8
        for head in serving.model.span_heads:
            serving.engine.answer(WARM_UP, passages, head).result()
