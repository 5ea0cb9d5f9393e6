// Lists the videos that workers answer: how far each is, and its answer.
import { decimals, duration } from "/web/display.js";
import { element } from "/web/elements.js";
import { drawState, followRun, newCard, onActions, onClick, onDeleteForGood } from "./actions.js";
import { ask, runs, save } from "./ask.js";

const list = document.querySelector("#videos");
const cards = new Map(); // video id -> { card, followed }

export async function listVideos() {
  for (const status of await ask("/videos")) show(status);
}

function show(status) {
  let entry = cards.get(status.id);
  if (!entry) {
    entry = { card: newCard("video") };
    cards.set(status.id, entry);
    list.append(entry.card);
    wire(entry.card, status);
  }
  draw(entry.card, status);
  if (runs(status) && !entry.followed) followRun(entry, `/videos/${status.id}`, (latest) => draw(entry.card, latest));
}

function wire(card, { id, file, uploaded }) {
  const path = `/videos/${id}`;
  const stem = file.replace(/\.[^.]*$/, "");
  onClick(card, ".save", () => save(`${path}/answer?format=csv`, `${stem}-persons.csv`));
  onClick(card, ".copy", () => save(`${path}/annotated`, `${stem}-annotated.mp4`));
  onClick(card, ".report", () => save(`${path}/report?format=html`, `report-${id}.html`));
  onActions(card, path, show);
  onDeleteForGood(card, path, uploaded ? `the answer of ${file}, and the uploaded video` : `the answer of ${file}`);
}

function draw(card, status) {
  const finished = status.state === "finished";
  const { width, height, seconds } = status.video;
  drawState(card, status);
  card.querySelector("h2").textContent = status.file;
  card.querySelector(".facts").textContent = [
    status.id,
    `${width} x ${height} pixels${seconds === null ? "" : `, ${duration(seconds)}`}, ${decimals(status.size / 1e6, 1)} MB`,
    ...status.warnings,
    status.waiting_for,
    status.problem,
  ].filter(Boolean).join(". ");
  const progress = card.querySelector(".progress");
  progress.hidden = finished;
  Object.assign(progress.querySelector("progress"), { max: status.segments, value: status.segments_done });
  progress.querySelector("span").textContent =
    `${status.segments_done} of ${status.segments} segments, ${duration(status.seconds)} searched`;
  card.querySelector(".figures").replaceChildren(...figures(status.result).map(([title, text]) =>
    element("div", {}, element("dt", {}, title), element("dd", {}, text))));
  for (const name of [".save", ".report"]) card.querySelector(name).hidden = !finished;
  card.querySelector(".copy").hidden = !finished || !status.options.annotated;
}

const figures = (result) => result === null ? [] : [
  ["persons", result.persons.toLocaleString("en")],
  ["searched", duration(result.analysed_seconds)],
  ["frames searched", result.searched_frames.toLocaleString("en")],
];
