"""What a network is worth: data, the weight-sharing evaluator, latency and their intervals."""
