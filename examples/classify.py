"""Labels of your own: post a few texts, classify, correct one answer, ask again.

    python examples/classify.py [--url http://127.0.0.1:8000] [--key KEY]

Nothing is trained. The documents and the correction are removed at the end.
"""

import argparse

import httpx

FIELD = "example_topic"
SOURCE = "examples/classify.py"
TEXTS = {
    "order": [
        "Two flat whites and a croissant, please",
        "Could I get an oat latte to take away?",
        "One cold brew and the carrot cake",
        "A pot of green tea for the table, please",
    ],
    "hours": [
        "Are you open on Sunday morning?",
        "When do you close tonight?",
        "Is the cafe open over the bank holiday?",
        "What time does the kitchen start serving?",
    ],
    "complaint": [
        "My coffee was cold and the milk was sour",
        "I waited forty minutes and nobody came",
        "The table was sticky and the music far too loud",
        "The receipt has a cake on it that we never got",
    ],
}
QUESTION = "I got a latte although I asked for tea"
RIGHT = "complaint"


def documents() -> list[dict[str, object]]:
    """Return the texts as documents that carry their label and where they came from."""
    return [
        {"text": text, "labels": {FIELD: label}, "metadata": {"source": SOURCE}}
        for label, texts in TEXTS.items()
        for text in texts
    ]


def classify(client: httpx.Client, text: str) -> None:
    """Print the label of a text and the three documents that count most for it."""
    body = {"input": text, "field": FIELD}
    answer = client.post("/classify", json=body).raise_for_status().json()["data"][0]
    print(f"{text!r}: {answer['label']}, confidence {answer['confidence']:.2f}")
    for cited in sorted(answer["citations"], key=lambda c: -c["weight"])[:3]:
        print(f"  {cited['label']:<10} weight {cited['weight']:.2f}  {cited['text']}")


def main() -> None:
    """Run the example against a server."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--key", help="a key of the server with the scope 'write'")
    given = parser.parse_args()
    headers = {"Authorization": f"Bearer {given.key}"} if given.key else {}
    with httpx.Client(base_url=given.url, headers=headers, timeout=60) as client:
        posted = client.post("/documents", json={"documents": documents()}).raise_for_status()
        print(f"{posted.json()['accepted']} documents posted")
        classify(client, QUESTION)
        correction = {"input": QUESTION, "field": FIELD, "label": RIGHT, "apply": "index"}
        feedback = client.post("/feedback", json=correction).raise_for_status().json()
        print(f"corrected to {RIGHT!r}")
        classify(client, QUESTION)
        client.delete(f"/feedback/{feedback['id']}").raise_for_status()
        only_these = {"filter": {"metadata.source": SOURCE}}
        deleted = client.post("/documents:delete", json=only_these).raise_for_status().json()
        print(f"{deleted['deleted']} documents removed")


if __name__ == "__main__":
    main()
