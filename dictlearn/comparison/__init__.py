"""Statistics, tables, figures and reports, computed from records alone."""
