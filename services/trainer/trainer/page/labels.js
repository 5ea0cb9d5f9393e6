// Shows how the labels of a folder are read, lets the user correct columns and gender words, and writes labels.csv.
import { element } from "/web/elements.js";
import { ask, datasetPath, drawLast, post, report } from "./ask.js";
import { onSingleClick } from "./pending.js";

const ROLES = { file_column: "Image name", age_column: "Age", gender_column: "Gender", subject_column: "Person", fold_column: "Fold" };

// written : called once labels.csv exists.
export async function showLabels(place, name, written) {
  const choice = { map: {} };
  const message = element("p", { className: "message" });
  message.setAttribute("role", "status");
  const content = element("div");
  place.replaceChildren(content, message);

  const read = drawLast(() => {
    const query = new URLSearchParams(Object.entries({ ...choice, map: asText(choice.map) }).filter(([, value]) => value !== undefined));
    return ask(datasetPath(name, `/labels?${query}`));
  }, draw);

  async function look() {
    try {
      await read();
      report(message, "");
    } catch (error) {
      report(message, error.message, true);
    }
  }

  function draw(proposal) {
    const focused = document.activeElement?.name;
    const use = element("button", { type: "button", className: "primary", disabled: !proposal.usable }, "Use these labels");
    onSingleClick(use, write);
    content.replaceChildren(
      element("h3", {}, "Labels"),
      element("p", {}, proposal.summary),
      ...proposal.problems.map((text) => element("p", { className: "problem" }, text)),
      columnChoices(proposal),
      genderChoices(proposal),
      examples(proposal),
      use,
    );
    if (focused) content.querySelector(`[name="${CSS.escape(focused)}"]`)?.focus();
  }

  function columnChoices(proposal) {
    const row = element("div", { className: "row" });
    if (!proposal.columns.length) return row;
    for (const [role, title] of Object.entries(ROLES)) {
      const field = select(role, proposal.columns.map(({ name: column, values }) => [column, `${column} (${values.slice(0, 2).join(", ")})`]));
      if (role !== "file_column") field.prepend(new Option("none", ""));
      field.value = choice[role] ?? proposal[role] ?? "";
      field.addEventListener("change", () => {
        choice[role] = field.value;
        if (role === "gender_column") choice.map = {};
        look();
      });
      row.append(element("label", {}, title, field));
    }
    return row;
  }

  function genderChoices({ genders }) {
    const row = element("div", { className: "row" });
    for (const [word, meaning] of Object.entries(genders).filter(([word, meaning]) => meaning === null || word in choice.map)) {
      const field = select(`gender ${word}`, [["", "?"], ["female", "female"], ["male", "male"]]);
      field.value = meaning ?? "";
      field.addEventListener("change", () => {
        field.value ? (choice.map[word] = field.value) : delete choice.map[word];
        look();
      });
      row.append(element("label", {}, `Gender “${word}” means`, field));
    }
    return row;
  }

  async function write() {
    report(message, "Writing labels.csv …");
    try {
      const { summary } = await post(datasetPath(name, "/labels"), choice);
      place.replaceChildren();
      written(summary);
    } catch (error) {
      report(message, error.message, true);
    }
  }

  await look();
}

const asText = (map) => Object.entries(map).map(([word, gender]) => `${word}=${gender}`).join(",");

function select(name, options) {
  const field = element("select", { name });
  field.append(...options.map(([value, text]) => new Option(text, value)));
  return field;
}

function examples({ examples: rows }) {
  const table = element("table");
  table.createCaption().textContent = "The first rows, and what they are read as";
  const head = table.createTHead().insertRow();
  for (const title of ["image", "age", "gender", "problem"]) head.append(element("th", { scope: "col" }, title));
  const body = table.createTBody();
  for (const { file, age, gender, problem } of rows) {
    const line = body.insertRow();
    for (const text of [file, age || "unknown", gender || "unknown", problem ?? ""]) line.insertCell().textContent = text;
  }
  return element("div", { className: "scroll" }, table);
}
