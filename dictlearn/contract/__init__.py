"""The contract of a feature dictionary as executable checks."""
