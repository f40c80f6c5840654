// Tells Plotly that its figures have another width: it listens only to the window, and a figure that is drawn before its
// cell is on the page takes a width of its own.
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
