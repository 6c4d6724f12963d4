"""Where a job meets the network."""
