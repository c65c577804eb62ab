"""What Footnote is compared with."""
