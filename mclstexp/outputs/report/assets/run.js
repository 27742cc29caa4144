"use strict";
/* What was run: command, reference, settings, and what the program warned of. */
function runDetails(data) {
  const { make } = dom, run = data.run;
  const notes = run.notes.map(note => make("p", { class: "note" }, note));
  return make("details", { class: "run", open: notes.length > 0 }, make("summary", {}, `What was run${notes.length ? `, and ${notes.length} ${notes.length === 1 ? "note" : "notes"}` : ""}`),
    ...notes, dom.facts(run.about), run.command ? make("pre", {}, run.command) : null,
    make("details", {}, make("summary", {}, "All settings"), make("pre", {}, run.settings)));
}
