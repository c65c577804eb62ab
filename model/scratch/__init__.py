"""An encoder from nothing."""
