"""Blind case studies: a feature's circuit without any text, a sealed hypothesis, and its test."""
