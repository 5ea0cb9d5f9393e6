// Requests to the predictor. Errors have the detail of the problem document as their message.

import { fetchWithKey, key } from "/web/key.js";

async function post(image, name, coverage, accept) {
  const form = new FormData();
  form.append("image", image, name);
  let response;
  try {
    response = await fetchWithKey(`/age-gender?coverage=${coverage}`, {
      method: "POST", body: form, headers: { Accept: accept },
    });
  } catch {
    throw new Error("The server cannot be reached. Check the connection and try again.");
  }
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    throw new Error(problem.detail ?? `The server returned status ${response.status}.`);
  }
  return response;
}

export async function predict(image, name, coverage) {
  return (await post(image, name, coverage, "application/json")).json();
}

export async function annotatedPicture(image, name, coverage) {
  return (await post(image, name, coverage, "image/png")).blob();
}

// Quoted for curl, which would read a name with commas as a list and one with semicolons as options, and for the shell.
export function curlLine(name, coverage) {
  const file = `image=@"${name.replaceAll(/["\\]/g, "\\$&")}"`;
  const quoted = `'${file.replaceAll("'", "'\\''")}'`;
  const query = coverage === "0.9" ? "" : `?coverage=${coverage}`;
  const header = key() ? "-H 'Authorization: Bearer YOUR-KEY' " : "";
  return `curl ${header}-F ${quoted} '${location.origin}/age-gender${query}'`;
}
