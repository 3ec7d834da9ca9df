"""What a searched network is: SE blocks, sites, configurations, insertion and cost."""
