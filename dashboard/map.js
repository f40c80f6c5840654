// The maps before and after training, on two canvases. What is drawn (points, layers from the bottom up, colors, marks,
// sizes, names, axes, the scale, the look of a selection) is decided by workbench/views/figures_map.py, for this canvas
// and for Plotly. Hovering, zooming, and drawing around points happen here; the server is told only the selection. A
// canvas draws 50,000 points fluidly without a GPU; WebGL takes seconds. Texts are set by textContent alone.

const STYLE = `
.wb { position: relative; font-variant-numeric: tabular-nums; outline: none; }
.wb-bar { display: flex; flex-wrap: wrap; gap: .25rem 1rem; align-items: center; margin-bottom: .75rem; }
.wb-tools { display: flex; border: 1px solid var(--line); border-radius: 6px; overflow: hidden; }
.wb-tools button { all: unset; cursor: pointer; padding: .2rem .65rem; font-size: .85rem; color: var(--muted); }
.wb-tools button + button { border-left: 1px solid var(--line); }
.wb-tools button:hover { color: var(--ink); }
.wb-tools button:focus-visible { outline: 2px solid var(--accent); outline-offset: -2px; }
.wb-tools button[aria-pressed=true] { background: var(--accent); color: var(--ground); }
.wb-legend { display: flex; flex-wrap: wrap; gap: .1rem .9rem; font-size: .85rem; color: var(--ink); }
.wb-legend button { all: unset; cursor: pointer; display: inline-flex; align-items: center; gap: .3rem; }
.wb-legend button:focus-visible { outline: 2px solid var(--accent); }
.wb-legend button[aria-pressed=false] { opacity: .4; text-decoration: line-through; }
.wb-scale { display: inline-flex; align-items: center; gap: .4rem; }
.wb-scale i { width: 9rem; height: .6rem; border-radius: 2px; }
.wb-panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(290px, 1fr)); gap: 1rem; }
.wb-head { font-weight: 600; font-size: .95rem; margin-bottom: .3rem; }
.wb-head span { font-weight: 400; color: var(--muted); margin-left: .5rem; }
.wb-panel canvas { display: block; width: 100%; border: 1px solid var(--line); border-radius: 6px; touch-action: none; }
.wb-frame { display: grid; grid-template-columns: auto 1fr; column-gap: .3rem; }
.wb-axis { font-size: .8rem; color: var(--muted); text-align: center; margin-top: .2rem; grid-column: 2; }
.wb-frame .wb-up { writing-mode: vertical-rl; transform: rotate(180deg); margin: 0; grid-column: 1; }
.wb-tip { position: absolute; pointer-events: none; z-index: 5; max-width: 22rem; padding: .3rem .5rem; font-size: .85rem;
  line-height: 1.35; background: var(--ground); color: var(--ink); border: 1px solid var(--muted); border-radius: 5px;
  overflow-wrap: anywhere; unicode-bidi: isolate; white-space: pre-line; }
`;
const TOOLS = [["lasso", "Lasso"], ["box", "Box"], ["pan", "Move"], ["reset", "Whole map"], ["clear", "Clear"],
  ["image", "Image"]];
const ACTIONS = ["reset", "clear", "image"]; // tools that do something at once
const NEAR = 10; // pixels from a point at which it is hit
const CLICK = 4; // pixels that the pointer may move during a click
const views = new WeakMap();

export default function ({ data, parentElement, setTriggerValue }) {
  const view = views.get(parentElement) ?? new View(parentElement);
  views.set(parentElement, view);
  view.tell = (what) => setTriggerValue("did", what);
  view.update(JSON.parse(new TextDecoder().decode(data)));
  return () => view.close();
}

function numbers(text, Kind) {
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let at = 0; at < raw.length; at++) bytes[at] = raw.charCodeAt(at);
  return new Kind(bytes.buffer);
}

function element(kind, name, parent, text = "") {
  const made = document.createElement(kind);
  made.className = name;
  made.textContent = text;
  parent.append(made);
  return made;
}

// --- marks ----------------------------------------------------------------------------------------------------------

function outline(pen, symbol, r) {
  pen.beginPath();
  if (symbol.startsWith("circle")) pen.arc(0, 0, r, 0, 2 * Math.PI);
  else { pen.moveTo(0, -r); pen.lineTo(r, 0); pen.lineTo(0, r); pen.lineTo(-r, 0); pen.closePath(); }
}

