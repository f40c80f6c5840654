// A table with one selected row. Every cell is inserted as text.
const DIGITS = { rank: 0, number: 3, change: 3 };

function shown(value, kind) {
  if (value === null || value === undefined) return "–";
  if (kind === "text" || typeof value !== "number") return String(value);
  const sign = kind === "change" && value > 0 ? "+" : "";
  return sign + value.toFixed(DIGITS[kind]).replace("-", "−");
}

function cell(tag, text, kind, value) {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = kind;
  if (kind === "change" && value > 0) made.classList.add("better");
  if (kind === "change" && value < 0) made.classList.add("worse");
  if (kind === "text") made.title = text;
  return made;
}

function render({ model, el }) {
  el.classList.add("wb-table");
  const draw = () => {
    const columns = model.get("columns");
    const table = document.createElement("table");
    table.setAttribute("role", "grid");
    table.setAttribute("aria-label", model.get("label"));
    const head = table.createTHead().insertRow();
    for (const [name, kind] of columns) head.append(cell("th", name, kind));
    const body = table.createTBody();
    model.get("rows").forEach((row, place) => {
      const line = body.insertRow();
      line.tabIndex = place === 0 ? 0 : -1;
      line.dataset.place = place;
      columns.forEach(([, kind], at) => line.append(cell("td", shown(row[at], kind), kind, row[at])));
    });
    el.querySelector("table")?.remove();
    el.prepend(table);
    mark(false);
  };
  const mark = (focus) => {
    const chosen = model.get("chosen");
    for (const line of el.querySelectorAll("tbody tr")) {
      const is = Number(line.dataset.place) === chosen;
      line.setAttribute("aria-selected", String(is));
      if (is && focus) line.focus({ preventScroll: false });
    }
  };
  const choose = (place) => {
    if (place < 0 || place >= model.get("rows").length) return;
    model.set("chosen", place);
    model.save_changes();
    mark(true);
  };
  const clicked = (event) => {
    const line = event.target.closest("tbody tr");
    if (line) choose(Number(line.dataset.place));
  };
  const pressed = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const line = event.target.closest("tbody tr");
    if (!line || (!step && event.key !== "Enter" && event.key !== " ")) return;
    event.preventDefault();
    event.stopPropagation();
    choose(Number(line.dataset.place) + (step || 0));
  };
  const marked = () => mark(false);
  el.addEventListener("click", clicked);
  el.addEventListener("keydown", pressed);
  model.on("change:rows change:columns", draw);
  model.on("change:chosen", marked);
  draw();
  drawn(model, el);
  return () => {
    model.off("change:rows change:columns", draw);
    model.off("change:chosen", marked);
  };
}

export default { render };
