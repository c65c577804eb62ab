"""The language model that is pre-trained here."""
