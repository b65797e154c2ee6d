"""Lightning callbacks: metrics, sample grids, checkpoints, validation, signals."""
