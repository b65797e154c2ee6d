"""Memory, time and cost of a training run before it starts, from steps simulated on fake tensors."""
