"use strict";
// Tables from JSON (sort, filter, show more), values under the pointer or the arrow keys, zoom, choice of algorithms,
// scoreboard, claims. No network, no library.
const data = JSON.parse(document.getElementById("data").textContent);
for (const sheet of Object.values(data.sheets)) for (const [c, words] of Object.entries(sheet.words)) for (const row of sheet.rows) row[c] = words[row[c]];
const PAGE = 100;
const LONG = 40; // characters; longer cells are broken into lines
const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?(%| ±.*)?$/;
const tables = {};
const absent = new Set(); // algorithms that the reader has switched off

function element(tag, attributes = {}, text = "") {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return made;
}

function breakLong(td, text) { if (text.length > LONG) td.className = "long"; }

function sortValue(text) { return parseFloat(text.replace("[", "")); }

class Table {
  constructor(place, sheet) {
    this.sheet = sheet;
    this.words = [];
    this.exact = null;
    this.sorted = null;
    this.shown = PAGE;
    this.numeric = sheet.columns.map((_, c) => {
      const texts = sheet.rows.map(row => row[c]).filter(text => text !== "");
      return texts.length > 0 && texts.every(text => NUMBER.test(text) || text.startsWith("["));
    });
    const tools = place.appendChild(element("div", { class: "tools" }));
    this.input = tools.appendChild(element("input", { type: "search", placeholder: "Filter rows, e.g. LCMD force", "aria-label": `Filter ${sheet.title}` }));
    this.input.addEventListener("input", () => { this.exact = null; this.filter(this.input.value); });
    this.count = tools.appendChild(element("span", { class: "count", "aria-live": "polite" }));
    const table = place.appendChild(element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": sheet.title })).appendChild(element("table", { class: sheet.columns.length > 11 ? "wide" : "" }));
    const head = table.appendChild(element("thead")).appendChild(element("tr"));
    this.heads = sheet.columns.map((name, c) => {
      const th = head.appendChild(element("th", { scope: "col", class: this.numeric[c] ? "number" : "" }));
      th.appendChild(element("button", { type: "button" }, name)).addEventListener("click", () => this.sort(c));
      return th;
    });
    this.body = table.appendChild(element("tbody"));
    this.more = place.appendChild(element("button", { type: "button" }, "Show more rows"));
    this.more.addEventListener("click", () => { this.shown += 10 * PAGE; this.render(); });
    this.render();
  }

  filter(text) {
    this.words = text.toLowerCase().split(/\s+/).filter(Boolean);
    this.shown = PAGE;
    this.render();
  }

  only(wanted, words) {
    this.exact = wanted;
    this.input.value = words;
    this.words = [];
    this.shown = PAGE;
    this.render();
  }

  sort(column) {
    const down = this.sorted && this.sorted.column === column && !this.sorted.down;
    this.sorted = { column, down };
    this.heads.forEach((th, c) => {
      if (c === column) th.setAttribute("aria-sort", down ? "descending" : "ascending");
      else th.removeAttribute("aria-sort");
    });
    this.render();
  }

  rows() {
    let rows = this.sheet.rows;
    if (this.exact) rows = rows.filter(row => Object.entries(this.exact).every(([key, value]) => row[this.sheet.keys[key]] === value));
    if (this.words.length) rows = rows.filter(row => { const line = row.join(" ").toLowerCase(); return this.words.every(word => line.includes(word)); });
    const named = this.sheet.keys.algorithm;
    if (absent.size && named !== undefined) rows = rows.filter(row => !absent.has(row[named]));
    if (!this.sorted) return rows;
    const { column, down } = this.sorted;
    const sign = down ? -1 : 1;
    return [...rows].sort((a, b) => {
      const [x, y] = [a[column], b[column]];
      if (x === "" || y === "") return x === y ? 0 : x === "" ? 1 : -1;
      return sign * (this.numeric[column] ? sortValue(x) - sortValue(y) : x.localeCompare(y, "en"));
    });
  }

  render() {
    const rows = this.rows();
    this.body.replaceChildren(...rows.slice(0, this.shown).map(row => this.row(row)));
    this.count.textContent = `${rows.length} of ${this.sheet.rows.length} rows` + (rows.length > this.shown ? `, ${this.shown} shown` : "");
    this.more.hidden = rows.length <= this.shown;
  }

  row(row) {
    const tr = element("tr");
    row.forEach((text, c) => {
      const name = this.sheet.columns[c];
      const td = tr.appendChild(element("td"));
      if (this.numeric[c]) td.className = "number";
      breakLong(td, text);
      if (["Verdict", "In every part", "On average", "At 1 %", "At 5 %", "State"].includes(name)) td.className = `word ${text.replaceAll(" ", "-")}`;
      if (this.sheet.link === name && text !== "0") {
        const button = td.appendChild(element("button", { type: "button", class: "link", title: "The runs behind this row" }, text));
        button.addEventListener("click", () => this.show(row));
      } else if (name === "Evidence") {
        const lines = td.appendChild(element("div", { class: "lines" }));
        for (const part of text.split("; ")) lines.appendChild(element("div", {}, part));
      } else td.textContent = text;
    });
    return tr;
  }

  show(row) {
    const wanted = {};
    for (const [key, column] of Object.entries(this.sheet.keys)) if (data.sheets.runs.keys[key] !== undefined) wanted[key] = row[column];
    tables.runs.only(wanted, Object.values(wanted).join(" "));
    const place = document.getElementById("runs");
    if (place.closest("details")) place.closest("details").open = true;
    place.scrollIntoView();
  }
}

for (const td of document.querySelectorAll("td")) breakLong(td, td.textContent);
for (const place of document.querySelectorAll("[data-sheet]")) {
  const start = () => { if (!tables[place.dataset.sheet]) tables[place.dataset.sheet] = new Table(place, data.sheets[place.dataset.sheet]); };
  const fold = place.closest("details");
  if (fold && !fold.open && place.dataset.sheet !== "runs") fold.addEventListener("toggle", start, { once: true });
  else start();
}

const tip = document.getElementById("tip");

function shownValues(name) {
  return (data.values[name] || []).filter(value => ![...absent].some(method => value[2].startsWith(`${method},`)));
}

function mark(svg, value, left, top) {
  let ring = svg.querySelector(".ring");
  if (!value) { tip.style.display = "none"; if (ring) ring.remove(); return; }
  if (!ring) {
    ring = svg.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "circle"));
    ring.setAttribute("class", "ring");
    ring.setAttribute("r", "4.5");
  }
  ring.setAttribute("cx", value[0]);
  ring.setAttribute("cy", value[1]);
  tip.textContent = value[2];
  tip.style.display = "block";
  tip.style.left = `${Math.max(4, Math.min(left + 12, innerWidth - tip.offsetWidth - 4))}px`;
  tip.style.top = `${Math.max(4, Math.min(top + 14, innerHeight - tip.offsetHeight - 4))}px`;
}