// One mark as a small image, drawn at every point of its group.
function stamp(symbol, color, size, ground, ratio) {
  const r = Math.max(size / 2, 1) * (symbol.startsWith("diamond") ? 1.3 : 1) * ratio;
  const side = 2 * Math.ceil(r + ratio) + 1;
  const made = document.createElement("canvas");
  made.width = made.height = side;
  const pen = made.getContext("2d");
  pen.translate(side / 2, side / 2);
  outline(pen, symbol, r);
  pen.fillStyle = pen.strokeStyle = color;
  pen.lineWidth = 1.3 * ratio;
  if (symbol.endsWith("open")) { pen.stroke(); return made; }
  pen.fill();
  const cut = symbol.endsWith("-x") ? 0.5 : symbol.endsWith("-cross") ? 0.9 : 0;
  if (cut) {
    pen.strokeStyle = ground;
    pen.beginPath();
    const lines = symbol.endsWith("-x") ? [[-1, -1, 1, 1], [-1, 1, 1, -1]] : [[-1, 0, 1, 0], [0, -1, 0, 1]];
    for (const [a, b, c, d] of lines) { pen.moveTo(a * cut * r, b * cut * r); pen.lineTo(c * cut * r, d * cut * r); }
    pen.stroke();
  }
  return made;
}

// --- the maps -------------------------------------------------------------------------------------------------------

class View {
  constructor(parent) {
    this.parent = parent;
    element("style", "", parent, STYLE);
    this.root = element("div", "wb", parent);
    this.bar = element("div", "wb-bar", this.root);
    this.tools = element("div", "wb-tools", this.bar);
    this.legend = element("div", "wb-legend", this.bar);
    this.holder = element("div", "wb-panels", this.root);
    this.tip = element("div", "wb-tip", this.root);
    this.tip.hidden = true;
    this.tool = "lasso";
    this.hidden = new Set();
    this.panels = [];
    for (const [name, title] of TOOLS) {
      const button = element("button", "", this.tools, title);
      button.type = "button";
      button.dataset.tool = name;
      button.onclick = () => ({ reset: () => this.whole(), clear: () => this.clear(), image: () => this.image() }[name]
        ?? (() => this.use(name)))();
    }
    this.use("lasso");
    this.watch = new ResizeObserver(() => this.draw());
    this.watch.observe(this.root);
    this.escape = (event) => { if (event.key === "Escape" && (this.drawn || this.data.opened !== null)) this.clear(); };
    this.root.tabIndex = -1;
    this.root.addEventListener("keydown", this.escape);
  }

  close() {
    this.watch.disconnect();
    views.delete(this.parent);
  }

  use(tool) {
    this.tool = tool;
    for (const button of this.tools.children) {
      if (!ACTIONS.includes(button.dataset.tool)) button.setAttribute("aria-pressed", String(button.dataset.tool === tool));
    }
  }

  update(data) {
    const before = this.data;
    this.data = data;
    for (const [name, color] of Object.entries(data.look)) this.root.style.setProperty(`--${name}`, color);
    if (before?.id !== data.id) this.place();
    this.group = numbers(data.group, Uint8Array);
    this.rows = data.layers.map(() => []);
    this.group.forEach((layer, row) => this.rows[layer]?.push(row));
    this.marked = data.marked === null ? null : numbers(data.marked, Uint8Array);
    this.drawn = data.area;
    this.stamps = new Map();
    this.version = (this.version ?? 0) + 1;
    if (JSON.stringify(before?.layers) !== JSON.stringify(data.layers)) this.hidden.clear();
    this.describe();
    this.draw();
  }

  // New points: a panel for each stage.
  place() {
    this.holder.replaceChildren();
    this.panels = this.data.stages.map((stage) => new Panel(this, stage));
    this.tip.hidden = true;
  }

  describe() {
    this.legend.replaceChildren();
    const { layers, scale } = this.data;
    if (scale) {
      const bar = element("span", "wb-scale", this.legend);
      element("span", "", bar, `${scale.name}: ${scale.low}`);
      element("i", "", bar).style.background = `linear-gradient(90deg, ${scale.colors.join(", ")})`;
      element("span", "", bar, scale.high);
    }
    const entries = new Map(); // layers of one name, such as the shades of a scale, are one entry
    layers.forEach((layer, number) => entries.set(layer.name, [...(entries.get(layer.name) ?? []), number]));
    for (const [name, numbers] of entries) {
      const layer = layers[numbers[numbers.length >> 1]];
      const button = element("button", "", this.legend);
      button.type = "button";
      button.title = "Show or hide";
      button.setAttribute("aria-pressed", String(!this.hidden.has(numbers[0])));
      const picture = stamp(layer.symbol, layer.color, 9, this.data.look.ground, 2);
      picture.style.cssText = `width:${picture.width / 2}px;height:${picture.height / 2}px`;
      button.append(picture);
      element("span", "", button, name);
      button.onclick = () => {
        const shown = this.hidden.has(numbers[0]);
        for (const number of numbers) shown ? this.hidden.delete(number) : this.hidden.add(number);
        this.version += 1;
        this.describe();
        this.draw();
      };
    }
  }

