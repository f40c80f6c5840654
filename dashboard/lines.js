// Lines of a card: a click on a number tells the server "line", and the line that is asked for is scrolled to. There is
// no other page to load, which would lose a card that was dropped.

export default function ({ data, setTriggerValue }) {
  const press = (event) => {
    const link = event.target.closest?.('.wb-source a[href^="#line-"]');
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    setTriggerValue("line", Number(link.hash.slice(6)));
  };
  document.addEventListener("click", press);
  if (data.line) show(data.line, 50);
  return () => document.removeEventListener("click", press);
}

function show(line, tries) {
  const found = document.querySelector(`.wb-source [data-line="${line}"]`);
  if (found) {
    for (const other of document.querySelectorAll(".wb-source .wb-asked")) other.classList.remove("wb-asked");
    found.classList.add("wb-asked");
    found.scrollIntoView({ block: "center" });
  }
  else if (tries) setTimeout(show, 100, line, tries - 1);
}
