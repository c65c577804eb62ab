"""Answer a question from your documents, with its place in the document.

    python examples/question.py [--url http://127.0.0.1:8000] [--key KEY] ["a question"]

The documents are removed at the end.
"""

import argparse

import httpx

SOURCE = "examples/question.py"
DOCUMENTS = [
    {
        "id": "example-hire",
        "title": "Hiring a bicycle",
        "text": "A bicycle can be hired for a day or a week. A day costs 14 pounds. "
        "The helmet is free of charge, and the lock is in the basket.",
    },
    {
        "id": "example-repairs",
        "title": "Repairs",
        "text": "A repair takes three working days. A flat tyre is mended while you wait. "
        "We send a message when the bicycle is ready.",
    },
    {
        "id": "example-shop",
        "title": "The shop",
        "text": "The shop stands beside the railway station. It opens at eight o'clock in the "
        "morning and is closed on Sundays.",
    },
]


def main() -> None:
    """Run the example against a server."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("question", nargs="?", default="How long does a repair take?")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--key", help="a key of the server with the scope 'write'")
    given = parser.parse_args()
    headers = {"Authorization": f"Bearer {given.key}"} if given.key else {}
    with httpx.Client(base_url=given.url, headers=headers, timeout=60) as client:
        posted = [{**document, "metadata": {"source": SOURCE}} for document in DOCUMENTS]
        client.post("/documents", json={"documents": posted}).raise_for_status()
        print(f"{len(posted)} documents posted")
        only_these = {"metadata.source": SOURCE}
        request = {
            "task": "qa",
            "input": {"question": given.question},
            "retrieval": {"filter": only_these},
        }
        answer = client.post("/predict", json=request).raise_for_status().json()["data"][0]
        output = answer["output"]
        print(given.question)
        if output["answerable"]:
            text = client.get(f"/documents/{output['doc_id']}").raise_for_status().json()["text"]
            start, end = output["start"], output["end"]
            print(f"{output['answer']}  (score {output['score']:.2f})")
            print(f"  {output['doc_id']}, characters {start} to {end}:")
            print(f"  {text[:start]}[{text[start:end]}]{text[end:]}")
        else:
            print(f"no answer in these documents: {output['reason']}")
        client.post("/documents:delete", json={"filter": only_these}).raise_for_status()
        print(f"{len(posted)} documents removed")


if __name__ == "__main__":
    main()
