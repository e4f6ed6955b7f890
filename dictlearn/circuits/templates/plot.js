"use strict";
// Where nodes are, and what nodes and edges look like. All text is inserted as text.
const { tokens, layers, nodes, links, groups, pinned } = JSON.parse(document.getElementById("data").textContent);
const PITCH = 24, GAP = 14, LABELS = 72, SPACE = 44;  // a node answers to a finger within its pitch
const KINDS = {
  target: "target", feature: "feature", error: "error of a dictionary", token: "token",
  position: "position", remainder: "rest of an MLP without a dictionary",
};

const LARGEST = Math.max(1e-30, ...nodes.filter((node) => node.kind !== "target")
  .map((node) => node.influence));

const pen = document.createElement("canvas").getContext("2d");
const RIGHT = "[\\p{Script=Hebrew}\\p{Script=Arabic}\\p{Script=Syriac}\\p{Script=Thaana}\\p{Script=Nko}]+";
const FROM_RIGHT = new RegExp(`${RIGHT}(?:\\s+${RIGHT})*`, "gu");

// Text with its parts that are read from right to left isolated, so that these move nothing else.
function isolated(text) {
  return text.replace(FROM_RIGHT, "\u2068$&\u2069");
}

function wide(text, weight = 400) {
  pen.font = `${weight} 12px ${getComputedStyle(document.body).fontFamily}`;
  return pen.measureText(text).width;
}

function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null) made.setAttribute(name, value);
  }
  made.append(...children.map((child) => typeof child === "string" ? isolated(child) : child));
  return made;
}

function draw(tag, attributes = {}, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = isolated(text);
  return made;
}

function shortened(text, most) {
  const signs = [...text];
  return signs.length > most ? signs.slice(0, most - 1).join("") + "…" : text;
}

function number(value) {
  return value === null ? "–" : (value > 0 ? "+" : "") + Number(value.toPrecision(3));
}

function percent(value) {
  return `${(100 * value).toPrecision(value < 0.1 ? 2 : 3)} %`;
}

// The outline of a node of a kind, around the origin.
function outline(kind, r) {
  if (kind === "token") return `M${-r} ${-r}H${r}V${r}H${-r}Z`;
  if (kind === "position") return `M0 ${-r}L${r} ${r}H${-r}Z`;
  if (kind === "error" || kind === "remainder") {
    const s = 1.2 * r;
    return `M0 ${-s}L${s} 0L0 ${s}L${-s} 0Z`;
  }
  const s = kind === "target" ? 1.15 * r : r;
  return `M${-s} 0A${s} ${s} 0 1 1 ${s} 0A${s} ${s} 0 1 1 ${-s} 0Z`;
}

function radius(node) {
  return node.kind === "target" ? 7 : 2.8 + 4.6 * Math.sqrt(Math.min(node.influence / LARGEST, 1));
}

// Nodes of one token and one layer stand in a block of lines; a column is as wide as its widest
// block or its token, and columns share what is left of `width`.
function layout(width) {
  const cells = new Map();
  for (const node of [...nodes].sort((a, b) => b.influence - a.influence)) {
    const key = `${node.row},${node.at}`;
    cells.set(key, [...(cells.get(key) ?? []), node]);
  }
  const rows = layers + 2, across = tokens.map(() => 1), down = Array(rows).fill(1);
  for (const [key, own] of cells) {
    const at = Number(key.split(",")[1]);
    across[at] = Math.max(across[at], Math.ceil(Math.sqrt(own.length)));
  }
  for (const [key, own] of cells) {
    const [row, at] = key.split(",").map(Number);
    down[row] = Math.max(down[row], Math.ceil(own.length / across[at]));
  }
  const least = tokens.map((token, at) =>
    Math.max(PITCH * across[at], wide(shortened(token, 10))) + GAP);
  const sum = least.reduce((a, b) => a + b, 0);
  const more = Math.max(0, width - LABELS - sum - 8) / tokens.length;
  const columns = [];
  let x = LABELS;
  for (const own of least) { columns.push(x + (own + more) / 2); x += own + more; }
  const height = down.reduce((a, b) => a + PITCH * b + SPACE, 0) + 42;
  const lines = [];
  let y = height - 46;
  for (let row = 0; row < rows; row++) {
    lines.push(y - PITCH * (down[row] - 1) / 2);
    y -= PITCH * down[row] + SPACE;
  }
  for (const [key, own] of cells) {
    const [row, at] = key.split(",").map(Number);
    const n = Math.min(across[at], own.length), of = Math.ceil(own.length / n);
    own.forEach((node, i) => {
      const line = Math.floor(i / n), inLine = Math.min(n, own.length - n * line);
      node.x = columns[at] + PITCH * (i % n - (inLine - 1) / 2);
      node.y = lines[row] + PITCH * ((of - 1) / 2 - line);
    });
  }
  return { width: x + 8, height, columns, lines };
}

