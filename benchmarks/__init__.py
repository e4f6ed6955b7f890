"""Complete runs and measurements, outside the package."""
