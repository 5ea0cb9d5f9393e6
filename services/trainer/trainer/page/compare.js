// The figures of experiments, alone and side by side with the options in which they differ.
import { decimals, duration } from "/web/display.js";
import { element } from "/web/elements.js";
import { ask, drawLast, report } from "./ask.js";

const place = document.querySelector("#comparison");
const date = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

// The error in years, with the number of exact ages that it is measured on, unless all faces have one.
export const ageError = (years, exact, faces) =>
  `${decimals(years, 2)} years${exact === null || exact === faces ? "" : ` (${exact.toLocaleString("en")} exact ages)`}`;

// Title and text of each figure of a run, for cards and reports.
export function figures({ results, created }) {
  if (!results) return [["started", date.format(new Date(created))]];
  const { age_error: error, exact_faces: exact, gender_accuracy: accuracy, faces, finished } = results;
  return [
    error !== null && ["age error", ageError(error, exact, faces)],
    accuracy !== null && ["gender accuracy", `${decimals(100 * accuracy, 1)} %`],
    ["faces", faces.toLocaleString("en")],
    ["duration", duration((new Date(finished) - new Date(created)) / 1000)],
    ["started", date.format(new Date(created))],
  ].filter(Boolean);
}

export const figureList = (status) =>
  figures(status).map(([title, text]) => element("div", {}, element("dt", {}, title), element("dd", {}, text)));

export async function compare(ids, message) {
  try {
    await drawComparison(ids);
  } catch (error) {
    report(message, error.message, true);
  }
}

const drawComparison = drawLast(async (ids) => {
  const found = await Promise.all(ids.map(async (id) => ({
    status: await ask(`/experiments/${id}`),
    options: flat((await ask(`/experiments/${id}/report?format=json`)).experiment.options),
  })));
  const others = new URLSearchParams(ids.slice(1).map((id) => ["with", id]));
  const paired = await ask(`/experiments/${ids[0]}/paired-comparison?${others}`).catch((error) => ({ problem: error.message }));
  return { found, paired };
}, draw);

function draw({ found, paired }) {
  const table = element("table");
  table.createCaption().textContent = "Out-of-fold figures, and options that differ";
  const head = table.createTHead().insertRow();
  head.append(element("th", { scope: "col" }, ""), ...found.map(({ status }) => element("th", { scope: "col" }, status.name || status.id)));
  const body = table.createTBody();
  const add = (title, cells) => {
    const line = body.insertRow();
    line.append(element("th", { scope: "row" }, title), ...cells.map((text) => element("td", {}, text)));
  };
  const shown = found.map(({ status }) => Object.fromEntries(figures(status)));
  for (const title of new Set(shown.flatMap(Object.keys))) add(title, shown.map((one) => one[title] ?? "–"));
  add("data", found.map(({ status }) => status.datasets.join(" and ")));
  for (const name of new Set(found.flatMap(({ options }) => Object.keys(options)))) {
    const values = found.map(({ options }) => options[name] ?? "–");
    if (new Set(values).size > 1) add(name, values);
  }
  const close = element("button", { type: "button", onclick: () => (place.hidden = true) }, "Close");
  const differences = paired.problem
    ? element("p", { className: "problem" }, paired.problem)
    : element("ul", {}, ...paired.differences.map(({ summary }) => element("li", {}, summary)));
  place.replaceChildren(
    element("h2", { tabIndex: -1 }, "Comparison"), element("div", { className: "scroll" }, table), differences, close);
  place.hidden = false;
  place.querySelector("h2").focus();
}

// {optimizer: {epochs: 40}} -> {"optimizer.epochs": "40"}
function flat(options, prefix = "") {
  return Object.assign({}, ...Object.entries(options).map(([name, value]) =>
    value !== null && typeof value === "object" && !Array.isArray(value)
      ? flat(value, `${prefix}${name}.`) : { [`${prefix}${name}`]: JSON.stringify(value) }));
}
