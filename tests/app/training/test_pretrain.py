"""What is retrieved for a text to pre-train on hangs on its past alone; and the command works."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from app.cli.pretrain import pretrain
from app.training.pretrain_data import Text, build_corpus, split_by_hash, train_tokenizer
from app.training.pretrain_retrieval import Reach, Setting, retrieve
from model.lm.checkpoint import load_lm
from model.lm.config import SPECIAL, LMConfig
from model.lm.corpus import LMCorpus, make_corpus
from model.lm.evaluation import token_nats
from model.lm.network import RetrievalLM
from model.lm.tokenizer import LMTokenizer

CHUNK = 8
REACH = Reach(k=2, window_chunks=2, passage_chunks=2)
TOPICS = [
    ["heron", "swift", "robin", "finch", "eagle", "crow", "wing", "nest", "feather", "song"],
    ["hammer", "saw", "drill", "wrench", "chisel", "pliers", "bench", "screw", "nail", "plank"],
    ["apple", "pear", "plum", "grape", "lemon", "melon", "orchard", "juice", "peel", "seed"],
]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def prose(topic: int, words: int, seed: int) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choice(TOPICS[topic] + ["and", "the", "of"]) for _ in range(words))


def a_text(number: int, words: int = 60, *, split: str = "train", source: str = "a") -> Text:
    return Text(f"{source}{number}", source, split, prose(number % 3, words, number))


@pytest.fixture(scope="module")
def tokenizer() -> LMTokenizer:
    return train_tokenizer([a_text(i) for i in range(12)], 330)


@pytest.mark.parametrize("setting", ["own", "others"])
def test_another_future_has_the_same_retrieval_and_the_same_predictions(
    setting: Setting, tokenizer: LMTokenizer
) -> None:
    # Weights of terms come from the training documents: what is changed is a held-out one.
    texts = [a_text(i) for i in range(8)] + [a_text(9, 200, split="test")]
    corpus = build_corpus(texts, tokenizer, {"a": setting}, REACH, CHUNK)
    document = corpus.documents[-1]
    at = document.first + (document.end - document.first) // 2
    tokens = corpus.tokens.copy()
    rng = np.random.default_rng(0)
    tokens[at:] = rng.integers(SPECIAL, tokenizer.vocab, tokens[at:].shape)
    named = [(d.id, d.source, d.split) for d in corpus.documents]
    ids = [tokens[d.first : d.end].ravel() for d in corpus.documents]
    other = make_corpus(named, ids, CHUNK, REACH.k, {})
    before = corpus.neighbours.copy()
    settings: dict[str, Setting] = {"a": setting}
    retrieve(other, tokenizer.decode, settings, REACH)
    after = other.neighbours
    # The chunk whose tokens are changed first is still asked for by what stands before it.
    assert (before[: at + 1] == after[: at + 1]).all()
    assert (before[document.first : at + 1] >= 0).any()
    assert (before[at + 1 :] != after[at + 1 :]).any()
    shape = LMConfig(
        tokenizer.vocab, dim=16, heads=2, window=16, chunk=CHUNK, copy_dim=8, layers=2,
        copy_layer=1,
    )  # fmt: skip
    model = RetrievalLM(shape)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    scored = np.arange(document.first, at)
    assert np.array_equal(token_nats(model, corpus, scored), token_nats(model, other, scored))


def test_the_own_past_is_retrieved_from_beyond_the_window(tokenizer: LMTokenizer) -> None:
    texts = [a_text(0, 300), a_text(1, 300)]
    corpus = build_corpus(texts, tokenizer, {"a": "own"}, REACH, CHUNK)
    found = 0
    for document in corpus.documents:
        for chunk in range(document.first, document.end):
            for hit in corpus.neighbours[chunk]:
                if hit >= 0:
                    found += 1
                    assert document.first <= hit
                    # The passage's last chunk is before all that a window with `chunk` can hold.
                    assert hit + REACH.passage_chunks - 1 <= chunk - REACH.window_chunks
    assert found > 20


def test_neither_itself_nor_a_near_duplicate_is_retrieved(tokenizer: LMTokenizer) -> None:
    twin = prose(0, 100, 50)
    texts = [
        Text("one", "a", "train", twin),
        Text("two", "a", "train", twin.upper().lower() + " plum"),
        a_text(3, 100),
        a_text(6, 100),
        Text("held", "a", "test", twin),
    ]
    corpus = build_corpus(texts, tokenizer, {"a": "others"}, REACH, CHUNK)
    for document in corpus.documents:
        hits = corpus.neighbours[document.first : document.end]
        owners = {corpus.documents[corpus.document[h]].id for h in hits[hits >= 0].tolist()}
        assert document.id not in owners
        assert "held" not in owners  # held-out text is never retrieved from
        if document.id in ("one", "two", "held"):
            assert not owners & {"one", "two"}
            assert owners <= {"a3", "a6"}
    assert corpus.notes["retrieval"]["a"]["duplicate_documents"] == 4
    assert (corpus.neighbours[[d.first for d in corpus.documents]] == -1).all()


def test_a_passage_that_repeats_what_was_just_read_is_left_out(tokenizer: LMTokenizer) -> None:
    parts = [tokenizer.encode([prose(i % 3, 60, i)])[0][:64] for i in range(5)]
    assert [len(part) for part in parts] == [64] * 5
    # The second chunks are the same; what follows it in the one would tell of the other.
    ids = [np.concatenate(parts[:3]), np.concatenate([parts[3], parts[1], parts[4]])]
    corpus = make_corpus([("x", "a", "train"), ("y", "a", "train")], ids, 64, 2, {})
    counts = retrieve(corpus, tokenizer.decode, {"a": "others"}, Reach(2, 2, 1))["a"]
    assert counts.duplicate_documents == 0
    assert counts.duplicate_passages == 2
    assert 4 not in corpus.neighbours[2]
    assert 1 not in corpus.neighbours[5]


def test_the_corpus_keeps_the_sizes_of_the_text_as_given(
    tokenizer: LMTokenizer, tmp_path: Path
) -> None:
    texts = [a_text(0), Text("b", "a", "dev", "naïve  café\n你好")]
    corpus = build_corpus(texts, tokenizer, {"a": "others"}, REACH, CHUNK)
    sizes = corpus.notes["sizes"]["a dev"]
    assert (sizes["bytes"], sizes["words"]) == (len(texts[1].text.encode()), 3)
    last = corpus.documents[1]
    ids = corpus.tokens[last.first : last.end].ravel()
    assert int(tokenizer.byte_lengths()[ids].sum()) == sizes["bytes"]
    assert tokenizer.decode(ids.tolist()) == texts[1].text
    corpus.save(tmp_path)
    again = LMCorpus.load(tmp_path)
    assert again.sha256() == corpus.sha256()
    assert again.documents == corpus.documents


SMALL = [
    *("--tokens", "4000", "--batch-tokens", "256", "--window", "128", "--vocab", "320"),
    *("--dim", "16", "--heads", "2", "--layers", "2"),
]


def test_the_command_trains_from_files_and_writes_a_checkpoint(tmp_path: Path) -> None:
    lines = [
        json.dumps({"id": i, "title": f"T{i}", "text": prose(i % 3, 150, i)}) for i in range(40)
    ]
    lines.insert(3, '{"title": "no text"}')
    with gzip.open(tmp_path / "articles.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(lines))
    folder = tmp_path / "books"
    folder.mkdir()
    (folder / "long.txt").write_text(prose(1, 3000, 99), encoding="utf-8")
    out = tmp_path / "lm"
    given = [
        f"articles={tmp_path / 'articles.jsonl.gz'}", f"books={folder}:own", "--out", str(out),
        "--held-out", "0.3", "--json", *SMALL,
    ]  # fmt: skip
    done = CliRunner().invoke(pretrain, given)
    assert done.exit_code == 0, done.output
    assert "articles.jsonl.gz:4: no field `text`" in done.stderr
    report = json.loads(done.stdout)
    assert report["corpus"]["settings"] == {"articles": "others", "books": "own"}
    figures = report["metrics"]["articles, on"]
    assert 1 < figures["bits_per_byte"] < 8
    model, words, kept = load_lm(out)
    assert kept["fingerprint"] == report["fingerprint"]
    assert words.vocab == model.config.vocab == 320
    assert model.config.k == 2
    assert not list(tmp_path.glob(".lm*"))  # nothing is left of the work
    again = CliRunner().invoke(pretrain, given)
    assert again.exit_code == 1
    assert "there already" in again.stderr


def test_the_command_goes_on_from_a_model(tmp_path: Path) -> None:
    for part in (0, 1):
        lines = (json.dumps({"id": i, "text": prose(i % 3, 150, i + part)}) for i in range(40))
        (tmp_path / f"{part}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    texts = [str(tmp_path / f"{part}.jsonl") for part in (0, 1)]
    first, second = (["--out", str(tmp_path / name), "--json"] for name in ("first", "second"))
    done = CliRunner().invoke(pretrain, [texts[0], *first, *SMALL])
    assert done.exit_code == 0, done.output
    begun = json.loads(done.stdout)
    start = ["--start", str(tmp_path / "first"), "--tokens", "2000", "--batch-tokens", "256"]
    done = CliRunner().invoke(pretrain, [texts[1], *second, *start])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["config"] == begun["config"]
    assert report["before"]["tokens"] == begun["tokens"]
    losses = [[point["loss"] for point in of["curve"]] for of in (begun, report)]
    assert losses[1][0] < losses[0][len(losses[0]) // 2]  # begins where the other one ended
    models = [load_lm(tmp_path / name) for name in ("first", "second")]
    assert models[0][1].to_json() == models[1][1].to_json()
    assert not torch.equal(*(model.embedding.weight for model, _, _ in models))
    for given, said in [
        (["--start", str(tmp_path / "first"), "--dim", "32"], "--dim comes with the model"),
        (["--start", str(tmp_path / "nothing")], "nothing"),
        (["--start", str(tmp_path)], tmp_path.name),
    ]:
        done = CliRunner().invoke(pretrain, [texts[1], "--out", str(tmp_path / "third"), *given])
        assert done.exit_code in (1, 2)
        assert said in done.stderr
        assert not (tmp_path / "third").exists()


def test_the_command_says_what_it_cannot_read(tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "lm"), *SMALL]
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "table.csv").write_text("text\nx\n")
    for given, said in [
        ("missing.jsonl", "no such file"),
        (str(tmp_path / "empty.jsonl"), "no document"),
        (str(tmp_path / "table.csv"), "JSON lines or plain text"),
    ]:
        done = CliRunner().invoke(pretrain, [given, *out])
        assert done.exit_code == 1
        assert said in done.stderr
    assert not (tmp_path / "lm").exists()


def test_a_share_of_documents_is_held_out_by_id() -> None:
    split = split_by_hash(0.2)
    names = [split(str(i)) for i in range(2000)]
    assert names == [split(str(i)) for i in range(2000)]
    assert 0.06 < names.count("dev") / 2000 < 0.14
    assert 0.06 < names.count("test") / 2000 < 0.14
    assert {split_by_hash(0)(str(i)) for i in range(50)} == {"train"}
