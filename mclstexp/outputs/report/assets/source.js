"use strict";
/* Where a panel's values come from: the page itself, or the server that it came from. Both answer the same questions. */
class EmbeddedSource {
  constructor(data) {
    this.data = data;
    this.column = new Map(data.genes.symbols.map((symbol, i) => [symbol, i]));
  }

  async picture() {
    this.url = decode.jpeg(this.data.image.data);
    return { type: "image", url: this.url };
  }

  /* A square of the slide, from the page's one picture of it. */
  async cut(place, side) {
    const scale = (await picture(this.url)).naturalWidth / this.data.size[0];
    return { url: this.url, x: place.x * scale, y: place.y * scale, side: side * scale };
  }

  async gene(symbol) {
    const genes = this.data.genes, column = this.column.get(symbol);
    if (column === undefined) return null;
    const ends = name => genes[name].map(layer => layer[column]);
    return {
      layers: await decode.layers(genes.values[column], genes.layers, ends("low"), ends("high")),
      reliability: this.data.reliability[column],
      reason: this.data.reasons[column] || "",
      origin: "",
    };
  }

  async tables() {
    if (!this.unpacked) {
      const from = this.data.neighbours, names = ["spot", "similarity", "weight", "x", "y", "slide", "ids", "by_slide", ...(from.labels ? ["labels"] : [])];
      const parts = await Promise.all(names.map(name => decode.unpack(from[name])));
      this.unpacked = Object.fromEntries(names.map((name, i) => [name, parts[i]]));
      const patches = this.data.patches;
      if (patches) {
        this.unpacked.position = await decode.unpack(patches.position);
        this.unpacked.sheets = patches.sheets.map(() => null);
      }
    }
    return this.unpacked;
  }

  async neighbours(spot) {
    const from = this.data.neighbours;
    if (!from) return null;
    const t = await this.tables(), rows = [];
    for (let rank = 0; rank < from.shown; rank++) {
      const at = spot * from.shown + rank, reference = t.spot[at];
      if (reference < 0) continue;
      rows.push({
        ...from.slides[t.slide[reference]], spot: t.ids[reference], label: t.labels ? t.labels[reference] : "", similarity: t.similarity[at],
        weight: t.weight[at], x: t.x[reference], y: t.y[reference], patch: this.patch(reference),
      });
    }
    const width = from.slides.length;
    const sums = from.slides.map((slide, i) => ({ ...slide, weight: t.by_slide[spot * width + i] }));
    return { rows, sums, k: from.k };
  }

  /* Part of a sheet: {url, x, y, side}; null where the page holds no patch of it. */
  patch(reference) {
    const patches = this.data.patches;
    if (!patches) return null;
    const number = this.unpacked.position[reference];
    if (number < 0) return null;
    const each = patches.columns ** 2, sheet = Math.floor(number / each), place = number % each;
    if (!this.unpacked.sheets[sheet]) this.unpacked.sheets[sheet] = decode.jpeg(patches.sheets[sheet]);
    return {
      url: this.unpacked.sheets[sheet], side: patches.side,
      x: (place % patches.columns) * patches.side, y: Math.floor(place / patches.columns) * patches.side,
    };
  }
}

class ServedSource {
  constructor(data) { this.data = data; }

  async ask(what, parameters) {
    const answer = await fetch(`${this.data.url}/${what}?${new URLSearchParams(parameters)}`);
    const body = await answer.json();
    if (!answer.ok) throw new Error(body.error);
    return body;
  }

  async picture() {
    const { width, height, tile, url } = this.data.image;
    if (!url) return { type: "image", url: decode.jpeg(this.data.image.data) };
    return { Image: {
      xmlns: "http://schemas.microsoft.com/deepzoom/2008", Url: url, Format: "jpeg", Overlap: "0", TileSize: String(tile),
      Size: { Width: String(width), Height: String(height) },
    } };
  }

  async cut(place, side, spot) { return { url: `${this.data.url}/spot?${new URLSearchParams({ spot })}` }; }

  async gene(symbol) {
    const body = await this.ask("gene", { name: symbol });
    if (!body.values) return null;
    return {
      layers: await decode.layers(body.values, body.layers, body.low, body.high),
      reliability: body.reliability, reason: body.reason, origin: body.origin,
    };
  }

  async neighbours(spot) {
    const body = await this.ask("neighbours", { spot: this.data.spots.ids[spot] });
    if (!body) return null;
    for (const row of body.rows) row.patch = row.patch ? { url: `${this.data.url}/patch?row=${row.row}` } : null;
    return body;
  }

  region(box, symbol) { return this.ask("region", { ...box, gene: symbol }); }
}
