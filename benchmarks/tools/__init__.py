"""What several benchmarks use: folders, load, statistics, plots."""
