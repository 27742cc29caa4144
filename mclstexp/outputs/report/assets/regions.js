"use strict";
/* "Predict this region": a rectangle drawn on the map, or what is in view, asked of the server. */
function addRegions(panel) {
  const { make } = dom;
  const frame = make("div");
  const sheet = make("div", { class: "draw", hidden: true, "aria-hidden": "true" }, frame);
  const told = make("p", { class: "label", role: "status", "aria-live": "polite" });
  const draw = make("button", { type: "button", "aria-pressed": "false" }, "Draw a region");
  const view = make("button", { type: "button" }, "Predict what is in view");
  const clear = make("button", { type: "button", hidden: true }, "Remove regions");
  let start = null;

  function drawing(on) {
    sheet.hidden = !on;
    frame.hidden = true;
    draw.setAttribute("aria-pressed", String(on));
    start = null;
  }

  const position = event => {
    const box = panel.map.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  };

  draw.addEventListener("click", () => drawing(sheet.hidden));
  sheet.addEventListener("pointerdown", event => { start = position(event); sheet.setPointerCapture(event.pointerId); event.preventDefault(); });
  sheet.addEventListener("pointermove", event => {
    if (!start) return;
    const end = position(event);
    frame.hidden = false;
    frame.style.left = `${Math.min(start.x, end.x)}px`;
    frame.style.top = `${Math.min(start.y, end.y)}px`;
    frame.style.width = `${Math.abs(end.x - start.x)}px`;
    frame.style.height = `${Math.abs(end.y - start.y)}px`;
  });
  sheet.addEventListener("pointerup", event => {
    if (!start) return;
    const a = panel.viewer.toSlide(start), b = panel.viewer.toSlide(position(event));
    drawing(false);
    predict({ x0: a.x, y0: a.y, x1: b.x, y1: b.y });
  });
  view.addEventListener("click", () => predict(panel.viewer.visible()));
  clear.addEventListener("click", () => { panel.groups = []; clear.hidden = true; told.textContent = ""; panel.app.refresh(); });

  async function predict(box) {
    draw.disabled = view.disabled = true;
    const symbol = panel.app.symbol;
    told.textContent = `Predicting ${symbol} in the region; this may take a minute.`;
    try {
      const answer = await panel.source.region(box, symbol);
      const { mean } = await decode.layers(answer.values, answer.layers, answer.low, answer.high);
      panel.groups.push({ symbol, values: mean, x: await decode.unpack(answer.x), y: await decode.unpack(answer.y), diameter: answer.diameter, square: true });
      told.textContent = `${symbol}: ${[answer.about, ...answer.notes].join(". ")}.`;
      clear.hidden = false;
      await panel.app.refresh();
    } catch (error) {
      told.textContent = error.message;
    }
    draw.disabled = view.disabled = false;
  }

  panel.map.append(sheet);
  panel.tools.append(draw, view, clear);
  panel.hover.after(told);
}