  whole() {
    for (const panel of this.panels) panel.whole();
    this.draw();
  }

  clear() {
    this.marked = null;
    this.drawn = null;
    this.version += 1;
    this.draw();
    this.tell({ what: "clear" });
  }

  // Both maps with their titles as one PNG file, named for the run.
  image() {
    const gap = 16, head = 28, ratio = window.devicePixelRatio || 1;
    const canvases = this.panels.map((panel) => panel.canvas);
    const made = document.createElement("canvas");
    made.width = canvases.reduce((sum, each) => sum + each.width + gap * ratio, gap * ratio);
    made.height = Math.max(...canvases.map((each) => each.height)) + (head + gap) * ratio;
    const pen = made.getContext("2d");
    pen.fillStyle = this.data.look.ground;
    pen.fillRect(0, 0, made.width, made.height);
    pen.fillStyle = this.data.look.ink;
    pen.font = `600 ${14 * ratio}px sans-serif`;
    let left = gap * ratio;
    this.panels.forEach(({ stage }, place) => {
      pen.fillText(stage.title, left, 19 * ratio);
      pen.drawImage(canvases[place], left, head * ratio);
      left += canvases[place].width + gap * ratio;
    });
    const link = document.createElement("a");
    link.download = `${this.data.id.replace(/[^\w.-]+/g, "-")}map.png`;
    link.href = made.toDataURL("image/png");
    link.click();
  }

  // Draw once at the next frame.
  draw() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      for (const panel of this.panels) panel.draw();
    });
  }

  hover(row, panel, x, y) {
    if (row !== this.over) {
      this.over = row;
      this.draw();
    }
    this.tip.hidden = row === null;
    if (row === null) return;
    this.tip.textContent = this.data.labels[row] ?? this.data.layers[this.group[row]]?.name ?? "";
    const mine = panel.canvas.getBoundingClientRect();
    const all = this.root.getBoundingClientRect();
    const left = mine.left - all.left + x + 14;
    this.tip.style.left = `${Math.max(0, Math.min(left, all.width - this.tip.offsetWidth - 4))}px`;
    this.tip.style.top = `${mine.top - all.top + y + 14}px`;
  }

  // Mark the rows inside an area, by the even-odd rule, before the server answers.
  mark(panel, area) {
    const { x, y } = panel;
    this.marked = new Uint8Array(Math.ceil(x.length / 8));
    for (let row = 0; row < x.length; row++) {
      let odd = false;
      for (let at = 0, last = area.length - 1; at < area.length; last = at++) {
        const [x1, y1] = area[at], [x2, y2] = area[last];
        if (y1 > y[row] !== y2 > y[row] && x[row] < ((x2 - x1) * (y[row] - y1)) / (y2 - y1) + x1) odd = !odd;
      }
      if (odd) this.marked[row >> 3] |= 128 >> (row & 7);
    }
    this.drawn = { stage: panel.stage.name, corners: area };
    this.version += 1;
    this.draw();
    this.tell({ what: "area", stage: panel.stage.name, corners: area });
  }

  isMarked(row) {
    return (this.marked[row >> 3] & (128 >> (row & 7))) !== 0;
  }

  stampOf(number, big, ratio) {
    const key = number * 2 + big;
    if (!this.stamps.has(key) || this.ratio !== ratio) {
      if (this.ratio !== ratio) this.stamps.clear();
      this.ratio = ratio;
      const { symbol, color, size } = this.data.layers[number];
      this.stamps.set(key, stamp(symbol, color, size + this.data.grown * big, this.data.look.ground, ratio));
    }
    return this.stamps.get(key);
  }
}

