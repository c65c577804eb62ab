"""What a user would try first on own labels: TF-IDF, logistic regression, nearest neighbours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from benchmarks.data.classification import Split

READ_BY_CHARACTER = {"thucnews", "chnsenticorp"}
"""Sets in Chinese: the default encoder cannot read them."""
MOST_FEATURES = 100_000
K = 10
TEMPERATURE = 0.05


def tfidf_words(name: str, train: Split, test: Split) -> float:
    """Word 1- and 2-grams."""
    return _tfidf(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), train, test)


def tfidf_characters(name: str, train: Split, test: Split) -> float:
    """Character 2- to 5-grams within words; Chinese 1- to 3-grams."""
    chinese = name in READ_BY_CHARACTER
    vectors = TfidfVectorizer(
        analyzer="char" if chinese else "char_wb",
        ngram_range=(1, 3) if chinese else (2, 5),
        sublinear_tf=True,
        max_features=MOST_FEATURES,
    )
    return _tfidf(vectors, train, test)


def frozen(name: str, train: Split, test: Split) -> float:
    """Logistic regression on the frozen vectors."""
    model = LogisticRegression(C=10, max_iter=300).fit(train.vectors, _labels(train))
    return float(model.score(test.vectors, _labels(test)))


def nearest(name: str, train: Split, test: Split) -> float:
    """The ten nearest vectors vote, weighted by a softmax over their cosines."""
    names, y = np.unique(_labels(train), return_inverse=True)
    cosines = test.vectors @ train.vectors.T
    k = min(K, len(y))
    at = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
    votes = np.zeros((len(cosines), len(names)))
    weights = np.exp(np.take_along_axis(cosines, at, axis=1) / TEMPERATURE)
    np.add.at(votes, (np.arange(len(votes))[:, None], y[at]), weights)
    return float((names[votes.argmax(1)] == np.array(_labels(test))).mean())


def _tfidf(vectors: Any, train: Split, test: Split) -> float:
    x = vectors.fit_transform([row.text for row in train.rows])
    model = LogisticRegression(C=10, max_iter=100, tol=1e-3).fit(x, _labels(train))
    return float(model.score(vectors.transform([row.text for row in test.rows]), _labels(test)))


def _labels(split: Split) -> list[str]:
    return [row.label for row in split.rows]


PEERS: dict[str, Callable[[str, Split, Split], float]] = {
    "TF-IDF words": tfidf_words,
    "TF-IDF characters": tfidf_characters,
    "frozen + LR": frozen,
    "k nearest": nearest,
}
