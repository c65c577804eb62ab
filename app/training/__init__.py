"""From documents and data sets to training rows and a trained head."""
