"""Generation: first token and tokens a second, beside transformers' own generate on one model.

    python -m benchmarks.generation [--folder MODEL] [--tokens 128] [--repeats 5] [--only library]

Without `--folder` a Llama of 17M random weights is made on the spot: its speed is that of a real
one of its shape. In the same process and run, on the same prompts, threads and number format: the
library's `generate` and the generator's thread, one text and eight at once, in turns. Then the same
over HTTP from a real `footnote serve`, with the classifier asked before and meanwhile. Ends with
status 1 where Footnote is slower than the library. A folder that `footnote pretrain` made is
measured over HTTP alone: the library does not know it.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import torch

from app.inference.generated_text import Piece
from app.inference.generator_engine import GeneratorEngine
from app.inference.loading import generator_threads, set_threads
from app.settings import Settings
from benchmarks.serving.server import Server, running, timed
from benchmarks.tools.folders import RUNS
from benchmarks.tools.load import post_bytes, run_load
from index_data.sample import helpdesk
from model.config import pick_dtype
from model.library import quiet
from model.lm.generator import is_language_model
from model.text_generation.generator import Generator
from model.text_generation.prompting import Prompt
from model.text_generation.sampling import Sampling

MADE = RUNS / "generator"
STREAMS = 8
FIRST = 20  # first tokens in each repeat: one takes milliseconds, and a busy machine pauses
DOCUMENTS = 3  # of the sample in each prompt: about 200 tokens
CLASSIFY_S = 8.0
CASES = ("first_token", "single", "eight")
ASKED = ["I was charged twice for one order", "Where is my parcel?", "The app crashes at login"]


def make(folder: Path) -> Path:
    """A Llama of 17M random weights that never ends a text, with a tokenizer of the sample."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    if (folder / "model.safetensors").exists():
        return folder
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8192, special_tokens=["<pad>", "<s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator((d.text for d in helpdesk()), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192, hidden_size=384, intermediate_size=1024, num_hidden_layers=6,
        num_attention_heads=6, num_key_value_heads=6, max_position_embeddings=2048,
        pad_token_id=0, bos_token_id=1, eos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.generation_config.eos_token_id = None
    with quiet():
        model.save_pretrained(folder, safe_serialization=True)
    fast.save_pretrained(folder)
    return folder


def prompts(generator: Generator, tokens: int) -> list[Prompt]:
    """Prompts with documents, of a few lengths."""
    sample = list(helpdesk())
    return [
        generator.completion(ASKED[i % len(ASKED)], sample[i : i + DOCUMENTS], new=tokens)
        for i in range(STREAMS)
    ]


def library(
    generator: Generator, given: Sequence[Prompt], tokens: int
) -> tuple[float, list[list[int]]]:
    """Seconds and ids of the library's `generate` on a batch, padded on the left as it asks for."""
    longest = max(len(p.ids) for p in given)
    rows = [[0] * (longest - len(p.ids)) + list(p.ids) for p in given]
    masks = [[0] * (longest - len(p.ids)) + [1] * len(p.ids) for p in given]
    began = time.perf_counter()
    with torch.inference_mode():
        made = generator.decoder.model.generate(
            torch.tensor(rows), attention_mask=torch.tensor(masks), max_new_tokens=tokens,
            min_new_tokens=tokens, do_sample=False, pad_token_id=0,
        )  # fmt: skip
    took = time.perf_counter() - began
    return took, [row[longest:] for row in made.tolist()]


def ours(
    engine: GeneratorEngine, given: Sequence[Prompt], tokens: int
) -> tuple[float, list[list[int]]]:
    """Seconds and ids of the generator's thread for texts that come at once."""
    done: list[Future[Piece]] = [Future() for _ in given]

    def deliver(future: Future[Piece], piece: Piece) -> None:
        if piece.finish is not None or piece.error is not None:
            future.set_result(piece)

    began = time.perf_counter()
    for prompt, future in zip(given, done, strict=True):
        engine.generate(prompt, Sampling(max_new_tokens=tokens), partial(deliver, future))
    pieces = [future.result() for future in done]
    took = time.perf_counter() - began
    return took, [list(piece.ids) for piece in pieces]


def in_process(folder: Path, tokens: int, repeats: int) -> dict[str, Any]:
    """Both ways on one loaded model, in turns; medians over the repeats."""
    threads = generator_threads(Settings())
    dtype = pick_dtype("auto", "cpu")

    def load() -> Generator:
        set_threads(threads)
        return Generator.load(str(folder), dtype=dtype)

    engine = GeneratorEngine(load, streams=STREAMS)
    generator = engine.start().result()
    assert isinstance(generator, Generator)
    set_threads(threads)
    given = prompts(generator, tokens)
    seconds: dict[str, list[float]] = {}
    same = 0
    ways: dict[str, Callable[..., tuple[float, list[list[int]]]]] = {
        "library": partial(library, generator), "footnote": partial(ours, engine)
    }  # fmt: skip
    for way in ways.values():  # warm up
        way(given, 4)
    cases = {"first_token": (given[:1], 1)} | {
        "single": (given[:1], tokens),
        "eight": (given, tokens),
    }
    for case, (part, count) in cases.items():
        for turn in range(repeats * (FIRST if case == "first_token" else 1)):
            written = {}
            for name, way in list(ways.items())[:: 1 if turn % 2 else -1]:
                worked = time.process_time()
                took, written[name] = way(part, count)
                seconds.setdefault(f"{name}_{case}", []).append(took)
                seconds.setdefault(f"{name}_{case}_work", []).append(time.process_time() - worked)
            if case == "single":
                same += written["library"] == written["footnote"]
    engine.close()
    found = {name: statistics.median(times) for name, times in seconds.items()}
    figures: dict[str, Any] = {
        "prompt_tokens": [len(p.ids) for p in given],
        "parameters": sum(p.numel() for p in generator.decoder.model.parameters()),
        "dtype": str(dtype).removeprefix("torch."),
        "threads": threads,
        "same_greedy_text": f"{same} of {repeats}",
    }
    for name in ways:
        figures[name] = {
            "first_token_ms": round(1000 * found[f"{name}_first_token"], 1),
            "single_tokens_s": round(tokens / found[f"{name}_single"], 1),
            "eight_tokens_s": round(STREAMS * tokens / found[f"{name}_eight"], 1),
            # Of the processor, whatever else runs on the machine.
            "work_s": {c: round(found[f"{name}_{c}_work"], 4) for c in CASES},
        }
    mine, theirs = figures["footnote"], figures["library"]
    figures["ratio"] = {
        case: round(mine[case] / theirs[case], 3) for case in ("single_tokens_s", "eight_tokens_s")
    } | {"first_token": round(theirs["first_token_ms"] / mine["first_token_ms"], 3)}
    return figures


def stream(port: int, number: int, tokens: int) -> tuple[float, float, int]:
    """Seconds to the first token and to the end of one streamed text, and its tokens."""
    body = {
        "task": "generation", "input": ASKED[number % len(ASKED)], "stream": True,
        "retrieval": {"k": DOCUMENTS}, "params": {"max_new_tokens": tokens},
    }  # fmt: skip
    first, count, event = 0.0, 0, ""
    began = time.perf_counter()
    url = f"http://127.0.0.1:{port}/predict"
    with httpx.stream("POST", url, json=body, timeout=300) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            if line.startswith("event:"):
                event = line[6:].strip()
                if event == "token" and not first:
                    first = time.perf_counter() - began
            elif line.startswith("data:") and event == "prediction":
                count = json.loads(line[5:])["usage"]["completion_tokens"]
    return first, time.perf_counter() - began, count


def streams(port: int, count: int, tokens: int) -> dict[str, float]:
    """Several streamed texts at once."""
    found: list[tuple[float, float, int]] = []
    work = [
        threading.Thread(target=lambda i=i: found.append(stream(port, i, tokens)))
        for i in range(count)
    ]
    began = time.perf_counter()
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    took = time.perf_counter() - began
    if len(found) < count:
        raise SystemExit("a stream failed")
    return {
        "first_token_ms_p50": round(1000 * statistics.median(f for f, _, _ in found), 1),
        "tokens_s": round(sum(n for _, _, n in found) / took, 1),
    }


def classification(server: Server) -> dict[str, float]:
    """One client of `/classify`."""
    requests = [post_bytes("/classify", {"input": text}) for text in ASKED]
    return timed(run_load(server.port, requests, clients=1, seconds=CLASSIFY_S))


def over_http(folder: Path, tokens: int, repeats: int) -> dict[str, Any]:
    """The same from a server with the sample, and what it does to the classifier."""
    with running(None, generator=folder) as server:
        stream(server.port, 0, 8)
        single = [streams(server.port, 1, tokens) for _ in range(repeats)]
        eight = [streams(server.port, STREAMS, tokens) for _ in range(repeats)]
        alone = classification(server)
        stop = threading.Event()

        def keep_writing(number: int) -> None:
            while not stop.is_set():
                stream(server.port, number, tokens)

        writers = [threading.Thread(target=keep_writing, args=(i,)) for i in range(STREAMS)]
        for thread in writers:
            thread.start()
        time.sleep(0.5)
        meanwhile = classification(server)
        stop.set()
        for thread in writers:
            thread.join()

    def median(runs: list[dict[str, float]], name: str) -> float:
        return statistics.median(run[name] for run in runs)

    return {
        "first_token_ms": median(single, "first_token_ms_p50"),
        "single_tokens_s": median(single, "tokens_s"),
        "eight_tokens_s": median(eight, "tokens_s"),
        "eight_first_token_ms_p50": median(eight, "first_token_ms_p50"),
        "classify_alone": alone,
        "classify_at_eight_streams": meanwhile,
        "classify_p50_ratio": round(meanwhile["p50_ms"] / alone["p50_ms"], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of generation.")
    parser.add_argument("--folder", type=Path, help="a generator of your own")
    parser.add_argument("--tokens", type=int, default=128, help="written for each text")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=("library", "http"), help="one half of it")
    given = parser.parse_args()
    RUNS.mkdir(exist_ok=True)
    folder = given.folder or make(MADE)
    figures: dict[str, Any] = {"processor": platform.processor() or platform.machine()}
    library_has_it = not is_language_model(folder)
    if given.only != "http" and library_has_it:
        figures["in_process"] = in_process(folder, given.tokens, given.repeats)
    if given.only != "library":
        figures["http"] = over_http(folder, given.tokens, given.repeats)
    print(json.dumps(figures))
    ratio = figures.get("in_process", {}).get("ratio", {})
    if slower := [case for case, value in ratio.items() if value < 1]:
        sys.exit(f"slower than the library: {', '.join(slower)}")


if __name__ == "__main__":
    main()
