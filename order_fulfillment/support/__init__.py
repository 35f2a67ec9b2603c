"""What every Temporal program needs and no order knows."""
