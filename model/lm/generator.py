"""A language model that was pre-trained here as a server's generator, beside
`model.text_generation.generator`.

Documents do not stand before the prompt: each is a passage that the copy head points into, however
long the prompt is. It continues texts and holds no dialogue.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from model.folders import MANIFEST, CheckpointRefused, read_manifest
from model.lm.checkpoint import KIND, load_lm
from model.lm.config import START
from model.lm.network import RetrievalLM
from model.lm.session import LMSession
from model.lm.tokenizer import LMTokenizer
from model.text_generation.generator_files import GeneratorFiles, GeneratorRefused, free_memory
from model.text_generation.prompting import Prompt, PromptTooLong, Source, check_length, headed

PASSAGES = 8  # in view at once, at most
ITEM_BYTES = 4  # of a weight: it is small, and runs in single precision


def is_language_model(folder: Path) -> bool:
    """Whether a folder says that `save_lm` wrote it."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and manifest.get("kind") == KIND


class LMDecoder:
    """`RetrievalLM` run step by step: a state is the session of some texts."""

    seq2seq = False
    shares = True  # rows share a pass

    def __init__(self, model: RetrievalLM) -> None:
        self.model = model

    def step(self, state: LMSession, tokens: Sequence[int]) -> Tensor:
        """One token for each text -> log-probabilities [b, v] of the next."""
        return state.step(tokens)

    def follow(self, state: LMSession, ids: Sequence[int]) -> Tensor:
        """Tokens that are known -> log-probabilities [n, v], each of the next."""
        return torch.stack([state.feed([i]) for i in ids])


class LMGenerator:
    """A loaded language model with its tokenizer; the interface of `Generator`, without `chat`.

    Attributes:
        context: Tokens of prompt and answer together; `window` of them are in view at a time.
        ends: Empty: it was taught on parts of texts and ends none.
    """

    chats = False
    ends: frozenset[int] = frozenset()

    def __init__(
        self, model: RetrievalLM, tokenizer: LMTokenizer, *, name: str, sha256: str, context: int
    ) -> None:
        self.decoder = LMDecoder(model)
        self.name = name
        self.sha256 = sha256
        self.context = context
        self.window = model.config.window
        self._tokenizer = tokenizer

    @classmethod
    def load(cls, folder: Path, *, device: str, context: int, streams: int) -> LMGenerator:
        """Load what `save_lm` wrote, after looking whether it fits.

        Raises:
            GeneratorRefused: It is not whole or does not fit, and the message says why.
        """
        files = GeneratorFiles.of(folder)
        window = int(files.config.get("window", context))
        files.check_memory(ITEM_BYTES, free_memory(device), context=window, streams=streams)
        try:
            model, tokenizer, _ = load_lm(folder)
        except CheckpointRefused as error:
            raise GeneratorRefused(str(error)) from error
        sha256 = read_manifest(folder)[1]
        model.requires_grad_(False).to(device)
        made = cls(model, tokenizer, name=folder.name, sha256=sha256, context=context)
        made.warm_up()
        return made

    def warm_up(self) -> None:
        """Run it once."""
        prompt = Prompt(tuple(self.tokens("One two three four five.")), (0,), passages=((2, 3),))
        for state, _ in self.read(prompt, iter(lambda: 16, None)):
            self.decoder.step(state, [2])

    def completion(self, text: str, documents: Sequence[Source], *, new: int) -> Prompt:
        """The prompt of a text to be continued, with the documents that are in view beside it.

        Raises:
            PromptTooLong: It leaves no room for `new` tokens.
        """
        check_length(len(text), new, self.context)
        ids = [START, *self.tokens(text)]
        if len(ids) + new > self.context:
            raise PromptTooLong(len(ids), new, self.context)
        config = self.decoder.model.config
        most = PASSAGES if config.k else 0
        read = self._tokenizer.encode([headed(d.title, d.text) for d in documents[:most]])
        passages = tuple(tuple(int(i) for i in one[: config.passage]) for one in read)
        cut = any(len(one) > config.passage for one in read)
        unseen = max(0, len(ids) - self.window)
        used = tuple(range(len(passages)))
        return Prompt(tuple(ids), used, cut=cut, passages=passages, unseen=unseen)

    def read(self, prompt: Prompt, sizes: Iterator[int]) -> Iterator[tuple[LMSession, Tensor]]:
        """Read a prompt in parts; after each the state and log-probabilities [v] of the next."""
        session = LMSession.begin(self.decoder.model, prompt.passages)
        left = prompt.ids[prompt.unseen :]
        while left:
            size = max(1, next(sizes))
            yield session, session.feed(left[:size])
            left = left[size:]

    def tokens(self, text: str) -> list[int]:
        """The ids of a text, without START."""
        return [int(i) for i in self._tokenizer.encode([text])[0]]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without marks."""
        return self._tokenizer.decode(ids)
