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
for (const source of document.querySelectorAll(".plot > script")) {
  const { data, layout } = JSON.parse(source.textContent);
  const config = { responsive: true, displayModeBar: false };
  Plotly.newPlot(source.previousElementSibling, data, layout, config);
}
