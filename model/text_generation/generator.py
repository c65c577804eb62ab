"""A user's own generator: any causal or sequence-to-sequence model of `transformers`.

A folder or hub id, safetensors only, never remote code. `generator_files` checks it first,
`prompting` puts documents before the prompt, `decoding` runs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from model.library import clean, quiet
from model.text_generation.decoding import Decoder, DecoderState
from model.text_generation.generator_files import (
    GeneratorFiles,
    GeneratorRefused,
    free_memory,
    located,
)
from model.text_generation.prompting import (
    CHARS_PER_TOKEN,
    INSTRUCTION,
    NO_DOCUMENTS,
    PLAIN_STOP,
    PLAIN_TEMPLATE,
    Prompt,
    Source,
    Turn,
    check_length,
    fitted,
)

DEFAULT_CONTEXT = 4_096


class TemplateRefused(ValueError):
    """A chat template that does not take these messages."""


class Generator:
    """A loaded model with its tokenizer. It belongs to one thread.

    Attributes:
        chats: Whether it answers the turns of a dialogue.
        context: Tokens of prompt and answer together.
        ends: Tokens after which a text is over.
    """

    chats = True

    def __init__(self, model: Any, tokenizer: Any, *, name: str, sha256: str, context: int) -> None:
        self.decoder = Decoder(model)
        self.name = name
        self.sha256 = sha256
        self.context = context
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer  # the library's own way around costs 50 us
        self.plain = not tokenizer.chat_template
        if self.plain:
            tokenizer.chat_template = PLAIN_TEMPLATE
        self.ends = frozenset(_ids(model.generation_config.eos_token_id)) | frozenset(
            _ids(tokenizer.eos_token_id)
        )
        self._system = self._takes_system()

    @classmethod
    def load(
        cls,
        source: str,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        context: int = DEFAULT_CONTEXT,
        streams: int = 8,
    ) -> Generator:
        """Load a folder or hub id, after looking at what is in it and whether it fits.

        Raises:
            GeneratorRefused: It is not loaded, and the message says why.
        """
        folder = located(source)
        files = GeneratorFiles.of(folder)
        item = torch.empty(0, dtype=dtype).element_size()
        context = min(context, files.longest or context)
        files.check_memory(item, free_memory(device), context=context, streams=streams)
        model, tokenizer = _from_library(files, dtype)
        model.eval().requires_grad_(False).to(device)
        name = source.rstrip("/").rpartition("/")[2] or folder.name  # of a hub id without its owner
        made = cls(model, tokenizer, name=name, sha256=files.sha256(), context=context)
        made.warm_up()
        return made

    def warm_up(self) -> None:
        """Run it once, and find out whether rows may share a pass.

        Raises:
            GeneratorRefused: It does not run token by token with a cache of keys and values.
        """
        ids = (self.tokens("One two three four five six seven eight.") * 4)[:24]
        try:
            self.decoder.check(ids, ids[: max(1, len(ids) // 3)])
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
            kind = self.decoder.model.config.model_type
            raise GeneratorRefused(
                f"a {kind!r} that does not run token by token with a cache of keys and values: "
                f"{type(error).__name__}: {error}"[:400]
            ) from error

    def chat(self, turns: Sequence[Turn], documents: Sequence[Source], *, new: int) -> Prompt:
        """The prompt of a dialogue, with as many documents, best first, as fit beside it.

        Raises:
            PromptTooLong: The dialogue alone leaves no room for `new` tokens.
            TemplateRefused: The model's chat template does not take these turns.
        """
        own = "\n\n".join(t.content for t in turns if t.role == "system")
        dialogue = [t for t in turns if t.role != "system"]

        def render(blocks: Sequence[str]) -> list[int]:
            first = own or (INSTRUCTION if blocks else NO_DOCUMENTS)
            return self._chat_ids("\n\n".join([first, *blocks]), dialogue)

        check_length(sum(len(t.content) for t in turns), new, self.context)
        ids, used, cut = fitted(render, self._count, documents, new=new, context=self.context)
        stop = PLAIN_STOP if self.plain and not self.decoder.seq2seq else ()
        return Prompt(tuple(ids), tuple(used), stop, cut)

    def completion(self, text: str, documents: Sequence[Source], *, new: int) -> Prompt:
        """The prompt of a text to be continued, with documents before it. Raises as `chat`."""

        def render(blocks: Sequence[str]) -> list[int]:
            return self.tokens("\n\n".join([*blocks, text]))

        check_length(len(text), new, self.context)
        ids, used, cut = fitted(render, self._count, documents, new=new, context=self.context)
        return Prompt(tuple(ids), tuple(used), (), cut)

    def read(self, prompt: Prompt, sizes: Iterator[int]) -> Iterator[tuple[DecoderState, Tensor]]:
        """Read a prompt in parts; after each the state and the last logits [V]."""
        return self.decoder.read(prompt.ids, sizes)

    def tokens(self, text: str, *, special: bool = True) -> list[int]:
        """The ids of a text, with the marks that the model expects around it."""
        ids: list[int] = self._tokenizer(clean(text), add_special_tokens=special)["input_ids"]
        if special and not self.decoder.seq2seq and ids and ids[-1] in self.ends:
            ids = ids[:-1]  # some tokenizers end each text; this one goes on
        return ids or [_first_id(self._tokenizer, self.ends)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without marks."""
        text: str = self._backend.decode(list(ids), skip_special_tokens=True)
        return text

    def _count(self, text: str) -> int:
        most = CHARS_PER_TOKEN * self.context
        if len(text) > most:
            return self.context + 1
        return len(self.tokens(text, special=False))

    def _chat_ids(self, system: str, turns: Sequence[Turn]) -> list[int]:
        messages = [{"role": t.role, "content": t.content} for t in turns]
        if self._system:
            messages = [{"role": "system", "content": system}, *messages]
        elif system:
            last = messages[-1]
            messages[-1] = {**last, "content": f"{system}\n\n{last['content']}"}
        return self.tokens(self._rendered(messages), special=self.plain)

    def _rendered(self, messages: Sequence[dict[str, str]]) -> str:
        from jinja2 import TemplateError

        try:
            text: str = self._tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=True, tokenize=False
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise TemplateRefused(str(error)[:200]) from error
        return text

    def _takes_system(self) -> bool:
        """Whether the template shows a system turn; some refuse it, some drop it."""
        mark = "zq7system"
        messages = [{"role": "system", "content": mark}, {"role": "user", "content": "a"}]
        try:
            return mark in self._rendered(messages)
        except TemplateRefused:
            return False


