// Lists experiments, follows the running ones by server-sent events, starts and promotes. No library.
import { duration } from "/web/display.js";
import { eachEvent } from "/web/key.js";
import { ask, isProblem, post, runs, saveReport } from "./ask.js";
import { listSearches, startSearch } from "./searches.js";

const form = document.querySelector("#start");
const hint = document.querySelector("#hint");
const list = document.querySelector("#experiments");
const cards = new Map(); // experiment id -> { card, followed }
const colours = ["#2a78c8", "#c8502a", "#2a9d6a", "#9a4fc8", "#c8a02a", "#5a5a5a"];

async function loadDatasets() {
  const found = await ask("/datasets");
  const extracted = found.filter((dataset) => dataset.extracted.length);
  const selected = form.elements.dataset.value;
  form.elements.dataset.replaceChildren(...extracted.map((one) => new Option(one.name, one.name)));
  if (extracted.some((one) => one.name === selected)) form.elements.dataset.value = selected;
  if (!extracted.length)
    hint.textContent = "No data set has been extracted yet: agegender extract NAME, or POST /datasets/NAME/extract.";
  document.querySelector("#datasets ul").replaceChildren(...found.flatMap(datasetRows));
  document.querySelector("#datasets").hidden = !found.length;
  return found;
}

// A line for each extraction: what came of it, or how far it is, or why it failed.
function datasetRows({ name, extracted, extractions }) {
  const row = (one, text) => {
    const item = document.createElement("li");
    item.textContent = `${name}/${one.image_set} in ${one.space.id}: ${text}`;
    return item;
  };
  const others = extractions.filter((one) => one.state !== "finished");
  return [
    ...extracted.map((one) => row(one, one.summary)),
    ...others.map((one) => row(one, [one.state, one.problem?.detail, one.summary].filter(Boolean).join(". "))),
  ];
}

// The list is read again at each change of state, until nothing is extracted any more.
async function followExtractions(found) {
  const active = (one) => ["planning", "extracting", "merging"].includes(one.state);
  for (const { name, extractions } of found.filter((one) => one.extractions.some(active))) {
    const states = new Map(extractions.map((one) => [one.id, one.state]));
    eachEvent(`/datasets/${encodeURIComponent(name)}/events`, (one) => {
      if (states.get(one.id) === one.state) return;
      states.set(one.id, one.state);
      loadDatasets().catch(() => {});
    }).catch(() => {}); // the server is away; the list is as it was
  }
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const { dataset, task, preset, seeds } = Object.fromEntries(new FormData(form));
  try {
    if (event.submitter?.name === "search") await startSearch({ dataset, task, preset });
    else show(await post("/experiments", { dataset, task, preset, seeds: Number(seeds) }), true);
    hint.textContent = "Started.";
  } catch (error) {
    hint.textContent = error.message;
  }
});

function show(status, first = false) {
  let entry = cards.get(status.id);
  if (!entry) {
    const card = document.querySelector("#experiment").content.firstElementChild.cloneNode(true);
    entry = { card };
    cards.set(status.id, entry);
    first ? list.prepend(card) : list.append(card);
    wire(card, status.id);
  }
  draw(entry, status);
  if (runs(status) && !entry.followed) follow(entry, status.id);
}

function wire(card, id) {
  // question : asked before, where the click destroys something.
  const act = (button, path, method, done, question) =>
    card.querySelector(button).addEventListener("click", async () => {
      const message = card.querySelector(".message");
      if (question && !confirm(question)) return;
      try {
        await done(await askedAgain(path, method), message);
      } catch (error) {
        message.textContent = error.message;
      }
    });
  act(".promote", `/experiments/${id}/promote`, "POST", async (versions, message) => {
    const status = await ask(`/experiments/${id}`);
    const more = runs(status) ? ". Training on all faces too: that is served from when it is done, if it is better" : "";
    message.textContent = `Served: ${Object.values(versions).join(", ")}${more}`;
    show(status);
  });
  act(".refit", `/experiments/${id}/refit`, "POST", (status) => show(status));
  act(".resume", `/experiments/${id}/resume`, "POST", (status) => show(status));
  act(".cancel", `/experiments/${id}/cancel`, "POST", (status) => show(status));
  act(".remove", `/experiments/${id}`, "DELETE", () => {
    cards.delete(id);
    card.remove();
  }, `Delete experiment ${id} with its networks and its report? They cannot be restored.`);
}

// A promotion that would replace better heads is rejected with the metrics of both; send it again if the user accepts them.
async function askedAgain(path, method) {
  try {
    return await ask(path, { method });
  } catch (error) {
    if (!isProblem(error, "promotion-needs-confirmation")) throw error;
    const metrics = error.problem.comparisons.map((one) => one.summary).join("\n\n");
    if (!confirm(`${metrics}\n\nServe the new heads all the same?`)) throw new Error("Nothing was changed.");
    return ask(`${path}?force=true`, { method });
  }
}

