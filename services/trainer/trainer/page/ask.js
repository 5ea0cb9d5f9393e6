// How the page asks the trainer, with the key where it takes keys.
import { fetchWithKey, key } from "/web/key.js";

export async function ask(path, options = {}) {
  const response = await fetchWithKey(path, options);
  const body = await response.json();
  if (!response.ok) throw Object.assign(new Error(body.detail ?? response.statusText), { problem: body });
  return body;
}

export const post = (path, body) =>
  ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

// Whether an error is the problem of that name.
export const isProblem = (error, name) => String(error.problem?.type).endsWith(`:${name}`);

export const runs = (status) => ["queued", "running"].includes(status.state);

// A link cannot send the key, so that the report is fetched with it and saved.
export async function saveReport(event, path, name) {
  if (!key()) return;
  event.preventDefault();
  const response = await fetchWithKey(path);
  const url = URL.createObjectURL(await response.blob());
  Object.assign(document.createElement("a"), { href: url, download: `${name}.html` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
