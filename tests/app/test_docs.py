"""The description is whole, and each of its examples succeeds as it stands."""

from __future__ import annotations

import re
from typing import Any

from starlette.testclient import TestClient

ADMIN = "/admin"


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_every_reference_resolves_and_every_body_has_an_example(filled: TestClient) -> None:
    document = filled.get("/openapi.json").json()
    known = document["components"]["schemas"]
    for name in re.findall(r"#/components/schemas/([^\"']+)", str(document)):
        assert name in known, name
    for path, method, operation in operations(document):
        assert operation["summary"]
        if method in ("post", "put") and "requestBody" in operation:
            assert operation["requestBody"]["content"]["application/json"]["examples"], path


def test_the_examples_succeed_on_a_fresh_server(client: TestClient) -> None:
    client.post("/classify", json={"input": "so that there is a prediction"})
    document = client.get("/openapi.json").json()
    tried = 0
    for path, method, operation in operations(document):
        if path.startswith(ADMIN):
            continue
        parameters = operation.get("parameters", [])
        for parameter in parameters:
            if parameter["in"] == "path":
                fill = parameter.get("example", "validation")
                path = path.replace("{" + parameter["name"] + "}", fill)
        content = operation.get("requestBody", {}).get("content", {})
        bodies = content.get("application/json", {}).get("examples", {"": {"value": None}})
        for example in bodies.values():
            answer = client.request(method, path, json=example["value"])
            assert answer.is_success, (method, path, answer.text)
            tried += 1
        if "application/x-ndjson" in content:
            lines = content["application/x-ndjson"]["example"]
            headers = {"content-type": "application/x-ndjson"}
            assert client.post(path, content=lines, headers=headers).is_success
    assert tried > 20


def test_the_page_needs_nothing_from_elsewhere(filled: TestClient) -> None:
    page = filled.get("/docs").text
    assert "http" not in page.replace("http-equiv", "")
    for name in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert filled.get(name).status_code == 200, name
    assert filled.get("/docs/..%2fproblems.py").status_code == 404
