// One card per face: crop, age distribution with its interval, gender and quality.

import { certainty, decimals, interval, percent, score, years } from "/web/display.js";
import { cssShare, drawing, element } from "/web/elements.js";

const REASONS = {
  small: "The face is small in the picture.",
  blurred: "The face is blurred.",
  turned: "The face is turned away.",
  tilted: "The face is tilted.",
  doubtful: "This may not be a face.",
  cut: "Part of the face is outside the picture.",
  tight: "The picture is cropped close to the face.",
  covered: "Something may cover part of the face.",
  dark: "The face is dark.",
  overexposed: "Part of the face is overexposed.",
  undetected: "No face was found; the whole picture was taken as one.",
};
const UNFAMILIAR = 0.05;
const [WIDTH, HEIGHT, FOOT, YEARS] = [320, 74, 16, 100];

export function faceCard(face, index, source) {
  const { age, gender, quality, familiarity } = face;
  const share = gender.probability[gender.label];
  const card = element("article", { className: "face", tabIndex: -1, ariaLabel: `Face ${index + 1}` },
    crop(face.bbox, source),
    element("div", {},
      element("div", { className: "age" },
        element("b", {}, years(age.mean)), element("span", {}, "years")),
      element("span", { className: "hint" }, intervalText(age))),
    distribution(age),
    meter("Gender", gender.label, share, `${gender.label} ${certainty(share)}`),
    meter("Quality", "", quality.score, score(quality.score)));
  const remarks = quality.reasons.map((reason) => REASONS[reason] ?? reason);
  if ((familiarity ?? 1) < UNFAMILIAR) {
    remarks.push("The face is unlike those that the program learnt from, so the answer is less certain.");
  }
  if (remarks.length) card.append(element("p", { className: "reasons" }, remarks.join(" ")));
  return card;
}

const intervalText = (age) => `${interval(age.interval).join(" to ")}, ${percent(age.coverage)} sure`;

function crop([x1, y1, x2, y2], source) {
  const side = Math.max(x2 - x1, y2 - y1) * 1.3;
  const canvas = element("canvas", { width: 136, height: 136 });
  canvas.setAttribute("aria-hidden", "true");
  if (source) {
    canvas.getContext("2d").drawImage(
      source, (x1 + x2 - side) / 2, (y1 + y2 - side) / 2, side, side, 0, 0, 136, 136);
  }
  return canvas;
}

// Bars have the area of their group's probability, spread evenly over the years between its neighbours.
function distribution(age) {
  const at = (year) => (WIDTH * year) / YEARS;
  const groups = Object.entries(age.groups).map(([name, probability]) => {
    const [low, high] = name.split("-").map(Number);
    return { name, low, high: Math.min(high, 90), probability };
  });
  const edges = groups.map((group, index) => (index ? (groups[index - 1].high + group.low) / 2 : 0));
  edges.push(YEARS);
  const tops = groups.map((group, index) => group.probability / (edges[index + 1] - edges[index]));
  const highest = Math.max(...tops);
  const bars = groups.map((group, index) => {
    const height = Math.max(1, ((HEIGHT - FOOT - 6) * tops[index]) / highest);
    const bar = drawing("rect", {
      x: at(edges[index]) + 1, width: at(edges[index + 1] - edges[index]) - 2, rx: 2,
      y: HEIGHT - FOOT - height, height, opacity: 0.35 + 0.65 * (tops[index] / highest),
    });
    bar.append(drawing("title", {}, `${group.name} years: ${decimals(100 * group.probability, 1)} %`));
    return bar;
  });
  const [low, high] = age.interval;
  const ticks = [0, 20, 40, 60, 80, 100].map((year) => drawing("text", {
    x: at(year), y: HEIGHT - 3, "text-anchor": year === 0 ? "start" : year === 100 ? "end" : "middle",
  }, `${year}`));
  return drawing("svg", {
    class: "distribution", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img",
    "aria-label": `Age distribution, mean ${years(age.mean)} years, ${intervalText(age)}`,
  },
  drawing("rect", { class: "range", x: at(low), width: at(high - low), y: 0, height: HEIGHT - FOOT, rx: 3 }),
  ...bars,
  drawing("line", { class: "axis", x1: 0, x2: WIDTH, y1: HEIGHT - FOOT, y2: HEIGHT - FOOT }),
  drawing("line", { x1: at(age.mean), x2: at(age.mean), y1: 0, y2: HEIGHT - FOOT }),
  ...ticks);
}

function meter(name, kind, share, text) {
  const fill = element("i");
  fill.style.width = cssShare(share);
  return element("div", { className: "meter" },
    element("span", {}, name), element("span", { className: `bar ${kind}` }, fill), element("span", {}, text));
}
