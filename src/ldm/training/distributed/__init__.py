"""Runs on several processes: strategies, launchers, signals, the watchdog, SLURM."""
