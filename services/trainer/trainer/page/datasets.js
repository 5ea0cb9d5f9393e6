// One card per folder: its format or the reason why it has none, its labels and faces, and its extraction.
import { duration } from "/web/display.js";
import { element } from "/web/elements.js";
import { ask, datasetPath, drawLast, isProblem, post, report } from "./ask.js";
import { showFaces } from "./faces.js";
import { follow } from "./follow.js";
import { showLabels } from "./labels.js";
import { onSubmit } from "./pending.js";

const list = document.querySelector("#datasets");
const cards = new Map(); // name -> { card, active, followed }
const isActive = (one) => ["planning", "extracting", "merging"].includes(one.state);
const FACES = { found: "the face that is found", "found-or-whole": "that, or else the whole image", whole: "the whole image" };
const SUBJECTS = { "": "labels, and what looks alike", photographs: "labels, and copies of a photograph", off: "labels alone" };

let changed = () => {}; // called with all data sets when the list was read
let train = () => {}; // called with a data set's name
let judge = async () => {}; // called with the request for an evaluation, and its headers

export function startDatasets(options) {
  ({ changed, train, judge } = options);
}

export const listDatasets = drawLast(() => ask("/datasets?all_folders=true"), (found) => {
  const names = new Set(found.map(({ name }) => name));
  for (const [name, { card }] of cards) {
    if (names.has(name)) continue;
    card.remove();
    cards.delete(name);
  }
  for (const one of found) show(one);
  if (!found.length) list.replaceChildren(element("p", { className: "hint" }, "There is no data set yet."));
  changed(found);
});

// Show the labels of a data set that was just uploaded, or its faces if they need no choice.
export async function openUploaded({ name, format, tables }) {
  await listDatasets();
  const entry = cards.get(name);
  entry.card.scrollIntoView({ block: "nearest" });
  entry.card.querySelector("h2").focus();
  if (!format || tables.length) await openLabels(entry, name);
}

function show(dataset) {
  let entry = cards.get(dataset.name);
  if (!entry) {
    const card = document.querySelector("#dataset").content.firstElementChild.cloneNode(true);
    entry = { card };
    if (!cards.size) list.replaceChildren();
    cards.set(dataset.name, entry);
    list.append(card);
    wire(entry, dataset.name);
  }
  entry.imageSets = dataset.image_sets;
  draw(entry, dataset);
  entry.active = dataset.extractions.some(isActive);
  if (entry.active && !entry.followed) followExtractions(entry, dataset.name);
}

function wire(entry, name) {
  const { card } = entry;
  const detail = card.querySelector(".detail");
  const message = card.querySelector(".message");
  const act = (button, call) =>
    card.querySelector(button).addEventListener("click", async () => {
      try {
        report(message, "");
        await call();
      } catch (error) {
        report(message, error.message, true);
      }
    });
  const heading = card.querySelector("h2");
  heading.textContent = name;
  heading.tabIndex = -1;
  act(".labels", () => toggle(entry, "labels", () => openLabels(entry, name)));
  act(".images", () => toggle(entry, "images", () => showFaces(detail, name)));
  act(".extract", () => toggle(entry, "extract", () => openExtract(entry, name)));
  act(".cancel", async () => {
    await ask(datasetPath(name, "/cancel"), { method: "POST" });
    await listDatasets();
  });
  act(".train", () => train(name));
  act(".judge", () => toggle(entry, "judge", () => openJudge(entry, name)));
}

function toggle(entry, what, open) {
  const isOpen = entry.opened === what;
  entry.opened = isOpen ? null : what;
  for (const button of entry.card.querySelectorAll("footer button"))
    button.ariaExpanded = ["labels", "images", "extract", "judge"].includes(button.className) ? String(button.classList.contains(entry.opened)) : null;
  entry.card.querySelector(".detail").replaceChildren();
  return isOpen ? undefined : open();
}

async function openLabels(entry, name) {
  entry.opened = "labels";
  await showLabels(entry.card.querySelector(".detail"), name, async (summary) => {
    entry.opened = null;
    report(entry.card.querySelector(".message"), `labels.csv written: ${summary}`);
    await listDatasets();
  });
}

function openExtract(entry, name) {
  const select = (field, options) => {
    const made = element("select", { name: field });
    made.append(...Object.entries(options).map(([value, text]) => new Option(text, value)));
    return made;
  };
  const sets = entry.imageSets.length > 1
    ? [element("label", {}, "Images", select("image_set", Object.fromEntries(entry.imageSets.map((one) => [one, one]))))] : [];
  const form = element("form", { className: "row" }, ...sets,
    element("label", {}, "A face is", select("faces", FACES)),
    element("label", {}, "One person by", select("near_duplicates", SUBJECTS)),
    element("button", { className: "primary" }, "Start"));
  const message = entry.card.querySelector(".message");
  onSubmit(form, message, async () => {
    await extract(name, Object.fromEntries([...new FormData(form)].filter(([, value]) => value)));
    if (form.isConnected) toggle(entry, "extract");
    report(message, "");
    await listDatasets();
  });
  entry.card.querySelector(".detail").replaceChildren(form);
  form.querySelector("select").focus();
}

