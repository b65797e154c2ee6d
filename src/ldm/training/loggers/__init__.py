"""Loggers whose curves survive any number of restarts: CSV, TensorBoard, Weights & Biases."""
