"""Published results, without PyTorch."""
