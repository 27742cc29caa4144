"use strict";
/* What is told of the chosen spot: its values, its own patch, its neighbours, and who they add up to. */

function evidenceOf(panel, spot, neighbours) {
  const { make } = dom, data = panel.data;
  const parts = [make("h3", {}, `Spot ${data.spots.ids[spot]}`), make("div", { class: "facts-row" }, ownPatch(panel, spot), factsOf(panel, spot))];
  const shares = sharesOf(panel, spot);
  if (shares) parts.push(shares);
  if (!neighbours) return [...parts, make("p", { class: "note" }, "The prediction was saved without its neighbours.")];
  const effective = panel.obs.get("n_effective");
  if (effective) parts.push(evenness(effective.values[spot], neighbours.k, data.even));
  return [...parts, ...sums(neighbours.sums), ...nearest(panel, neighbours)];
}

function factsOf(panel, spot) {
  const rows = [], gene = panel.gene;
  if (gene && gene.layers.mean) {
    const { mean, lower, upper, sd } = gene.layers;
    let text = dom.number(mean[spot]);
    if (lower && Number.isFinite(lower[spot])) text += ` (${dom.percent(panel.data.interval_level || 0.9)} interval ${dom.number(lower[spot])} to ${dom.number(upper[spot])})`;
    else if (sd && Number.isFinite(sd[spot])) text += ` (spread of the neighbours ${dom.number(sd[spot])})`;
    rows.push([gene.symbol, text]);
  }
  for (const column of panel.obs.values()) {
    if (!column.name.startsWith("share_")) rows.push([column.label, dom.number(column.values[spot])]);
  }
  return dom.facts(rows);
}

/* The query's own patch, cut from what the page has of the slide. */
function ownPatch(panel, spot) {
  const canvas = dom.make("canvas", { class: "own", width: 144, height: 144, role: "img", "aria-label": "The slide around the spot" });
  const side = panel.data.fov_um && panel.data.mpp ? panel.data.fov_um / panel.data.mpp : 2 * panel.data.diameter;
  const place = { x: panel.x[spot] - side / 2, y: panel.y[spot] - side / 2 };
  panel.source.cut(place, side, panel.data.spots.ids[spot]).then(part => draw(canvas, part)).catch(() => {});
  return canvas;
}

const pictures = new Map();

function picture(url) {
  if (!pictures.has(url)) {
    if (pictures.size > 200) pictures.clear();
    pictures.set(url, new Promise((resolve, reject) => {
      const image = new Image();
      image.onload = () => resolve(image);
      image.onerror = () => reject(new Error("no picture"));
      image.src = url;
    }));
  }
  return pictures.get(url);
}

async function draw(canvas, part) {
  const image = await picture(part.url);
  const x = part.x || 0, y = part.y || 0, side = part.side || image.naturalWidth;
  canvas.getContext("2d").drawImage(image, x, y, side, side, 0, 0, canvas.width, canvas.height);
}

function sharesOf(panel, spot) {
  const names = [["share_neighbours", "neighbours' mean"], ["share_correction", "correction"], ["share_level", "level of the slide"]];
  if (!names.every(([name]) => panel.obs.has(name))) return null;
  const text = names.map(([name, label]) => `${label} ${dom.percent(panel.obs.get(name).values[spot])}`).join(", ");
  return dom.make("p", {}, `Where the prediction comes from: ${text}.`);
}

function evenness(effective, k, even) {
  if (!Number.isFinite(effective)) return "";
  const told = `${dom.number(effective, 0)} effective neighbours of ${k}.`;
  if (effective <= even * k) return dom.make("p", {}, told);
  return dom.make("p", { class: "note" }, `${told} The weights are so even that no single neighbour decides: read them as the kind of tissue, not as the source of a value.`);
}

function sums(slides) {
  const { make, percent } = dom;
  const cohorts = new Set(slides.map(slide => slide.cohort));
  const patient = slide => `${slide.patient || "unknown"}${cohorts.size > 1 ? ` (${slide.cohort || "unknown"})` : ""}`;
  const by = key => {
    const total = new Map();
    for (const slide of slides) {
      const name = key === "patient" ? patient(slide) : slide[key] || "unknown";
      total.set(name, (total.get(name) || 0) + slide.weight);
    }
    return [...total].filter(([, weight]) => weight > 0).sort((a, b) => b[1] - a[1]);
  };
  const rows = (key, most = 8) => by(key).slice(0, most).map(([name, weight]) => `${name} ${percent(weight)}`).join("; ")
    + (by(key).length > most ? `; and ${by(key).length - most} more` : "");
  return [make("h3", {}, "Weight of all neighbours"), dom.facts([["by patient", rows("patient")], ["by slide", rows("slide")], ["by cohort", rows("cohort")]])];
}

function nearest(panel, neighbours) {
  const { make, number, percent } = dom;
  const any = neighbours.rows.some(row => row.patch), labelled = neighbours.rows.some(row => row.label);
  const header = [...(any ? [{ name: "patch" }] : []), { name: "patient" }, { name: "slide" }, { name: "spot" }, { name: "similarity", number: true }, { name: "weight", number: true }, ...(labelled ? [{ name: "label" }] : [])];
  const rows = neighbours.rows.map(row => {
    const cells = [row.patient || "unknown", row.slide, row.spot, number(row.similarity, 4), percent(row.weight), ...(labelled ? [row.label || ""] : [])];
    if (!any) cells[2] = `${row.spot} at ${Math.round(row.x)}, ${Math.round(row.y)} px`;
    return any ? [patchOf(row), ...cells] : cells;
  });
  const held = neighbours.rows.reduce((sum, row) => sum + row.weight, 0);
  const said = panel.data.patches_note ? `No patches: ${panel.data.patches_note}` : missingPatches((panel.data.patches || {}).missing || {});
  return [
    make("h3", {}, `The ${rows.length} nearest of ${neighbours.k} neighbours`),
    make("p", { class: "label" }, `They hold ${percent(held)} of the weight.${any ? ` A patch is ${number(panel.data.fov_um, 0)} µm wide.` : ""}${said ? ` ${said}.` : ""}`),
    make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Nearest neighbours" }, dom.table("Most similar first", header, rows)),
  ];
}

/* Which slides have no patches, by reason, with the first few names. */
function missingPatches(missing) {
  const reasons = new Map();
  for (const [slide, why] of Object.entries(missing)) reasons.set(why, [...(reasons.get(why) || []), slide]);
  const told = [...reasons].map(([why, slides]) => `${slides.slice(0, 4).join(", ")}${slides.length > 4 ? ` and ${slides.length - 4} more slides` : ""} (${why})`);
  return told.length ? `No patches from ${told.join("; ")}` : "";
}

function patchOf(row) {
  if (!row.patch) return dom.make("span", { class: "label" }, `at ${Math.round(row.x)}, ${Math.round(row.y)} px`);
  const canvas = dom.make("canvas", { class: "patch", width: 72, height: 72, role: "img", "aria-label": `Patch of spot ${row.spot} of ${row.slide}` });
  draw(canvas, row.patch).catch(() => canvas.replaceWith(dom.make("span", { class: "label" }, "no picture at hand")));
  return canvas;
}
