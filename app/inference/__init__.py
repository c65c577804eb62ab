"""From a text to a prediction: snapshots, threads of the model, retrieval, explanations."""
