"""Training, evaluation, calibration."""
