// Tells Plotly that the room for its figures has another width: it listens to the window alone, and a figure that is
// drawn before its cell is on the page takes a width of its own.
function render({ el }) {
  let width = 0;
  const watch = new ResizeObserver(([entry]) => {
    const now = Math.round(entry.contentRect.width);
    if (now === width) return;
    width = now;
    window.dispatchEvent(new Event("resize"));
  });
  watch.observe(el);
  return () => watch.disconnect();
}

export default { render };
