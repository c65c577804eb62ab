"""Questions that a tiny head can learn: which tool does a text name?"""

from __future__ import annotations

import random
from pathlib import Path

from model.encoder.encoder import Encoder
from model.qa.evidence import PassageText
from model.qa.rows import SpanRow, SpanTrainConfig
from model.training.driver import train_head
from model.training.qa import QaTraining
from tests.app.tiny import OTHER, WORDS

TOOL = "tell me about the tool"
PLAIN = [w for w in OTHER if w not in ("tell", "me", "about")]


def text(rng: random.Random, *inside: str) -> str:
    words = [*rng.sample(PLAIN, 5), rng.choice(WORDS["fruit"]), *inside]
    rng.shuffle(words)
    return " ".join(words)


def rows() -> list[SpanRow]:
    """The answer is the tool that a text names."""
    rng = random.Random(5)
    found = []
    for i in range(60):
        tool = rng.choice(WORDS["tool"])
        context = text(rng, tool)
        title = rng.choice((None, "The tool", "very good pear"))
        others = [PassageText(text(rng), title=title) for title in (title, None)]
        hits = [PassageText(context, title=title), *others]
        answer = (tool, context.split().index(tool))
        start = len(" ".join(context.split()[: answer[1]])) + (answer[1] > 0)
        found.append(SpanRow(str(i), TOOL, context, [(tool, start)], hits, title))
    return found


def train_qa(encoder: Encoder, out: Path) -> Path:
    """A checkpoint with a head for these questions."""
    config = SpanTrainConfig(
        epochs=14, batch_size=8, lr=2e-2, holdout=0.3, layers=2, rank=4, dropout=0.0,
        windows=((6, 12),), hit_share=0.3, null_share=0.2, max_tokens=64, k=4,
    )  # fmt: skip
    train_head(QaTraining(rows(), config, encoder), out)
    return out