function curve(from, to) {
  const rise = from.y - to.y;
  const bend = rise > PITCH ? rise / 2 : 30 + Math.abs(rise);
  const end = to.y + Math.min(bend, rise / 2);
  return `M${from.x} ${from.y}C${from.x} ${from.y - bend} ${to.x} ${end} ${to.x} ${to.y}`;
}

// The lines between layers, and the labels of layers and tokens, which stay in sight where the plot
// scrolls.
function axes(at, box) {
  const rules = draw("g", { "aria-hidden": "true" }), names = draw("g", { class: "layers", "aria-hidden": "true" });
  const words = draw("g", { "aria-hidden": "true", class: "words" });
  words.append(draw("rect", { y: at.height - 28, width: at.width, height: 28 }));
  box.onscroll = () => {
    names.setAttribute("transform", `translate(${box.scrollLeft} 0)`);
    const hidden = Math.max(0, at.height - box.scrollTop - box.clientHeight);
    words.setAttribute("transform", `translate(0 ${-hidden})`);
  };
  const ends = [...at.lines.slice(1).map((y, row) => (at.lines[row] + y) / 2), 4];
  at.lines.forEach((_, row) => {
    const name = row === 0 ? "embedding" : row > layers ? "target" : `layer ${row - 1}`;
    const end = { y1: ends[row], y2: ends[row] };
    if (row <= layers) rules.append(draw("line", { x1: 0, x2: at.width, ...end, class: "rule" }));
    names.append(draw("text", { x: 8, y: ends[row] + 16 }, name));
  });
  at.columns.forEach((x, i) => {
    const label = draw("text", { x, y: at.height - 10, "text-anchor": "middle" },
      shortened(tokens[i], 10));
    label.append(draw("title", {}, `${tokens[i]} (position ${i})`));
    words.append(label);
  });
  return [rules, names, words];
}

function words(node) {
  const p = node.probability ?? null;
  return `${node.name}: ${KINDS[node.kind]}, ` +
    (node.value === null ? "" : `value ${number(node.value)}, `) +
    (p === null ? "" : `probability ${p.toPrecision(3)}, `) +
    `influence ${percent(node.influence)}`;
}

function dot(node) {
  const made = draw("g", {
    class: `node ${node.kind}`, role: "button", tabindex: "-1",
    transform: `translate(${node.x} ${node.y})`, "aria-label": words(node),
  });
  const r = radius(node);
  made.append(draw("title", {}, words(node)), draw("circle", { r: r + 4, class: "halo" }),
    draw("circle", { r: PITCH / 2, fill: "transparent" }),
    draw("path", { d: outline(node.kind, r), class: "shape" }));
  return made;
}

// The nearest node in a direction, of those shown; sideways distance counts twice.
function neighbor(node, key) {
  const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key];
  const cost = (other) => {
    const x = other.x - node.x, y = other.y - node.y, ahead = x * dx + y * dy;
    return ahead > 1 ? ahead + 2 * Math.abs(x * dy + y * dx) : Infinity;
  };
  const found = nodes.filter((other) => other.shown && cost(other) < Infinity);
  return found.sort((a, b) => cost(a) - cost(b))[0];
}
