"""The retrieval-augmented Transformer of one label field, from top to bottom.

The text `x` goes through the frozen encoder with this head's low-rank adapter; fusion layers let
its states attend to a memory of the hits `D`; a linear head reads the mean state; and the hits'
own labels are mixed in (a nearest-neighbour mixture after Khandelwal et al. 2020):

    p(y | x, D) = (1 - g) p_head(y | x, D) + g * sum_i a_i [y_i = y]

over the labels that the head knows. Labels that only hits carry share a mass `u`, which a second
gate gives them: p = (1 - u) * (the above) + u * (by nearest hit, among the new labels).

The weights a_i are those of kernel ridge regression on the hits, a = (K + rI)^-1 k(x), with a
learned match in k(x): unlike a softmax of similarities they discount hits that repeat each other.
The hits are given: nothing here retrieves. Finding none is a normal input (a learned null entry,
as in RETRO; g is then 0). Sizes: b texts, t tokens, k hits, d the encoder's width, f the fusion's,
L the head's labels, U the labels of head and hits united (the head's first).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from model.adapter import Adapter
from model.config import HeadConfig
from model.encoder import Encoder, mean_pool

UNLABELLED = -1
SMALL = 1e-6
KERNEL_SCALE = 4.0
KERNEL_RIDGE = 0.3
NO_VECTOR = 0.5
"""Stand-in cosine of the best hit that has no vector yet."""
GATE_FEATURES = 8
NOVEL_FEATURES = 6
VOTE_FLOOR = 0.02
"""Added to both sides of a vote's odds."""
NOVEL_SHARPNESS = 20.0
"""Of the softmax of matches that picks among new labels."""
ABSENT = -2.0
"""The match of a label that no hit carries: below any cosine."""
UNSEEN = 0.3
"""With none but new labels among the hits, how much farther the next known one is taken to be."""


@dataclass(frozen=True, slots=True)
class Retrieved:
    """One hit as the reader sees it; `label` is that of the head's field.

    `exact`: its normalised text equals the input's and a person gave the label; it decides.
    """

    title: str | None
    text: str
    label: str | list[str] | None
    score: float
    vector: NDArray[np.float32] | None
    exact: bool = False

    @property
    def names(self) -> list[str]:
        """Its labels, however many."""
        if self.label is None:
            return []
        return [self.label] if isinstance(self.label, str) else self.label


class Memory(NamedTuple):
    """A batch of hits, padded. A hit with no vector has zeros and `known` false."""

    vectors: Tensor  # [b, k, d]
    labels: Tensor  # [b, k] index into the united labels, or UNLABELLED; or marks [b, k, U]
    scores: Tensor  # [b, k] relative to the best hit of the row, 0 to 1
    mask: Tensor  # [b, k] true where there is a hit
    known: Tensor  # [b, k] true where it has a vector

    def first(self, k: int) -> Memory:
        """Only the best k hits of each row."""
        return Memory(*(part[:, :k] for part in self))

    def rows(self, keep: Tensor) -> Memory:
        """Only some rows of the batch."""
        return Memory(*(part[keep] for part in self))

    def closed(self) -> Memory:
        """The same batch with nothing retrieved."""
        return self.first(0)


class Neighbours(NamedTuple):
    """What the hits say by themselves."""

    weights: Tensor  # [b, k] over labelled hits, 0 or more, summing to 1 (or 0)
    probs: Tensor  # [b, U]
    similarity: Tensor  # [b, k] cosine of base vectors; of hits without one, their score
    found: Tensor  # [b] true where a labelled hit is there
    match: Tensor  # [b, U] the best match of each label's hits, or ABSENT
    cosine: Tensor  # [b, U] the same by the base vectors' cosine


class Reading(NamedTuple):
    """All that a batch's prediction is made of."""

    logits: Tensor  # [b, L]
    neighbours: Neighbours
    attention: Tensor  # [b, k] the fusion's attention on each hit, null excluded
    pooled: Tensor  # [b, d]


