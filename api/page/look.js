// One method of one job, looked at: its picture in the viewer, its numbers, the controls for both.

import * as artifacts from "./artifacts.js";
import { enlarged, limitOf, painted } from "./colour.js";
import { controls, isSigned, look } from "./controls.js";
import { el } from "./dom.js";
import { crop, square } from "./placement.js";
import { tiles } from "./tiles.js";
import { Viewer } from "./viewer.js";
import * as words from "./words.js";

const SMOOTH_SIDE = 320; // a coarse map is refined to as many cells a side before it gets its colours

/** The class that a method explains; until it is done, the one that was asked for or is the answer. */
export function explained(job, method) {
  return method?.provenance?.target ?? job.options?.target ?? job.prediction?.label ?? null;
}

export class Look {
  /** onStyle() is called when the controls have changed what is chosen, which holds for all viewers;
   * onDepth() when they show another depth of this one. */
  constructor({ label, onView, onStyle = () => {}, onDepth = () => {} } = {}) {
    this.viewer = new Viewer({ label, onView });
    this.onStyle = onStyle;
    this.onDepth = onDepth;
    this.legend = el("div", { class: "legend", hidden: true });
    this.controls = el("div");
    this.tiles = el("div");
    this.element = el("div", { class: "look" }, this.viewer.element, this.legend, this.controls, this.tiles);
    this.shown = "";
    this.turn = 0;
  }

  /** Shows a method of a job as far as it is; none for the picture alone. Called again when there is news. */
  async show(job, method, signal) {
    try {
      await this.#show(job, method, signal);
    } catch (problem) {
      this.shown = ""; // to be tried again with the next news
      this.element.removeAttribute("aria-busy");
      throw problem;
    }
  }

  async #show(job, method, signal) {
    const partial = method?.artifacts.find((file) => file.name === "partial.png");
    const state = [
      job.id,
      job.image?.sha256,
      method?.name,
      method?.status,
      partial && method.progress.done,
    ].join();
    if (state === this.shown) return;
    this.shown = state;
    const turn = ++this.turn;
    const isOld = () => turn !== this.turn;
    if (!job.image) return;
    const subject = `${job.id} ${method?.name}`;
    if (this.subject !== subject) {
      this.subject = subject; // nothing of another one stays until this one is loaded
      this.#clear();
      this.viewer.setHeat(null);
      this.element.setAttribute("aria-busy", "true");
    }
    const [bitmap, model] = await Promise.all([artifacts.picture(job), artifacts.model()]);
    if (isOld()) return;
    const place = job.methods.find((each) => each.provenance?.placement)?.provenance.placement;
    const picture = `${job.id} ${place ? "as explained" : "as it would be"}`;
    if (this.picture !== picture) {
      this.picture = picture;
      const { width, height } = job.image;
      this.viewer.setPicture(bitmap, job.image, place ? square(place) : crop(width, height, model));
    }
    if (method?.status === "succeeded") {
      const [map, layers] = await Promise.all([artifacts.attribution(method), artifacts.layers(method)]);
      if (isOld()) return;
      this.#finished(job, method, map, layers);
    } else {
      const bitmap = partial ? await artifacts.partial(method, signal) : null;
      if (isOld()) return;
      this.#clear();
      this.viewer.setStyle({ ...look, smooth: true, mode: "overlay" });
      this.viewer.setHeat(bitmap && { faded: bitmap, solid: bitmap });
    }
  }

  #clear() {
    this.map = this.has = this.grid = null;
    this.element.removeAttribute("aria-busy");
    this.legend.hidden = true;
    this.viewer.element.hidden = false;
    this.controls.replaceChildren();
    this.tiles.replaceChildren();
  }

  #finished(job, method, map, layers) {
    this.#clear();
    this.method = method;
    this.label = explained(job, method);
    this.unit = words.unit(method.name);
    const isDepths = method.name === "grad_cam" && layers;
    if (isDepths) {
      const names = [...layers.keys()];
      const last = method.provenance?.attribution_layer ?? names.at(-1);
      this.#draw(map);
      this.#offer({
        hasSigns: true,
        layerNames: names,
        layer: last,
        depthOf: words.depth,
        onLayer: (name) => {
          this.has.layer = name;
          this.unit = words.unit(method.name, name === last);
          this.#draw(name === last ? map : layers.get(name));
          this.onDepth();
        },
      });
    } else if (map) {
      this.#draw(map);
      this.#offer({ hasSigns: true });
    } else if (layers) {
      const isKernels = method.name === "kernels";
      this.viewer.element.hidden = isKernels;
      this.grid = tiles(layers, {
        isKernels,
        slices: method.provenance?.slices,
        onchoose: (channel) => this.#draw(channel),
      });
      this.tiles.replaceChildren(this.grid.element);
      if (!isKernels) this.#offer({ hasSigns: false });
    }
  }

  #offer(has) {
    this.has = has;
    const changed = () => {
      this.#redraw();
      this.onStyle();
    };
    this.controls.replaceChildren(controls(this.method.name, has, changed));
  }

  /** Follows the controls of another viewer. */
  restyle() {
    this.#redraw();
    if (this.controls.firstChild) this.#offer(this.has);
  }

  #redraw() {
    this.grid?.repaint();
    if (this.map) this.#draw(this.map);
    else this.viewer.setStyle(look);
  }

  #draw(map) {
    this.map = map;
    const signed = isSigned(this.method.name);
    const scale = { limit: limitOf(map.values, signed), signed, table: look[signed ? "signed" : "unsigned"] };
    const fine = look.smooth ? enlarged(map, SMOOTH_SIDE) : map;
    this.viewer.setStyle(look);
    this.viewer.setHeat(
      { faded: painted(fine, scale, { fade: true }), solid: painted(fine, scale) },
      (x, y) => this.#read(map, x, y),
    );
    this.#showLegend(scale);
  }

  #read({ shape: [rows, columns], values }, x, y) {
    const { size, crop } = this.viewer;
    if (x < 0 || y < 0 || x >= size.width || y >= size.height) return "";
    const column = Math.floor(((x - crop.x) / crop.width) * columns);
    const row = Math.floor(((y - crop.y) / crop.height) * rows);
    const place = `x ${Math.floor(x)}, y ${Math.floor(y)}`;
    if (column < 0 || row < 0 || column >= columns || row >= rows)
      return `${place} · outside of what the network sees`;
    return `${place} · ${words.signed(values[row * columns + column])} ${this.unit}`;
  }

  #showLegend({ limit, signed, table }) {
    const label = this.label ?? "the class";
    this.legend.hidden = false;
    if (!limit) {
      this.legend.replaceChildren(
        el("p", {}, `No evidence: the map is ${signed ? "zero everywhere" : "nowhere positive"}.`),
      );
      return;
    }
    const ramp = {
      shape: [1, 256],
      values: Float32Array.from({ length: 256 }, (_, i) => (signed ? (2 * i) / 255 - 1 : i / 255)),
    };
    const bar = el("canvas", { width: 256, height: 1, "aria-hidden": "true" });
    bar.getContext("2d").drawImage(painted(ramp, { limit: 1, signed, table }), 0, 0);
    const isMap = this.method.name !== "feature_maps";
    this.legend.replaceChildren(
      bar,
      ...(signed ? [el("span", {}, `−${words.number(limit)} against ${label}`)] : []),
      el("span", {}, "0"),
      el("span", {}, `${isMap ? `for ${label} ` : ""}${signed ? "+" : ""}${words.number(limit)}`),
      el("span", { class: "unit" }, this.unit),
    );
  }
}
