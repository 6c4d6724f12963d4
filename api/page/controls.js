// The viewer's controls. What is chosen holds for all methods and is remembered on this device.

import { el, segments } from "./dom.js";
import { COLOURS } from "./colour.js";

const KEPT_AS = "pawlens.look";

const DEFAULTS = {
  mode: "overlay",
  opacity: 0.85,
  grey: true,
  smooth: true,
  signed: "RdBu",
  unsigned: "magma",
};

export const look = { ...DEFAULTS, ...JSON.parse(localStorage.getItem(KEPT_AS) ?? "{}") };

/** Which methods' maps are shown from zero up by default: Grad-CAM is a ReLU by definition. */
const signs = { grad_cam: false, feature_maps: false };

export const isSigned = (method) => signs[method] ?? true;

/** The controls for a method's map; `onchange` is called when something else is to be drawn. */
export function controls(method, { hasSigns, layerNames = [], layer, onLayer, depthOf }, onchange) {
  const set = (name, value) => {
    look[name] = value;
    localStorage.setItem(KEPT_AS, JSON.stringify(look));
    onchange();
  };
  const colours = el("select", {}, []);
  const offerColours = () => {
    const kind = isSigned(method) ? "signed" : "unsigned";
    colours.replaceChildren(
      ...COLOURS[kind].map(([name, words]) =>
        el("option", { value: name, selected: look[kind] === name }, words),
      ),
    );
    colours.onchange = () => set(kind, colours.value);
  };
  offerColours();
  const opacity = el("input", {
    type: "range",
    min: 0,
    max: 100,
    value: Math.round(100 * look.opacity),
    oninput: (event) => set("opacity", event.target.value / 100),
  });
  return el(
    "div",
    { class: "controls", role: "group", "aria-label": "How to show it" },
    el(
      "div",
      { class: "bars" },
      segments(
        "View",
        [
          ["overlay", "Overlay"],
          ["wipe", "Slider"],
          ["map", "Map"],
        ],
        look.mode,
        (mode) => set("mode", mode),
      ),
      hasSigns &&
        segments(
          "Values",
          [
            ["both", "For and against"],
            ["positive", "In favour"],
          ],
          isSigned(method) ? "both" : "positive",
          (value) => {
            signs[method] = value === "both";
            offerColours();
            onchange();
          },
        ),
    ),
    layerNames.length > 1 && layerPicker(layerNames, layer, depthOf, onLayer),
    el("label", { class: "field" }, el("span", {}, "Strength"), opacity),
    el("label", { class: "field" }, el("span", {}, "Colours"), colours),
    el(
      "div",
      { class: "ticks" },
      tick("Grey picture", look.grey, (value) => set("grey", value)),
      tick("Smooth", look.smooth, (value) => set("smooth", value)),
    ),
  );
}

function tick(words, checked, onchange) {
  return el(
    "label",
    { class: "tick" },
    el("input", { type: "checkbox", checked, onchange: (e) => onchange(e.target.checked) }),
    words,
  );
}

function layerPicker(names, layer, depthOf, onLayer) {
  const says = el("span", { class: "value" }, depthOf(layer));
  const slider = el("input", {
    type: "range",
    min: 0,
    max: names.length - 1,
    value: names.indexOf(layer),
    "aria-valuetext": depthOf(layer),
    oninput: () => {
      const name = names[slider.value];
      says.textContent = depthOf(name);
      slider.setAttribute("aria-valuetext", depthOf(name));
      onLayer(name);
    },
  });
  return el("label", { class: "field wide" }, el("span", {}, "Depth ", says), slider);
}