function point(svg, name, event) {
  const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  let best = null, least = 12 * 12;
  for (const value of shownValues(name)) {
    const distance = (value[0] - at.x) ** 2 + (value[1] - at.y) ** 2;
    if (distance < least) { least = distance; best = value; }
  }
  mark(svg, best, event.clientX, event.clientY);
}

function step(svg, name, event) {
  const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (event.key === "Escape") mark(svg, null);
  if (!by || svg.closest("dialog")) return;
  event.preventDefault();
  const values = shownValues(name);
  if (!values.length) return;
  const last = values.findIndex(value => value[2] === svg.dataset.at);
  const value = values[(last + by + values.length) % values.length];
  svg.dataset.at = value[2];
  const place = new DOMPoint(value[0], value[1]).matrixTransform(svg.getScreenCTM());
  mark(svg, value, place.x, place.y);
}

function hover(svg, name) {
  svg.addEventListener("pointermove", event => point(svg, name, event));
  svg.addEventListener("pointerdown", event => point(svg, name, event));
  svg.addEventListener("pointerleave", () => mark(svg, null));
  svg.addEventListener("blur", () => mark(svg, null));
  svg.addEventListener("keydown", event => step(svg, name, event));
}

function listValues(figure, button) {
  const open = button.getAttribute("aria-expanded") === "true";
  button.setAttribute("aria-expanded", String(!open));
  const old = figure.querySelector(".values");
  if (old) { old.remove(); return; }
  const list = figure.appendChild(element("ul", { class: "values", tabindex: "0", "aria-label": "Values of the figure" }));
  for (const value of shownValues(figure.dataset.figure)) list.appendChild(element("li", {}, value[2]));
}

const dialog = document.querySelector("dialog");
const zoomed = {};

