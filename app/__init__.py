"""The server and the command: everything that composes the index and the model."""
