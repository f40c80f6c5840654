"use strict";
// Draws each figure with Plotly when it comes near the window, and all of them, in light colors, for paper.
(() => {
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const dark = read("dark-colors");
  const config = read("plotly-config");
  const PAPER = { whole: 680, half: 325 }; // px, width of a figure on A4

  // A copy of a figure in which every color has its dark counterpart; texts stay as they are.
  const recolor = (value, key) => {
    if (Array.isArray(value)) return value.map((item) => recolor(item, key));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, recolor(item, name)]));
    }
    if (typeof value !== "string" || !/color/.test(key)) return value;
    const base = value.slice(0, 7);
    return base in dark ? dark[base] + value.slice(7) : value;
  };

  // The library is text until the first figure, so that the page appears before 5 MB of script are compiled. The policy
  // of the page has its hash. It would add style sheets for maps under fixed ids unless they are taken; there are none.
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

  const draw = (box, paper) => {
    load();
    const figure = read(`${box.id}-data`);
    const { data, layout } = scheme.matches && !paper ? recolor(figure, "") : figure;
    if (paper) layout.width = box.closest(".pair") ? PAPER.half : PAPER.whole;
    if (box.dataset.scale) layout.yaxis = scaled(layout.yaxis, box.dataset.scale);
    Plotly.react(box.querySelector(".plot"), data, layout, config).then(
      () => box.classList.add("drawn"),
      () => box.classList.remove("drawn"),
    );
  };

  const boxes = [...document.querySelectorAll("figure.drawing")];
  for (const box of boxes) box.querySelector(".plot").style.minHeight = `${box.dataset.height}px`;
  const seen = new Set();
  const watch = new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries) {
        if (!isIntersecting) continue;
        watch.unobserve(target);
        seen.add(target);
        draw(target, false);
      }
    },
    { rootMargin: "400px" },
  );
  addEventListener("load", () => setTimeout(() => boxes.forEach((box) => watch.observe(box)), 50));
  addEventListener("beforeprint", () => boxes.forEach((box) => draw(box, true)));
  addEventListener("afterprint", () => seen.forEach((box) => draw(box, false)));
  scheme.addEventListener("change", () => seen.forEach((box) => draw(box, false)));

  for (const button of document.querySelectorAll("button[data-log]")) {
    const box = document.getElementById(button.dataset.log);
    button.setAttribute("aria-pressed", String(read(`${box.id}-data`).layout.yaxis.type === "log"));
    button.hidden = false;
    button.addEventListener("click", () => {
      const log = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(log));
      box.dataset.scale = log ? "log" : "linear";
      draw(box, false);
    });
  }
})();
