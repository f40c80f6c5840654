// The table of runs. What it says (texts, tones, intervals, what a column is sorted by) is decided by
// workbench/views/overview.py; sorting, grouping, the choice of columns (kept in this browser), and opening a row happen
// here. The server is told what was chosen. Texts are set by textContent alone.

const STYLE = `
.runs { color: var(--ink); font-size: .9rem; font-variant-numeric: tabular-nums; }
.bar { display: flex; flex-wrap: wrap; gap: .4rem 1rem; align-items: center; min-height: 2rem; margin-bottom: .4rem; }
.bar .space { flex: 1; }
button, .link { font: inherit; color: var(--ink); background: none; border: 1px solid var(--line); border-radius: 6px;
  padding: .15rem .6rem; cursor: pointer; text-decoration: none; }
button:hover, .link:hover { border-color: var(--accent); }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
.menu { position: relative; }
.menu summary { cursor: pointer; padding: .15rem .3rem; }
.menu div { position: absolute; right: 0; z-index: 5; background: var(--ground); border: 1px solid var(--line);
  border-radius: 6px; padding: .5rem .8rem; white-space: nowrap; }
.menu label, .bar label { display: flex; gap: .4rem; align-items: center; }
.scroll { overflow: auto; max-height: var(--most); border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { position: sticky; top: 0; background: var(--ground); z-index: 2; font-weight: 600; white-space: nowrap; }
th button { border: 0; padding: 0; font-weight: 600; }
tr.run { cursor: pointer; }
tr.run:hover td, tr.open td { background: color-mix(in srgb, var(--accent) 7%, var(--ground)); }
td small, .muted { color: var(--muted); font-size: .8rem; }
td small { display: block; }
td.long { min-width: 8.5rem; max-width: 15rem; overflow-wrap: anywhere; }
.title { font-weight: 600; border: 0; padding: 0; text-align: left; overflow-wrap: anywhere; }
.tag { border: 1px solid var(--line); border-radius: 9px; padding: 0 .45rem; font-size: .8rem; margin-left: .4rem; }
.good, .better { color: color-mix(in srgb, var(--better) 68%, var(--ink)); }
.bad, .worse { color: color-mix(in srgb, var(--worse) 78%, var(--ink)); }
.info { color: color-mix(in srgb, var(--accent) 85%, var(--ink)); }
.open { color: inherit; }
.verdict { position: relative; white-space: nowrap; font-weight: 600; }
.why { text-decoration: underline dotted; text-underline-offset: .2em; }
.change { display: flex; gap: .6rem; align-items: center; white-space: nowrap; }
svg { flex: none; }
.group td { background: color-mix(in srgb, var(--muted) 9%, var(--ground)); font-weight: 600; }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: .6rem 0; }
.facts dt { color: var(--muted); } .facts dd { margin: 0; overflow-wrap: anywhere; white-space: pre-line; }
.links, form { display: flex; flex-wrap: wrap; gap: .4rem .6rem; align-items: end; margin: .2rem 0; }
form label { display: grid; color: var(--muted); font-size: .8rem; }
input[type=text], textarea { font: inherit; font-size: .9rem; color: var(--ink); background: var(--ground);
  border: 1px solid var(--line); border-radius: 6px; padding: .2rem .4rem; }
.empty { padding: 1rem; color: var(--muted); }
`;
const FIRST = ["verdict", "metric", "change", ...(innerWidth > 1000 ? ["minutes", "seeds"] : [])]; // until one chooses
const KEPT = "workbench runs table";
const PAGES = [["compare", "Compare with its card", "run"], ["loss", "Loss curves", "runs"],
  ["retrieval", "Retrieval", "run"], ["embeddings", "Embeddings", "run"], ["card", "Its card", "card"]];
const views = new WeakMap();
const drafts = (globalThis.workbenchDrafts ??= new Map()); // run -> notes not saved yet, which outlive a new drawing

export default function ({ data, parentElement, setTriggerValue }) {
  const view = views.get(parentElement) ?? new View(parentElement);
  views.set(parentElement, view);
  view.tell = (what) => setTriggerValue("did", what);
  view.update(JSON.parse(new TextDecoder().decode(data)));
}

function element(kind, name, parent, text = "") {
  const made = document.createElement(kind);
  if (name) made.className = name;
  made.textContent = text;
  parent.append(made);
  return made;
}

