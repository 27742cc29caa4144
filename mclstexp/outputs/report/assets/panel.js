"use strict";
/* One prediction: its map, its legend, the spot that is chosen, and what was run. */
class Panel {
  constructor(data, source, app) {
    this.data = data;
    this.source = source;
    this.app = app;
    this.obs = new Map();
    this.spot = -1;
    this.values = null;
    this.groups = [];
    this.build();
  }

  build() {
    const { make } = dom, data = this.data;
    this.map = make("div", { class: "map" });
    this.hover = make("p", { class: "hover" }, "Point at a spot for its value; click one, or use the arrow keys, for its neighbours.");
    this.legend = make("canvas", { width: 256, height: 1, "aria-hidden": "true" });
    this.low = make("span");
    this.unit = make("span");
    this.high = make("span");
    this.field = combobox({ label: "Spot", names: data.spots.ids, onChoose: name => this.choose(data.spots.ids.indexOf(name), true) });
    this.evidence = make("section", { class: "evidence", "aria-live": "polite" }, make("p", { class: "label" }, "No spot is chosen."));
    const button = (label, text, act) => make("button", { type: "button", "aria-label": label, title: label, onclick: act }, text);
    this.tools = make("div", { class: "tools", role: "group", "aria-label": "Map" }, button("Zoom in", "+", () => this.viewer.zoom(1.5)),
      button("Zoom out", "−", () => this.viewer.zoom(1 / 1.5)), button("Whole slide", "⤢", () => this.viewer.home()));
    const left = make("div", {}, this.tools, this.map, this.hover,
      make("div", { class: "legend" }, this.legend, make("div", { class: "ends" }, this.low, this.unit, this.high)),
      make("div", { class: "row" }, make("div", { class: "field" }, ...this.field.elements), make("span", { class: "label" },
        `${data.spots.ids.length} spots. Picture: ${data.image.origin}.`)));
    this.element = make("section", { class: this.app.alone ? "panel wide" : "panel", "aria-label": data.name },
      make("h2", {}, data.name), left, this.evidence, runDetails(data));
  }

  async load() {
    const data = this.data, spots = data.spots;
    this.x = await decode.unpack(spots.x);
    this.y = await decode.unpack(spots.y);
    for (const column of data.obs) this.obs.set(column.name, { ...column, values: await decode.unpack(column.values) });
    this.viewer = new SlideViewer(this.map, {
      width: data.size[0], mpp: data.mpp,
      onSpot: (point, reach) => { const spot = this.nearest(point, reach); if (spot >= 0) this.choose(spot); },
      onHover: (point, reach) => this.tell(this.nearest(point, reach)),
      onKey: event => this.key(event),
    });
    await this.viewer.open(await this.source.picture());
    if (this.x.length) this.viewer.fit(bounds(this.x, this.y), this.data.diameter);
    if (this.data.regions) addRegions(this);
  }

  nearest(point, reach) {
    let best = -1, least = Math.max(1.3 * this.data.diameter, reach) ** 2;  // to halfway between spots
    for (let i = 0; i < this.x.length; i++) {
      const distance = (this.x[i] - point.x) ** 2 + (this.y[i] - point.y) ** 2;
      if (distance < least) { best = i; least = distance; }
    }
    return best;
  }

  /* Values of what is to be shown: {values, unit, missing}. */
  async layer(symbol, name) {
    if (!name.startsWith("gene:")) {
      const column = this.obs.get(name.slice(4));
      return column ? { values: column.values, unit: column.unit } : { values: null, missing: "not recorded in this prediction" };
    }
    const gene = this.gene && this.gene.symbol === symbol ? this.gene : await this.loadGene(symbol);
    const values = gene ? gene.layers[name.slice(5)] : null;
    if (!gene) return { values: null, missing: `${symbol} is not in this prediction` };
    if (!values) return { values: null, missing: "this gene has no interval here" };
    const known = values.some(Number.isFinite);
    return { values: known ? values : null, unit: this.data.scale, missing: known ? "" : gene.reason || "nothing is known of this gene here" };
  }

