"""LightningModules, optimisation, EMA and callbacks."""