function button(parent, text, act, name = "") {
  const made = element("button", name, parent, text);
  made.type = "button";
  made.addEventListener("click", (event) => { event.stopPropagation(); act(); });
  return made;
}

function box(parent, label, checked, act) {
  const made = element("input", "", parent);
  made.type = "checkbox";
  made.checked = checked;
  made.setAttribute("aria-label", label);
  made.addEventListener("click", (event) => event.stopPropagation());
  made.addEventListener("change", () => act(made.checked));
  return made;
}

class View {
  constructor(parent) {
    element("style", "", parent, STYLE);
    this.root = element("div", "runs", parent);
    this.picked = new Set();
    this.closed = new Set(); // groups
    let kept = {};
    try { kept = JSON.parse(localStorage.getItem(KEPT)) ?? {}; } catch { /* not ours, or not allowed */ }
    this.kept = { columns: Array.isArray(kept.columns) ? kept.columns : FIRST,
      sort: typeof kept.sort === "string" ? kept.sort : "run", down: kept.down !== false, group: kept.group === true };
  }

  keep(changes) {
    Object.assign(this.kept, changes);
    try { localStorage.setItem(KEPT, JSON.stringify(this.kept)); } catch { /* not allowed here */ }
    this.draw();
  }

  update(told) {
    const first = this.told === undefined;
    this.told = told;
    this.reach = Math.max(...told.rows.flatMap((row) => row.interval ?? []).map(Math.abs), 1e-6);
    if (first || told.open !== this.asked) this.opened = this.asked = told.open;
    const names = new Set(told.rows.map((row) => row.name));
    this.picked.forEach((name) => names.has(name) || this.picked.delete(name));
    for (const [name, color] of Object.entries(told.colors)) this.root.style.setProperty(`--${name}`, color);
    this.root.style.setProperty("--most", told.most);
    if (!this.root.querySelector("form[data-changed]")) this.draw(); // what is being written stays
    if (first && this.opened) this.root.querySelector("tr.open")?.scrollIntoView({ block: "nearest" });
  }

  open(name) {
    this.opened = this.asked = this.opened === name ? null : name;
    this.draw();
    this.tell({ what: "open", run: this.opened });
  }