  async loadGene(symbol) {
    const gene = await this.source.gene(symbol);
    if (gene) this.gene = { ...gene, symbol };
    return gene ? this.gene : null;
  }

  show(shown, limits, palette, opacity) {
    this.shown = shown;
    this.legend.getContext("2d").putImageData(gradient(palette), 0, 0);
    this.low.textContent = shown.values ? `≤ ${dom.number(limits[0], 2)}` : "";
    this.high.textContent = shown.values ? `≥ ${dom.number(limits[1], 2)}` : "";
    this.unit.textContent = shown.values ? shown.unit : shown.missing;
    const own = { x: this.x, y: this.y, codes: codes(shown.values, this.x.length, limits), diameter: this.data.diameter };
    const regions = this.groups.filter(group => group.symbol === this.app.symbol && this.app.layer === "gene:mean");
    this.viewer.show([own, ...regions.map(group => ({ ...group, codes: codes(group.values, group.x.length, limits) }))], palette, opacity);
    if (this.spot >= 0) this.describe();
  }

  tell(spot) {
    if (spot < 0 || !this.shown) { this.hover.textContent = " "; return; }
    const value = this.shown.values ? `${this.app.layerLabel()}: ${dom.number(this.shown.values[spot])}` : this.shown.missing;
    this.hover.textContent = `Spot ${this.data.spots.ids[spot]}. ${value}.`;
  }

  key(event) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.originalEvent.key];
    if (!step || event.shift) return;
    event.preventDefaultAction = true;
    event.originalEvent.preventDefault();
    const next = this.spot < 0 ? 0 : this.beside(step);
    if (next >= 0) this.choose(next, true);
  }

  /* The nearest spot in a direction, within 45 degrees of it. */
  beside([dx, dy]) {
    let best = -1, least = Infinity;
    for (let i = 0; i < this.x.length; i++) {
      const x = this.x[i] - this.x[this.spot], y = this.y[i] - this.y[this.spot];
      const along = x * dx + y * dy, across = Math.abs(x * dy) + Math.abs(y * dx);
      if (along > 0 && across <= along && along + 2 * across < least) { best = i; least = along + 2 * across; }
    }
    return best;
  }

  async choose(spot, reveal = false) {
    this.spot = spot;
    const place = { x: this.x[spot], y: this.y[spot], diameter: this.data.diameter };
    this.viewer.select(place);
    if (reveal) this.viewer.reveal(place);
    this.field.set(this.data.spots.ids[spot]);
    this.tell(spot);
    let neighbours;
    try {
      neighbours = await this.source.neighbours(spot);
    } catch (error) {
      this.evidence.replaceChildren(dom.make("p", { class: "note" }, error.message));
      return;
    }
    if (spot !== this.spot) return;
    this.neighbours = neighbours;
    this.describe();
    this.element.dataset.spot = this.data.spots.ids[spot];
  }

  describe() { this.evidence.replaceChildren(...evidenceOf(this, this.spot, this.neighbours)); }
}

function bounds(x, y) {
  const box = { x0: Infinity, y0: Infinity, x1: -Infinity, y1: -Infinity };
  for (let i = 0; i < x.length; i++) {
    box.x0 = Math.min(box.x0, x[i]); box.x1 = Math.max(box.x1, x[i]);
    box.y0 = Math.min(box.y0, y[i]); box.y1 = Math.max(box.y1, y[i]);
  }
  return box;
}

function codes(values, n, [low, high]) {
  const out = new Int16Array(n).fill(-1), span = high > low ? high - low : 1;
  if (values) for (let i = 0; i < n; i++) {
    if (Number.isFinite(values[i])) out[i] = Math.max(0, Math.min(255, Math.round((values[i] - low) / span * 255)));
  }
  return out;
}

function gradient(palette) {
  const image = new ImageData(256, 1);
  palette.forEach((colour, i) => {
    const value = parseInt(colour.slice(1), 16);
    image.data.set([value >> 16, (value >> 8) & 255, value & 255, 255], 4 * i);
  });
  return image;
}
