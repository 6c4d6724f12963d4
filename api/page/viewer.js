// The picture with a heat map over it, on one canvas: zoom and move, wipe between the two, read the numbers.
//
// All coordinates are pixels of the upright original; only draw() and the pointer know the screen.

import { el, icon, iconButton } from "./dom.js";
import { gestures } from "./gestures.js";

const DEEPEST_ZOOM = 16;

// The veil has the theme's colour, which a canvas does not follow by itself.
const themed = () =>
  document.querySelectorAll(".stage canvas").forEach((canvas) => canvas.dispatchEvent(new Event("themed")));
new MutationObserver(themed).observe(document.documentElement, { attributeFilter: ["data-theme"] });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", themed);

export class Viewer {
  /** onView(view) is told of every zoom and move, so that a second viewer can follow. */
  constructor({ label = "Picture with heat map", onView = () => {} } = {}) {
    this.onView = onView;
    this.size = { width: 3, height: 2 };
    this.view = { zoom: 1, x: 0.5, y: 0.5 }; // the point in the middle, as shares of the picture
    this.style = { opacity: 0.8, grey: true, smooth: true, mode: "overlay" };
    this.read = () => ""; // (x, y) -> words
    this.point = null;
    this.canvas = el("canvas", {
      tabindex: "0",
      role: "application",
      "aria-label": `${label}. Arrow keys read the numbers under a cross, plus and minus zoom, zero shows all.`,
    });
    this.wipe = el("input", {
      type: "range",
      class: "wipe",
      min: 0,
      max: 100,
      value: 50,
      hidden: true,
      "aria-label": "Where the picture ends and the heat map begins",
      oninput: () => this.draw(),
    });
    this.output = el("output", { class: "reading" });
    this.zoom = el(
      "div",
      { class: "zoom", role: "group", "aria-label": "Zoom", hidden: true },
      iconButton("plus", "Zoom in", () => this.zoomBy(1.6)),
      iconButton("minus", "Zoom out", () => this.zoomBy(1 / 1.6)),
      iconButton("frame", "Show all", () => this.look({ zoom: 1, x: 0.5, y: 0.5 })),
    );
    this.nothing = el("div", { class: "nothing" }, icon("image")); // until there is a picture
    this.element = el(
      "div",
      { class: "viewer" },
      el("div", { class: "stage" }, this.canvas, this.wipe, this.output, this.nothing),
      this.zoom,
    );
    gestures(this);
    this.canvas.addEventListener("themed", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  /** An ImageBitmap of an original of `width` x `height`; `crop` is the square that was explained. */
  setPicture(bitmap, { width, height }, crop) {
    this.size = { width, height };
    this.crop = crop;
    this.picture = bitmap;
    this.nothing.hidden = true;
    this.zoom.hidden = false;
    this.greyPicture = new OffscreenCanvas(bitmap.width, bitmap.height);
    const context = this.greyPicture.getContext("2d");
    context.fillStyle = "#fff"; // under what is transparent, as the service does
    context.fillRect(0, 0, bitmap.width, bitmap.height);
    context.drawImage(bitmap, 0, 0);
    context.globalCompositeOperation = "saturation"; // of grey: the luminance stays
    context.fillStyle = "#808080";
    context.fillRect(0, 0, bitmap.width, bitmap.height);
    this.canvas.style.aspectRatio = `${width} / ${Math.min(height, 1.25 * width)}`;
    this.look(this.view, { quietly: true }); // within the new picture
  }

  /** What lies over the crop, or null: {faded, solid}, canvases of one map with and without transparency. */
  setHeat(heat, read = () => "") {
    this.heat = heat;
    this.read = read;
    this.say(this.point);
    this.draw();
  }

  setStyle(style) {
    Object.assign(this.style, style);
    this.wipe.hidden = this.style.mode !== "wipe";
    this.draw();
  }

  look(view, { quietly = false } = {}) {
    const zoom = Math.min(DEEPEST_ZOOM, Math.max(1, view.zoom));
    const box = this.canvas.getBoundingClientRect();
    const scale = this.#scale(box.width, box.height, zoom);
    const within = (share, side, original) => {
      const half = Math.min(0.5, side / (original * scale) / 2 || 0.5); // of the share that is in sight
      return Math.min(1 - half, Math.max(half, share));
    };
    this.view = {
      zoom,
      x: within(view.x, box.width, this.size.width),
      y: within(view.y, box.height, this.size.height),
    };
    this.canvas.classList.toggle("zoomed", zoom > 1);
    this.draw();
    if (!quietly) this.onView(this.view);
  }

  /** Zooms about a point of the picture, which stays where it is on the screen. */
  zoomBy(factor, about = { x: this.view.x * this.size.width, y: this.view.y * this.size.height }) {
    const zoom = Math.min(DEEPEST_ZOOM, Math.max(1, this.view.zoom * factor));
    const kept = this.view.zoom / zoom;
    const moved = (centre, point) => point + (centre - point) * kept;
    this.look({
      zoom,
      x: moved(this.view.x, about.x / this.size.width),
      y: moved(this.view.y, about.y / this.size.height),
    });
  }

  draw() {
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => {
      this.pending = null;
      this.#draw();
    });
  }

  #draw() {
    const { canvas, picture, heat, crop, style } = this;
    const box = canvas.getBoundingClientRect();
    if (!picture || !box.width) return;
    const density = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(box.width * density), Math.round(box.height * density)];
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    const { scale, left, top } = this.#frame(width, height);
    context.setTransform(scale, 0, 0, scale, left, top);
    const all = [0, 0, this.size.width, this.size.height];
    const square = crop && [crop.x, crop.y, crop.width, crop.height];
    context.imageSmoothingQuality = "high";
    context.fillStyle = "#fff";
    context.fillRect(...all);
    const grey = heat && style.grey && style.mode !== "wipe";
    context.drawImage(grey ? this.greyPicture : picture, ...all);
    if (!heat) return;
    context.save();
    if (style.mode === "wipe") {
      const edge = ((this.wipe.value / 100) * width - left) / scale;
      context.beginPath();
      context.rect(edge, all[1], all[2], all[3]);
      context.clip();
      if (style.grey) context.drawImage(this.greyPicture, ...all);
    }
    // What the network has not seen steps back.
    context.fillStyle = getComputedStyle(canvas).color;
    context.beginPath();
    context.rect(...all);
    context.rect(...square);
    context.fill("evenodd");
    context.globalAlpha = style.opacity;
    context.imageSmoothingEnabled = style.smooth;
    context.drawImage(style.mode === "map" ? heat.solid : heat.faded, ...square);
    context.restore();
    if (this.point && document.activeElement === canvas) this.#cross(context, scale);
  }

  #cross(context, scale) {
    const arm = 12 / scale;
    for (const [colour, wide] of [
      ["#000", 4],
      ["#fff", 2],
    ]) {
      context.strokeStyle = colour;
      context.lineWidth = wide / scale;
      context.beginPath();
      context.moveTo(this.point.x - arm, this.point.y);
      context.lineTo(this.point.x + arm, this.point.y);
      context.moveTo(this.point.x, this.point.y - arm);
      context.lineTo(this.point.x, this.point.y + arm);
      context.stroke();
    }
  }

  #scale(width, height, zoom) {
    return Math.min(width / this.size.width, height / this.size.height) * zoom;
  }

  /** Screen pixels per original pixel, and where the original's corner is on a canvas of this size. */
  #frame(width, height) {
    const scale = this.#scale(width, height, this.view.zoom);
    const place = (side, original, share) => {
      const free = side - original * scale;
      return free >= 0 ? free / 2 : Math.min(0, Math.max(free, side / 2 - share * original * scale));
    };
    return {
      scale,
      left: place(width, this.size.width, this.view.x),
      top: place(height, this.size.height, this.view.y),
    };
  }

  /** Where in the original an event of the pointer is. */
  at(event) {
    const box = this.canvas.getBoundingClientRect();
    const { scale, left, top } = this.#frame(box.width, box.height);
    return { x: (event.clientX - box.left - left) / scale, y: (event.clientY - box.top - top) / scale };
  }

  /** Shows what the map says at a point of the original; null for nothing. */
  say(point) {
    this.output.value = point ? this.read(point.x, point.y) : "";
  }
}
