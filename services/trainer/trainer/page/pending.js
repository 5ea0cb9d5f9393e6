// What starts work starts it once: a double click, or Enter while the trainer has not answered yet, does nothing more.
import { report } from "./ask.js";

// Whether a click is the second of a double click. A fast trainer answers between the two.
const isRepeated = (event) => event.detail > 1;

// Call `call` on a click on a button, unless its last call is pending.
export function onSingleClick(button, call) {
  const once = oneAtATime([button], call);
  button.addEventListener("click", (event) => isRepeated(event) || once());
}

// Return a function that calls `call`, unless its last call is pending. Meanwhile the buttons are shown as disabled.
// They keep the focus, unlike buttons that are disabled.
function oneAtATime(buttons, call) {
  let pending = false;
  return async (...given) => {
    if (pending) return;
    pending = true;
    for (const button of buttons) button.ariaDisabled = "true";
    try {
      await call(...given);
    } finally {
      pending = false;
      for (const button of buttons) button.ariaDisabled = null;
    }
  };
}

// Call `send` when a form is submitted; the message states why it failed.
// send : called with the headers of a request that the trainer may carry out once, and with the button.
export function onSubmit(form, message, send) {
  let unanswered = null; // { content, key } of a request that was perhaps carried out, although no answer came
  const buttons = form.querySelectorAll("button:not([type=button])");
  const submit = oneAtATime(buttons, async (button) => {
    const content = JSON.stringify([button?.name, ...new FormData(form)]);
    const key = unanswered?.content === content ? unanswered.key : newKey();
    try {
      await send({ "Idempotency-Key": key }, button);
      unanswered = null;
    } catch (error) {
      unanswered = error.problem?.status < 500 ? null : { content, key };
      report(message, error.message, true);
    }
  });
  for (const button of buttons) button.addEventListener("click", (event) => isRepeated(event) && event.preventDefault());
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    submit(event.submitter);
  });
}

// Not crypto.randomUUID, which browsers offer on pages from localhost or https alone.
export const newKey = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
