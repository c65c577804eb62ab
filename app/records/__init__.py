"""What is kept beside the documents: keys, feedback, data sets, checkpoints."""
