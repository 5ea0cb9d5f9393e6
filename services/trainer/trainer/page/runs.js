// One card per experiment: its figures, live curves and folds, and what can be done with it.
import { duration } from "/web/display.js";
import { element } from "/web/elements.js";
import { drawState, followRun, newCard, onActions, onClick, onDelete, promote } from "./actions.js";
import { ask, post, report, runs } from "./ask.js";
import { drawCurves } from "./charts.js";
import { compare, figureList } from "./compare.js";
import { onSubmit } from "./pending.js";
import { startSearch } from "./searches.js";

const form = document.querySelector("#start");
const hint = document.querySelector("#hint");
const list = document.querySelector("#experiments");
const comparing = document.querySelector("#compare");
const cards = new Map(); // experiment id -> { card, followed }

let openReport = () => {}; // called with an experiment's id

export function startRuns(options) {
  ({ openReport } = options);
  onSubmit(form, hint, start);
  comparing.querySelector("button").addEventListener("click", () => compare(picked(), comparing.querySelector("span")));
}

export async function listRuns() {
  for (const status of await ask("/experiments")) showRun(status);
}

export function showDatasets(found) {
  const extracted = found.filter((dataset) => dataset.extracted.length);
  const field = form.elements.dataset;
  const selected = field.value;
  field.replaceChildren(...extracted.map((one) => new Option(one.name, one.name)));
  if (extracted.some((one) => one.name === selected)) field.value = selected;
  hint.textContent = extracted.length ? "" : "No data set has been extracted yet: see the tab Data.";
}

export function chooseDataset(name) {
  form.elements.dataset.value = name;
  form.elements.dataset.focus();
}

async function start(headers, button) {
  const { name, dataset, task, preset, seeds, overlap } = Object.fromEntries(new FormData(form));
  const request = { dataset, task, preset, overlap };
  if (button?.name === "search") await startSearch(request, headers);
  else showRun(await post("/experiments", { ...(name.trim() && { name: name.trim() }), ...request, seeds: Number(seeds) }, headers), true);
  report(hint, "Started.");
}

export function showRun(status, first = false) {
  let entry = cards.get(status.id);
  if (!entry?.card.isConnected) {
    const card = newCard("experiment");
    entry = { card };
    cards.set(status.id, entry);
    first ? list.prepend(card) : list.append(card);
    wire(card, status.id);
  }
  draw(entry.card, status);
  if (runs(status) && !entry.followed) followRun(entry, `/experiments/${status.id}`, (latest) => draw(entry.card, latest));
}

function wire(card, id) {
  const path = `/experiments/${id}`;
  onClick(card, ".promote", async () => {
    const versions = await promote(path);
    const status = await ask(path);
    const more = runs(status) ? ". Training on all faces too: that is served from when it is done, if it is better" : "";
    report(card.querySelector(".message"), `Served: ${Object.values(versions).join(", ")}${more}`);
    await listRuns();
  });
  onClick(card, ".rename", async () => {
    const name = prompt("Name of the experiment", card.dataset.name);
    if (name === null) return;
    const headers = { "Content-Type": "application/json" };
    showRun(await ask(path, { method: "PATCH", headers, body: JSON.stringify({ name: name.trim() || null }) }));
  });
  onActions(card, path, showRun, ["refit", "resume", "cancel"]);
  onDelete(card, path, `experiment ${id}`, (status) => showRun(status, true));
  card.querySelector(".report").addEventListener("click", () => openReport(id));
  card.querySelector(".pick input").addEventListener("change", showPicked);
}

const picked = () => [...cards].filter(([, { card }]) => card.querySelector(".pick input")?.checked).map(([id]) => id);

function showPicked() {
  const ids = picked();
  comparing.hidden = !ids.length;
  comparing.querySelector("button").disabled = ids.length < 2;
  comparing.querySelector("span").textContent = ids.length < 2 ? "Select at least two experiments." : `${ids.length} experiments`;
}

function draw(card, status) {
  const finished = status.state === "finished";
  card.querySelector("h2").textContent = status.name || status.id;
  card.dataset.name = status.name ?? "";
  const served = card.querySelector(".served");
  served.hidden = !status.served.length;
  served.title = `The predictor uses its heads for ${status.served.join(" and ")}.`;
  card.querySelector(".figures").replaceChildren(...figureList(status));
  card.querySelector(".facts").textContent = [
    status.name && status.id,
    status.notes,
    `${status.task} on ${status.datasets.join(" and ")}, space ${status.space.id}, ${status.seeds} networks per fold`,
    ...status.warnings,
  ].filter(Boolean).join(". ");
  drawCurves(card.querySelector(".curves"), status.folds);
  const refits = status.refits.map((one) => workRow(one, one.fold === null ? "all faces" : `all but ${one.fold}`));
  card.querySelector(".folds").replaceChildren(...status.folds.map((one) => workRow(one, `fold ${one.fold}`)), ...refits);
  if (card.dataset.state !== status.state) card.querySelector(".work").open = !finished;
  drawState(card, status);
  card.querySelector(".promote").hidden = card.querySelector(".report").hidden = card.querySelector(".pick").hidden = !finished;
  card.querySelector(".refit").hidden = !finished || status.refits.length > 0;
}

function workRow(work, name) {
  const bar = element("progress", { max: work.epochs || 1, ariaLabel: name });
  bar.value = work.state === "finished" ? bar.max : work.epoch;
  const state = work.problem ?? (work.state === "running" && work.seconds_left !== null
    ? `epoch ${work.epoch}, ${duration(work.seconds_left)} left at most` : work.state);
  return element("div", {}, element("span", {}, name), bar, element("span", {}, state));
}
