"""Own labels at 10 and 64 rows a class, beside the cheap baselines."""
