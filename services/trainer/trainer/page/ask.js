// How the page asks the trainer, with the key where it takes keys.
import { fetchWithKey } from "/web/key.js";

export async function ask(path, options = {}) {
  const response = await fetchWithKey(path, options).catch(() => {
    throw new Error("The trainer cannot be reached. Check the connection and try again.");
  });
  const body = await response.json().catch(() => null); // not JSON: a proxy's error page
  if (response.ok && body !== null) return body;
  const message = body?.detail ?? `The server returned status ${response.status}.`;
  throw Object.assign(new Error(message), { problem: body ?? { status: response.status } });
}

export const post = (path, body, headers = {}) =>
  ask(path, { method: "POST", headers: { "Content-Type": "application/json", ...headers }, body: JSON.stringify(body) });

// Return a function that asks and draws the answer. If it is called again before the answer is there, only the last
// call's answer is drawn, for all of them: answers may arrive in another order than they were asked for.
export function drawLast(asked, draw) {
  let last;
  return (...given) => {
    const call = asked(...given).then(
      (answer) => (call === last ? draw(answer) : last),
      (error) => (call === last ? Promise.reject(error) : last),
    );
    return (last = call);
  };
}

// Whether an error is the problem of that name.
export const isProblem = (error, name) => String(error.problem?.type).endsWith(`:${name}`);

export const runs = (status) => ["queued", "running"].includes(status.state);

export const datasetPath = (name, rest = "") => `/datasets/${encodeURIComponent(name)}${rest}`;

// A link cannot send the key, so the file is fetched with it and saved.
export async function save(path, name) {
  const response = await fetchWithKey(path);
  if (!response.ok) throw new Error((await response.json()).detail);
  const url = URL.createObjectURL(await response.blob());
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

// The URL of an image that needs the key; null if this key may not see it, or it cannot be shown.
export async function imageUrl(path) {
  try {
    const response = await fetchWithKey(path);
    return response.ok ? URL.createObjectURL(await response.blob()) : null;
  } catch {
    return null;
  }
}

// Show the message of an action, or why it failed.
export function report(place, text, isError = false) {
  place.textContent = text;
  place.classList.toggle("error", isError);
}