async function follow(entry, id) {
  entry.followed = true;
  while (entry.followed) {
    try {
      await eachEvent(`/experiments/${id}/events`, (status) => {
        entry.followed = runs(status);
        draw(entry, status);
      });
    } catch {
      // the server is away; its own state is the truth, so ask again
    }
    if (entry.followed) await new Promise((done) => setTimeout(done, 2000));
    if (!entry.card.isConnected) return;
  }
}

function draw(entry, status) {
  const { card } = entry;
  const over = !runs(status);
  card.dataset.state = status.state;
  card.querySelector("h2").textContent = status.id;
  card.querySelector(".state").textContent = status.state;
  card.querySelector(".facts").textContent =
    `${status.task} on ${status.datasets.join(" and ")}, space ${status.space.id}, ${status.seeds} networks per fold`;
  drawCurves(card.querySelector("svg"), status.folds);
  const refits = status.refits.map((one) => workRow(one, one.fold === null ? "all faces" : `all but ${one.fold}`));
  card.querySelector(".folds").replaceChildren(...status.folds.map((one) => workRow(one, `fold ${one.fold}`)), ...refits);
  card.querySelector(".cancel").hidden = over;
  card.querySelector(".remove").hidden = !over;
  card.querySelector(".promote").hidden = status.state !== "finished";
  card.querySelector(".refit").hidden = status.state !== "finished" || status.refits.length > 0;
  card.querySelector(".resume").hidden = !["failed", "cancelled"].includes(status.state);
  const report = card.querySelector(".report");
  report.hidden = status.state !== "finished";
  report.onclick = (event) => saveReport(event, report.href, status.id);
  report.href = `/experiments/${status.id}/report?format=html`;
  if (status.state === "finished") drawTable(card.querySelector(".table"), status.id);
}

function workRow(work, called) {
  const row = document.createElement("div");
  const name = document.createElement("span");
  name.textContent = called;
  const bar = document.createElement("progress");
  bar.max = work.epochs || 1;
  bar.value = work.state === "finished" ? bar.max : work.epoch;
  const state = document.createElement("span");
  state.textContent = work.problem ?? (work.state === "running" && work.seconds_left !== null
    ? `epoch ${work.epoch}, ${duration(work.seconds_left)} left at most` : work.state);
  row.append(name, bar, state);
  return row;
}

// Validation loss of each fold; thin, its training loss.
function drawCurves(svg, folds) {
  const all = folds.flatMap((fold) => fold.curve);
  svg.replaceChildren();
  svg.style.display = all.length > 1 ? "" : "none";
  if (all.length < 2) return;
  const last = Math.max(...all.map(([epoch]) => epoch));
  const values = all.flatMap(([, train, validation]) => [train, validation]);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const place = (epoch, loss) => `${10 + (580 * epoch) / last},${150 - (140 * (loss - low)) / (high - low || 1)}`;
  for (const { fold, curve } of folds)
    for (const [column, width] of [[1, 0.7], [2, 2]]) {
      const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
      line.setAttribute("points", curve.map((point) => place(point[0], point[column])).join(" "));
      line.setAttribute("stroke", colours[fold % colours.length]);
      line.setAttribute("stroke-width", width);
      svg.append(line);
    }
}

async function drawTable(place, id) {
  if (place.childElementCount) return;
  const report = await ask(`/experiments/${id}/report?format=json`);
  for (const [task, rows] of Object.entries(report.tables)) {
    const table = document.createElement("table");
    table.createCaption().textContent = task === "age" ? "Age: accuracy of the eight groups" : "Gender: accuracy";
    const head = table.createTHead().insertRow();
    for (const title of ["held-out fold", "train", "validation", "test"]) {
      const cell = document.createElement("th");
      cell.textContent = title;
      head.append(cell);
    }
    for (const row of rows) {
      const line = table.insertRow();
      for (const value of [row.fold, row.train, row.validation, row.test])
        line.insertCell().textContent = typeof value === "number" ? value.toFixed(4) : (value ?? "–");
    }
    place.append(table);
  }
}

// Records that the lists skipped because they cannot be read, and what else keeps the trainer from working.
async function showWarnings() {
  const warnings = await ask("/health/ready").then(
    (ready) => ready.warnings ?? [],
    (error) => [error.message],
  );
  const items = warnings.map((text) => Object.assign(document.createElement("li"), { textContent: text }));
  document.querySelector("#warnings ul").replaceChildren(...items);
  document.querySelector("#warnings").hidden = !items.length;
}

await loadDatasets()
  .then(followExtractions)
  .catch((error) => (hint.textContent = error.message));
for (const status of await ask("/experiments")) show(status);
await listSearches((status) => show(status, true));
await showWarnings();
