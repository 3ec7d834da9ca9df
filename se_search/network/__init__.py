"""What a searched network is: SE blocks, sites, configurations, insertion, cost, and its graph for other runtimes."""
