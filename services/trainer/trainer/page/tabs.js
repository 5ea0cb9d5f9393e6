// Tabs that the arrow keys, the address (#runs) and other modules select.

const tabs = [...document.querySelectorAll("[role=tab]")];
const opened = new Map(); // name of a panel -> function that is called when it is selected

export const onOpen = (name, call) => opened.set(name, call);

export function openTab(name, argument = "") {
  // Not by location.hash, which would move the focus into the panel.
  history.pushState(null, "", argument ? `#${name}/${encodeURIComponent(argument)}` : `#${name}`);
  show();
}

export const argumentOf = (name) => {
  const [tab, argument = ""] = location.hash.slice(1).split("/");
  return tab === name ? decodeURIComponent(argument) : "";
};

function show() {
  const name = location.hash.slice(1).split("/")[0];
  const current = tabs.find((tab) => tab.getAttribute("aria-controls") === name) ?? tabs[0];
  for (const tab of tabs) {
    const selected = tab === current;
    tab.setAttribute("aria-selected", selected);
    tab.tabIndex = selected ? 0 : -1;
    document.getElementById(tab.getAttribute("aria-controls")).hidden = !selected;
  }
  opened.get(current.getAttribute("aria-controls"))?.();
}

for (const [index, tab] of tabs.entries()) {
  tab.addEventListener("click", () => openTab(tab.getAttribute("aria-controls")));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const next = event.key === "Home" ? 0 : event.key === "End" ? tabs.length - 1 : step && (index + step + tabs.length) % tabs.length;
    if (next === undefined) return;
    event.preventDefault();
    tabs[next].focus();
    openTab(tabs[next].getAttribute("aria-controls"));
  });
}

export function startTabs() {
  addEventListener("popstate", show);
  show();
}
