// A Plotly figure that is drawn anew whenever its JSON changes. The page loads Plotly once for all figures.
async function load(model) {
  const library = await model.widget_manager.get_model(model.get("library"));
  const packed = Uint8Array.from(atob(library.get("value")), (character) => character.charCodeAt(0));
  const code = await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  const parts = ["const module = { exports: {} };", code, "\nexport default module.exports;"];
  const url = URL.createObjectURL(new Blob(parts, { type: "text/javascript" }));
  try {
    return (await import(url)).default;
  } finally {
    URL.revokeObjectURL(url);
  }
}

async function plotly(model) {
  try {
    return await (window.cardWorkbenchPlotly ??= load(model));
  } catch (error) {
    window.cardWorkbenchPlotly = undefined;
    throw error;
  }
}

function corners({ lassoPoints, range }) {
  if (lassoPoints) return lassoPoints.x.map((x, at) => [x, lassoPoints.y[at]]);
  if (!range) return [];
  const [[left, right], [low, high]] = [range.x, range.y];
  return [[left, low], [right, low], [right, high], [left, high]];
}

async function render(view) {
  let end;
  try {
    end = await show(view);
  } catch (error) {
    const again = document.createElement("button");
    Object.assign(again, { className: "jupyter-button", textContent: "Draw again", title: String(error) });
    again.onclick = async () => {
      again.remove();
      end = await render(view);
    };
    view.el.append(again);
  }
  return () => end?.();
}

async function show({ model, el }) {
  const Plotly = await plotly(model);
  const place = document.createElement("div");
  el.append(place);
  const draw = () => {
    const { data, layout } = JSON.parse(model.get("figure"));
    return Plotly.react(place, data, { ...layout, width: el.clientWidth || undefined }, model.get("config"));
  };
  const select = (area) => {
    model.set("area", area);
    model.save_changes();
  };
  await draw();
  place.on("plotly_selected", (event) => event && select(corners(event)));
  place.on("plotly_deselect", () => select([]));
  model.on("change:figure", draw);
  const watch = new ResizeObserver(() => el.clientWidth && el.clientWidth !== place.layout.width && draw());
  watch.observe(el); // Plotly itself listens only to the window, and takes a height of its own then
  drawn(model, el);
  return () => {
    watch.disconnect();
    model.off("change:figure", draw);
    Plotly.purge(place);
  };
}

export default { render };
