"""Noise schedules, predictions, the loss and the sampling loop."""