function zoom(figure) {
  const svg = figure.querySelector("svg.figure").cloneNode(true);
  dialog.querySelector(".frame").replaceChildren(svg);
  dialog.querySelector("h3").textContent = figure.querySelector("h3").textContent;
  const whole = svg.getAttribute("viewBox").split(" ").map(Number);
  let [x, y, w, h] = whole;
  const view = () => svg.setAttribute("viewBox", `${x} ${y} ${w} ${h}`);
  const inner = event => new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  const zoomBy = (wanted, at) => {
    const factor = Math.min(whole[2] / w, Math.max(0.02 * whole[2] / w, wanted));
    x = at.x - (at.x - x) * factor;
    y = at.y - (at.y - y) * factor;
    w *= factor;
    h *= factor;
    if (w >= whole[2]) [x, y, w, h] = whole;
    view();
  };
  const middle = () => ({ x: x + w / 2, y: y + h / 2 });
  svg.addEventListener("wheel", event => { event.preventDefault(); zoomBy(Math.exp(event.deltaY * 0.0015), inner(event)); }, { passive: false });
  zoomed.in = () => zoomBy(0.7, middle());
  zoomed.out = () => zoomBy(1 / 0.7, middle());
  zoomed.all = () => { [x, y, w, h] = whole; view(); };
  zoomed.move = (right, down) => { x += right * w / 8; y += down * h / 8; view(); };
  let held = null;
  svg.addEventListener("pointerdown", event => { held = inner(event); svg.setPointerCapture(event.pointerId); });
  svg.addEventListener("pointermove", event => { if (held) { const at = inner(event); x -= at.x - held.x; y -= at.y - held.y; view(); } });
  svg.addEventListener("pointerup", () => { held = null; });
  svg.addEventListener("dblclick", () => { [x, y, w, h] = whole; view(); });
  hover(svg, figure.dataset.figure);
  dialog.showModal();
  dialog.appendChild(tip);
}

dialog.addEventListener("close", () => document.body.appendChild(tip));
zoomed.close = () => dialog.close();
for (const button of dialog.querySelectorAll("[data-zoom]")) button.addEventListener("click", () => zoomed[button.dataset.zoom]());
dialog.addEventListener("keydown", event => {
  const moves = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
  const zooms = { "+": "in", "=": "in", "-": "out", "0": "all" };
  if (moves[event.key]) zoomed.move(...moves[event.key]);
  else if (zooms[event.key]) zoomed[zooms[event.key]]();
  else return;
  event.preventDefault();
});
for (const figure of document.querySelectorAll("figure[data-figure]")) {
  hover(figure.querySelector("svg.figure"), figure.dataset.figure);
  figure.querySelector("[data-do=enlarge]").addEventListener("click", () => zoom(figure));
  const values = figure.querySelector("[data-do=values]");
  values.addEventListener("click", () => listValues(figure, values));
}

function choose() {
  for (const part of document.querySelectorAll("[data-method]")) part.style.display = absent.has(part.dataset.method) ? "none" : "";
  for (const table of Object.values(tables)) table.render();
  for (const list of document.querySelectorAll(".values")) { const f = list.closest("figure"), b = f.querySelector("[data-do=values]"); listValues(f, b); listValues(f, b); }
}
const boxes = [...document.querySelectorAll("[data-toggle]")];
for (const box of boxes) box.addEventListener("change", () => { absent[box.checked ? "delete" : "add"](box.dataset.toggle); choose(); });
for (const button of document.querySelectorAll("[data-all]")) button.addEventListener("click", () => {
  for (const box of boxes) { box.checked = Boolean(button.dataset.all); absent[box.checked ? "delete" : "add"](box.dataset.toggle); }
  choose();
});

function showMeasure(measure) {
  for (const board of document.querySelectorAll("[data-board]")) board.hidden = board.dataset.board !== measure;
  for (const button of document.querySelectorAll("[data-measure]")) button.setAttribute("aria-pressed", String(button.dataset.measure === measure));
}
for (const button of document.querySelectorAll("[data-measure]")) button.addEventListener("click", () => showMeasure(button.dataset.measure));
if (document.querySelector("[data-board]")) showMeasure("RMSE");

const filter = document.getElementById("claims-filter");
function filterClaims() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  const claims = [...document.querySelectorAll(".claim")];
  for (const claim of claims) { const text = claim.textContent.toLowerCase(); claim.hidden = !words.every(word => text.includes(word)); }
  for (const group of document.querySelectorAll(".group")) {
    group.hidden = !group.querySelector(".claim:not([hidden])");
    if (words.length && !group.hidden) group.open = true;
  }
  document.getElementById("claims-count").textContent = `${claims.filter(claim => !claim.hidden).length} of ${claims.length} claims`;
}
if (filter) { filter.addEventListener("input", filterClaims); filterClaims(); }

document.getElementById("theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).getPropertyValue("--paper").trim() !== "#ffffff";
  document.documentElement.dataset.theme = dark ? "light" : "dark";
});

let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")].filter(fold => !fold.querySelector("[data-sheet]"));
  for (const fold of folded) fold.open = true;
  for (const board of document.querySelectorAll("[data-board]")) board.hidden = false;
});
addEventListener("afterprint", () => { for (const fold of folded) fold.open = false; showMeasure("RMSE"); });
