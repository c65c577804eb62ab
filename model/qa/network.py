"""Question answering: where in the passages the answer stands.

Question and passage go jointly through the frozen encoder with this head's adapter (Devlin et al.
2018); a linear layer says of each token how well an answer begins and ends there, and one on the
first token how much the passage is to be trusted at all. The logits of all passages of a question
stand in one softmax, beside a logit of 0 for "there is no answer" (shared normalisation, Clark and
Gardner 2018), so that they can be compared. Sizes: b pairs, t tokens, d the encoder's width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import HeadSettings
from model.encoder.adapter import Adapter
from model.encoder.encoder import Encoder
from model.qa.pairs import Pair

QUESTION, PASSAGE, SHARED = range(3)
"""What a token is of: the question, the passage, or both (an exact match, Chen et al. 2017)."""
FEATURES = 7
"""What confidence is judged by, see `model.qa.answers`. Heads of before may have fewer of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanConfig(HeadSettings):
    """A head for questions, and how it reads: `k` passages."""

    field: str = "qa"
    task: str = "qa"
    question_tokens: int = 48  # what a question has beyond this is not read
    max_tokens: int = 192  # question and passage; a longer passage is read in windows
    answer_tokens: int = 30  # the longest answer
    k: int = 8
    features: int = 4  # that the judges look at: all are FEATURES
    alone: bool = False  # a short passage that is read alone has judges of its own
    titles: bool = False  # the title of a passage's document is read before it

    def __post_init__(self) -> None:
        if not 0 < self.features <= FEATURES:
            raise ValueError(f"features is 1 to {FEATURES}")


class SpanNetwork(nn.Module):
    """Start and end logits over pairs of question and passage."""

    def __init__(self, config: SpanConfig, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.adapter = Adapter(encoder.shapes, layers=config.layers, rank=config.rank)
        self.mark = nn.Embedding(3, config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.span = nn.Linear(config.dim, 2)
        self.trust = nn.Linear(config.dim, 1)
        # Fitted afterwards on rows that were not trained on, see `model.qa.answers`.
        self.mix = nn.Parameter(torch.zeros(()), requires_grad=False)
        judges = torch.zeros(4 if config.alone else 2, config.features + 1)
        self.judge = nn.Parameter(judges, requires_grad=False)
        nn.init.zeros_(self.mark.weight)
        for layer in (self.span, self.trust):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, ids: Tensor, mask: Tensor, kinds: Tensor) -> Tensor:
        """Ids, mask and kinds of tokens [b, t] -> start and end logits [b, t, 2].

        Outside the passage they are -inf.
        """
        encoder, top = self.encoder, self.encoder.depth
        h = encoder.lower(ids, mask, self.config.layers)
        h = h + self.mark(kinds)
        h = self.dropout(encoder.layers(h, mask, top - self.config.layers, top, self.adapter))
        # In single precision, whatever the rest is in: what is compared are small differences.
        with torch.autocast(h.device.type, enabled=False):
            logits = _linear(self.span, h) + _linear(self.trust, h[:, :1])
        outside = (kinds == QUESTION) | ~mask
        return logits.masked_fill(outside[:, :, None], float("-inf"))


def _linear(layer: nn.Linear, h: Tensor) -> Tensor:
    return F.linear(h.float(), layer.weight.float(), layer.bias.float())


def collate(encoder: Encoder, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and kinds [b, t] of some pairs."""
    ids, mask = encoder.pad([pair.ids for pair in pairs])
    kinds = torch.full(ids.shape, QUESTION, dtype=torch.long)
    for row, pair in zip(kinds, pairs, strict=True):
        inside = pair.ids[pair.begin : pair.end]
        row[pair.begin : pair.end] = torch.tensor(
            [SHARED if token in pair.question else PASSAGE for token in inside]
        )
    return ids, mask, kinds.to(ids.device)


def shared_loss(logits: Tensor, gold: Tensor, question: Tensor, questions: int) -> Tensor:
    """Cross-entropy over all passages of a question, with 0 for "no answer".

    Logits [b, t, 2]; `gold` [b, t, 2] true where the answer begins and ends (several places share
    the credit); `question` [b] the number of each pair's question. A question whose answer stands
    in none of its pairs is to be answered with "none".
    """
    everything = _by_question(logits.logsumexp(1), question, questions)  # [q, p, 2]
    null = everything.new_zeros(questions, 1, 2)
    norm = torch.cat([everything, null], dim=1).logsumexp(1)  # [q, 2]
    # A dummy at -1e4 keeps gradients finite in pairs without gold.
    marked = logits.masked_fill(~gold, -1e4).logsumexp(1)
    right = _by_question(marked, question, questions).logsumexp(1)
    has = torch.zeros(questions, dtype=torch.bool, device=logits.device)
    has = has.index_fill(0, question[gold.flatten(1).any(1)], value=True)
    return (norm - torch.where(has[:, None], right, 0.0)).mean()


def _by_question(values: Tensor, question: Tensor, questions: int) -> Tensor:
    """Values [b, 2] of pairs -> [questions, most pairs of one, 2], -inf where there is none."""
    counts = torch.bincount(question, minlength=questions)
    order = torch.argsort(question, stable=True)
    starts = counts.cumsum(0) - counts
    column = torch.empty_like(question)
    column[order] = torch.arange(len(question), device=question.device) - starts[question[order]]
    table = values.new_full((questions, int(counts.max()), 2), float("-inf"))
    return table.index_put((question, column), values)
