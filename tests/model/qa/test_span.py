"""Question answering: reading over passages, its loss, training, and what it is judged by."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from model.checkpoint import load_heads
from model.encoder.encoder import Encoder
from model.qa.answers import SpanReader
from model.qa.evidence import PassageText, QaReading, weigh
from model.qa.metrics import answer_words, exact_match, f1
from model.qa.network import FEATURES, QUESTION, SpanConfig, SpanNetwork, collate, shared_loss
from model.qa.pairs import TITLE_TOKENS, Frame, Tokens, windows
from model.qa.rows import SpanRow, SpanTrainConfig
from model.reader import Reader
from model.training.driver import train_head
from model.training.qa import QaTraining
from model.training.qa_calibration import ask_all, sentence_at, single_passages
from model.training.qa_examples import draw, prepare
from model.training.trainer import TrainingCancelled
from model.training.workspace import TrainingRefused
from tests.model.conftest import FILLERS, TOPICS

CONFIG = SpanTrainConfig(
    epochs=16, batch_size=8, lr=2e-2, holdout=0.3, layers=2, rank=4, dropout=0.0,
    windows=((6, 12),), hit_share=0.3, null_share=0.2, max_tokens=40, k=4,
)  # fmt: skip


def rows(count: int = 60) -> list[SpanRow]:
    """The answer is the one tool in a text; other passages hold none."""
    rng = random.Random(3)
    found = []
    for i in range(count):
        words = rng.sample(FILLERS, 6) + rng.sample(TOPICS["birds"], 2)
        rng.shuffle(words)
        tool = rng.choice(TOPICS["tools"])
        place = rng.randint(0, len(words))
        context = " ".join([*words[:place], tool, *words[place:]])
        start = len(" ".join(words[:place])) + (place > 0)
        others = [" ".join(rng.sample(FILLERS, 5) + [bird]) for bird in TOPICS["birds"][:3]]
        title = (None, None, "crow very")[i % 3]
        hits = [PassageText(t, title=title) for t in (others[0], context, *others[1:])]
        found.append(SpanRow(str(i), "the apple", context, [(tool, start)], hits, title))
    return found


@pytest.fixture(scope="module")
def trained(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("span") / "v1"
    train_head(QaTraining(rows(), CONFIG, encoder), out)
    return out


def test_metrics_follow_squad() -> None:
    assert exact_match("The  Denver Broncos!", ["denver broncos"]) == 1.0
    assert f1("in Denver", ["Denver", "nothing"]) == pytest.approx(2 / 3)
    assert f1("", ["Denver"]) == 0.0
    assert answer_words("北京，2008 年", "zh") == ["北", "京", "2008", "年"]
    assert f1("北京市", ["北京"], "zh") == pytest.approx(0.8)


def test_windows_cover_a_text_and_overlap() -> None:
    assert windows(5, 8) == [(0, 5)]
    found = windows(103, 20)
    assert found[0][0] == 0
    assert found[-1] == (83, 103)
    assert all(stop - start == 20 for start, stop in found)
    assert all(b[0] < a[1] for a, b in pairwise(found))


def test_the_loss_is_that_of_one_softmax_over_all_passages() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 4, 2)
    gold = torch.zeros(3, 4, 2, dtype=torch.bool)
    gold[1, 2, 0] = gold[1, 3, 1] = True
    question = torch.tensor([0, 0, 1])
    flat = [logits[:2, :, side].flatten() for side in (0, 1)]
    first = sum(
        torch.cat([f, torch.zeros(1)]).logsumexp(0) - f[place]
        for f, place in zip(flat, (4 + 2, 4 + 3), strict=True)
    )
    second = sum(torch.cat([logits[2, :, s], torch.zeros(1)]).logsumexp(0) for s in (0, 1))
    expected = (first + second) / 4
    assert torch.allclose(shared_loss(logits, gold, question, 2), torch.as_tensor(expected))


def test_logits_are_in_single_precision_whatever_the_rest_is_in(encoder: Encoder) -> None:
    """In bf16 two ends of an answer would be equal that are not, and a softmax off by percents."""
    torch.manual_seed(0)
    network = SpanNetwork(
        SpanConfig(encoder_sha256=encoder.sha256, dim=encoder.dim, layers=2, rank=4), encoder
    )
    nn.init.normal_(network.span.weight, std=2.0)
    pairs = SpanReader(network.eval()).ask("the apple", [PassageText(" ".join(FILLERS))]).pairs
    ids, mask, kinds = collate(encoder, pairs)
    inside = kinds != QUESTION
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = network(ids, mask, kinds)[inside]
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())


def test_probabilities_of_all_passages_and_of_none_sum_to_one(encoder: Encoder) -> None:
    reader = SpanReader(
        SpanNetwork(SpanConfig(encoder_sha256=encoder.sha256, dim=32, layers=1), encoder).eval()
    )
    asked = reader.ask("the apple", [PassageText("crow is here"), PassageText("my saw", 2)])
    ask_all(reader, [asked])
    evidence = weigh(asked, 1.0, 30)
    assert sum(evidence.mass) + evidence.null == pytest.approx(1.0, abs=1e-5)
    direct = []
    for logits, rank in zip(asked.logits, (1, 2), strict=True):
        assert logits is not None
        spans = [
            logits[i, 0] + logits[j, 1] for i in range(len(logits)) for j in range(i, len(logits))
        ]
        direct.append(np.exp(spans).sum() / rank)
    assert evidence.mass == pytest.approx([v / (1 + sum(direct)) for v in direct], rel=1e-4)


def test_it_learns_and_tells_when_there_is_no_answer(trained: Path, encoder: Encoder) -> None:
    head = load_heads(trained)[1]["qa"]
    report = head.report
    assert report["metrics"]["given"]["f1"] > 90
    assert report["metrics"]["on"]["f1"] > 80
    assert report["metrics"]["off"]["f1"] == 0.0
    assert report["calibration"]["answerable_auroc"] > 0.9
    reader = Reader.load(trained, encoder)
    assert reader.span_heads == {"qa": 4}
    spans = reader.spans("qa")
    text = "and it was here my hammer of"
    there, gone = ask_all(
        spans,
        [
            spans.ask("the apple", [PassageText("crow is very a of"), PassageText(text, 2)]),
            spans.ask("the apple", [PassageText("crow is very a of"), PassageText("it", 2)]),
        ],
    )
    assert there.answerable
    best = there.spans[0]
    assert (best.text, best.passage, text[best.start : best.end]) == ("hammer", 1, "hammer")
    assert there.calibrated
    assert gone.support < there.support


def test_batching_and_windows_do_not_change_an_answer(trained: Path, encoder: Encoder) -> None:
    spans = Reader.load(trained, encoder).spans("qa")
    long = " ".join(FILLERS * 12 + ["hammer"] + FILLERS * 3)
    texts = [PassageText("crow is very a of"), PassageText("saw")]
    alone = ask_all(spans, [spans.ask("the apple", texts)])[0]
    wide = spans.ask("the apple", [PassageText(long)])
    beside, found = ask_all(spans, [spans.ask("the apple", texts), wide])
    assert len(wide.pairs) > 3
    assert beside.spans[0].prob == pytest.approx(alone.spans[0].prob, abs=1e-5)
    best = found.spans[0]
    assert long[best.start : best.end] == best.text


@pytest.mark.parametrize(
    ("question", "texts"),
    [("the apple", []), ("the apple", ["", "\u0301"]), ("\u0301\u0300", ["my saw"]), ("", ["saw"])],
)
def test_nothing_to_read_is_no_answer(
    trained: Path, encoder: Encoder, question: str, texts: list[str]
) -> None:
    spans = Reader.load(trained, encoder).spans("qa")
    asked: QaReading = spans.ask(question, [PassageText(t) for t in texts])
    said = spans.answer(asked)
    assert asked.whole
    assert (said.spans, said.answerable, said.confidence) == ([], False, 0.0)


def test_any_string_is_read(trained: Path, encoder: Encoder) -> None:
    spans = Reader.load(trained, encoder).spans("qa")
    text = "\ud800 🙂🙂 saw \u0301 \x00 مرحبا"
    said = ask_all(spans, [spans.ask("🙂 \udfff", [PassageText(text)])])[0]
    for span in said.spans:
        assert text[span.start : span.end] == span.text


def test_a_run_that_was_cancelled_goes_on_as_if_it_had_not_been(
    encoder: Encoder, tmp_path: Path
) -> None:
    config = replace(CONFIG, epochs=3)
    train_head(QaTraining(rows(30), config, encoder), tmp_path / "whole")
    calls = iter(range(1000))
    stop: Callable[[], bool] = lambda: next(calls) == 4  # noqa: E731
    with pytest.raises(TrainingCancelled):
        train_head(QaTraining(rows(30), config, encoder), tmp_path / "cut", cancelled=stop)
    steps: list[int] = []
    train_head(
        QaTraining(rows(30), config, encoder),
        tmp_path / "cut",
        progress=lambda step, *rest: steps.append(step),
    )
    assert steps[0] > 1
    whole, cut = (load_heads(tmp_path / name)[1]["qa"].tensors for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert not (tmp_path / ".cut.training").exists()


def test_other_heads_stay_as_they_are_and_the_base_is_compared(
    trained: Path, encoder: Encoder, tmp_path: Path
) -> None:
    config = replace(CONFIG, epochs=1, field="other")
    report = train_head(QaTraining(rows(20), config, encoder), tmp_path / "v2", base=trained)
    before = (trained / "heads/qa/model.safetensors").read_bytes()
    assert (tmp_path / "v2/heads/qa/model.safetensors").read_bytes() == before
    assert "previous" not in report.metrics
    again = train_head(
        QaTraining(rows(20), replace(CONFIG, epochs=1), encoder), tmp_path / "v3", base=trained
    )
    assert again.metrics["previous"]["f1"] > again.metrics["given"]["f1"]


def test_rows_with_nothing_to_learn_are_refused(encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(TrainingRefused, match="none of the 1 rows"):
        train_head(QaTraining([SpanRow("1", "q", "my saw", [])], CONFIG, encoder), tmp_path / "v")


def test_the_frame_is_the_tokenizers_own(encoder: Encoder) -> None:
    frame = Frame.of(encoder)
    ids, _ = encoder.pair("apple", "saw")
    (question, _), (passage, spans) = encoder.spans(["apple", "saw"])
    tokens = Tokens(np.array(passage, np.int32), np.array(spans, np.int32))
    assert frame.join(question, tokens, 0, len(tokens)).ids == ids


def test_a_title_is_read_before_every_window_and_is_no_answer(
    trained: Path, encoder: Encoder
) -> None:
    spans = Reader.load(trained, encoder).spans("qa")
    long = " ".join(FILLERS * 12 + ["hammer"] + FILLERS * 3)
    bare = spans.ask("the apple", [PassageText(long)])
    titled = spans.ask("the apple", [PassageText(long, title="crow very")])
    (title, _), (marks, _) = encoder.spans(["crow very.", "crow very." * 30])
    assert len(titled.pairs) >= len(bare.pairs) > 3
    for pair in titled.pairs:
        assert pair.ids[pair.begin - len(title) : pair.begin] == title
        assert len(pair.ids) <= spans.config.max_tokens
    short = spans.ask("the apple", [PassageText("and it was here my hammer of", title="crow very")])
    found, wide = ask_all(spans, [short, titled])
    assert found.spans[0].text == "hammer"
    assert all(long[s.start : s.end] == s.text for s in wide.spans)
    lengthy = spans.ask("the apple", [PassageText("a hammer", title="crow very." * 30)])
    assert lengthy.tokens[0].title == tuple(marks[:TITLE_TOKENS])
    before = SpanReader(SpanNetwork(replace(spans.config, titles=False), encoder))
    assert [p.ids for p in before.ask("the apple", lengthy.passages).pairs] == [
        p.ids for p in before.ask("the apple", [PassageText("a hammer")]).pairs
    ]


def test_what_is_drawn_fits_the_encoder(encoder: Encoder) -> None:
    """Windows of the defaults are longer than some encoders read; a long answer is left out."""
    config = replace(CONFIG, windows=((56, 120),), max_tokens=20, hit_share=0.9, null_share=0.0)
    long = " ".join(FILLERS * 9)
    hits = [PassageText("crow is a " * 12, title="crow very")]
    answers = [(long[:60], 0), ("of", long.index("of"))]
    data = prepare(encoder, [SpanRow("1", "the apple", long, answers, hits, "crow")], config)
    assert len(data.gold[0]) == 1
    assert data.hits[0][0].title  # beside a text without a title it would tell which is which
    bare = prepare(encoder, [SpanRow("1", "the apple", long, answers, hits)], config)
    assert bare.hits[0][0].title == ()
    pairs, _, gold = draw(data, [0] * 40, config, 1, random.Random(0))
    assert {len(pair.ids) for pair in pairs} == {20}
    assert len(pairs) > 60  # most of the questions beside the hit too
    assert sum(map(len, gold)) >= 40


def test_words_of_the_question_around_an_answer_are_weighed_by_the_passages(
    encoder: Encoder,
) -> None:
    """A word that all passages have counts less; what stands far from the answer is not close."""
    config = SpanConfig(encoder_sha256=encoder.sha256, dim=encoder.dim, titles=True)
    reader = SpanReader(SpanNetwork(config, encoder).eval())
    far = " ".join([FILLERS[0]] * 30)
    texts = [f"hammer apple {far} pear", "apple", "apple"]
    found = [PassageText(text) for text in texts]
    asked = reader.ask("apple pear", found)
    for pair in asked.unread():
        logits = np.full((pair.end - pair.begin, 2), -9.0, np.float32)
        if pair is asked.pairs[0]:
            logits[0] = 9.0  # the first token is the answer
        asked.put(pair, logits)
    over = PassageText(f"hammer apple {far}", title="pear")
    titled = reader.ask("apple pear", [over, *found[1:]])
    for pair, read in zip(titled.pairs, asked.logits, strict=True):
        assert read is not None
        titled.put(pair, read[: pair.end - pair.begin])
    assert weigh(titled, 0.0, 30).shared == pytest.approx((1.0, 1.0))  # it is close to everything
    evidence = weigh(asked, 0.0, 30)
    apple, pear = math.log(4 / 3.5), math.log(4 / 1.5)
    assert evidence.shared == pytest.approx((1.0, apple / (apple + pear)))
    assert evidence.features()[4:6].tolist() == pytest.approx(evidence.shared)
    assert evidence.length == len(asked.tokens[0])


def test_a_short_passage_alone_is_judged_by_its_own_judges(trained: Path, encoder: Encoder) -> None:
    files = load_heads(trained)[1]["qa"]
    assert isinstance(files.config, SpanConfig)
    model = SpanNetwork(files.config, encoder).eval()
    judge = torch.zeros(4, FEATURES + 1)
    judge[:, -1] = torch.tensor([2.0, 1.0, -1.0, -2.0])
    model.load_state_dict({**files.tensors, "judge": judge})
    reader = SpanReader(model)
    text = PassageText(rows()[0].context)
    long = PassageText(" ".join([text.text] * 8))
    one, two, longer = (
        ask_all(reader, [reader.ask("the apple", texts)])[0]
        for texts in ([text], [text, PassageText("apple", 2)], [long])
    )
    assert (one.support, one.confidence) == pytest.approx((1 / (1 + math.e), 1 / (1 + math.exp(2))))
    others = (1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-1)))
    assert (two.support, two.confidence) == pytest.approx(others)
    assert (longer.support, longer.confidence) == pytest.approx(others)


def test_single_passages_hold_the_answer_or_surely_do_not() -> None:
    context = "It rained. The shop closes at five. Then it is quiet. 店五点关门。然后安静。"
    start = context.index("five")
    hits = [
        PassageText(text) for text in (context[:40], "Five o'clock it is.", "One. Two three. Four.")
    ]
    row = SpanRow("1", "When does it close?", context, [("five", start)], hits)
    found = [(passage.text, present) for passage, present in single_passages(row)]
    assert found[:2] == [(context, True), ("The shop closes at five.", True)]
    assert found[2:] == [(hits[2].text, False), ("Four.", False)]  # the others may hold it
    where = context.index("五点")
    assert sentence_at(context, where, where + 2) == "店五点关门。"
    assert sentence_at("no end", 0, 2) == "no end"


def test_a_head_with_fewer_features_judges_by_those(trained: Path, encoder: Encoder) -> None:
    files = load_heads(trained)[1]["qa"]
    assert isinstance(files.config, SpanConfig)
    raw = files.config.to_json()
    assert raw.pop("features") == FEATURES
    assert raw.pop("alone")
    before = SpanConfig.from_json(raw)  # as it was written before there were more
    old = SpanNetwork(before, encoder).eval()
    judge = files.tensors["judge"][:2]
    few = torch.cat([judge[:, :4], judge[:, -1:]], dim=1)
    old.load_state_dict({**files.tensors, "judge": few})
    same = SpanNetwork(files.config, encoder).eval()
    none = torch.zeros(2, FEATURES - 4)
    padded = torch.cat([few[:, :4], none, few[:, 4:]], 1)
    same.load_state_dict({**files.tensors, "judge": padded.repeat(2, 1)})
    said = [
        ask_all(reader, [reader.ask("the apple", [PassageText(rows()[0].context)])])[0]
        for reader in (SpanReader(old), SpanReader(same))
    ]
    assert said[0].support == pytest.approx(said[1].support)
    assert 0.0 < said[0].support < 1.0
    with pytest.raises(ValueError, match="features"):
        SpanConfig.from_json({**raw, "features": FEATURES + 1})