def make_memory(
    hits: Sequence[Sequence[Retrieved]],
    labels: Sequence[str],
    dim: int,
    k: int,
    *,
    several: bool = False,
) -> Memory:
    """Pad lists of hits; a hit whose label is a list counts as unlabelled.

    `several`: for independent labels. `labels` of the memory are then marks [b, k, U], true where a
    hit has the label, and a single label is a list of one.
    """
    width = min(k, max((len(row) for row in hits), default=0))
    shape = (len(hits), width)
    vectors = np.zeros((*shape, dim), dtype=np.float32)
    label = np.full(shape, UNLABELLED, dtype=np.int64)
    marks = np.zeros((*shape, len(labels) if several else 0), dtype=bool)
    scores = np.zeros(shape, dtype=np.float32)
    mask = np.zeros(shape, dtype=bool)
    known = np.zeros(shape, dtype=bool)
    position = {name: i for i, name in enumerate(labels)}
    for i, row in enumerate(hits):
        best = max((abs(hit.score) for hit in row), default=0.0) or 1.0
        for j, hit in enumerate(row[:width]):
            mask[i, j] = True
            scores[i, j] = hit.score / best
            if isinstance(hit.label, str):
                label[i, j] = position.get(hit.label, UNLABELLED)
            if several:
                marks[i, j, [position[name] for name in hit.names if name in position]] = True
            if hit.vector is not None:
                vectors[i, j] = hit.vector
                known[i, j] = True
    held = marks if several else label
    return Memory(*(torch.from_numpy(part) for part in (vectors, held, scores, mask, known)))


class FusionLayer(nn.Module):
    """A pre-norm Transformer decoder layer without a causal mask (Vaswani et al. 2017)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_self, self.norm_cross, self.norm_ffn = (nn.LayerNorm(width) for _ in range(3))
        self.qkv = nn.Linear(width, 3 * width)
        self.out_self = nn.Linear(width, width)
        self.query = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.out_cross = nn.Linear(width, width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def split(self, x: Tensor) -> Tensor:
        """[b, n, f] -> [b, heads, n, f / heads]."""
        b, n, f = x.shape
        return x.view(b, n, self.heads, f // self.heads).transpose(1, 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """-> mixed values [b, n, f], weights [b, heads, n, m]; bias broadcasts to the weights."""
        q, k, v = self.split(q), self.split(k), self.split(v)
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + bias).softmax(-1)
        mixed = (weights @ v).transpose(1, 2)
        return mixed.reshape(mixed.shape[0], mixed.shape[1], -1), weights

    def attended(
        self, h: Tensor, memory: Tensor, self_bias: Tensor, memory_bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        """States [b, t, f], memory [b, k+1, f] -> states [b, t, f], weights [b, heads, t, k+1].

        Of one text over several memories (h with b = 1) what hangs on the text is computed once.
        """
        q, k, v = self.qkv(self.norm_self(h)).chunk(3, dim=-1)
        h = h + self.dropout(self.out_self(self.attend(q, k, v, self_bias)[0]))
        k, v = self.kv(memory).chunk(2, dim=-1)
        mixed, weights = self.attend(self.query(self.norm_cross(h)), k, v, memory_bias)
        return h + self.dropout(self.out_cross(mixed)), weights

    def hidden(self, h: Tensor) -> Tensor:
        """The inner states of the feed-forward part, [b, t, 2f]."""
        return F.gelu(self.up(self.norm_ffn(h)))

    def forward(
        self, h: Tensor, memory: Tensor, self_bias: Tensor, memory_bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`attended`, and the feed-forward part; the same shapes."""
        h, weights = self.attended(h, memory, self_bias, memory_bias)
        return h + self.dropout(self.down(self.hidden(h))), weights


