"""Single features as concept detectors, beside random features, neurons and directions."""
