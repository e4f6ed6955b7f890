"""Records become tables, figures and one report; no model and no dictionary is needed."""
