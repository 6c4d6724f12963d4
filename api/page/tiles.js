// Rows of small squares: channels of a layer, or kernels of one depth.

import { limitOf, painted, paintedKernel } from "./colour.js";
import { look } from "./controls.js";
import { el, segments } from "./dom.js";
import { split } from "./npy.js";
import { depth, number } from "./words.js";

/** {element, repaint()}: all layers, one at a time; repaint() when other colours were chosen.
 * `onchoose` gets a channel's map [h, w]; `slices` are (output, input) of kernels. */
export function tiles(layers, { isKernels, slices = {}, onchoose }) {
  const names = [...layers.keys()];
  const grid = el("div", {
    class: isKernels ? "tiles kernels" : "tiles",
    role: "group",
    "aria-label": isKernels ? "Kernels" : "Channels",
  });
  const says = el("p", { class: "hint" });
  let table = look.unsigned;
  let paintAll = () => {};
  const show = (name) => {
    const layer = layers.get(name);
    const parts = split(layer);
    const isColour = isKernels && layer.shape.length === 4;
    const limit = isKernels
      ? layer.values.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
      : limitOf(layer.values, false);
    const paint = (part) => {
      if (isColour) return paintedKernel(part, limit);
      // Kernels have no legend: the sentence beside them names these colours.
      return painted(part, { limit, signed: isKernels, table: isKernels ? "RdBu" : table });
    };
    paintAll = () => grid.querySelectorAll("canvas").forEach((canvas, i) => fill(canvas, paint(parts[i])));
    const [rows, columns] = layer.shape.slice(-2);
    const what = isKernels ? "kernels" : "channels";
    const range = isKernels ? `from −${number(limit)} to +${number(limit)}` : `from 0 to ${number(limit)}`;
    says.textContent = `The ${parts.length} strongest ${what}, ${columns} × ${rows} numbers each, ${range}.`;
    grid.replaceChildren(
      ...parts.map((_, i) => tile([columns, rows], caption(name, i), isKernels ? null : () => choose(i))),
    );
    paintAll();
    const choose = (i) => {
      [...grid.children].forEach((child, k) => child.setAttribute("aria-pressed", String(k === i)));
      onchoose(parts[i]);
    };
    if (!isKernels) choose(0);
  };
  const caption = (name, i) =>
    slices[name]?.[i] ? `channel ${slices[name][i][0]} of input ${slices[name][i][1]}` : `number ${i + 1}`;
  show(names[0]);
  const element = el(
    "div",
    { class: "layers" },
    segments(
      "Depth",
      names.map((name) => [name, depth(name)]),
      names[0],
      show,
    ),
    says,
    grid,
  );
  const repaint = () => {
    if (table === look.unsigned) return;
    table = look.unsigned;
    paintAll();
  };
  return { element, repaint };
}

const fill = (canvas, picture) => canvas.getContext("2d").drawImage(picture, 0, 0);

function tile([width, height], words, onclick) {
  const canvas = el("canvas", { width, height, role: "img", "aria-label": words });
  if (!onclick) return el("figure", { class: "tile", title: words }, canvas);
  return el(
    "button",
    { type: "button", class: "tile", "aria-pressed": "false", title: words, onclick },
    canvas,
  );
}
