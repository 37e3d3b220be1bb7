"""Monte-Carlo estimation of step values."""
