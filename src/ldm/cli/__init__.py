"""Command line: Hydra configs are checked, built and run here, and only here."""
