"""The layout of a report: a self-contained HTML page with styles, scripts and figures."""

from html import escape

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

STYLE = """
:root { color-scheme: light dark; --ink: #1c2026; --soft: #626a76; --line: #e1e4e9;
  --page: #ffffff; --panel: #f6f7f9; --accent: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaee; --soft: #a0a8b4; --line: #30353d;
  --page: #14171b; --panel: #1c2026; --accent: #56b4e9; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 40px 24px 56px; }
h1 { font-size: 30px; line-height: 1.2; letter-spacing: -0.01em; margin: 0 0 8px; }
h2 { font-size: 20px; line-height: 1.3; margin: 48px 0 4px; }
h3 { font-size: 16px; line-height: 1.3; margin: 24px 0 4px; }
p { margin: 8px 0; max-width: 76ch; overflow-wrap: anywhere; }
.soft { color: var(--soft); }
.soft { font-size: 14px; }
p.soft { max-width: 96ch; }
.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(136px, 1fr)); gap: 10px;
  margin: 24px 0; padding: 0; }
.numbers div { background: var(--panel); border-radius: 8px; padding: 12px 14px; }
.numbers dt { color: var(--soft); font-size: 13px; }
.numbers dd { margin: 2px 0 0; font-size: 22px; font-variant-numeric: tabular-nums; }
.verdict { border-left: 3px solid var(--accent); padding-left: 18px; font-size: 17px; }
.pair { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 500px), 1fr));
  gap: 0 28px; }
.pair > *, .plot { min-width: 0; }
.plot g:not(.hovertext):not(.heatmap-label) > text { fill: var(--soft) !important; }
.scroll { overflow-x: auto; margin: 14px 0; border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-size: 14px;
  font-variant-numeric: tabular-nums; }
th, td { padding: 8px 12px; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom: 0; }
th.text, td.text { text-align: left; }
thead th { background: var(--panel); vertical-align: bottom; font-weight: 600;
  min-width: 76px; white-space: normal; line-height: 1.25; }
th.name { position: sticky; left: 0; z-index: 1; background: var(--page); text-align: left;
  font-weight: 600; }
thead th.name { background: var(--panel); }
tr.baseline > * { color: var(--soft); font-weight: 400; }
tr.trained + tr.baseline > * { border-top: 1px solid var(--soft); }
th button { all: unset; cursor: pointer; }
th button:focus-visible { outline: 2px solid var(--accent); outline-offset: 3px; }
th[aria-sort=ascending] button::after { content: " \\2191"; color: var(--accent); }
th[aria-sort=descending] button::after { content: " \\2193"; color: var(--accent); }
details { margin: 14px 0; }
summary { cursor: pointer; }
code { font: 13px ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
footer { margin-top: 48px; padding-top: 8px; border-top: 1px solid var(--line); }
@media (max-width: 600px) { main { padding: 24px 14px 40px; } h1 { font-size: 25px; }
  .numbers { grid-template-columns: repeat(2, 1fr); } .verdict { font-size: 16px; }
  th, td { padding: 7px 9px; } th.name { min-width: 112px; max-width: 42vw; white-space: normal;
  overflow-wrap: break-word; } }
"""

SCRIPT = """
for (const head of document.querySelectorAll("th[data-first]")) {
  head.querySelector("button").addEventListener("click", () => {
    const table = head.closest("table"), body = table.tBodies[0], column = head.cellIndex;
    const now = head.ariaSort, other = { ascending: "descending", descending: "ascending" };
    const order = other[now] || head.dataset.first, sign = order === "ascending" ? 1 : -1;
    for (const th of head.parentElement.cells) th.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
    const key = row => row.cells[column].dataset.value ?? "";
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      return sign * (isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y);
    };
    body.append(...[...body.rows].sort(compare));
  });
}
"""


def page(title: str, body: str) -> str:
    """The complete document around `body`, which is HTML; `title` is escaped."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
<script>{get_plotlyjs()}</script>
</head>
<body>
<main>
{body}
</main>
<script>{SCRIPT}</script>
</body>
</html>
"""


def plot(figure: go.Figure, name: str) -> str:
    """The figure as an HTML element called `name`, which needs the script of `page`."""
    element = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=name,
        config={"responsive": True, "displayModeBar": False},
    )
    return f'<div class="plot">{element}</div>'


def section(heading: str, *parts: str) -> str:
    """A section of the page; `heading` is escaped, the parts are HTML."""
    return f"<section><h2>{escape(heading)}</h2>{''.join(parts)}</section>"


def note(text: str) -> str:
    """A small paragraph; `text` is escaped."""
    return f'<p class="soft">{escape(text)}</p>'
