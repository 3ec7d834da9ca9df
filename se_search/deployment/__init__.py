"""Run and export a network: graphs, runtimes, optimization for inference."""
