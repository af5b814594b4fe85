"""What others see of the daemon: Prometheus metrics, health over HTTP, and the drift of scores."""