class Fusion(nn.Module):
    """`x` attends to itself and to its hits, at a width below the encoder's; starts as identity."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        f = config.fusion_dim
        self.k, self.n_labels = config.fusion_k, len(config.labels)
        self.down = nn.Linear(config.dim, f)
        self.vector = nn.Linear(config.dim, f)
        # The last two: a label that the head does not know, and none.
        self.label = nn.Embedding(self.n_labels + 2, f)
        self.rank = nn.Embedding(config.fusion_k, f)
        self.score = nn.Linear(1, f)
        self.null = nn.Parameter(torch.zeros(f))
        self.norm = nn.LayerNorm(f)
        self.layers = nn.ModuleList(
            FusionLayer(f, config.fusion_heads, config.dropout) for _ in range(config.fusion_layers)
        )
        self.up = nn.Linear(f, config.dim)
        for embedding in (self.label, self.rank):
            nn.init.normal_(embedding.weight, std=0.2)
        nn.init.normal_(self.null, std=0.2)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def entries(self, memory: Memory) -> Tensor:
        """Hits -> memory entries [b, k+1, f], the null entry first."""
        b, k = memory.mask.shape
        # Unit vectors have small entries; the factor puts them on the scale of the embeddings.
        entries = self.vector(memory.vectors * math.sqrt(memory.vectors.shape[-1]) * 0.5)
        entries = entries + self.labels(memory.labels) + self.score(memory.scores[..., None])
        entries = entries + self.rank(torch.arange(k, device=entries.device))  # [b, k, f]
        null = self.null.expand(b, 1, -1)
        normed: Tensor = self.norm(torch.cat([null, entries], dim=1))
        return normed

    def labels(self, labels: Tensor) -> Tensor:
        """Embeddings [b, k, f] of labels [b, k]; of marks [b, k, U] the mean of a hit's."""
        n = self.n_labels
        if labels.ndim == 2:
            unknown = torch.full_like(labels, n)
            labels = torch.where(labels < n, labels, unknown)
            labels = torch.where(labels == UNLABELLED, unknown + 1, labels)
            return cast(Tensor, self.label(labels))
        new = labels[..., n:].any(-1, keepdim=True)
        marks = torch.cat([labels[..., :n], new, ~labels.any(-1, keepdim=True)], dim=-1)
        weight = self.label.weight
        return (marks / marks.sum(-1, keepdim=True)).to(weight.dtype) @ weight

    def forward(self, h: Tensor, mask: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """States [b, t, d] -> fused states [b, t, d], attention on each hit [b, k]."""
        x, total = self.down(h), torch.zeros_like(memory.first(self.k).scores)
        shared = self._shared(h, mask, memory)
        for layer in self.layers:
            x, weights = layer(x, *shared)
            total = total + self._share(weights, mask)
        return h + self.up(x), total

    def mean(self, h: Tensor, mask: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """`forward` with its states averaged, [b, d]: a linear map is made of the mean alone.

        Without dropout, so for inference only.
        """
        x, total = self.down(h), torch.zeros_like(memory.first(self.k).scores)
        shared = self._shared(h, mask, memory)
        last = cast(FusionLayer, self.layers[-1])
        for layer in list(self.layers)[:-1]:
            x, weights = layer(x, *shared)
            total = total + self._share(weights, mask)
        x, weights = last.attended(x, *shared)
        total = total + self._share(weights, mask)
        out = _masked_mean(x, mask) + last.down(_masked_mean(last.hidden(x), mask))
        return _masked_mean(h, mask) + self.up(out), total

    def _shared(self, h: Tensor, mask: Tensor, memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
        """What every layer takes: memory entries, and the masks of text and memory as biases."""
        memory = memory.first(self.k)
        present = F.pad(memory.mask, (1, 0), value=True)
        floor = torch.finfo(h.dtype).min
        self_bias = torch.zeros_like(mask, dtype=h.dtype).masked_fill(~mask, floor)[:, None, None]
        memory_bias = torch.zeros_like(present, dtype=h.dtype).masked_fill(~present, floor)
        return self.entries(memory), self_bias, memory_bias[:, None, None]

    def _share(self, weights: Tensor, mask: Tensor) -> Tensor:
        """Attention weights of one layer -> its part of the attention on each hit [b, k]."""
        share = _masked_mean(weights.mean(1), mask)  # [b, k+1]
        return share[:, 1:] / len(self.layers)


def _masked_mean(h: Tensor, mask: Tensor) -> Tensor:
    """States [b, t, n] -> [b, n]."""
    weights = mask[:, :, None].to(h.dtype)
    return (h * weights).sum(1) / weights.sum(1)


class NeighbourMixture(nn.Module):
    """Weights over labelled hits from a learned match; untrained, it is the base's cosine."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.bilinear = nn.Parameter(torch.zeros(dim, dim))
        self.log_scale = nn.Parameter(torch.tensor(math.log(KERNEL_SCALE)))
        self.log_ridge = nn.Parameter(torch.tensor(math.log(KERNEL_RIDGE)))
        self.base = nn.Parameter(torch.tensor(0.5))  # how much the base vectors' cosine counts
        self.lexical = nn.Parameter(torch.tensor(0.0))
        self.no_vector = nn.Parameter(torch.tensor(0.5))  # the match of a hit with no vector

    def match(self, query: Tensor, base: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Adapted and base vectors [b, d] -> matches [b, k], cosines of base vectors [b, k]."""
        moved = self.base * base + (1 - self.base) * (query + query @ self.bilinear)
        cosine = (memory.vectors @ base[:, :, None]).squeeze(-1)
        learned = (memory.vectors @ moved[:, :, None]).squeeze(-1)
        match = torch.where(memory.known, learned, self.no_vector * memory.scores)
        similarity = torch.where(memory.known, cosine, NO_VECTOR * memory.scores)
        return match + self.lexical * memory.scores, similarity

    def forward(self, query: Tensor, base: Tensor, memory: Memory, n_labels: int) -> Neighbours:
        """-> weights and label probabilities over `n_labels` united labels."""
        match, similarity = self.match(query, base, memory)
        kernel = self.log_scale.exp(), self.log_ridge.exp()
        return vote(match, similarity, memory, n_labels, *kernel)


def plain_vote(base: Tensor, memory: Memory, n_labels: int) -> Neighbours:
    """Neighbours with nothing learned. Base vectors [b, d]."""
    cosine = (memory.vectors @ base[:, :, None]).squeeze(-1)
    near = torch.where(memory.known, cosine, NO_VECTOR * memory.scores)
    kernel = torch.tensor(KERNEL_SCALE), torch.tensor(KERNEL_RIDGE)
    return vote(near, near, memory, n_labels, *kernel)


def vote(
    match: Tensor, similarity: Tensor, memory: Memory, n_labels: int, scale: Tensor, ridge: Tensor
) -> Neighbours:
    """Kernel ridge regression of the labels on the labelled hits, at the query.

    `match` [b, k]: of query and hits; scale and ridge: one, or one a row. The kernel is
    exp(scale * (cosine - 1)). A label's score is the sum of its hits' weights, of either sign;
    probabilities are the positive ones, normalised. Where a hit has several labels (marks
    [b, k, U]) each label's score is the share of its hits in all positive weight, 0 to 1.
    """
    several = memory.labels.ndim == 3
    has = memory.labels.any(-1) if several else memory.labels != UNLABELLED
    labelled = memory.mask & has
    b, k = labelled.shape
    if k == 0:
        nothing = match.new_zeros(b, n_labels)
        absent = nothing + ABSENT
        return Neighbours(match, nothing, similarity, labelled.any(-1), absent, absent)
    # In full precision: a system of k equations is no place for bf16.
    with torch.autocast(match.device.type, enabled=False):
        vectors = memory.vectors.float()
        scale, ridge = scale.float().expand(b), ridge.float().expand(b)
        gram = vectors @ vectors.transpose(1, 2)  # [b, k, k]
        pair = labelled[:, :, None] & labelled[:, None, :]
        kernel = torch.exp(scale[:, None, None] * (gram - 1)) * pair
        kernel = kernel * (1 - torch.eye(k, device=match.device))
        system = kernel + torch.diag_embed((1 + ridge)[:, None].expand(b, k))
        right = torch.exp(scale[:, None] * (match.float() - 1)) * labelled
        solved = torch.linalg.solve(system, right[:, :, None]).squeeze(-1) * labelled
    if several:
        weights = solved.relu()
        weights = weights / weights.sum(-1, keepdim=True).clamp(min=SMALL)
        # A sum, not a product of matrices: that would be in bf16 under autocast.
        shares = (weights[..., None] * memory.labels).sum(1).clamp(max=1.0)
        absent = torch.full_like(shares, ABSENT)
        found = weights.sum(-1) > SMALL
        return Neighbours(weights, shares, similarity * memory.mask, found, absent, absent)
    places = memory.labels.clamp(min=0)
    votes = solved.new_zeros(b, n_labels).scatter_add(1, places, solved).relu()
    probs = votes / votes.sum(-1, keepdim=True).clamp(min=SMALL)
    weights = solved.relu()
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=SMALL)
    found = labelled.any(-1) & (votes.sum(-1) > SMALL)
    nearest = [best_of_label(x, memory.labels, labelled, n_labels) for x in (match, similarity)]
    return Neighbours(weights, probs, similarity * memory.mask, found, *nearest)


def best_of_label(values: Tensor, labels: Tensor, labelled: Tensor, n_labels: int) -> Tensor:
    """Values of hits [b, k] -> the greatest of each label [b, U], ABSENT where it has no hit."""
    values = values.detach().float().masked_fill(~labelled, ABSENT)
    start = values.new_full((len(values), n_labels), ABSENT)
    return start.scatter_reduce(1, labels.clamp(min=0), values, "amax")


def gate_features(head: Tensor, neighbours: Neighbours) -> Tensor:
    """Head probabilities [b, L] and neighbours over [b, U] -> [b, GATE_FEATURES].

    Entropies of both sides, top similarity and agreement, over the labels that the head knows.
    """
    n = head.shape[1]
    known = known_part(neighbours, n)[0]
    if neighbours.similarity.shape[1]:
        top = neighbours.similarity.amax(-1)
    else:
        top = head.new_zeros(len(head))
    confident, says = head.max(-1)
    return torch.stack(
        [
            torch.ones_like(top),
            _entropy(head) / math.log(max(n, 2)),
            confident,
            _entropy(known) / math.log(max(n, 2)),
            known.amax(-1),
            top,
            (head * known).sum(-1),
            known.gather(1, says[:, None]).squeeze(1),
        ],
        dim=-1,
    )


def known_part(neighbours: Neighbours, n: int) -> tuple[Tensor, Tensor]:
    """The vote over the head's n labels [b, n], normalised; and where there is one [b]."""
    known = neighbours.probs[:, :n]
    total = known.sum(-1)
    return known / total.clamp(min=SMALL)[:, None], neighbours.found & (total > SMALL)


def novel_features(head: Tensor, neighbours: Neighbours) -> Tensor:
    """Head probabilities [b, L] and neighbours over [b, U] -> [b, NOVEL_FEATURES].

    How much nearer the best hit of a new label is than the best of a known one, by the learned
    match and by the base vectors; how sure the head is; and the odds of the new labels in the vote
    of all hits, which pools what several examples say and discounts those that repeat each other.
    """
    n = head.shape[1]

    def margin(nearest: Tensor) -> Tensor:
        new, known = nearest[:, n:].amax(-1), nearest[:, :n].amax(-1)
        return 10 * (new - torch.where(known > ABSENT, known, new - UNSEEN))

    matches = margin(neighbours.match), margin(neighbours.cosine)
    sure = head.amax(-1), _entropy(head) / math.log(max(n, 2))
    vote_ = neighbours.probs[:, n:].sum(-1)
    odds = torch.log((vote_ + VOTE_FLOOR) / (1 - vote_ + VOTE_FLOOR))
    return torch.stack([torch.ones_like(odds), *matches, *sure, odds], dim=-1)


def _entropy(p: Tensor) -> Tensor:
    return -(p * p.clamp(min=SMALL).log()).sum(-1)


class Mixture(NamedTuple):
    """The answer: probabilities over the united labels, and how far the neighbours decided."""

    probs: Tensor  # [b, U]
    gate: Tensor  # [b]
    novelty: Tensor  # [b] the mass of labels that the head does not know


class Gate(nn.Module):
    """`g`, `u` and the temperatures; fitted on rows that the head was not trained on.

    Where no hit carries a new label, `u` is 0 and nothing of it touches the answer. `novel`: how
    many of the features `u` goes by.
    """

    def __init__(self, novel: int = NOVEL_FEATURES) -> None:
        super().__init__()
        start = torch.zeros(GATE_FEATURES)
        start[0] = -1.0
        self.weights = nn.Parameter(start)
        self.novel = nn.Parameter(torch.tensor([-0.5, 0.5, 2.0, -1.0, 0.5, 0.0])[:novel])
        self.log_head_temperature = nn.Parameter(torch.tensor(0.0))
        self.log_temperature = nn.Parameter(torch.tensor(0.0))

    def known(self, logits: Tensor, neighbours: Neighbours) -> tuple[Tensor, Tensor, Tensor]:
        """Head and vote over the head's labels: probabilities [b, L], gate [b], head's [b, L]."""
        head = (logits / self.log_head_temperature.exp()).softmax(-1)
        known, found = known_part(neighbours, head.shape[1])
        gate = torch.sigmoid(gate_features(head, neighbours) @ self.weights)
        gate = torch.where(found, gate, torch.zeros_like(gate))
        return (1 - gate)[:, None] * head + gate[:, None] * known, gate, head

    def new(self, head: Tensor, neighbours: Neighbours) -> tuple[Tensor, Tensor]:
        """Of the new labels: the features of their mass, and their shares [b, U - L] of it."""
        match = neighbours.match[:, head.shape[1] :]
        features = novel_features(head, neighbours)[:, : len(self.novel)]
        return features, (NOVEL_SHARPNESS * match).softmax(-1) * (match > ABSENT)

    def forward(self, logits: Tensor, neighbours: Neighbours) -> Mixture:
        """Head logits [b, L], neighbours over [b, U] -> probabilities [b, U], gate [b]."""
        probs, gate, head = self.known(logits, neighbours)
        n = head.shape[1]
        if neighbours.probs.shape[1] == n:
            return Mixture(sharpen(probs, self.log_temperature.exp()), gate, torch.zeros_like(gate))
        features, among = self.new(head, neighbours)
        novelty = torch.sigmoid(features @ self.novel) * among.any(-1)
        probs = torch.cat([(1 - novelty)[:, None] * probs, novelty[:, None] * among], dim=-1)
        return Mixture(
            sharpen(probs, self.log_temperature.exp()), novelty + (1 - novelty) * gate, novelty
        )


def credit(mixture: Mixture, neighbours: Neighbours, memory: Memory, n: int) -> Tensor:
    """Each hit's share [b, k] of the neighbours' part of the answer, which sums to the gate."""
    there = memory.mask & (memory.labels != UNLABELLED)
    near = neighbours.weights + 1e-3 * neighbours.similarity.clamp(min=0.0)

    def part(hits: Tensor, mass: Tensor) -> Tensor:
        weights = near * hits
        return mass[:, None] * weights / weights.sum(-1, keepdim=True).clamp(min=SMALL)

    new = there & (memory.labels >= n)
    old = part(there & ~new, mixture.gate - mixture.novelty)
    return old + part(new, mixture.novelty)


def sharpen(probs: Tensor, temperature: Tensor) -> Tensor:
    """`p^(1/T)`, normalised; a zero stays zero."""
    powered = probs.clamp(min=1e-12) ** (1 / temperature) * (probs > 0)
    return powered / powered.sum(-1, keepdim=True).clamp(min=1e-12)


class RetrievalAugmentedModel(nn.Module):
    """One head over a shared frozen encoder. The encoder is not among the parameters."""

    def __init__(self, config: HeadConfig, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.adapter = Adapter(encoder.shapes, layers=config.layers, rank=config.rank)
        self.fusion = Fusion(config)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(encoder.dim, len(config.labels))
        self.log_head_scale = nn.Parameter(torch.tensor(math.log(12.0)))
        self.mixture = NeighbourMixture(encoder.dim)
        self.gate = Gate(config.novel)

    def forward(self, x: Sequence[str], retrieved_docs: Sequence[Sequence[Retrieved]]) -> Tensor:
        """Texts and their hits -> log p(y | x, D), [b, L].

        These are logits for `nn.CrossEntropyLoss` (they are normalised already). Hits with a label
        that is not the head's count for no label here; `Reader.predict` unites the labels.
        """
        ids, mask = self.encoder.pad(self.encoder.tokenize(x))
        lower = self.encoder.lower(ids, mask, self.config.layers)
        with torch.no_grad():
            states = self.encoder.layers(lower, mask, self.first_layer, self.encoder.depth)
        base = self.encoder.pool(states, mask)
        labels, several = self.config.labels, self.config.several
        memory = make_memory(
            retrieved_docs, labels, self.encoder.dim, self.config.k, several=several
        )
        reading = self.read(self.adapted(lower, mask), mask, base, memory, len(labels))
        probs = self.gate(reading.logits, reading.neighbours).probs
        answer: Tensor = probs.clamp(min=SMALL).log()
        return answer

    @property
    def first_layer(self) -> int:
        """The lowest encoder layer that carries an adapter."""
        return self.encoder.depth - self.config.layers

    def adapted(self, lower: Tensor, mask: Tensor) -> Tensor:
        """States below the adapted layers [b, t, d] -> adapted token states [b, t, d]."""
        top = self.encoder.depth
        return self.encoder.layers(lower, mask, self.first_layer, top, self.adapter)

    def classify(self, h: Tensor, mask: Tensor, memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
        """Adapted states [b, t, d] -> logits [b, L], attention on hits [b, k], pooled [b, d]."""
        if self.training:
            fused, attention = self.fusion(h, mask, memory)
            pooled = mean_pool(fused, mask)
        else:
            mean, attention = self.fusion.mean(h, mask, memory)
            pooled = F.normalize(mean, dim=-1)
        logits = self.log_head_scale.exp() * self.head(self.dropout(pooled))
        return logits, attention, pooled

    def read(self, h: Tensor, mask: Tensor, base: Tensor, memory: Memory, n_labels: int) -> Reading:
        """Adapted states, base vectors [b, d] and hits -> everything but the mixture."""
        logits, attention, pooled = self.classify(h, mask, memory)
        attention = F.pad(attention, (0, memory.mask.shape[1] - attention.shape[1]))
        neighbours = self.mixture(mean_pool(h, mask), base, memory, n_labels)
        return Reading(logits, neighbours, attention * memory.mask, pooled)
