"use strict";
/* The page: one choice of gene, layer, colours and opacity for all its panels. */
class App {
  constructor(data) {
    this.data = data;
    this.alone = data.predictions.length === 1;
    this.panels = data.predictions.map(item => new Panel(item, data.mode === "served" ? new ServedSource(item) : new EmbeddedSource(item), this));
    this.layer = "gene:mean";
    this.palettes = Object.fromEntries(Object.entries(data.colours).map(([name, hex]) => [name, hex.match(/.{6}/g).map(colour => `#${colour}`)]));
  }

  layers() {
    const known = new Map([["gene:mean", "Expected expression"]]);
    const layers = new Set(this.data.predictions.flatMap(item => item.genes.layers));
    if (layers.has("width")) known.set("gene:width", "Interval width of the gene");
    if (layers.has("sd")) known.set("gene:sd", "Spread of the gene over neighbours");
    for (const item of this.data.predictions) for (const column of item.obs) known.set(`obs:${column.name}`, column.label);
    return known;
  }

  layerLabel() {
    const label = this.layers().get(this.layer);
    return this.layer === "gene:mean" ? `Expected ${this.symbol}` : this.layer.startsWith("gene:") ? `${label} ${this.symbol}` : label;
  }

  async start() {
    const main = document.getElementById("panels");
    main.append(...this.panels.map(panel => panel.element));
    this.controls();
    for (const panel of this.panels) await panel.load();
    await this.setGene(this.first());
    main.setAttribute("aria-busy", "false");
  }

  /* The gene that is expected to be most reliable, else the first. */
  first() {
    const item = this.data.predictions[0], reliability = item.reliability;
    let best = 0;
    reliability.forEach((value, i) => { if (value !== null && (reliability[best] === null || value > reliability[best])) best = i; });
    return item.genes.symbols[best];
  }

  controls() {
    const names = new Map();
    for (const item of this.data.predictions) item.genes.symbols.forEach((symbol, i) => names.set(symbol, item.ensembl[i] || names.get(symbol) || ""));
    const symbols = [...names.keys()];
    this.field = combobox({ label: `Gene (${symbols.length} by typing)`, names: symbols, alias: [...names.values()], absent: this.data.absent, onChoose: symbol => this.setGene(symbol) });
    document.getElementById("gene-field").append(...this.field.elements);
    const select = (id, entries, act) => {
      const element = document.getElementById(id);
      element.append(...entries.map(([value, label]) => dom.make("option", { value }, label)));
      element.addEventListener("change", () => act(element.value));
      return element.value;
    };
    select("layer", [...this.layers()], value => { this.layer = value; this.refresh(); });
    this.colours = select("colours", Object.keys(this.palettes).map(name => [name, name]), value => { this.colours = value; this.refresh(); });
    const opacity = document.getElementById("opacity");
    this.opacity = opacity.value / 100;
    opacity.addEventListener("input", () => { this.opacity = opacity.value / 100; this.refresh(); });
    document.getElementById("controls").addEventListener("submit", event => event.preventDefault());
  }

  async setGene(symbol) {
    this.symbol = symbol;
    this.field.set(symbol);
    await this.refresh();
  }

  async refresh() {
    const turn = this.turn = (this.turn || 0) + 1;
    let shown;
    try {
      await Promise.all(this.panels.map(panel => panel.layer(this.symbol, "gene:mean")));
      shown = await Promise.all(this.panels.map(panel => panel.layer(this.symbol, this.layer)));
    } catch (error) {
      document.getElementById("gene-note").textContent = error.message;
      return;
    }
    if (turn !== this.turn) return;
    const limits = commonLimits(shown.map(one => one.values));
    this.panels.forEach((panel, i) => panel.show(shown[i], limits, this.palettes[this.colours], this.opacity));
    this.tellGene();
    document.body.dataset.shown = `${this.symbol} ${this.layer}`;
  }

  tellGene() {
    const told = this.panels.map(panel => {
      const gene = panel.gene && panel.gene.symbol === this.symbol ? panel.gene : null;
      if (!gene) return `${panel.data.name}: not in this prediction`;
      const value = gene.reliability;
      const text = value === null || value === undefined ? "expected reliability unknown (the gene is outside the model's panel or was never scored)"
        : `expected correlation within a slide ${dom.number(value, 2)} (mean over held-out training slides)`;
      return [this.alone ? "" : panel.data.name, [text, gene.origin, gene.reason].filter(Boolean).join("; ")].filter(Boolean).join(": ");
    });
    document.getElementById("gene-note").textContent = `${this.symbol}: ${told.join(" | ")}.`;
  }
}

/* One colour scale for all panels: from the 1st to the 99th percentile of what they show. */
function commonLimits(columns) {
  const known = columns.flatMap(values => (values ? Array.from(values).filter(Number.isFinite) : [])).sort((a, b) => a - b);
  if (!known.length) return [0, 1];
  const at = share => known[Math.round(share * (known.length - 1))];
  return at(0.99) > at(0.01) ? [at(0.01), at(0.99)] : [at(0.01), at(0.01) + 1];
}

const app = new App(JSON.parse(document.getElementById("data").textContent));
app.start().catch(error => {
  document.getElementById("gene-note").textContent = `The page cannot be shown: ${error.message}`;
  throw error;
});
