"use strict";
/* A text field that completes names, as the ARIA pattern of a combobox with a list asks. */
let comboboxes = 0;

function combobox({ label, names, alias = null, shown = 12, absent = "", onChoose }) {
  const id = `combobox-${++comboboxes}`;
  const input = dom.make("input", {
    id, type: "text", role: "combobox", "aria-expanded": "false", "aria-controls": `${id}-list`, "aria-autocomplete": "list",
    spellcheck: "false", autocomplete: "off",
  });
  const list = dom.make("ul", { id: `${id}-list`, class: "options", role: "listbox", "aria-label": label, hidden: true });
  const lower = names.map(name => name.toLowerCase());
  let matches = [], active = -1, chosen = "";

  function find(text) {
    const asked = text.trim().toLowerCase(), starts = [], holds = [];
    for (let i = 0; i < lower.length && starts.length < shown; i++) {
      if (lower[i] === asked) starts.unshift(names[i]);
      else if (lower[i].startsWith(asked)) starts.push(names[i]);
      else if (asked && holds.length < shown && (lower[i].includes(asked) || (alias && alias[i] && alias[i].toLowerCase().startsWith(asked)))) holds.push(names[i]);
    }
    return [...starts, ...holds].slice(0, shown);
  }

  function open(text) {
    matches = find(text);
    active = text.trim() && matches.length ? 0 : -1;
    list.replaceChildren(...matches.map((name, i) => dom.make("li", {
      id: `${id}-${i}`, role: "option", onpointerdown: event => { event.preventDefault(); choose(name); },
    }, name)));
    if (!matches.length && absent) list.append(dom.make("li", { class: "none", "aria-disabled": "true" }, absent));
    list.hidden = !list.children.length;
    mark();
  }

  function mark() {
    input.setAttribute("aria-expanded", String(!list.hidden));
    if (matches.length) [...list.children].forEach((item, i) => item.setAttribute("aria-selected", String(i === active)));
    if (active >= 0 && matches.length && !list.hidden) {
      input.setAttribute("aria-activedescendant", `${id}-${active}`);
      list.children[active].scrollIntoView({ block: "nearest" });
    } else input.removeAttribute("aria-activedescendant");
  }

  function close() { list.hidden = true; active = -1; mark(); }

  function choose(name) {
    set(name);
    close();
    onChoose(name);
  }

  function set(name) { chosen = name; input.value = name; }

  input.addEventListener("input", () => open(input.value));
  for (const name of ["focus", "click"]) input.addEventListener(name, () => { if (input.value === chosen) input.select(); });
  input.addEventListener("blur", () => { close(); input.value = chosen; });
  input.addEventListener("keydown", event => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (list.hidden) open(input.value === chosen ? "" : input.value);
      else if (matches.length) active = (active + (event.key === "ArrowDown" ? 1 : -1) + matches.length) % matches.length;
      mark();
    } else if (event.key === "Enter") {
      event.preventDefault();
      const exact = names[lower.indexOf(input.value.trim().toLowerCase())];
      const name = active >= 0 ? matches[active] : exact;
      if (name !== undefined) choose(name);
    } else if (event.key === "Escape") { close(); input.value = chosen; }
  });
  return { elements: [dom.make("label", { for: id }, label), input, list], set, input };
}
