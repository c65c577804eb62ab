"""The documentation inside the running Python as labelled documents: one per docstring or topic.

The label is the chapter of the library reference that a module belongs to. Texts differ between
Python versions; for one version the documents, their ids and their order are always the same.
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from index_data.documents import Document

CHAPTERS: dict[str, str] = {
    "Built-in Functions and Types": "builtins",
    "Text Processing": "string re difflib textwrap unicodedata stringprep",
    "Binary Data": "struct codecs encodings.aliases",
    "Data Types": (
        "datetime zoneinfo calendar collections collections.abc heapq bisect array weakref types "
        "copy pprint reprlib enum graphlib"
    ),
    "Numeric and Mathematical": "numbers math cmath decimal fractions random statistics",
    "Functional Programming": "itertools functools operator",
    "File and Directory Access": (
        "pathlib posixpath ntpath fileinput stat filecmp tempfile glob fnmatch linecache shutil"
    ),
    "Data Persistence": "pickle copyreg shelve marshal dbm dbm.dumb sqlite3",
    "Compression": "zlib gzip bz2 lzma zipfile tarfile",
    "File Formats": "csv configparser tomllib netrc plistlib",
    "Cryptographic": "hashlib hmac secrets",
    "Operating System": (
        "os io time argparse getopt logging logging.config logging.handlers getpass curses "
        "curses.textpad curses.panel platform errno ctypes optparse"
    ),
    "Concurrent Execution": (
        "threading multiprocessing multiprocessing.shared_memory multiprocessing.pool "
        "multiprocessing.managers multiprocessing.connection multiprocessing.context "
        "concurrent.futures concurrent.futures.process concurrent.futures.thread subprocess sched "
        "queue contextvars"
    ),
    "Networking": (
        "asyncio asyncio.base_events asyncio.streams asyncio.sslproto socket ssl select selectors "
        "signal mmap"
    ),
    "Internet Data": (
        "email email.message email.parser email.generator email.policy email.headerregistry "
        "email.mime.base email.mime.text email.mime.multipart email.header "
        "email.charset email.encoders email.utils email.errors email.feedparser "
        "json json.decoder json.encoder mailbox mimetypes base64 binascii "
        "quopri"
    ),
    "Markup": (
        "html html.parser html.entities xml.etree.ElementTree xml.dom xml.dom.minidom "
        "xml.dom.pulldom xml.sax xml.sax.handler xml.sax.saxutils xml.sax.xmlreader "
        "xml.parsers.expat"
    ),
    "Internet Protocols": (
        "webbrowser wsgiref.util wsgiref.headers wsgiref.simple_server wsgiref.handlers "
        "wsgiref.validate urllib.request urllib.response urllib.parse urllib.error "
        "urllib.robotparser http http.client ftplib poplib imaplib smtplib uuid socketserver "
        "http.server http.cookies http.cookiejar xmlrpc.client xmlrpc.server ipaddress"
    ),
    "Multimedia and Internationalization": "wave colorsys gettext locale",
    "Program Frameworks": "cmd shlex",
    "Development Tools": "typing pydoc doctest unittest unittest.mock",
    "Debugging and Profiling": (
        "bdb faulthandler pdb profile cProfile pstats timeit trace tracemalloc"
    ),
    "Packaging": "ensurepip venv zipapp",
    "Runtime": (
        "sys sysconfig warnings dataclasses contextlib abc atexit traceback gc inspect site code "
        "codeop"
    ),
    "Importing": (
        "zipimport pkgutil modulefinder runpy importlib importlib.abc importlib.machinery "
        "importlib.util importlib.resources importlib.metadata"
    ),
    "Language": (
        "ast symtable keyword tokenize tabnanny pyclbr py_compile compileall dis pickletools"
    ),
    "Unix": "pwd grp termios tty pty fcntl resource",
}
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
        for name in names.split():
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
