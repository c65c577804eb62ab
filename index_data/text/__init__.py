"""What preprocessing makes of a text."""
