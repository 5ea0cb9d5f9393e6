// Boxes over the picture: buttons, so that they can be reached by keyboard and read aloud.

import { years } from "/web/display.js";
import { cssShare, element } from "./elements.js";

const GAP = 4; // pixels between a box and its label
const SAME = 0.2; // faces of two frames that overlap by less are two faces

export class Stage {
  #faces = [];
  #chosen = null; // where the face is that was chosen
  #held = null; // where the face was that vanished with the focus

  constructor(part, choose) {
    this.part = part;
    this.choose = choose;
    new ResizeObserver(() => placeLabels(part)).observe(part);
  }

  // The index of the chosen face; -1 where none is.
  get chosen() {
    return sameFace(this.#chosen, this.#faces);
  }

  set chosen(index) {
    this.#chosen = this.#faces[index]?.bbox ?? null;
  }

  // Another picture: nothing is chosen in it.
  forget() {
    this.#faces = [];
    this.#chosen = this.#held = null;
  }

  // Boxes are changed, not made anew, so that the next frame of the webcam finds what was chosen and focused.
  draw({ width, height, faces }) {
    const focused = this.#focused();
    this.#faces = faces;
    while (this.part.children.length > faces.length) this.part.lastChild.remove();
    faces.forEach((face, index) => {
      const box = this.part.children[index] ?? this.part.appendChild(this.#box(index));
      describe(box, face, index, width, height);
    });
    const chosen = this.chosen;
    if (chosen >= 0) this.chosen = chosen; // it may have moved
    this.#focus(focused);
    placeLabels(this.part);
  }

  #box(index) {
    return element("button", { type: "button", onclick: () => this.choose(index) }, element("span"));
  }

  #focused() {
    const at = [...this.part.children].indexOf(document.activeElement);
    if (at >= 0) return this.#faces[at]?.bbox ?? null;
    return document.activeElement === document.body ? this.#held : null;
  }

  #focus(bbox) {
    const at = sameFace(bbox, this.#faces);
    this.#held = at < 0 ? bbox : null;
    if (at >= 0) this.part.children[at].focus({ preventScroll: true });
    else if (bbox) document.activeElement.blur();
  }
}

function describe(box, face, index, width, height) {
  const [x1, y1, x2, y2] = face.bbox;
  const age = years(face.age.mean);
  box.className = `box ${face.gender.label}`;
  box.ariaLabel = `Face ${index + 1}: about ${age} years, ${face.gender.label}`;
  box.firstChild.textContent = `${age} · ${face.gender.label}`;
  Object.assign(box.style, {
    left: cssShare(x1 / width),
    top: cssShare(y1 / height),
    width: cssShare((x2 - x1) / width),
    height: cssShare((y2 - y1) / height),
  });
}

// Above its box, or below, or in it; whole in any case, for what leaves the stage is not seen.
function placeLabels(stage) {
  const ground = stage.getBoundingClientRect();
  const places = [...stage.children].map((box) => {
    const label = box.firstChild;
    const scale = Math.min(1, ground.width / label.offsetWidth);
    const [width, height] = [label.offsetWidth * scale, label.offsetHeight * scale];
    const { left, top, bottom, width: breadth } = box.getBoundingClientRect();
    const above = top - GAP - height;
    const below = bottom + GAP;
    let y = Math.min(bottom, ground.bottom) - GAP - height;
    if (above >= ground.top) y = above;
    else if (below + height <= ground.bottom) y = below;
    const x = Math.max(ground.left, Math.min(left + (breadth - width) / 2, ground.right - width));
    return { label, scale, x: x - left - box.clientLeft, y: y - top - box.clientTop };
  });
  for (const { label, scale, x, y } of places) {
    Object.assign(label.style, { translate: `${x}px ${y}px`, scale: `${scale}` });
  }
}

// The index of the face that overlaps the box most; -1 where none does, or there is no box.
function sameFace(bbox, faces) {
  const overlaps = bbox ? faces.map((face) => overlap(bbox, face.bbox)) : [];
  const most = Math.max(SAME, ...overlaps);
  return overlaps.indexOf(most);
}

// Intersection over union.
function overlap(one, other) {
  const width = Math.min(one[2], other[2]) - Math.max(one[0], other[0]);
  const height = Math.min(one[3], other[3]) - Math.max(one[1], other[1]);
  if (width <= 0 || height <= 0) return 0;
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  return (width * height) / (area(one) + area(other) - width * height);
}
