"use strict";
/* Elements and numbers. Names from data become text and attributes only; nothing here parses HTML. */
const dom = (() => {
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === null || value === undefined || value === false) continue;
      if (name === "class") element.className = value;
      else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter(child => child !== null && child !== undefined && child !== ""));
    return element;
  }

  function number(value, digits = 3) {
    if (value === null || value === undefined || !Number.isFinite(value)) return "unknown";
    if (value === 0) return "0";
    const size = Math.abs(value);
    return size >= 1000 || size < 0.001 ? value.toPrecision(digits) : value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : digits);
  }

  const percent = value => `${(100 * value).toFixed(value < 0.1 ? 1 : 0)}\u00a0%`;

  function table(caption, header, rows) {
    const cells = (kind, values) => values.map((value, i) => make(
      kind, { class: header[i].number ? "number" : null, scope: kind === "th" ? "col" : null }, value));
    return make("table", {}, make("caption", { class: "label" }, caption),
      make("thead", {}, make("tr", {}, ...cells("th", header.map(column => column.name)))),
      make("tbody", {}, ...rows.map(row => make("tr", {}, ...cells("td", row)))));
  }

  function facts(rows) {
    return make("dl", { class: "facts" }, ...rows.flatMap(([key, value]) => [make("dt", {}, key), make("dd", {}, value)]));
  }

  return { make, number, percent, table, facts };
})();
