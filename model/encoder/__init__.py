"""The frozen base encoder, its adapters, other stacks."""
