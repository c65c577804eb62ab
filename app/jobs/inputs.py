"""What jobs share: their folders, the encoder and index as the server reads them, how they end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from app.records.datasets import FOLDER as DATASETS
from app.records.datasets import DatasetBroken
from app.settings import Settings
from app.worker import JobCancelled, JobRefused, Reporter

if TYPE_CHECKING:
    import torch

    from index_data.search.searcher import Searcher
    from model.encoder.encoder import Encoder

INDEX: Final = "index"  # under the store's folder: the generations
WORK: Final = "jobs"  # under the store's folder: what each job keeps until it succeeds


def index_folder(settings: Settings) -> Path:
    """Where the generations lie."""
    return settings.store_dir / INDEX


def work_folder(settings: Settings, job_id: str) -> Path:
    """Where a job keeps what it reads and has done."""
    return settings.store_dir / WORK / job_id


def dataset_folder(settings: Settings, name: str | None) -> str | None:
    """Where an uploaded set lies."""
    return None if name is None else str(settings.store_dir / DATASETS / name)


def reading(settings: Settings, encoder: str | None) -> dict[str, Any]:
    """The parameters by which a child reads store, index and encoder as the server does."""
    return {
        "_store": str(settings.store_dir),
        "_index": str(index_folder(settings)),
        "_encoder": encoder,
        "_device": settings.device,
        "_passage_words": settings.passage_words,
    }


@contextmanager
def child_part() -> Iterator[None]:
    """Decorates what runs in the child: one thread, and errors as the queue knows them.

    Raises :class:`JobRefused` for what cannot be read or done, :class:`JobCancelled`.
    """
    import torch

    from index_data.generations.build import BuildCancelled
    from index_data.importing.importers import ImportRefused
    from model.encoder.encoder import EncoderRefused
    from model.folders import CheckpointRefused
    from model.training.trainer import TrainingCancelled
    from model.training.workspace import TrainingRefused

    torch.set_num_threads(1)
    try:
        yield
    except (BuildCancelled, TrainingCancelled):
        raise JobCancelled from None
    except (
        CheckpointRefused, DatasetBroken, EncoderRefused, ImportRefused, TrainingRefused
    ) as refused:  # fmt: skip
        raise JobRefused(str(refused)) from refused


def load_encoder(
    params: dict[str, Any], reporter: Reporter, dtype: torch.dtype | None = None
) -> Encoder:
    """The base encoder; without ``dtype`` in single precision, which training needs on a CPU."""
    import torch

    from model.config import pick_device
    from model.encoder.encoder import Encoder

    reporter.progress(0, 1, "load the encoder")
    device = pick_device(params["_device"])
    return Encoder.load(params["_encoder"], device=device, dtype=dtype or torch.float32)


@contextmanager
def opened(
    params: dict[str, Any], encoder: Encoder, built: Path | None = None
) -> Iterator[Searcher]:
    """The index as the server sees it now, for reading only.

    ``built``: as it would be with this generation, which is not registered yet.
    """
    from index_data.generations.index import Index, NoGeneration
    from index_data.storage.store import ReadOnlyStore

    with closing(ReadOnlyStore(Path(params["_store"]))) as store:
        index = Index(
            store,
            Path(params["_index"]),
            passage_words=params["_passage_words"],
            encoder_sha=encoder.sha256,
        )
        if built is not None:
            index.try_out(built)
        else:
            try:
                index.open()
            except NoGeneration:
                index.open_without_generation()
        yield index.searcher
