"""What both sides of the service need; knows neither the API nor the workers."""
