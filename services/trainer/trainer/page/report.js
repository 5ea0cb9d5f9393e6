// The report of an experiment: figures first, predicted against true age, the worst errors, tables, and files to save.
import { decimals } from "/web/display.js";
import { element } from "/web/elements.js";
import { ask, datasetPath, drawLast, report, save } from "./ask.js";
import { drawScatter } from "./charts.js";
import { figureList } from "./compare.js";
import { gallery } from "./faces.js";
import { argumentOf, openTab } from "./tabs.js";

const WORST = 12;
const panel = document.querySelector("#report");
const field = panel.querySelector("select");
const message = panel.querySelector(".message");
const content = panel.querySelector(".content");
let shown = null; // experiment and time of the report that is drawn

export function startReports() {
  field.addEventListener("change", () => openTab("report", field.value));
}

// Called when the tab is selected.
export async function openReport() {
  report(message, "Reading the report …");
  try {
    await drawReport();
  } catch (error) {
    shown = null;
    content.replaceChildren(); // the report that was drawn before is not that of the selected experiment
    report(message, error.message, true);
  }
}

const drawReport = drawLast(read, draw);

async function read() {
  const finished = (await ask("/experiments")).filter(({ state }) => state === "finished");
  const status = finished.find(({ id }) => id === argumentOf("report")) ?? finished[0];
  const version = status && `${status.id} ${status.results?.finished}`; // a refit renews the report
  if (!status || shown === version) return { finished, status, version };
  const path = `/experiments/${status.id}`;
  const summary = await ask(`${path}/report?format=json`);
  const faces = await ask(`${path}/predictions?format=json`);
  const sets = await Promise.all(status.datasets.map((name) => ask(datasetPath(name)).catch(() => null)));
  return { finished, status, version, summary, faces, sets };
}

function draw({ finished, status, version, summary, faces, sets }) {
  field.replaceChildren(...finished.map((one) => new Option(one.name ? `${one.name} (${one.id})` : one.id, one.id)));
  report(message, finished.length ? "" : "No experiment is finished yet.");
  if (!status) return content.replaceChildren();
  field.value = status.id;
  if (!faces) return; // it is drawn already
  shown = version;
  content.replaceChildren(element("dl", { className: "figures" }, ...figureList(status)), files(`/experiments/${status.id}`, status.id));
  const withImages = new Set(sets.filter((one) => one?.format).map(({ name }) => name));
  const pictures = (some, text) => gallery(some.map((face) =>
    ({ dataset: face.dataset, file: face.file, text: text(face), hasImage: withImages.has(face.dataset) })));
  const aged = faces.filter(({ mean, true_age: age }) => mean !== null && age !== null);
  if (aged.length) {
    const plot = element("figure");
    content.append(element("h2", {}, "Predicted against true age"), plot);
    drawScatter(plot, aged.map((face) => ({ x: face.true_age, y: face.mean, text: `${face.file}\n${errorText(face)}` })), {
      x: "true age (years)", y: "predicted age (years)",
      description: `Predicted against true age of ${aged.length} faces. The dashed line is where both are equal.`,
    });
    const worst = aged.toSorted((one, other) => ageError(other) - ageError(one)).slice(0, WORST);
    content.append(element("h2", {}, "Largest errors of age"), pictures(worst, errorText));
  }
  const wrong = faces.filter(({ p_female: p, true_gender: gender }) => p !== null && gender !== null && (p >= 0.5 ? "female" : "male") !== gender);
  if (wrong.length) {
    const surest = wrong.toSorted((one, other) => Math.abs(other.p_female - 0.5) - Math.abs(one.p_female - 0.5)).slice(0, WORST);
    content.append(element("h2", {}, `Wrong genders: ${wrong.length} of ${faces.length} faces`), pictures(surest, genderText));
  }
  for (const [task, rows] of Object.entries(summary.tables)) content.append(table(task, rows));
}

const ageError = (face) => Math.abs(face.mean - face.true_age);
const errorText = (face) => `true ${decimals(face.true_age, 0)}, predicted ${decimals(face.mean, 1)}`;
const genderText = (face) => `true ${face.true_gender}, predicted ${decimals(100 * (face.true_gender === "female" ? 1 - face.p_female : face.p_female), 0)} % ${face.true_gender === "female" ? "male" : "female"}`;

function files(path, id) {
  const offered = {
    "Predictions as CSV": [`${path}/predictions?format=csv`, `predictions-${id}.csv`],
    "Predictions as Parquet": [`${path}/predictions?format=parquet`, `predictions-${id}.parquet`],
    "Whole report": [`${path}/report?format=html`, `report-${id}.html`],
  };
  const buttons = Object.entries(offered).map(([title, [source, name]]) => {
    const button = element("button", { type: "button" }, title);
    button.addEventListener("click", () => save(source, name).catch((error) => report(message, error.message, true)));
    return button;
  });
  return element("div", { className: "buttons" }, ...buttons);
}

function table(task, rows) {
  const made = element("table");
  made.createCaption().textContent = task === "age" ? "Age: accuracy of the eight groups" : "Gender: accuracy";
  const head = made.createTHead().insertRow();
  for (const title of ["held-out fold", "train", "validation", "test"])
    head.append(element("th", { scope: "col", className: title === "held-out fold" ? "" : "number" }, title));
  const body = made.createTBody();
  for (const row of rows) {
    const line = body.insertRow();
    for (const value of [row.fold, row.train, row.validation, row.test])
      line.append(element("td", { className: value === row.fold ? "" : "number" }, typeof value === "number" ? value.toFixed(4) : (value ?? "–")));
  }
  return element("div", { className: "scroll" }, made);
}
