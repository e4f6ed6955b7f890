// What is selected, pinned, grouped and searched, and the panels that tell of it.
const MOST_EDGES = 300, MOST_LISTED = 10;
const COLORS = ["#009e73", "#cc79a7", "#7a5cc4", "#d55e00", "#8a6d00", "#0072b2"];
const get = (id) => document.getElementById(id);
const state = { chosen: null, at: null, pinned: [], groups: [], query: "" };
state.groups = groups.map(([name, members], i) => ({ name, color: COLORS[i % COLORS.length],
  members: new Set(members.map((at) => nodes[at])) }));
state.pinned = [...new Set([...groups.flatMap(([, members]) => members), ...pinned])]
  .map((at) => nodes[at]);
const edges = draw("g", { "aria-hidden": "true" }), tags = draw("g", { "aria-hidden": "true" });
let svg = null;

nodes.forEach((node, i) => { node.index = i; node.into = []; node.out = []; });
const all = links.map(([source, target, weight, part, influence]) =>
  ({ source: nodes[source], target: nodes[target], weight, part, influence }));
for (const link of all) { link.target.into.push(link); link.source.out.push(link); }
const ranked = nodes.filter((node) => node.kind !== "target" && node.kind !== "token")
  .sort((a, b) => b.influence - a.influence);

function build() {
  const at = layout(get("plot").clientWidth - 2);
  svg = draw("svg", {
    width: at.width, height: at.height, role: "group",
    "aria-label": `Graph of ${nodes.length} nodes and ${links.length} edges. Arrow keys move ` +
      "between nodes, Enter selects, P pins.",
  });
  const [rules, names, words] = axes(at, get("plot"));
  svg.append(rules, edges, names);
  for (const node of nodes) {
    node.dot = dot(node);
    node.dot.addEventListener("click", () => choose(node));
    node.dot.addEventListener("keydown", (event) => pressed(event, node));
    svg.append(node.dot);
  }
  svg.append(words, tags);
  svg.addEventListener("click", (event) => { if (event.target === svg) choose(null); });
  get("plot").replaceChildren(svg);
  get("plot").scrollLeft = at.width;
  get("plot").onscroll();
  show();
}

function pressed(event, node) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Enter" || event.key === " ") choose(node);
  else if (event.key === "p" || event.key === "P") pin(node);
  else if (event.key === "Escape") choose(null);
  else if (event.key.startsWith("Arrow")) focus(neighbor(node, event.key));
  else return;
  event.preventDefault();
}

// The Tab key reaches one node, and arrow keys the others from there.
function reach(node) {
  state.at = node;
  for (const other of nodes) other.dot.setAttribute("tabindex", other === node ? "0" : "-1");
}

function focus(node) {
  if (!node) return;
  reach(node);
  node.dot.focus();
}

function choose(node) {
  state.chosen = node;
  const box = get("plot"), left = node ? node.x - box.scrollLeft : box.clientWidth / 2;
  if (left < LABELS || left > box.clientWidth - 20) box.scrollLeft += left - box.clientWidth / 2;
  show();
  card();
}

function visit(node) {
  choose(node);
  focus(node);
}

// Fill a panel anew; the keyboard's focus stays in it.
function filled(panel, fill) {
  const had = panel.contains(document.activeElement);
  fill();
  if (had) (panel.querySelector("button") ?? panel).focus();
}

function pin(node) {
  const at = state.pinned.indexOf(node);
  if (at < 0) state.pinned.push(node);
  else {
    state.pinned.splice(at, 1);
    for (const group of state.groups) group.members.delete(node);
    state.groups = state.groups.filter((group) => group.members.size);
  }
  show();
  filled(get("node"), card);
  filled(get("pins"), pins);
}

const groupOf = (node) => state.groups.find((group) => group.members.has(node));
const nameOf = (node) => groupOf(node)?.name ?? node.name;
const matches = (node) => state.query && node.name.toLowerCase().includes(state.query);

// Nodes by influence up to the share on the slider; tokens, targets and pinned nodes always.
function filter() {
  const share = Number(get("filter").value) / 100;
  const most = ranked.reduce((sum, node) => sum + node.influence, 0);
  let before = 0;
  for (const node of nodes) node.shown = true;
  for (const node of ranked) {
    node.shown = before <= share * most - 1e-9 || state.pinned.includes(node) || node === state.chosen;
    before += node.influence;
  }
}

