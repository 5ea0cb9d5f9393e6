// Judges heads on labelled faces that they never saw, and serves what a calibration on these faces made.
import { decimals } from "/web/display.js";
import { element } from "/web/elements.js";
import { drawState, followRun, newCard, onActions, onClick, onDelete, promote } from "./actions.js";
import { ask, post, report, runs, save } from "./ask.js";
import { ageError } from "./compare.js";

const list = document.querySelector("#evaluations");
const cards = new Map(); // evaluation id -> { card, followed }
const share = (value) => `${decimals(100 * value, 1)} %`;

export async function listEvaluations() {
  for (const status of await ask("/evaluations")) show(status);
}

export async function startEvaluation(request, headers) {
  const status = await post("/evaluations", request, headers);
  show(status, true);
  cards.get(status.id).card.scrollIntoView({ block: "nearest" });
}

function show(status, first = false) {
  let entry = cards.get(status.id);
  if (!entry?.card.isConnected) {
    const card = newCard("evaluation");
    entry = { card };
    cards.set(status.id, entry);
    first ? list.prepend(card) : list.append(card);
    wire(card, status);
  }
  draw(entry.card, status);
  if (runs(status) && !entry.followed) followRun(entry, `/evaluations/${status.id}`, (latest) => draw(entry.card, latest));
}

function wire(card, { id, dataset }) {
  const path = `/evaluations/${id}`;
  onClick(card, ".promote", async () => {
    const versions = await promote(path);
    report(card.querySelector(".message"), `Served: ${Object.values(versions).join(", ")}`);
  });
  onActions(card, path, show);
  onClick(card, ".save", () => save(`${path}/predictions?format=csv`, `predictions-${id}.csv`));
  onClick(card, ".report", () => save(`${path}/report?format=html`, `report-${id}.html`));
  onDelete(card, path, `the evaluation on ${dataset}`, (status) => show(status, true));
}

function draw(card, status) {
  const finished = status.state === "finished";
  drawState(card, status);
  card.querySelector("h2").textContent = `${status.head === "served" ? "Served heads" : status.head} on ${status.dataset}`;
  card.querySelector(".facts").textContent = [...Object.values(status.versions), ...status.warnings, status.problem].filter(Boolean).join(". ");
  card.querySelector(".figures").replaceChildren(...Object.values(status.results).flatMap(figures).map(([title, text]) =>
    element("div", {}, element("dt", {}, title), element("dd", {}, text))));
  card.querySelector(".recommendation").replaceChildren(...status.recommendation.map((text) => element("li", {}, text)));
  const calibrated = Object.values(status.results).some((one) => one.new_version);
  card.querySelector(".promote").hidden = !finished || !calibrated;
  for (const name of [".save", ".report"]) card.querySelector(name).hidden = !finished;
}

const figures = ({ faces, exact_faces: exact, mae, accuracy, coverage, coverage_after: after }) => [
  mae !== null && ["age error", ageError(mae, exact, faces)],
  accuracy !== null && ["gender accuracy", share(accuracy)],
  coverage !== null && ["ages in their 90 % interval", after === null ? share(coverage) : `${share(coverage)}, calibrated ${share(after)}`],
  ["faces", faces.toLocaleString("en")],
].filter(Boolean);