  ordered() {
    const { sort, down } = this.kept;
    const value = (row) => row.sort[sort];
    const missing = (at) => at === null || at === undefined || at === "";
    return [...this.told.rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (missing(x) || missing(y)) return missing(x) - missing(y);
      return (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1);
    });
  }

  columns() {
    return Object.keys(this.told.columns).filter((name) => this.kept.columns.includes(name));
  }

  draw() {
    const [down, across] = [this.scroller?.scrollTop ?? 0, this.scroller?.scrollLeft ?? 0];
    const focus = this.root.getRootNode().activeElement?.dataset?.focus;
    this.root.replaceChildren();
    this.bar();
    this.scroller = element("div", "scroll", this.root);
    this.scroller.tabIndex = 0;
    this.scroller.setAttribute("aria-label", "Runs");
    this.scroller.setAttribute("role", "region");
    const table = element("table", "", this.scroller);
    this.head(element("tr", "", element("thead", "", table)));
    const body = element("tbody", "", table);
    const rows = this.ordered();
    if (!rows.length) element("td", "empty", element("tr", "", body), "No run fits the filter.").colSpan = 99;
    if (this.kept.group) {
      const groups = new Map();
      for (const row of rows) groups.set(row.card, [...(groups.get(row.card) ?? []), row]);
      for (const [card, members] of groups) this.group(body, card, members);
    } else rows.forEach((row) => this.row(body, row));
    this.scroller.scrollTop = down;
    this.scroller.scrollLeft = across;
    if (focus) this.root.querySelector(`[data-focus="${CSS.escape(focus)}"]`)?.focus({ preventScroll: true });
  }

  bar() {
    const bar = element("div", "bar", this.root);
    const names = this.told.rows.map((row) => row.name).filter((name) => this.picked.has(name));
    if (names.length) {
      element("span", "", bar, `${names.length} selected`);
      button(bar, names.length > 1 ? "Compare" : "Compare with its card", () => this.go("compare", names));
      button(bar, "Loss curves", () => this.go("loss", names));
      this.manage(bar, names);
      button(bar, "Clear", () => { this.picked.clear(); this.draw(); });
    } else element("span", "muted", bar, this.told.count);
    element("span", "space", bar);
    const label = element("label", "", bar);
    box(label, "Group by card", this.kept.group, (group) => this.keep({ group })).dataset.focus = "group";
    label.append("Group by card");
    const menu = element("details", "menu", bar);
    menu.open = this.menu === true;
    menu.addEventListener("toggle", () => { this.menu = menu.open; });
    element("summary", "", menu, "Columns");
    const list = element("div", "", menu);
    for (const [name, [title, help]] of Object.entries(this.told.columns)) {
      const item = element("label", "", list);
      item.title = help;
      const kept = this.kept.columns.filter((each) => each !== name);
      box(item, title, this.kept.columns.includes(name), (on) => this.keep({ columns: on ? [...kept, name] : kept }))
        .dataset.focus = `column ${name}`;
      item.append(title);
    }
  }

  // Archive and delete, where that is allowed; deleting asks once more.
  manage(parent, names) {
    if (!this.told.writes) return;
    const rows = this.told.rows.filter((row) => names.includes(row.name));
    const archived = rows.every((row) => row.archived);
    button(parent, archived ? "Take out of the archive" : "Archive",
      () => this.tell({ what: "archive", runs: names, archived: !archived }));
    const remove = button(parent, "Delete…", () => {
      const words = names.length > 1 ? `these ${names.length} runs` : "this run";
      const sure = button(parent, `Move ${words} to the trash folder`, () => this.tell({ what: "delete", runs: names }), "bad");
      const back = button(parent, "Keep", () => { sure.remove(); back.remove(); remove.hidden = false; });
      remove.hidden = true;
      sure.focus();
    });
  }

  go(page, names) {
    this.tell({ what: "go", page, runs: names });
  }

  head(row) {
    const all = this.told.rows.length > 0 && this.told.rows.every((each) => this.picked.has(each.name));
    box(element("th", "", row), "Select all", all, (on) => {
      this.told.rows.forEach((each) => (on ? this.picked.add(each.name) : this.picked.delete(each.name)));
      this.draw();
    }).dataset.focus = "all";
    const titles = [["run", ["Run", "Sorted by its start"]], ...this.columns().map((name) => [name, this.told.columns[name]])];
    for (const [name, [title, help]] of titles) {
      const cell = element("th", "", row);
      const chosen = this.kept.sort === name;
      cell.scope = "col";
      cell.title = help;
      cell.setAttribute("aria-sort", !chosen ? "none" : this.kept.down ? "descending" : "ascending");
      button(cell, title + (chosen ? (this.kept.down ? " ↓" : " ↑") : ""),
        () => this.keep({ sort: name, down: chosen ? !this.kept.down : true })).dataset.focus = `sort ${name}`;
    }
  }

  group(body, card, rows) {
    const cell = element("td", "", element("tr", "group", body));
    cell.colSpan = this.columns().length + 2;
    const shown = !this.closed.has(card);
    const made = button(cell, `${shown ? "▾" : "▸"} ${card}`, () => {
      if (shown) this.closed.add(card); else this.closed.delete(card);
      this.draw();
    }, "title");
    made.setAttribute("aria-expanded", shown);
    made.dataset.focus = `group ${card}`;
    const counts = new Map();
    for (const word of rows.map((row) => row.texts.verdict || row.status)) counts.set(word, (counts.get(word) ?? 0) + 1);
    const words = [...counts].map(([word, count]) => `${count} ${word}`).join(", ");
    element("span", "muted", cell, `   ${rows.length} ${rows.length === 1 ? "run" : "runs"}: ${words}`);
    if (shown) rows.forEach((row) => this.row(body, row));
  }

  row(body, row) {
    const opened = this.opened === row.name;
    const line = element("tr", opened ? "run open" : "run", body);
    line.dataset.name = row.name;
    line.addEventListener("click", () => this.open(row.name));
    box(element("td", "", line), `Select ${row.title} ${row.about}`, this.picked.has(row.name), (on) => {
      if (on) this.picked.add(row.name); else this.picked.delete(row.name);
      this.draw();
    }).dataset.focus = `pick ${row.name}`;
    const name = element("td", "long", line);
    const title = button(name, row.title, () => this.open(row.name), "title");
    title.setAttribute("aria-expanded", opened);
    title.dataset.focus = `row ${row.name}`;
    for (const word of [row.status === "finished" ? "" : row.status, row.archived ? "archived" : ""].filter(Boolean))
      element("span", word === "failed" || word === "broken" ? "tag bad" : "tag", name, word);
    element("small", "", name, row.about);
    for (const column of this.columns()) this.cell(element("td", "", line), column, row);
    if (opened) this.details(element("td", "", element("tr", "open", body)), row);
  }

  cell(cell, column, row) {
    const text = row.texts[column];
    if (column === "verdict") {
      cell.className = `verdict ${row.tone}`;
      const word = element("span", row.why ? "why" : "", cell, text);
      word.title = row.why;
    } else if (column === "metric") {
      cell.style.whiteSpace = "nowrap";
      cell.append(text);
      if (text) element("small", "", cell, row.metric);
    } else if (column === "change" && text) this.change(element("div", "change", cell), row);
    else {
      if (column === "base" || column === "data") cell.className = "long";
      cell.append(text);
    }
  }

  // The change in words and as its interval on an axis that all rows share; the line across is no change.
  change(cell, row) {
    const [low, , high] = row.interval ?? [];
    const sign = low > 0 ? "better" : high < 0 ? "worse" : "";
    const words = element("div", sign, cell);
    element("b", "", words, { better: "▲ ", worse: "▼ ", "": "" }[sign] + row.texts.change);
    element("small", "", words, row.ends || "no interval yet");
    if (!row.interval) return;
    const reach = this.reach;
    const [width, height] = [84, 16];
    const x = (value) => (width / 2) * (1 + (0.94 * value) / reach);
    const svg = (kind, parent, values) => {
      const made = document.createElementNS("http://www.w3.org/2000/svg", kind);
      for (const [name, value] of Object.entries(values)) made.setAttribute(name, value);
      return parent.appendChild(made);
    };
    const picture = svg("svg", cell, { width, height, "aria-hidden": "true", class: sign });
    const draw = (kind, values) => svg(kind, picture, { stroke: "currentColor", fill: "currentColor", ...values });
    draw("line", { x1: width / 2, x2: width / 2, y1: 0, y2: height, stroke: "var(--muted)", "stroke-dasharray": "2 2" });
    draw("line", { x1: x(low), x2: x(high), y1: height / 2, y2: height / 2, "stroke-width": 2 });
    draw("circle", { cx: x(row.interval[1]), cy: height / 2, r: 3.2 });
  }

  details(cell, row) {
    cell.colSpan = this.columns().length + 2;
    const links = element("div", "links", cell);
    for (const [page, label, key] of PAGES) {
      const link = element("a", "link", links, label);
      link.href = `${page}?${new URLSearchParams({ [key]: page === "card" ? `run ${row.name}` : row.name })}`;
      link.addEventListener("click", (event) => {
        event.stopPropagation();
        if (event.ctrlKey || event.metaKey || event.shiftKey) return;
        event.preventDefault();
        this.go(page, [row.name]);
      });
    }
    this.manage(links, [row.name]);
    const facts = element("dl", "facts", cell);
    for (const [name, value] of [...row.details, ...(row.why ? [["Verdict", row.why]] : [])]) {
      element("dt", "", facts, name);
      element("dd", "", facts, value);
    }
    if (this.told.writes) this.form(element("form", "", cell), row);
  }

  form(form, row) {
    const fields = [["alias", "Alias", "input", 20], ["tags", "Tags, with commas", "input", 20], ["note", "Note", "textarea", 40]];
    const made = fields.map(([name, title, kind, width]) => {
      const label = element("label", "", form, title);
      const input = element(kind, "", label);
      if (kind === "input") { input.type = "text"; input.size = width; } else { input.rows = 1; input.cols = width; }
      input.value = drafts.get(row.name)?.[name] ?? row.notes[name];
      input.addEventListener("input", () => {
        form.dataset.changed = "1";
        drafts.set(row.name, { ...drafts.get(row.name), [name]: input.value });
      });
      return [name, input];
    });
    const save = element("button", "", form, "Save");
    save.type = "submit";
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      delete form.dataset.changed;
      drafts.delete(row.name);
      this.tell({ what: "save", run: row.name, ...Object.fromEntries(made.map(([name, input]) => [name, input.value])) });
    });
  }
}
