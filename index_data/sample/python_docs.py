"""The documentation inside the running Python as labelled documents: one per docstring or topic.

The label is the chapter of the library reference that a module belongs to. Texts differ between
Python versions; for one version the documents, their ids and their order are always the same.
"""

from __future__ import annotations

import importlib
import inspect
import json
import warnings
from collections.abc import Iterator
from importlib.resources import files
from types import ModuleType
from typing import Any

from index_data.documents import Document

CHAPTERS: dict[str, list[str]] = json.loads(
    (files("index_data.sample") / "chapters.json").read_bytes()
)
"""Library chapter -> its modules. A fixed list: nothing is imported for being found on the path,
and modules that act when imported (antigravity, this, idlelib, readline, test) or want a display
(tkinter, turtle) stay out."""

TOPICS_LABEL = "Language Reference"
MIN_CHARS = 30
"""Shorter docstrings ("Helper.", "See base class.") say nothing that could be found again."""


def python_docs() -> Iterator[Document]:
    """Docstrings of public modules, classes, functions and methods, then the language topics.

    Modules that this platform lacks are left out; equal texts appear once.
    """
    seen: set[str] = set()
    for chapter, names in CHAPTERS.items():
        for name in names:
            for qualified, text in _module_docs(name):
                if text not in seen:
                    seen.add(text)
                    yield _document(f"python-{qualified}", qualified, text, chapter, name)
    for topic, text in _topics():
        title = f"Python topic: {topic}"
        yield _document(f"python-topic-{topic}", title, text, TOPICS_LABEL, "pydoc_data.topics")


def _document(doc_id: str, title: str, text: str, chapter: str, module: str) -> Document:
    return Document(
        id=doc_id,
        text=text,
        title=title,
        lang="en",
        labels={"label": chapter},
        metadata={"source": "sample", "kind": "python", "module": module},
    )


def _module_docs(name: str) -> list[tuple[str, str]]:
    """(qualified name, docstring) of one module, sorted by name after the module itself.

    A list, not a generator: the warnings of deprecated modules are silenced only while it is made.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            module = importlib.import_module(name)
        except ImportError:  # not built for this platform, or not in this version
            return []
        prefix = "" if name == "builtins" else f"{name}."
        docs = [(name, _doc(module))]
        for member_name, member in _public(module):
            docs.append((prefix + member_name, _doc(member)))
            if inspect.isclass(member):
                docs += [
                    (f"{prefix}{member_name}.{attribute}", text)
                    for attribute, text in _class_docs(member)
                ]
    return [(qualified, text) for qualified, text in docs if len(text) >= MIN_CHARS]


def _public(module: ModuleType) -> list[tuple[str, Any]]:
    """Classes and functions that a module offers: in its `__all__`, or made in it or its C part."""
    listed = set(getattr(module, "__all__", ()))
    homes = (module.__name__, f"_{module.__name__}", None)
    return [
        (name, member)
        for name, member in sorted(vars(module).items())
        if (inspect.isclass(member) or inspect.isroutine(member))
        and not name.startswith("_")
        and (name in listed or getattr(member, "__module__", None) in homes)
    ]


def _class_docs(cls: type) -> list[tuple[str, str]]:
    """Docstrings of the public methods and properties that the class itself defines."""
    return [
        (name, _doc(attribute))
        for name, attribute in sorted(vars(cls).items())
        if not name.startswith("_")
        and (inspect.isroutine(attribute) or inspect.isdatadescriptor(attribute))
    ]


def _doc(member: object) -> str:
    """The member's own docstring, cleaned; never one that is inherited from its type."""
    doc = member.__doc__
    return inspect.cleandoc(doc) if isinstance(doc, str) else ""


def _topics() -> list[tuple[str, str]]:
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    return [(name, text.strip()) for name, text in sorted(topics.items()) if text.strip()]
