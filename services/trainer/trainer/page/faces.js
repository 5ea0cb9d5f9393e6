// Thumbnails of a data set's images, with a line of text each. Whoever may not see them sees the text alone.
import { element } from "/web/elements.js";
import { ask, datasetPath, imageUrl, report } from "./ask.js";

const PAGE = 24;
const AT_ONCE = 4;

// items : { dataset, file, imageSet, text, hasImage }
export function gallery(items) {
  const list = element("ul", { className: "gallery" });
  add(list, items);
  return list;
}

function add(list, items) {
  const waiting = items.map((item) => {
    const image = element("img", { alt: `${item.file}: ${item.text}`, hidden: true });
    list.append(element("li", {}, image, element("span", {}, item.text)));
    return { item, image };
  }).filter(({ item }) => item.hasImage !== false);
  for (let line = 0; line < AT_ONCE; line++) load(waiting);
}

async function load(waiting) {
  for (let next = waiting.shift(); next; next = waiting.shift()) {
    const { item: { dataset, file, imageSet }, image } = next;
    const query = new URLSearchParams({ file, ...(imageSet ? { image_set: imageSet } : {}) });
    const url = await imageUrl(datasetPath(dataset, `/images/thumbnail?${query}`));
    if (!url) continue;
    image.onload = () => URL.revokeObjectURL(url);
    image.src = url;
    image.hidden = false;
  }
}

export async function showFaces(place, dataset) {
  const list = element("ul", { className: "gallery" });
  const message = element("p", { className: "message" });
  message.setAttribute("role", "status");
  const more = element("button", { type: "button" }, "More faces");
  place.replaceChildren(element("h3", {}, "Faces with labels"), list, more, message);
  let first = 0;
  async function next() {
    more.disabled = true; // or a second click would ask for the same rows
    try {
      const rows = await ask(datasetPath(dataset, `/images?first=${first}&rows=${PAGE}`));
      add(list, rows.map((row) => ({ dataset, file: row.file, text: labelText(row) })));
      first += rows.length;
      more.hidden = rows.length < PAGE;
      report(message, first ? "" : "There are no rows.");
    } catch (error) {
      more.hidden = true;
      report(message, error.message, true);
    }
    more.disabled = false;
  }
  more.addEventListener("click", next);
  await next();
}

function labelText({ age_low, age_high, gender, removed }) {
  if (removed) return `not used: ${removed}`;
  const age = age_low === null ? "age unknown" : age_low === age_high ? `${age_low} years` : `${age_low} to ${age_high} years`;
  return `${age}, ${gender ?? "gender unknown"}`;
}
