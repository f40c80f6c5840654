// Keys: J and K open the next and the previous row of the page's table (the server is told "moved"), / goes to the
// search field, ? lists the keys. What a row opens is scrolled into view. There is one instance on every page, without
// `opened`, and one beside each table.

const KEYS = [
  ["J, K", "open the next, the previous row"],
  ["↑ ↓", "the same, while the table has the focus"],
  ["/", "go to the search field"],
  ["Escape", "leave the field; on a map, clear the selection"],
  ["?", "this list"],
];
const STYLE = `
dialog { border: 1px solid var(--st-border-color); border-radius: 6px; padding: 1rem 1.5rem; font: var(--st-font);
  color: var(--st-text-color); background: var(--st-background-color); font-family: var(--st-font); }
h2 { margin: 0 0 .5rem; font-size: 1.1rem; }
dl { display: grid; grid-template-columns: auto auto; gap: .3rem 1.5rem; margin: 0; }
dt { font-weight: 650; }
dd { margin: 0; }`;
const SEARCH = ["stTextInput", "stSelectbox", "stMultiSelect"].map((id) => `[data-testid="${id}"] input`);

export default function ({ data, parentElement, setTriggerValue }) {
  const beside = data.opened !== undefined;
  const press = (event) => {
    const typing = event.composedPath()[0].closest?.("input, textarea, select, [contenteditable], dialog");
    if (typing || event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    const moved = { j: 1, k: -1 }[event.key.toLowerCase()];
    if (beside ? !moved : event.key !== "/" && event.key !== "?") return;
    event.preventDefault();
    if (beside) setTriggerValue("moved", moved);
    else if (event.key === "?") list(parentElement);
    else SEARCH.map((each) => document.querySelector(each)).find((each) => each)?.focus();
  };
  document.addEventListener("keydown", press);
  if (beside && data.opened && parentElement.opened !== data.opened) show(150);
  parentElement.opened = data.opened;
  return () => document.removeEventListener("keydown", press);
}

let timer;
addEventListener("wheel", () => clearTimeout(timer), { passive: true }); // a reader who scrolls is let alone

// Scroll to what was opened, until it has been in its place for a second: its page grows while it is drawn.
function show(tries, calm = 0) {
  clearTimeout(timer);
  const top = document.querySelector(".st-key-opened")?.getBoundingClientRect().top;
  const fits = top > 80 && top < 0.45 * innerHeight;
  if (top !== undefined && !fits)
    document.querySelector('[data-testid="stMain"]')?.scrollBy({ top: top - 0.3 * innerHeight });
  if (tries && calm < 10) timer = setTimeout(show, 100, tries - 1, fits ? calm + 1 : 0);
}

function list(parent) {
  const dialog = document.createElement("dialog");
  const add = (place, name, text) => {
    const made = place.appendChild(document.createElement(name));
    if (text) made.textContent = text;
    return made;
  };
  add(dialog, "style", STYLE);
  add(dialog, "h2", "Keys");
  const rows = add(dialog, "dl");
  for (const [key, what] of KEYS) {
    add(rows, "dt", key);
    add(rows, "dd", what);
  }
  dialog.addEventListener("click", () => dialog.close());
  dialog.addEventListener("keydown", (event) => event.key === "?" && dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  parent.appendChild(dialog).showModal();
}