function show() {
  filter();
  const chosen = state.chosen, near = new Set(chosen ? [chosen] : []);
  for (const link of chosen ? [...chosen.into, ...chosen.out] : []) {
    near.add(link.source).add(link.target);
  }
  const shown = all.filter((link) => link.source.shown && link.target.shown);
  const own = shown.filter((link) => link.source === chosen || link.target === chosen);
  const drawn = chosen ? own : shown.slice(0, MOST_EDGES);
  const most = drawn.length ? Math.max(...drawn.map((link) => link.influence)) : 1;
  edges.replaceChildren(...[...drawn].reverse().map((link) => draw("path", {
    d: curve(link.source, link.target), class: `edge ${link.weight < 0 ? "down" : "up"}`,
    "stroke-width": (0.6 + 7 * link.part).toFixed(2),
    "stroke-opacity": (chosen ? 0.5 + 0.5 * link.part
      : 0.08 + 0.72 * Math.sqrt(link.influence / most)).toFixed(3),
  })));
  for (const node of nodes) {
    const marks = { chosen: node === chosen, pinned: state.pinned.includes(node),
      found: matches(node), aside: chosen && !near.has(node) && !state.pinned.includes(node) };
    for (const [name, on] of Object.entries(marks)) node.dot.classList.toggle(name, Boolean(on));
    node.dot.style.display = node.shown ? "" : "none";
    node.dot.style.setProperty("--group", groupOf(node)?.color ?? "");
    node.dot.setAttribute("aria-pressed", String(node === chosen));
  }
  reach([chosen, state.at, ...nodes].find((node) => node?.shown));
  labels();
  const n = nodes.filter((node) => node.shown).length;
  get("status").textContent = `${n} of ${nodes.length} nodes, ` + (chosen
    ? `all ${drawn.length} edges of the selected one`
    : drawn.length < shown.length ? `the ${drawn.length} strongest of ${shown.length} edges; ` +
      "select a node to see all of its edges" : `${drawn.length} edges`);
}

// The names of targets, of pinned nodes and of the selected one, as far as they do not overlap.
function labels() {
  tags.replaceChildren();
  const named = [...new Set([state.chosen, ...state.pinned, ...nodes])].filter((node) => node &&
    (node === state.chosen || state.pinned.includes(node) || node.kind === "target"));
  const taken = [];
  for (const node of named) {
    const text = shortened(nameOf(node), 28), width = wide(text, 600);
    const left = Math.min(Math.max(node.x - width / 2, 4), svg.width.baseVal.value - width - 4);
    const free = [node.y - 18, node.y + 27, node.y - 34].find((y) => taken.every(
      (other) => Math.abs(y - other.y) > 14 || left > other.right || left + width < other.left));
    const told = taken.some((other) => other.text === text &&  // a group's name, beside it
      Math.hypot(node.x - other.x, node.y - other.at) < 90);
    if (free === undefined || told) continue;
    taken.push({ y: free, left, right: left + width, text, x: node.x, at: node.y });
    tags.append(
      draw("rect", { x: left - 2, y: free - 12, width: width + 4, height: 16, rx: 3, class: "tag" }),
      draw("text", { x: left + width / 2, y: free, "text-anchor": "middle", class: "tag" }, text));
  }
}

// The strongest edges of a node by their part of all edges into their targets.
function ends(heading, found, end) {
  const listed = found.filter((link) => link[end].shown).sort((a, b) => b.part - a.part);
  const most = Math.max(...listed.map((link) => link.part), 1e-30);
  const items = listed.slice(0, MOST_LISTED).map((link) => make("li", {}, make("button", {
    type: "button", class: link.weight < 0 ? "down" : "up",
    style: `--a: ${(link.part / most).toFixed(3)}`, onclick: () => visit(link[end]),
  }, make("span", {}, link[end].name), make("span", { class: "number" }, number(link.weight)))));
  const more = listed.length - items.length;
  return [make("h3", {}, `${heading} (${listed.length})`),
    listed.length ? make("ul", { class: "ends" }, ...items) : make("p", { class: "soft" }, "none"),
    ...(more > 0 ? [make("p", { class: "soft" }, `and ${more} weaker ones`)] : [])];
}

function card() {
  const node = state.chosen;
  if (!node) {
    get("node").replaceChildren(make("p", { class: "soft" },
      "Select a node to see its value, its influence and its edges."));
    return;
  }
  const facts = [["kind", KINDS[node.kind]], ["token", `${tokens[node.at]} (position ${node.at})`],
    ["value", node.value === null ? null : number(node.value)],
    ["probability", node.probability === undefined || node.probability === null ? null
      : node.probability.toPrecision(3)], ["influence", percent(node.influence)]];
  const pinned = state.pinned.includes(node);
  get("node").replaceChildren(make("h2", {}, node.name), make("dl", { class: "facts" },
    ...facts.filter(([, value]) => value !== null)
      .flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])),
    make("div", { class: "row" },
      make("button", { type: "button", onclick: () => pin(node) }, pinned ? "Unpin" : "Pin"),
      make("button", { type: "button", onclick: () => choose(null) }, "Close")),
    ...(node.kind === "token" || node.into.length === 0 ? [] : ends("Incoming", node.into, "source")),
    ...(node.kind === "target" ? [] : ends("Outgoing, by part of the target", node.out, "target")));
  if (node.card >= 0) {
    get("node").append(get("cards").children[node.card].firstElementChild.cloneNode(true));
  }
}