def _from_library(files: GeneratorFiles, dtype: torch.dtype) -> tuple[Any, Any]:
    """Model and tokenizer of a folder that was looked at. Raises `GeneratorRefused`."""
    # Imported here: it costs seconds, and only a server with a generator pays them.
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForSeq2SeqLM,
        AutoTokenizer,
    )

    place = str(files.folder)
    try:
        config = AutoConfig.from_pretrained(place, trust_remote_code=False)
        kind: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        known = kind._model_mapping.get(type(config), None)
        named = config.architectures or []
        if known is None or (named and known.__name__ not in named):
            what = ", ".join(named) or config.model_type
            raise GeneratorRefused(
                f"{what} writes no text: a causal or sequence-to-sequence model is needed"
            )
        with quiet():
            model, report = kind.from_pretrained(
                place,
                config=config,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                dtype=dtype,
                output_loading_info=True,
            )
            tokenizer: Any = AutoTokenizer.from_pretrained(
                place, trust_remote_code=False, local_files_only=True
            )
    except (OSError, ValueError, ImportError, KeyError, TypeError, RuntimeError) as error:
        if isinstance(error, GeneratorRefused):
            raise
        raise GeneratorRefused(f"{place!r} does not load: {error}"[:400]) from error
    lacking = [*report["missing_keys"], *report["mismatched_keys"]]
    if lacking:
        names = ", ".join(str(k) for k in sorted(map(str, lacking))[:3])
        raise GeneratorRefused(f"{len(lacking)} of its weights are missing or misshapen: {names}")
    if not getattr(tokenizer, "is_fast", False):
        raise GeneratorRefused("it has no fast tokenizer (tokenizer.json)")
    return model, tokenizer


def _ids(value: object) -> list[int]:
    if isinstance(value, int):
        return [value]
    return [v for v in value if isinstance(v, int)] if isinstance(value, list) else []


def _first_id(tokenizer: Any, ends: frozenset[int]) -> int:
    """What a text without any token begins with."""
    begin = tokenizer.bos_token_id
    return int(begin) if begin is not None else min(ends, default=0)
