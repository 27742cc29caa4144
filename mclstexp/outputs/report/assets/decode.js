"use strict";
/* Texts of the page to arrays: base64, gzip, quantised values. */
const decode = (() => {
  const types = { f4: Float32Array, i4: Int32Array };
  const STEPS = 254;

  function bytes(text) {
    const raw = atob(text);
    const out = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
    return out;
  }

  async function gunzip(text) {
    const stream = new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  async function unpack(packed) {
    const data = await gunzip(packed.data);
    if (packed.type === "json") return JSON.parse(new TextDecoder().decode(data));
    return new types[packed.type](data.buffer);
  }

  /* Codes of one gene's layers, one after the other, to a Float32Array a layer. */
  async function layers(text, names, low, high) {
    const codes = await gunzip(text);
    const n = codes.length / names.length;
    const out = {};
    names.forEach((name, layer) => {
      const values = new Float32Array(n);
      const step = (high[layer] - low[layer]) / STEPS;
      for (let i = 0; i < n; i++) {
        const code = codes[layer * n + i];
        values[i] = code > STEPS ? NaN : low[layer] + code * step;
      }
      out[name] = values;
    });
    if (out.lower && out.width) out.upper = out.lower.map((value, i) => value + out.width[i]);
    return out;
  }

  const jpeg = text => URL.createObjectURL(new Blob([bytes(text)], { type: "image/jpeg" }));

  return { bytes, gunzip, unpack, layers, jpeg };
})();
