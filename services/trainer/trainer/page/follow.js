// Follows runs and extractions by server-sent events, and shows while the trainer is away.
import { eachEvent } from "/web/key.js";
import { report } from "./ask.js";

const FIRST_PAUSE = 1000; // ms; doubled after each further failure
const LONGEST_PAUSE = 15_000;
const SHOWN = 10_000; // ms that the page shows that the connection is back
// Browsers have six connections to a server, for all tabs together; all other requests would wait for a seventh.
const MOST_STREAMS = 2;
// How long a stream lasts while others wait, in ms from its first event. A shorter turn would use up a rate limit, but
// one that has shown nothing yet, or has failed, waits for a short one only.
const TURN = 15_000;
const SHORT_TURN = 500;
const LONGEST_WAIT = 60_000; // ms for the first event

const place = document.querySelector("#connection");
const away = new Set(); // streams whose last request failed

// Call `handle` with each event of a path, again and again until `goesOn` returns false.
// message : of a card; it shows why the trainer rejects the request.
// ended : awaited after each stream, before `goesOn` is called.
export async function follow(path, message, { handle, goesOn, ended = () => {} }) {
  const stream = Symbol(path);
  let failures = 0;
  let urgent = true;
  const answered = () => {
    urgent = false;
    if (failures) report(message, "");
    failures = 0;
    found(stream);
  };
  do {
    const turn = await nextTurn(urgent);
    try {
      if (!goesOn()) break;
      await eachEvent(path, (event) => {
        turn.begin();
        answered();
        handle(event);
      }, turn.signal);
    } catch (error) {
      turn.failure = error;
    } finally {
      turn.end();
    }
    try {
      if (turn.signal.aborted) continue; // another stream's turn
      if (turn.failure) throw turn.failure;
      await ended();
      answered();
    } catch (error) {
      failures += 1;
      urgent = true;
      if (error.status < 500) report(message, error.message, true);
      else lost(stream);
    }
    if (!goesOn()) break;
    await new Promise((done) => setTimeout(done, Math.min(FIRST_PAUSE * 2 ** Math.max(failures - 1, 0), LONGEST_PAUSE)));
  } while (goesOn());
  found(stream);
}

let streams = 0;
const waiting = [];

// Wait until a stream may be opened, the urgent ones first. Returns the signal that ends it while others wait, what to call
// at its first event, and what to call after it.
async function nextTurn(urgent) {
  if (streams < MOST_STREAMS) streams += 1;
  else await new Promise((done) => waiting.push({ done, urgent }));
  const turn = new AbortController();
  const opened = Date.now();
  let begun;
  const isOver = () => {
    if (begun === undefined) return Date.now() > opened + LONGEST_WAIT;
    return Date.now() > begun + (waiting.some((one) => one.urgent) ? SHORT_TURN : TURN);
  };
  const timer = setInterval(() => waiting.length && isOver() && turn.abort(), 250);
  return {
    signal: turn.signal,
    begin() {
      begun ??= Date.now();
    },
    end() {
      clearInterval(timer);
      const [next] = waiting.splice(Math.max(waiting.findIndex((one) => one.urgent), 0), 1);
      next ? next.done() : (streams -= 1);
    },
  };
}

function lost(stream) {
  if (!away.size) {
    const time = new Date().toLocaleTimeString();
    report(place, `The connection to the trainer is lost since ${time}. What runs is shown as it was then; the page tries again.`, true);
    place.hidden = false;
  }
  away.add(stream);
}

function found(stream) {
  if (!away.delete(stream) || away.size) return;
  report(place, "The connection to the trainer is back.");
  setTimeout(() => {
    place.hidden ||= !away.size;
  }, SHOWN);
}
