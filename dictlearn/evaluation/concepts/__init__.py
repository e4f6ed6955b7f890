"""Precision of single features as concept detectors, beside neurons and other directions."""
