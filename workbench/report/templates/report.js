"use strict";
// Draws each figure with Plotly when it comes near the window, once the page is there. Its static drawing stays in place
// until then, when a figure cannot be drawn, and on paper.
(() => {
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const dark = read("dark-colours");
  const config = read("plotly-config");

  // A copy of a figure in which every colour has its dark counterpart; texts are left alone.
  const recoloured = (value, key) => {
    if (Array.isArray(value)) return value.map((item) => recoloured(item, key));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, recoloured(item, name)]));
    }
    if (typeof value !== "string" || !/color/.test(key)) return value;
    const base = value.slice(0, 7);
    return base in dark ? dark[base] + value.slice(7) : value;
  };

  // The library waits as text, so that the page is there before 5 MB of script have been compiled. The policy of the
  // page knows its hash. It would add style sheets for maps under fixed ids unless they are taken; there are no maps.
  let loaded = false;
  const load = () => {
    if (loaded) return;
    loaded = true;
    const source = document.getElementById("plotly-library").textContent;
    for (const [, id] of source.matchAll(/getElementById\("([0-9a-f]{64})"\)/g)) {
      const taken = document.createElement("template");
      taken.id = id;
      document.head.append(taken);
    }
    const script = document.createElement("script");
    script.textContent = source;
    document.head.append(script);
  };

  // An axis with the scale that the reader has chosen, named in its title too.
  const scaled = (axis, type) => {
    const text = axis.title.text.replace(/, log scale$/, "") + (type === "log" ? ", log scale" : "");
    return { ...axis, type, autorange: true, rangemode: "tozero", title: { ...axis.title, text } };
  };

  const draw = (box) => {
    load();
    const still = box.querySelector(".static");
    const plot = box.querySelector(".plot");
    const figure = read(`${box.id}-data`);
    const drawn = still.querySelector("svg") && Math.round(still.getBoundingClientRect().height);
    const height = box.dataset.height || drawn || figure.layout.height;
    box.dataset.height = height;
    const { data, layout } = scheme.matches ? recoloured(figure, "") : figure;
    layout.height = Number(height);
    if (box.dataset.scale) layout.yaxis = scaled(layout.yaxis, box.dataset.scale);
    Plotly.react(plot, data, layout, config).then(
      () => box.classList.add("drawn"),
      () => box.classList.remove("drawn"),
    );
  };

  const boxes = [...document.querySelectorAll("figure.drawing")];
  const seen = new Set();
  const watch = new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries) {
        if (!isIntersecting) continue;
        watch.unobserve(target);
        seen.add(target);
        draw(target);
      }
    },
    { rootMargin: "400px" },
  );
  const start = () => boxes.forEach((box) => watch.observe(box));
  addEventListener("load", () => setTimeout(start, 50));
  scheme.addEventListener("change", () => seen.forEach(draw));

  for (const button of document.querySelectorAll("button[data-log]")) {
    const box = document.getElementById(button.dataset.log);
    button.setAttribute("aria-pressed", String(read(`${box.id}-data`).layout.yaxis.type === "log"));
    button.hidden = false;
    button.addEventListener("click", () => {
      const log = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(log));
      box.dataset.scale = log ? "log" : "linear";
      draw(box);
    });
  }
})();
