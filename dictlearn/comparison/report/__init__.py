"""The report of a comparison, as an HTML file or a Markdown page."""
