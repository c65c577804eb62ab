"""Request and response bodies as they are on the wire. Requests forbid what they do not know."""
