"""The LitServe peer: run by the interpreter of its own environment, it imports nothing of ours.

python litserve_server.py MODEL_FOLDER PORT THREADS float32|bfloat16
"""

import sys
from typing import Any

import litserve  # type: ignore[import-not-found]
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer


class Classifier(litserve.LitAPI):  # type: ignore[misc]
    """A text in, a label with its probability out; batches of up to 32."""

    def setup(self, device: str) -> None:
        torch.set_num_threads(int(sys.argv[3]))
        self.tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
        model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1])
        self.model = model.to(getattr(torch, sys.argv[4])).eval()

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # it reads annotations
        return str(request["input"])

    def batch(self, inputs: list[str]) -> list[str]:
        return inputs

    @torch.inference_mode()
    def predict(self, texts: list[str]) -> list[dict[str, Any]]:
        tokens = self.tokenizer(
            texts, padding=True, truncation=True, max_length=256, return_tensors="pt"
        )
        best = self.model(**tokens).logits.float().softmax(-1).max(-1)
        names = self.model.config.id2label
        pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        return [{"label": names[number], "score": score} for score, number in pairs]

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return output

    def encode_response(self, output):  # type: ignore[no-untyped-def]
        return output


if __name__ == "__main__":
    api = Classifier(max_batch_size=32, batch_timeout=0.002)
    server = litserve.LitServer(api, accelerator="cpu", timeout=60)
    server.run(port=int(sys.argv[2]), host="127.0.0.1", generate_client_file=False)
