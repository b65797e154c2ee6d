"""LightningDataModules that yield Batch {"image", "caption", "key"}."""