class Panel {
  constructor(view, stage) {
    this.view = view;
    this.stage = stage;
    this.x = numbers(stage.x, Float32Array);
    this.y = numbers(stage.y, Float32Array);
    const panel = element("div", "wb-panel", view.holder);
    const head = element("div", "wb-head", panel, stage.title);
    element("span", "", head, stage.note).title = view.data.help;
    const frame = element("div", "wb-frame", panel);
    element("div", "wb-axis wb-up", frame, view.data.axes[1]);
    this.canvas = element("canvas", "", frame);
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", `${stage.title}: ${this.x.length} texts on a map`);
    element("div", "wb-axis", frame, view.data.axes[0]);
    this.pen = this.canvas.getContext("2d", { alpha: false });
    this.whole();
    this.listen();
  }

  whole() {
    const [[left, right], [low, high]] = this.stage.ranges;
    this.box = { left, right, low, high };
  }

  // If one map has both stages, the other panel shows the same part of it.
  share() {
    if (this.view.data.together) for (const other of this.view.panels) other.box = { ...this.box };
    this.view.draw();
  }

  toX(value) { return ((value - this.box.left) / (this.box.right - this.box.left)) * this.wide; }
  toY(value) { return this.high - ((value - this.box.low) / (this.box.high - this.box.low)) * this.high; }
  ofX(place) { return this.box.left + (place / this.wide) * (this.box.right - this.box.left); }
  ofY(place) { return this.box.low + ((this.high - place) / this.high) * (this.box.high - this.box.low); }

