// What both widgets begin with.

// Hide the fallback below a widget, now that the widget is drawn, and make sure that it hears of every change: anywidget
// 0.11 drops all messages to a model whose module took more than two seconds to load, as it does on a busy machine.
function drawn(model, el) {
  const fallback = model.get("fallback");
  if (fallback) {
    const style = document.createElement("style");
    style.textContent = `.${CSS.escape(fallback)} { display: none; }`;
    el.append(style);
  }
  let found; // the model itself, which anywidget hands out as a proxy
  const find = (changed) => { found = changed; };
  model.on("change:connected", find);
  model.set("connected", true);
  model.off("change:connected", find);
  if (!found?.comm) return;
  const receive = Object.getPrototypeOf(Object.getPrototypeOf(found))._handle_comm_msg;
  found.comm.on_msg(receive.bind(found));
  found.comm.send({ method: "request_state" }, found.callbacks());
}

