// Plots with axes, a legend and a tooltip, drawn by uPlot in the page's colours.
import { element } from "/web/elements.js";

const COLOURS = ["#2a78c8", "#c8502a", "#2a9d6a", "#9a4fc8", "#b08a1a", "#c24a86", "#4a8f9b", "#7a7a7a"];
const HEIGHT = 240;
const WHOLE = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]; // distances between ticks: epochs and years are whole numbers
const drawn = new WeakMap(); // place -> { plot, shape }
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const sizes = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries)
    if (contentRect.width > 0) drawn.get(target)?.plot.setSize({ width: contentRect.width, height: HEIGHT });
});

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const place of document.querySelectorAll(".chart")) drawn.get(place)?.plot.redraw(); // axes ask for their colour
});

// Draw validation loss of each fold, and thin, its training loss. Later calls move the lines.
export function drawCurves(place, folds) {
  const shown = folds.filter(({ curve }) => curve.length);
  place.hidden = !shown.length;
  if (place.hidden) return;
  const tables = shown.flatMap(({ curve }) => [1, 2].map((column) => [curve.map(([epoch]) => epoch), curve.map((point) => point[column])]));
  const series = shown.flatMap(({ fold }) => {
    const stroke = COLOURS[fold % COLOURS.length];
    return [
      { label: `fold ${fold}, training`, stroke, width: 1, dash: [3, 3], points: { show: false } },
      { label: `fold ${fold}, validation`, stroke, width: 2, points: { show: false } },
    ];
  });
  const last = shown.map(({ fold, curve }) => `fold ${fold} ${curve.at(-1)[2]?.toFixed(3) ?? "unknown"} after epoch ${curve.at(-1)[0]}`);
  draw(place, uPlot.join(tables), {
    series, shape: shown.map(({ fold }) => fold).join(), x: "epoch", y: "loss per face (nats)",
    description: `Loss by epoch. Validation: ${last.join(", ")}.`,
    tooltip: (plot, index) => [`epoch ${plot.data[0][index]}`, ...plot.series.slice(1).flatMap(({ label, show }, at) =>
      show && plot.data[at + 1][index] != null ? [`${label} ${plot.data[at + 1][index].toFixed(3)}`] : [])].join("\n"),
  });
}

// points : { x, y, text }. Draw them with the line on which both are equal.
export function drawScatter(place, points, { x, y, description }) {
  const sorted = points.toSorted((one, other) => one.x - other.x);
  const ages = sorted.map((point) => point.x);
  draw(place, [ages, ages, sorted.map((point) => point.y)], {
    series: [
      { label: "equal", stroke: () => style("--soft"), width: 1, dash: [4, 4], points: { show: false } },
      { label: y, stroke: () => style("--accent"), paths: () => null, points: { show: true, size: 5, width: 1, fill: () => style("--accent") } },
    ],
    shape: "scatter", x, y, description,
    tooltip: (plot, index) => sorted[index].text,
  });
}

function draw(place, data, { series, shape, x, y, description, tooltip }) {
  place.classList.add("chart");
  place.ariaLabel = description;
  place.setAttribute("role", "img");
  const before = drawn.get(place);
  if (before?.shape === shape) return before.plot.setData(data);
  before?.plot.destroy();
  const axis = (label) => ({ label, stroke: () => style("--ink"), grid: { stroke: () => style("--line"), width: 1 }, ticks: { stroke: () => style("--line") } });
  const plot = new uPlot({
    width: place.clientWidth || 320, height: HEIGHT,
    scales: { x: { time: false } },
    axes: [{ ...axis(x), incrs: WHOLE }, axis(y)],
    series: [{ label: x }, ...series],
    legend: { live: false },
    plugins: [tooltips(tooltip)],
  }, data, place);
  drawn.set(place, { plot, shape });
  sizes.observe(place);
}

function tooltips(text) {
  const box = element("div", { className: "tooltip", hidden: true });
  return {
    hooks: {
      init: (plot) => plot.over.append(box),
      setCursor: (plot) => {
        const { left, top, idx } = plot.cursor;
        box.hidden = idx == null || left < 0;
        if (box.hidden) return;
        box.textContent = text(plot, idx);
        const right = left > plot.over.clientWidth / 2;
        Object.assign(box.style, { left: right ? "auto" : `${left + 12}px`, right: right ? `${plot.over.clientWidth - left + 12}px` : "auto", top: `${Math.max(0, top - 12)}px` });
      },
    },
  };
}