function pins() {
  const panel = get("pins"), checked = new Set();
  panel.replaceChildren(make("h2", {}, "Pinned"));
  if (!state.pinned.length) {
    panel.append(make("p", { class: "soft" }, "Pinned nodes stay in sight; several can be grouped."));
    return;
  }
  const check = (node) => (event) => event.target.checked ? checked.add(node) : checked.delete(node);
  panel.append(make("ul", {}, ...state.pinned.map((node) => make("li", { class: "pin" },
    make("input", { type: "checkbox", "aria-label": `Choose ${node.name}`, onchange: check(node) }),
    make("i", { style: `--group: ${groupOf(node)?.color ?? "transparent"}` }),
    make("button", { type: "button", onclick: () => visit(node) },
      groupOf(node) ? `${nameOf(node)}: ${node.name}` : node.name),
    make("button", { type: "button", "aria-label": `Unpin ${node.name}`, onclick: () => pin(node) },
      "×")))));
  const name = make("input", { type: "text", placeholder: "name of a group", "aria-label": "Group" });
  const group = () => {
    if (!checked.size) return;
    for (const other of state.groups) for (const node of checked) other.members.delete(node);
    const used = new Set(state.groups.map((other) => other.color));
    const color = COLORS.find((one) => !used.has(one)) ?? COLORS[state.groups.length % COLORS.length];
    state.groups = state.groups.filter((other) => other.members.size);
    const wanted = name.value.trim() || "group", same = (text) => state.groups.some((o) => o.name === text);
    let free = wanted;
    for (let n = 2; same(free); n++) free = `${wanted} ${n}`;
    state.groups.push({ name: free, color, members: new Set(checked) });
    show();
    filled(panel, pins);
  };
  panel.append(make("div", { class: "row" }, name,
    make("button", { type: "button", onclick: group }, "Group checked")), ...between(), ...saved());
}

// Groups and pinned nodes as `CircuitGraph.grouped_from` reads them; targets are no nodes there.
function saved() {
  const named = (found) => [...found].filter((node) => node.kind !== "target").map((node) => node.name);
  const own = state.groups.map((group) => [group.name, named(group.members)]);
  const text = make("textarea", { readonly: "", rows: 3, "aria-label": "Groups and pins as JSON" });
  text.value = JSON.stringify({
    supernodes: Object.fromEntries(own.filter(([, members]) => members.length)),
    pinned: named(state.pinned.filter((node) => !groupOf(node))),
  });
  const copy = (event) => {
    text.select();
    const done = document.execCommand("copy");
    event.target.textContent = done ? "Copied" : "Press Ctrl+C";
    if (done) event.target.focus();
  };
  const download = () => make("a", { download: "groups.json",
    href: `data:application/json,${encodeURIComponent(text.value)}` }).click();
  return [make("h3", {}, 'For Python: graph.grouped_from("groups.json")'), text,
    make("div", { class: "row" }, make("button", { type: "button", onclick: download }, "Download"),
      make("button", { type: "button", onclick: copy }, "Copy"))];
}

// The sums of the edges between pinned nodes and groups.
function between() {
  const unit = (node) => groupOf(node) ?? node, sums = new Map();
  for (const link of all) {
    if (!state.pinned.includes(link.source) || !state.pinned.includes(link.target)) continue;
    const from = unit(link.source), to = unit(link.target);
    if (from === to) continue;
    if (!sums.has(from)) sums.set(from, new Map());
    sums.get(from).set(to, (sums.get(from).get(to) ?? 0) + link.weight);
  }
  const rows = [...sums].flatMap(([from, found]) => [...found].map(([to, sum]) => make("li", {},
    `${from.name} → ${to.name} `, make("span", { class: sum < 0 ? "minus" : "plus" }, number(sum)))));
  return rows.length ? [make("h3", {}, "Edges between them"), make("ul", {}, ...rows)] : [];
}

function search() {
  state.query = get("search").value.trim().toLowerCase();
  const found = nodes.filter(matches).sort((a, b) => b.influence - a.influence);
  const some = found.slice(0, MOST_LISTED).map((node) =>
    make("button", { type: "button", onclick: () => visit(node) }, node.name));
  get("matches").hidden = !state.query;
  get("matches").replaceChildren(make("span", { class: "soft" }, `${found.length} found`), ...some);
  show();
  return found;
}

for (const kind of new Set(nodes.map((node) => node.kind))) {
  const sign = draw("svg", { width: 16, height: 16, viewBox: "-8 -8 16 16", "aria-hidden": "true" });
  const group = draw("g", { class: kind });
  group.append(draw("path", { d: outline(kind, 5), class: "shape" }));
  sign.append(group);
  get("legend").append(make("li", {}, sign, KINDS[kind]));
}
get("search").addEventListener("input", search);
get("search").addEventListener("keydown", (event) => {
  if (event.key === "Enter") choose(search()[0] ?? null);
});
get("filter").addEventListener("input", show);
let width = get("plot").clientWidth;
new ResizeObserver(() => requestAnimationFrame(() => {
  if (get("plot").clientWidth !== width) { width = get("plot").clientWidth; build(); }
  else get("plot").onscroll();
})).observe(get("plot"));
build();
card();
pins();
