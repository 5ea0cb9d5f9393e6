// Boxes over the picture. They are buttons, so that keyboards and screen readers reach them.

import { years } from "/web/display.js";
import { cssShare, element } from "/web/elements.js";

const GAP = 4; // pixels between a box and its label
const SAME = 0.2; // faces of two frames that overlap by less are different faces

export class Stage {
  #faces = [];
  #selected = null; // position of the selected face
  #held = null; // position of a face that had the focus and vanished

  constructor(container, select) {
    this.container = container;
    this.select = select;
    new ResizeObserver(() => placeLabels(container)).observe(container);
  }

  // The index of the selected face, or -1.
  get selected() {
    return sameFace(this.#selected, this.#faces);
  }

  set selected(index) {
    this.#selected = this.#faces[index]?.bbox ?? null;
  }

  // Reset the selection for another picture.
  forget() {
    this.#faces = [];
    this.#selected = this.#held = null;
  }

  // Reuse the boxes, so that selection and focus persist from one frame of the webcam to the next.
  draw({ width, height, faces }) {
    const focused = this.#focused();
    this.#faces = faces;
    while (this.container.children.length > faces.length) this.container.lastChild.remove();
    faces.forEach((face, index) => {
      const box = this.container.children[index] ?? this.container.appendChild(this.#box(index));
      describe(box, face, index, width, height);
    });
    const selected = this.selected;
    if (selected >= 0) this.selected = selected; // it may have moved
    this.#focus(focused);
    placeLabels(this.container);
  }

  #box(index) {
    return element("button", { type: "button", onclick: () => this.select(index) }, element("span"));
  }

  #focused() {
    const at = [...this.container.children].indexOf(document.activeElement);
    if (at >= 0) return this.#faces[at]?.bbox ?? null;
    return document.activeElement === document.body ? this.#held : null;
  }

  #focus(bbox) {
    const at = sameFace(bbox, this.#faces);
    this.#held = at < 0 ? bbox : null;
    if (at >= 0) this.container.children[at].focus({ preventScroll: true });
    else if (bbox) document.activeElement.blur();
  }
}

function describe(box, face, index, width, height) {
  const [x1, y1, x2, y2] = face.bbox;
  const age = years(face.age.mean);
  box.className = `box ${face.gender.label}`;
  box.ariaLabel = `${face.person ? `Person ${face.person}` : `Face ${index + 1}`}: about ${age} years, ${face.gender.label}`;
  box.firstChild.textContent = `${face.person ? `${face.person}: ` : ""}${age} · ${face.gender.label}`;
  Object.assign(box.style, {
    left: cssShare(x1 / width),
    top: cssShare(y1 / height),
    width: cssShare((x2 - x1) / width),
    height: cssShare((y2 - y1) / height),
  });
}

// Place each label above its box, below or inside it, but never outside of the stage, which hides overflow.
function placeLabels(stage) {
  const bounds = stage.getBoundingClientRect();
  const positions = [...stage.children].map((box) => {
    const label = box.firstChild;
    const scale = Math.min(1, bounds.width / label.offsetWidth);
    const [width, height] = [label.offsetWidth * scale, label.offsetHeight * scale];
    const { left, top, bottom, width: breadth } = box.getBoundingClientRect();
    const above = top - GAP - height;
    const below = bottom + GAP;
    let y = Math.min(bottom, bounds.bottom) - GAP - height;
    if (above >= bounds.top) y = above;
    else if (below + height <= bounds.bottom) y = below;
    const x = Math.max(bounds.left, Math.min(left + (breadth - width) / 2, bounds.right - width));
    return { label, scale, x: x - left - box.clientLeft, y: y - top - box.clientTop };
  });
  for (const { label, scale, x, y } of positions) {
    Object.assign(label.style, { translate: `${x}px ${y}px`, scale: `${scale}` });
  }
}

// Return the index of the face that overlaps the box most, or -1.
function sameFace(bbox, faces) {
  const overlaps = bbox ? faces.map((face) => overlap(bbox, face.bbox)) : [];
  const most = Math.max(SAME, ...overlaps);
  return overlaps.indexOf(most);
}

// Intersection over union.
export function overlap(one, other) {
  const width = Math.min(one[2], other[2]) - Math.max(one[0], other[0]);
  const height = Math.min(one[3], other[3]) - Math.max(one[1], other[1]);
  if (width <= 0 || height <= 0) return 0;
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  return (width * height) / (area(one) + area(other) - width * height);
}