  listen() {
    const canvas = this.canvas;
    canvas.onpointerdown = (event) => {
      if (event.button !== 0) return;
      this.view.root.focus({ preventScroll: true });
      canvas.setPointerCapture(event.pointerId);
      this.path = [[event.offsetX, event.offsetY]];
      this.start = { ...this.box };
      this.view.hover(null);
    };
    canvas.onpointermove = (event) => (this.path ? this.drag(event) : this.seek(event));
    canvas.onpointerup = () => this.drop();
    canvas.onpointercancel = () => { this.path = null; this.view.draw(); };
    canvas.onpointerleave = () => this.view.hover(null);
    canvas.ondblclick = () => this.view.whole();
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const grow = Math.exp(Math.max(-1, Math.min(1, event.deltaY / 300)));
      const [x, y] = [this.ofX(event.offsetX), this.ofY(event.offsetY)];
      const { left, right, low, high } = this.box;
      this.box = { left: x - (x - left) * grow, right: x + (right - x) * grow,
        low: y - (y - low) * grow, high: y + (high - y) * grow };
      this.share();
    }, { passive: false });
  }

  drag(event) {
    const [x0, y0] = this.path[0];
    const [x, y] = [event.offsetX, event.offsetY];
    if (this.view.tool === "pan") {
      const dx = ((x - x0) / this.wide) * (this.start.right - this.start.left);
      const dy = ((y - y0) / this.high) * (this.start.high - this.start.low);
      this.box = { left: this.start.left - dx, right: this.start.right - dx,
        low: this.start.low + dy, high: this.start.high + dy };
      this.moved = Math.hypot(x - x0, y - y0) > CLICK;
      this.share();
      return;
    }
    this.path = this.view.tool === "box" ? [[x0, y0], [x, y0], [x, y], [x0, y]] : [...this.path, [x, y]];
    this.moved = this.moved || Math.hypot(x - x0, y - y0) > CLICK;
    this.view.draw();
  }

  drop() {
    const path = this.path;
    if (!path) return;
    this.path = null;
    const moved = this.moved;
    this.moved = false;
    if (!moved) {
      const row = this.nearest(...path[0]);
      if (row !== null) this.view.tell({ what: "pick", row });
      else if (this.view.drawn || this.view.data.opened !== null) this.view.clear();
    } else if (this.view.tool !== "pan" && path.length > 2) {
      const step = Math.max(path.length / 60, 1);
      const few = Array.from({ length: Math.floor(path.length / step) }, (_, at) => path[Math.floor(at * step)]);
      this.view.mark(this, few.map(([x, y]) => [round(this.ofX(x)), round(this.ofY(y))]));
    }
    this.view.draw();
  }

  seek(event) {
    this.view.hover(this.nearest(event.offsetX, event.offsetY), this, event.offsetX, event.offsetY);
  }

  // The row of the point nearest to a position on the canvas; queries are on top, so the last of equals is hit.
  nearest(x, y) {
    let best = null, least = NEAR * NEAR;
    for (let row = 0; row < this.x.length; row++) {
      const dx = this.toX(this.x[row]) - x;
      if (dx > NEAR || dx < -NEAR) continue;
      const dy = this.toY(this.y[row]) - y;
      const away = dx * dx + dy * dy;
      if (away <= least && !this.view.hidden.has(this.view.group[row])) { best = row; least = away; }
    }
    return best;
  }

  draw() {
    const ratio = window.devicePixelRatio || 1;
    this.wide = this.canvas.clientWidth;
    if (!this.wide) return;
    this.high = Math.round(Math.min(this.wide * 0.85, 540));
    const [width, height] = [Math.round(this.wide * ratio), Math.round(this.high * ratio)];
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
      this.canvas.style.height = `${this.high}px`;
    }
    const { pen } = this;
    const { left, right, low, high } = this.box;
    const painted = [this.view.version, left, right, low, high, width, height].join();
    if (this.painted !== painted) this.points(ratio);
    this.painted = painted;
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.globalAlpha = 1;
    pen.drawImage(this.back, 0, 0);
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.lines();
    this.rings();
    this.area();
  }

  // All points, on a canvas in the background; what follows the pointer is drawn over a copy of it.
  points(ratio) {
    const { view, x, y } = this;
    this.back ??= document.createElement("canvas");
    this.back.width = this.canvas.width;
    this.back.height = this.canvas.height;
    const pen = this.back.getContext("2d", { alpha: false });
    pen.fillStyle = view.data.look.ground;
    pen.fillRect(0, 0, this.back.width, this.back.height);
    const scaleX = (this.wide * ratio) / (this.box.right - this.box.left);
    const scaleY = (this.high * ratio) / (this.box.high - this.box.low);
    const [width, height] = [this.canvas.width, this.canvas.height];
    const passes = view.marked ? [false, true] : [null];
    for (const pass of passes) {
      view.data.layers.forEach((layer, number) => {
        if (view.hidden.has(number)) return;
        const picture = view.stampOf(number, pass === true ? 1 : 0, ratio);
        const half = picture.width / 2;
        pen.globalAlpha = pass === null ? layer.opacity : pass ? 1 : view.data.faded;
        for (const row of view.rows[number]) {
          if (pass !== null && view.isMarked(row) !== pass) continue;
          const left = (x[row] - this.box.left) * scaleX - half;
          const top = height - (y[row] - this.box.low) * scaleY - half;
          if (left > -half && top > -half && left < width && top < height) pen.drawImage(picture, left | 0, top | 0);
        }
      });
    }
  }

  lines() {
    const { pen, view, x, y } = this;
    const { lines: pairs, line } = view.data;
    pen.globalAlpha = line.opacity;
    pen.strokeStyle = line.color;
    pen.lineWidth = line.width;
    pen.beginPath();
    for (let at = 0; at < pairs.length; at += 2) {
      pen.moveTo(this.toX(x[pairs[at]]), this.toY(y[pairs[at]]));
      pen.lineTo(this.toX(x[pairs[at + 1]]), this.toY(y[pairs[at + 1]]));
    }
    pen.stroke();
    pen.globalAlpha = Math.min(1, line.opacity * 1.5); // a ring around each answer
    pen.beginPath();
    for (let at = 1; at < pairs.length; at += 2) {
      const [left, top] = [this.toX(x[pairs[at]]), this.toY(y[pairs[at]])];
      pen.moveTo(left + 5, top);
      pen.arc(left, top, 5, 0, 2 * Math.PI);
    }
    pen.stroke();
  }

  rings() {
    const { pen, view } = this;
    pen.globalAlpha = 1;
    const { ring, opened } = view.data;
    pen.strokeStyle = ring.color;
    for (const [row, radius, width] of [[opened, ring.size / 2, ring.width], [view.over ?? null, 7, 1.5]]) {
      if (row === null) continue;
      pen.lineWidth = width;
      pen.beginPath();
      pen.arc(this.toX(this.x[row]), this.toY(this.y[row]), radius, 0, 2 * Math.PI);
      pen.stroke();
    }
  }

  area() {
    const { pen, view } = this;
    const kept = view.drawn?.stage === this.stage.name ? view.drawn.corners : [];
    const path = this.path ? (view.tool === "pan" ? [] : this.path) : kept.map(([x, y]) => [this.toX(x), this.toY(y)]);
    if (!path.length) return;
    pen.globalAlpha = 1;
    pen.strokeStyle = view.data.look.muted;
    pen.lineWidth = 1.2;
    pen.setLineDash([4, 3]);
    pen.beginPath();
    path.forEach(([x, y]) => pen.lineTo(x, y));
    pen.closePath();
    pen.stroke();
    pen.setLineDash([]);
  }
}

function round(value) {
  return Number(value.toPrecision(5));
}
