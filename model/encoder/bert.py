"""BERT and RoFormer as they lie on the disk, read without `transformers`.

Importing `transformers`' own BERT takes seconds and a hundred megabytes (it brings generation,
compilation and distribution along), and a server that was killed should be back sooner. So a
folder that holds a plain BERT is read here (or RoFormer, Su et al. 2021, a BERT with rotary
places); a test holds the result equal to the library's own.
Everything else goes through the library (see `model.encoder.encoder`).
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU}


class Embeddings(nn.Module):
    """Word, position and segment (always the first), normalised (Devlin et al. 2018).

    RoFormer's have no position: its layers do.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.model_type == "bert":
            longest = config.max_position_embeddings
            self.position_embeddings = nn.Embedding(longest, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Ids [b, t] -> [b, t, d]."""
        words = self.word_embeddings(input_ids) + self.token_type_embeddings.weight[0]
        if hasattr(self, "position_embeddings"):
            words = words + self.position_embeddings.weight[: input_ids.shape[1]]
        states: Tensor = self.LayerNorm(words)
        return states


def _layer(config: Any) -> nn.Module:
    """The parameters of one layer, under the names that they have on the disk."""
    d, hidden = config.hidden_size, config.intermediate_size

    def joined(**parts: nn.Module) -> nn.Module:
        return nn.ModuleDict(parts)

    def norm() -> nn.Module:
        return nn.LayerNorm(d, eps=config.layer_norm_eps)

    own = joined(query=nn.Linear(d, d), key=nn.Linear(d, d), value=nn.Linear(d, d))
    attention = joined(self=own, output=joined(dense=nn.Linear(d, d), LayerNorm=norm()))
    middle = joined(
        dense=nn.Linear(d, hidden), intermediate_act_fn=ACTIVATIONS[config.hidden_act]()
    )
    output = joined(dense=nn.Linear(hidden, d), LayerNorm=norm())
    return joined(attention=attention, intermediate=middle, output=output)


class Bert(nn.Module):
    """Embeddings and layers; the forward pass is `model.encoder.bert_stack`'s."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(_layer(config) for _ in range(config.num_hidden_layers))


def is_plain_bert(folder: Path) -> bool:
    """Whether a folder holds a BERT that `load_bert` can read."""
    needed = ("config.json", "model.safetensors", "tokenizer.json")
    if not all((folder / name).is_file() for name in needed):
        return False
    try:
        raw = json.loads((folder / "config.json").read_bytes())
    except ValueError:
        return False
    return (
        isinstance(raw, dict)
        and raw.get("model_type") in ("bert", "roformer")
        and raw.get("hidden_act") in ACTIVATIONS
        and raw.get("position_embedding_type", "absolute") == "absolute"
        and not raw.get("is_decoder")
        and not raw.get("rotary_value")
        and raw.get("embedding_size") in (None, raw.get("hidden_size"))
    )


def load_bert(folder: Path) -> tuple[Bert, Any]:
    """The network and its tokenizer, in the shape in which `transformers` hands them over.

    Raises:
        OSError, ValueError: A file is damaged, or weights are missing or of another shape.
    """
    raw = json.loads((folder / "config.json").read_bytes())
    config = SimpleNamespace(**({"layer_norm_eps": 1e-12, "type_vocab_size": 2} | raw))
    try:
        with torch.device("meta"):
            model = Bert(config)
        stored = {
            name.removeprefix(f"{config.model_type}."): value
            for name, value in load_file(folder / "model.safetensors").items()
        }
        names = model.state_dict()
        model.load_state_dict({name: stored[name].float() for name in names}, assign=True)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except KeyError as error:
        raise ValueError(f"{folder}: no weights named {error}") from error
    except OSError:
        raise
    except Exception as error:  # the readers of both formats raise types of their own
        raise ValueError(f"{folder}: {error}") from error
    marks = {f"{n}_token_id": tokenizer.token_to_id(f"[{n.upper()}]") for n in ("pad", "unk")}
    return model, SimpleNamespace(backend_tokenizer=tokenizer, **marks)
