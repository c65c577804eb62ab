"""Services behind the routes that do not predict."""
