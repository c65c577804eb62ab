"""Question answering: the paragraph given, to be found, and taken out.

    python -m benchmarks.qa [--set squad|drcd|cmrc2018] [--questions N] [--checkpoint FOLDER]
    python -m benchmarks.qa --set drcd --retrieval
    python -m benchmarks.qa --train FOLDER [--none] [--base FOLDER]
    python -m benchmarks.qa --settle FOLDER [--checkpoint FOLDER]

Measured with the code that serves, in its arithmetic: paragraphs of the development part in an
index, published as the server does it, searched by its default method, read by the checkpoint's
head. `--questions` takes a part of the questions by hash, `--gone` of those a part that is asked
again with the paragraph taken out; retrieval is measured on all of them, and alone with
`--retrieval`. `--train` trains the head on the set's training rows (5 % by hash of the paragraph
are held out and fit the mixture and the judges); `--none` without retrieved passages, at equal
compute. `--settle` fits mixture and judges of a head anew, on the held-out rows (`--alone`: the
judges of a single passage only). `--encoder` names another encoder, for all.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.data import rows
from benchmarks.data.qa import SETS, served, share, training_rows
from benchmarks.peers.retrieval import temporary
from benchmarks.retrieval import index_of
from benchmarks.tools.folders import SHIPPED
from benchmarks.tools.statistics import interval, paired_interval
from benchmarks.tools.vector_cache import CachedEncoder
from index_data.documents import Document
from index_data.search.fusion import Fusion
from index_data.search.searcher import METHODS, Hit, Searcher
from model.checkpoint import HeadFiles, load_heads, save_checkpoint
from model.config import bf16_products, pick_dtype
from model.encoder.encoder import Encoder
from model.metrics import auroc
from model.qa.answers import SpanAnswer, SpanReader
from model.qa.evidence import PassageText
from model.qa.metrics import exact_match, f1
from model.qa.network import FEATURES, SpanConfig, SpanNetwork
from model.qa.rows import SpanRow, SpanTrainConfig
from model.reader import Reader
from model.training.driver import train_head
from model.training.qa import QaTraining, answers_of, calibrate
from model.training.qa_calibration import ask_all, calibrate_single, scores, single_passages
from model.training.split import bucket

AT_ONCE = 64
K = 5
DRAWS = 2_000
RECIPE = SpanTrainConfig(
    epochs=3,
    batch_size=24,
    layers=6,
    rank=32,
    windows=((20, 64), (48, 112), (72, 152)),
    hit_share=0.15,
    null_share=0.06,
)
"""What the shipped head is trained by."""


def answers(reader: SpanReader, asked: Sequence[tuple[str, list[PassageText]]]) -> list[SpanAnswer]:
    """Answers to questions over passages, in parts."""
    found: list[SpanAnswer] = []
    for start in range(0, len(asked), AT_ONCE):
        part = [reader.ask(question, texts) for question, texts in asked[start : start + AT_ONCE]]
        found += ask_all(reader, part)
    return found


def passages(hits: Sequence[Hit]) -> list[PassageText]:
    return [PassageText(hit.text, rank, hit.document.title) for rank, hit in enumerate(hits, 1)]


def quality(
    said: Sequence[SpanAnswer], raw: Sequence[dict[str, Any]], lang: str
) -> dict[str, list[float]]:
    """Exact match and F1 in percent, each with its 95 % interval."""
    texts = [answer.spans[0].text if answer.spans else "" for answer in said]
    truths = [[a["text"] for a in r["answers"]] for r in raw]
    out = {}
    for name, metric in (("exact_match", exact_match), ("f1", f1)):
        values = np.array([100 * metric(s, t, lang) for s, t in zip(texts, truths, strict=True)])
        out[name] = [round(v, 2) for v in (float(values.mean()), *interval(values, draws=DRAWS))]
    return out


def f1_each(said: Sequence[SpanAnswer], raw: Sequence[dict[str, Any]], lang: str) -> list[float]:
    texts = [answer.spans[0].text if answer.spans else "" for answer in said]
    return [
        f1(text, [a["text"] for a in r["answers"]], lang)
        for text, r in zip(texts, raw, strict=True)
    ]


def right(said: Sequence[SpanAnswer], raw: Sequence[dict[str, Any]], lang: str) -> list[bool]:
    return [
        bool(answer.spans) and value >= 0.5
        for answer, value in zip(said, f1_each(said, raw, lang), strict=True)
    ]


def calibration_gap(confidence: Sequence[float], correct: Sequence[bool]) -> float:
    """Expected calibration error over 15 bins of equal width."""
    p, y = np.asarray(confidence), np.asarray(correct, dtype=float)
    bins = np.minimum((p * 15).astype(int), 14)
    gaps = [(bins == b).mean() * abs(p[bins == b].mean() - y[bins == b].mean()) for b in set(bins)]
    return float(sum(gaps))


def evaluate(name: str, given: argparse.Namespace, encoder: Encoder) -> dict[str, Any]:
    """Figures of a set: retrieval over all questions, reading over a part of them."""
    source, lang = SETS[name]
    everything = list(rows(source))
    ordered = sorted(everything, key=lambda r: share(r["id"] + r["question"]))
    part = ordered[: given.questions]
    contexts = list(dict.fromkeys(r["context"] for r in everything))
    number = {context: str(i) for i, context in enumerate(contexts)}
    documents = [Document(number[context], context) for context in contexts]
    result: dict[str, Any] = {"set": name, "all": len(everything), "documents": len(documents)}
    cached = CachedEncoder(encoder, source.replace("/", "_"))
    with temporary() as folder:
        store, searcher = index_of(documents, Path(folder), cached)
        if given.weight is not None:
            fusion = Fusion(weight=given.weight)
            searcher = Searcher(searcher.views, generation=1, sequence=1, fusion=fusion)
        result["hybrid's weight"] = round(searcher.fusion.weight, 3)
        asked = cached.encode([r["question"] for r in everything])
        vectors = {r["id"]: v for r, v in zip(everything, asked, strict=True)}

        methods = served(searcher, encoder, [r["question"] for r in everything])
        default = {r["id"]: method for r, method in zip(everything, methods, strict=True)}

        def search(r: dict[str, Any], *, method: str = "served", out: bool = False) -> list[Hit]:
            return searcher.search(
                r["question"],
                k=K,
                method=default[r["id"]] if method == "served" else method,
                query_vector=vectors[r["id"]],
                exclude_ids=[number[r["context"]]] if out else [],
            )

        for method in (*METHODS, "served"):
            ranks = [[hit.doc_id for hit in search(r, method=method)] for r in everything]
            paragraphs = [number[r["context"]] for r in everything]
            result[f"recall, {method}"] = recall(paragraphs, ranks)
        report("retrieval", result)
        if given.retrieval:
            store.close()
            return result
        there = [(r["question"], passages(search(r))) for r in part]
        few = part[: given.gone]
        gone = [(r["question"], passages(search(r, out=True))) for r in few]
        store.close()
    reader = Reader.load(given.checkpoint, encoder).spans("qa")
    result["questions"] = len(part)
    began = time.perf_counter()
    own = answers(reader, [(r["question"], [PassageText(r["context"])]) for r in part])
    result["given"] = quality(own, part, lang)
    report("given", result["given"])
    found = answers(reader, there)
    result["found"] = quality(found, part, lang)
    report("found", result["found"])
    if given.against is not None:
        rival = answers(Reader.load(given.against, encoder).spans("qa"), there)
        result["against, found"] = quality(rival, part, lang)
        ours, theirs = (f1_each(said, part, lang) for said in (found, rival))
        result["found, F1 more"] = [round(100 * v, 2) for v in paired_interval(ours, theirs)]
        report("more", result["found, F1 more"])
    closed = answers(reader, [(r["question"], []) for r in part])
    found = found[: len(few)]
    result["off"] = quality(closed, part, lang)
    missed = answers(reader, gone)
    result["unanswerable"] = unanswerable(found, missed, few, lang)
    result["single passage"] = single(reader, few, gone)
    result["seconds"] = round(time.perf_counter() - began, 1)
    return result


def recall(own: Sequence[str], ranks: Sequence[Sequence[str]]) -> dict[str, float]:
    """The percentage of questions whose own paragraph is first, and is among the first K."""
    places = list(zip(own, ranks, strict=True))
    return {
        f"@{k}": round(100 * float(np.mean([one in found[:k] for one, found in places])), 2)
        for k in (1, K)
    }


def unanswerable(
    found: Sequence[SpanAnswer],
    missed: Sequence[SpanAnswer],
    raw: Sequence[dict[str, Any]],
    lang: str,
) -> dict[str, Any]:
    """How well it is told that the paragraph is gone; `found` and `missed` are of the same rows."""
    correct, both = right(found, raw, lang), [*found, *missed]
    present = [True] * len(found) + [False] * len(missed)
    support, confidence = ([a.support for a in both], [a.confidence for a in both])
    held, lost = support[: len(found)], support[len(found) :]
    return {
        "questions": len(raw),
        "auroc": round(auroc(held, lost), 4),
        "answerable_when_there": round(float(np.mean([a.answerable for a in found])), 4),
        "answerable_when_gone": round(float(np.mean([a.answerable for a in missed])), 4),
        "ece of support": round(calibration_gap(support, present), 4),
        "ece": round(calibration_gap(confidence, correct + right(missed, raw, lang)), 4),
        "ece_when_there": round(calibration_gap(confidence[: len(found)], correct), 4),
    }


def single(
    reader: SpanReader,
    raw: Sequence[dict[str, Any]],
    gone: Sequence[tuple[str, list[PassageText]]],
) -> dict[str, Any]:
    """How well it is told whether one passage holds an answer: paragraphs, and sentences alone.

    The question's own, and the best other one that does not hold the answer.
    """
    kinds: dict[str, list[tuple[str, PassageText, bool]]] = {"paragraphs": [], "sentences": []}
    for r, (question, others) in zip(raw, gone, strict=True):
        row = SpanRow(
            r["id"], question, r["context"],
            [(a["text"], a["start"]) for a in r["answers"]],
            [PassageText(other.text) for other in others],
        )  # fmt: skip
        for passage, present in single_passages(row):
            whole = passage.text == row.context or any(passage.text == o.text for o in others)
            kinds["paragraphs" if whole else "sentences"].append((question, passage, present))
    out: dict[str, Any] = {}
    for name, asked in kinds.items():
        said = answers(reader, [(question, [passage]) for question, passage, _ in asked])
        support = [a.support for a in said]
        values = np.array(support)
        flags: list[bool] = [is_there for _, _, is_there in asked]
        claimed = np.array([a.answerable for a in said])
        there = np.array(flags)
        out[name] = {
            "asked": len(asked),
            "auroc": round(auroc(values[there], values[~there]), 4),
            "answerable_when_there": round(float(claimed[there].mean()), 4),
            "answerable_when_not": round(float(claimed[~there].mean()), 4),
            "ece of support": round(calibration_gap(support, flags), 4),
        }
    return out


def report(name: str, figures: object) -> None:
    print(f"{name:12}", figures, flush=True)


def train(name: str, given: argparse.Namespace, encoder: Encoder) -> dict[str, Any]:
    """Train a head by the recipe; its report."""
    config = replace(RECIPE, lang=SETS[name][1], seed=given.seed)
    if given.none:
        # Nothing is read beside a question's own paragraph: longer windows make the tokens equal.
        longer = tuple((a * 6 // 5, b * 6 // 5) for a, b in config.windows[1:])
        config = replace(config, retrieval=False, windows=(config.windows[0], *longer))

    def progress(step: int, total: int, loss: float | None, left: float | None) -> None:
        if step % 50 == 0:
            report(f"{step}/{total}", {"loss": loss, "left_s": left})

    rows = training_rows(encoder, name)
    done = train_head(
        QaTraining(rows, config, encoder), given.train, base=given.base, progress=progress
    )
    return done.to_json()


def settle(name: str, given: argparse.Namespace, encoder: Encoder) -> dict[str, Any]:
    """Fit the judges of a head anew, on rows that it was not trained on; its figures.

    `--alone`: those of a single passage, and the others stay.
    """
    alone: bool = given.alone
    held = training_rows(encoder, name, lambda c: bucket(c) < RECIPE.holdout, words=alone)
    held = sorted(held, key=lambda row: bucket(row.question))[: given.questions]
    files = load_heads(given.checkpoint)[1]["qa"]
    assert isinstance(files.config, SpanConfig)
    model = SpanNetwork(replace(files.config, features=FEATURES, alone=True), encoder)
    old = files.tensors["judge"][:2]
    before = torch.zeros(2, FEATURES + 1)  # what it did not look at weighs nothing
    before[:, : old.shape[1] - 1], before[:, -1] = old[:, :-1], old[:, -1]
    model.load_state_dict({**files.tensors, "judge": before.repeat(2, 1)})
    config = replace(RECIPE, lang=SETS[name][1], k=files.config.k)
    new: dict[str, Any]
    with bf16_products(encoder.device):
        if alone:
            fitted = calibrate_single(model, held, config.lang)
            new = {"calibration": files.report["calibration"] | fitted}
        else:
            on, calibration = calibrate(model, held, config)
            answered = answers_of(SpanReader(model), None, held)
            metrics = {name: scores(held, a, config.lang) for name, a in answered.items()}
            new = {"metrics": {"on": on} | metrics, "calibration": calibration}
            new["held_out"] = len(held)
    changed = HeadFiles(
        model.config, dict(model.state_dict()), {**files.report, **new}, files.documents
    )
    save_checkpoint(given.settle, {"qa": changed}, encoder, base=given.checkpoint)
    return new


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--set", choices=SETS, default="squad")
    parser.add_argument("--questions", type=int, help="so many, by hash; all where it is left out")
    parser.add_argument("--gone", type=int, default=1000, help="so many with their paragraph out")
    parser.add_argument("--retrieval", action="store_true", help="retrieval alone")
    parser.add_argument("--weight", type=float, help="of the dense part, instead of the default")
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED)
    parser.add_argument("--against", type=Path, help="another head, to be compared with in pairs")
    parser.add_argument("--encoder")
    parser.add_argument("--train", type=Path)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--settle", type=Path)
    parser.add_argument("--alone", action="store_true", help="settle the single passage's judges")
    parser.add_argument("--none", action="store_true")
    parser.add_argument("--seed", type=int, default=0, help="of --train")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.train is not None or given.settle is not None:
        work = train if given.settle is None else settle
        print(json.dumps(work(given.set, given, Encoder.load(given.encoder))))
        return
    encoder = Encoder.load(given.encoder, dtype=pick_dtype("auto", "cpu"))
    print(json.dumps(evaluate(given.set, given, encoder)))


if __name__ == "__main__":
    main()
