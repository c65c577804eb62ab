"""Peers on the same rows: TF-IDF and the frozen encoder, each with logistic regression."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from benchmarks.classification_data import Split


def tfidf(train: Split, test: Split) -> dict[str, Any]:
    """Word 1- and 2-grams, C chosen before (10)."""
    vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=1)
    x = vectors.fit_transform([row.text for row in train.rows])
    y = [row.label for row in train.rows]
    model = LogisticRegression(C=10, max_iter=300).fit(x, y)
    return score(model.predict(vectors.transform([row.text for row in test.rows])), test)


def frozen(train: Split, test: Split) -> dict[str, Any]:
    """Logistic regression on the base vectors that the index holds."""
    model = LogisticRegression(C=10, max_iter=500)
    model.fit(train.vectors, [row.label for row in train.rows])
    return score(model.predict(test.vectors), test)


def score(said: Any, test: Split) -> dict[str, Any]:
    right = np.array([s == row.label for s, row in zip(said, test.rows, strict=True)])
    return {"accuracy": float(right.mean()), "right": "".join("1" if r else "0" for r in right)}
