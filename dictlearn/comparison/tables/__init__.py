"""Tables of results, described once and shown in a terminal, in Markdown or in HTML."""
