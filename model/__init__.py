"""The Transformer: encoder, adapters, fusion over retrieved documents, training, checkpoints."""
