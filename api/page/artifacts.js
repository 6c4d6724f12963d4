// What jobs have made, as the viewer needs it. All of it is kept for a while: it never changes under its URL.

import { blob, bytes, get } from "./api.js";
import { readNpy, readNpz } from "./npy.js";

const KEPT = 48;
const LARGEST_SIDE = 2400; // pixels; the viewer's canvas has fewer, and a phone has no memory for more

const kept = new Map();

function keep(name, make) {
  const known = kept.get(name);
  if (known) kept.delete(name); // to the end: used just now
  const value = known ?? make().catch((problem) => (kept.delete(name), Promise.reject(problem)));
  kept.set(name, value);
  if (kept.size > KEPT) kept.delete(kept.keys().next().value);
  return value;
}

export const model = () => keep("/v1/model", () => get("/v1/model"));

/** The uploaded picture as an ImageBitmap, upright, at most 2400 pixels a side. */
export function picture(job) {
  return keep(job.links.image, async () => {
    const { width, height } = job.image;
    const shrink = LARGEST_SIDE / Math.max(width, height);
    const size = shrink < 1 ? { resizeWidth: Math.round(width * shrink), resizeQuality: "high" } : {};
    return createImageBitmap(await blob(job.links.image), size);
  });
}

const artifact = (method, name) => method.artifacts.find((one) => one.name === name);

/** The attribution [size, size], or null for a method that has none. */
export async function attribution(method) {
  const file = artifact(method, "attribution.npy");
  return file ? keep(file.url, async () => readNpy(await bytes(file.url))) : null;
}

/** The layers by name, or null: Grad-CAM's maps [h, w], channels [n, h, w], kernels [n, 3, h, w]. */
export async function layers(method) {
  const file = artifact(method, "layers.npz");
  return file ? keep(file.url, async () => readNpz(await bytes(file.url))) : null;
}

/** The map of a running method so far, an ImageBitmap whose alpha is the evidence; null before the first. */
export async function partial(method, signal) {
  const file = artifact(method, "partial.png");
  return file ? createImageBitmap(await blob(file.url, signal)) : null;
}

/** A small picture of a job or of an artifact, as an <img> that fills itself when it comes into sight. */
export function thumbnail(url, alt = "") {
  const image = new Image();
  image.alt = alt;
  image.decoding = "async";
  image.width = image.height = 96;
  image.dataset.from = url;
  sight.observe(image);
  return image;
}

const sight = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      sight.unobserve(target);
      fill(target).catch(() => target.classList.add("missing")); // gone meanwhile, or not yet downloaded
    }
  },
  { rootMargin: "200px" },
);

async function fill(image) {
  const small = await keep(`${image.dataset.from} small`, async () => shrunk(await blob(image.dataset.from)));
  image.src = URL.createObjectURL(small);
  image.onload = () => URL.revokeObjectURL(image.src);
}

/** A few kilobytes instead of a few megabytes, since hundreds of them are shown at once. */
async function shrunk(file) {
  const bitmap = await createImageBitmap(file);
  const shrink = Math.min(1, 320 / Math.min(bitmap.width, bitmap.height));
  const canvas = new OffscreenCanvas(Math.ceil(bitmap.width * shrink), Math.ceil(bitmap.height * shrink));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return canvas.convertToBlob({ type: "image/webp", quality: 0.85 });
}
