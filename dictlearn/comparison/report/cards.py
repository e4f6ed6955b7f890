"""Feature cards as HTML: contexts shaded by activation, logit weights and similar features."""

from dictlearn.comparison.report.templates import render
from dictlearn.records.features import FeatureRecords


def cards_html(records: FeatureRecords) -> str:
    """All cards with their style sheet, for a notebook."""
    return render("notebook.html.jinja", features=records)


def cards_page(records: FeatureRecords, title: str = "Features") -> str:
    """A page with the cards of all dictionaries; those of the first are expanded."""
    return render("features_page.html.jinja", features=records, title=title)
