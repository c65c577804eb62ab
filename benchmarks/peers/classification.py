"""Peers on the same rows: TF-IDF (of words, of characters) and the frozen encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from benchmarks.data.classification import Example, Split


def tfidf(train: Split, test: Split) -> dict[str, Any]:
    """Word 1- and 2-grams, C chosen before (10)."""
    vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=1)
    x = vectors.fit_transform([row.text for row in train.rows])
    y = [row.label for row in train.rows]
    model = LogisticRegression(C=10, max_iter=300).fit(x, y)
    return score(model.predict(vectors.transform([row.text for row in test.rows])), test)


def characters(train: Sequence[Example], test: Sequence[Example]) -> dict[str, float]:
    """Accuracy with character 1- to 3-grams: logistic regression (C = 10), a linear SVM (C = 1)."""
    vectors = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True, min_df=2)
    x = vectors.fit_transform([row.text for row in train])
    y = [row.label for row in train]
    asked = vectors.transform([row.text for row in test])
    truth = [row.label for row in test]
    models = {"lr": LogisticRegression(C=10, max_iter=300), "svm": LinearSVC()}
    return {name: float(model.fit(x, y).score(asked, truth)) for name, model in models.items()}


def frozen(train: Split, test: Split) -> dict[str, Any]:
    """Logistic regression on the base vectors that the index holds."""
    model = LogisticRegression(C=10, max_iter=500)
    model.fit(train.vectors, [row.label for row in train.rows])
    return score(model.predict(test.vectors), test)


def score(said: Any, test: Split) -> dict[str, Any]:
    right = np.array([s == row.label for s, row in zip(said, test.rows, strict=True)])
    return {"accuracy": float(right.mean()), "right": "".join("1" if r else "0" for r in right)}
