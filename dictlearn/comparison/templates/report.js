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
// On a narrow screen a legend is below its figure, which is higher by the height of the legend.
const narrow = window.matchMedia("(max-width: 600px)");
const AXIS_TITLE = 56;
const legendBelow = plot => {
  const { height, margin } = plot._fullLayout;
  const y = -AXIS_TITLE / (height - margin.t - margin.b);
  const below = { "legend.y": y, "legend.yanchor": "top", "legend.maxheight": 4000 };
  return Plotly.relayout(plot, below).then(() => {
    const taken = plot._fullLayout.legend._height + AXIS_TITLE - margin.b;
    plot.style.height = `${height + taken}px`;
    return Plotly.relayout(plot, { height: height + taken, "margin.b": margin.b + taken });
  });
};
for (const source of document.querySelectorAll(".plot > script")) {
  const { data, layout } = JSON.parse(source.textContent);
  const config = { responsive: true, displayModeBar: false }, plot = source.previousElementSibling;
  Plotly.newPlot(plot, data, layout, config);
  if (narrow.matches && plot._fullLayout.showlegend) legendBelow(plot);
}
// Figures side by side share the legend of the first, and their upper edges are level.
for (const pair of document.querySelectorAll(".legend-of-first")) {
  const [first, ...others] = pair.querySelectorAll(".js-plotly-plot");
  const key = trace => `${trace.mode} ${trace.name}`;
  const follow = () => {
    const visible = Object.fromEntries(first.data.map(trace => [key(trace), trace.visible ?? true]));
    const top = first._fullLayout._size.t;
    for (const plot of others) {
      const shown = plot.data.map(trace => visible[key(trace)] ?? trace.visible ?? true);
      if (plot.data.some((trace, i) => (trace.visible ?? true) !== shown[i])) {
        Plotly.restyle(plot, { visible: shown });
      }
      if (plot._fullLayout.margin.t !== top) Plotly.relayout(plot, { "margin.t": top });
    }
  };
  first.on("plotly_afterplot", follow);
  follow();
}
// A link to a card opens the list that holds it.
const unfold = () => {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let box = target?.closest("details"); box; box = box.parentElement.closest("details")) {
    box.open = true;
  }
  if (target?.closest("details")) target.scrollIntoView();
};
window.addEventListener("hashchange", unfold);
unfold();
