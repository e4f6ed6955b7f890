"""Tables of results, described once and rendered for a terminal, Markdown or HTML."""
