"""Train a field of your own over HTTP and watch the job.

    python examples/train.py [--url http://127.0.0.1:8000] [--key KEY]

The new checkpoint serves where it is better on held-out rows. The documents stay.
"""

import argparse
import json

import httpx

FIELD = "example_product"
SUBJECTS = {
    "laptop": ["keyboard", "hinge", "trackpad", "charger", "screen"],
    "kettle": ["lid", "spout", "heating plate", "limescale filter", "handle"],
    "headphones": ["ear pad", "headband", "microphone", "volume wheel", "audio cable"],
}
PHRASES = ["The {} is broken", "Where do I buy a new {}?", "How do I clean the {}?", "{} missing"]


def documents() -> list[dict[str, object]]:
    """Return the texts as documents that carry their label."""
    return [
        {
            "text": phrase.format(part).capitalize(),
            "labels": {FIELD: product},
            "metadata": {"source": "examples/train.py"},
        }
        for product, parts in SUBJECTS.items()
        for part in parts
        for phrase in PHRASES
    ]


def watch(client: httpx.Client, job: str) -> dict[str, object]:
    """Print what the job does from its event stream; return the job when it is finished."""
    stage = None
    found: dict[str, object] = {}
    with client.stream("GET", f"/admin/jobs/{job}/events", timeout=None) as events:
        for line in events.raise_for_status().iter_lines():
            if not line.startswith("data:"):
                continue
            found = json.loads(line.removeprefix("data:"))
            progress = found["progress"]
            if isinstance(progress, dict) and progress.get("stage") != stage:
                stage = progress.get("stage")
                print(f"  {found['state']}: {stage}", flush=True)
    return found


def main() -> None:
    """Run the example against a server."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--key", help="a key of the server with the scope 'admin'")
    given = parser.parse_args()
    headers = {"Authorization": f"Bearer {given.key}"} if given.key else {}
    with httpx.Client(base_url=given.url, headers=headers, timeout=60) as client:
        posted = client.post("/documents", json={"documents": documents()}).raise_for_status()
        print(f"{posted.json()['accepted']} documents posted")
        request = {"task": "classification", "field": FIELD}
        started = client.post("/admin/train", json=request).raise_for_status().json()
        print(f"job {started['id']}")
        job = watch(client, started["id"])
        result = job["result"]
        if not isinstance(result, dict):
            raise SystemExit(f"the job {job['state']}: {job['problem']}")
        print(f"checkpoint {result['version']}, in use: {result['activated']}. {result['reason']}")
        question = {"input": "My trackpad does not click any more", "field": FIELD}
        answer = client.post("/classify", json=question).raise_for_status().json()["data"][0]
        print(f"{question['input']!r}: {answer['label']}, confidence {answer['confidence']:.2f}")


if __name__ == "__main__":
    main()
