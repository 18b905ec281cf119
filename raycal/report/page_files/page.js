// Draws every figure in the colours of the style sheet, and again when the scheme changes or the page is printed.
"use strict";
(() => {
  const plots = [...document.querySelectorAll(".plot")].map((element) => {
    const script = element.querySelector("script");
    const figure = JSON.parse(script.textContent);
    script.remove();
    return { element, figure };
  });

  const touch = matchMedia("(pointer: coarse)");
  const dark = matchMedia("(prefers-color-scheme: dark)");

  function inColours(value, style) {
    if (typeof value === "string") {
      return value.replace(/var\((--[\w-]+)\)/g, (_, name) => style.getPropertyValue(name).trim());
    }
    if (Array.isArray(value)) return value.map((item) => inColours(item, style));
    if (value && typeof value === "object" && !ArrayBuffer.isView(value)) {
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, inColours(item, style)]));
    }
    return value;
  }

  function dressed(layout, style, width) {
    const colour = (name) => style.getPropertyValue(name).trim();
    const made = inColours(layout, style);
    made.font = { family: style.fontFamily, size: width < 480 ? 11 : 12, color: colour("--ink") };
    made.hoverlabel = { bgcolor: colour("--card"), bordercolor: colour("--faint"), font: { color: colour("--ink") } };
    for (const key of Object.keys(made).filter((key) => /^[xy]axis\d*$/.test(key))) {
      Object.assign(made[key], { gridcolor: colour("--grid"), linecolor: colour("--faint"), tickcolor: colour("--faint") });
    }
    made.dragmode = touch.matches ? false : "zoom";
    return made;
  }

  function draw({ element, figure }) {
    const style = getComputedStyle(document.documentElement);
    const body = getComputedStyle(document.body);
    const layout = dressed(figure.layout, { getPropertyValue: (name) => style.getPropertyValue(name),
      fontFamily: body.fontFamily }, element.clientWidth);
    return Plotly.react(element, inColours(figure.data, style), layout, { responsive: true, displayModeBar: false });
  }

  const drawAll = () => Promise.all(plots.map(draw));
  drawAll().then(() => { document.documentElement.dataset.drawn = plots.length; });
  dark.addEventListener("change", drawAll);
  addEventListener("beforeprint", () => plots.forEach(({ element }) => Plotly.Plots.resize(element)));
})();