// Extracted faces that experiments were trained on are replaced only after a question.
async function extract(name, options) {
  const path = datasetPath(name, "/extract");
  try {
    await post(path, options);
  } catch (error) {
    if (!isProblem(error, "extraction-exists")) throw error;
    if (!confirm(`${error.message}\n\nReplace the extracted faces?`)) throw new Error("Nothing was changed.");
    await post(path, { ...options, replace: true });
  }
}

async function openJudge(entry, name) {
  const finished = (await ask("/experiments")).filter(({ state }) => state === "finished");
  if (entry.opened !== "judge") return; // closed meanwhile, or something else was opened
  const heads = element("select", { name: "head" }, new Option("served", "served"),
    ...finished.map((one) => new Option(`of ${one.name || one.id}`, one.id)));
  const form = element("form", { className: "row" },
    element("label", {}, "Heads", heads),
    element("label", {}, "Calibrate them on these faces", element("input", { type: "checkbox", name: "calibrate" })),
    element("button", { className: "primary" }, "Start"));
  onSubmit(form, entry.card.querySelector(".message"), async (headers) => {
    await judge({ dataset: name, head: heads.value, calibrate: form.elements.calibrate.checked }, headers);
    if (form.isConnected) toggle(entry, "judge");
  });
  entry.card.querySelector(".detail").replaceChildren(form);
  heads.focus();
}

async function followExtractions(entry, name) {
  entry.followed = true;
  const states = new Map();
  await follow(datasetPath(name, "/events"), entry.card.querySelector(".message"), {
    handle(one) {
      drawProgress(entry.card, one);
      if (states.has(one.id) && states.get(one.id) !== one.state) listDatasets().catch(() => {}); // read again below
      states.set(one.id, one.state);
    },
    ended: listDatasets,
    goesOn: () => entry.active && entry.card.isConnected,
  });
  entry.followed = false;
}

function draw({ card }, { name, format, image_sets, problem, extracted, extractions }) {
  const active = extractions.find(isActive);
  const failed = extractions.filter((one) => one.state !== "finished" && !isActive(one));
  card.querySelector(".state").textContent = active?.state ?? (extracted.length ? "ready to train" : format ? "ready to extract" : "labels needed");
  const facts = card.querySelector(".facts");
  if (problem) facts.replaceChildren(reason(problem));
  else facts.textContent = format ? `${format}: ${image_sets.join(", ")}` : "extracted faces";
  card.querySelector(".extractions").replaceChildren(
    ...extracted.map((one) => element("li", {}, `${name}/${one.image_set} in ${one.space.id}: ${one.summary}`)),
    ...failed.map((one) => element("li", { className: "problem" }, `${name}/${one.image_set} in ${one.space.id}: ` +
      [one.state, one.problem?.detail, one.summary].filter(Boolean).join(". "))));
  card.querySelector(".labels").hidden = !format && !problem;
  card.querySelector(".images").hidden = card.querySelector(".extract").hidden = !format;
  card.querySelector(".extract").disabled = Boolean(active);
  card.querySelector(".cancel").hidden = !active;
  card.querySelector(".train").hidden = card.querySelector(".judge").hidden = !extracted.length;
  drawProgress(card, active);
}

// The reason why a folder is no data set; the list of what was looked for is long, so it is folded.
function reason(problem) {
  const at = problem.indexOf("Looked for");
  if (at < 0) return element("span", { className: "problem" }, problem);
  return element("details", {}, element("summary", { className: "problem" }, problem.slice(0, at)), problem.slice(at));
}

function drawProgress(card, one) {
  const place = card.querySelector(".progress");
  place.hidden = !one || !isActive(one);
  if (place.hidden) return;
  const { done, total, images_per_second: rate, seconds_left: left } = one.progress;
  const bar = place.querySelector("progress");
  bar.ariaLabel = `Extraction of ${one.dataset}`;
  bar.max = total || 1;
  bar.value = done;
  const removed = Object.entries(one.removed).map(([reason, count]) => `${count} ${reason}`).join(", ");
  place.querySelector("span").textContent = [
    total ? `${done} of ${total} images` : one.state,
    rate === null ? "" : `${rate.toFixed(1)} per second`,
    left === null ? "" : `${duration(left)} left`,
    removed && `removed: ${removed}`,
    one.problem?.detail,
  ].filter(Boolean).join(", ");
}
