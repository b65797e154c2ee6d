"""Metrics: one frozen dataclass a file, (sampler, data, folder) -> Score."""
