// Where pictures come from: dropped, pasted, chosen, photographed; files, folders, archives.

import { el, icon } from "./dom.js";

const PICTURE = /\.(jpe?g|png|webp)$/i;
const ARCHIVE = /\.zip$/i;
const MANIFEST = /\.(csv|jsonl)$/i;
const HIDDEN = /^(\.|__MACOSX$|Thumbs\.db$|desktop\.ini$)/i; // what systems put into folders

/** Which of the three a file is: "picture", "archive", "manifest"; null for anything else. */
export function kindOf(file) {
  if (PICTURE.test(file.name) || file.type.startsWith("image/")) return "picture";
  if (ARCHIVE.test(file.name)) return "archive";
  return MANIFEST.test(file.name) ? "manifest" : null;
}

/** The place to drop pictures on, with buttons that do the same. onFiles(files) gets all that came,
 * onAddress(url) an address that was pasted. */
export function dropZone({ onFiles, onAddress }, signal) {
  const choose = (attributes, chosen = (all) => all) => {
    const input = el("input", {
      type: "file",
      class: "unseen",
      tabindex: "-1",
      "aria-hidden": "true",
      onchange: () => (onFiles(chosen([...input.files])), (input.value = "")),
      ...attributes,
    });
    return input;
  };
  const files = choose({
    multiple: true,
    accept: ".jpg,.jpeg,.png,.webp,.zip,.csv,.jsonl,image/jpeg,image/png,image/webp",
  });
  const folder = choose({ webkitdirectory: true, multiple: true }, (all) =>
    inOrder(
      all.filter(({ webkitRelativePath }) => {
        const [, ...inside] = webkitRelativePath.split("/"); // the folder itself was chosen by hand
        return !inside.some((name) => HIDDEN.test(name));
      }),
    ),
  );
  const camera = choose({ accept: "image/*", capture: "environment" });
  const zone = el(
    "div",
    { class: "drop" },
    icon("paw"),
    el(
      "p",
      { class: "drop-words" },
      el("span", { class: "for-mouse" }, "Drop a picture here, or paste it or its address"),
      el("span", { class: "for-touch" }, "Take a picture or choose one"),
    ),
    el(
      "div",
      { class: "drop-buttons" },
      el(
        "button",
        { type: "button", class: "primary", onclick: () => files.click() },
        icon("image"),
        "Choose pictures",
      ),
      el(
        "button",
        { type: "button", class: "for-touch", onclick: () => camera.click() },
        icon("camera"),
        "Take a photo",
      ),
      el(
        "button",
        { type: "button", class: "for-mouse", onclick: () => folder.click() },
        icon("folder"),
        "A whole folder",
      ),
    ),
    el(
      "p",
      { class: "hint" },
      "JPEG, PNG or WebP. Several become a batch; so does a zip, or a CSV or JSONL list of URLs.",
    ),
    files,
    folder,
    camera,
  );
  listen(zone, { onFiles, onAddress }, signal);
  return zone;
}

function listen(zone, { onFiles, onAddress }, signal) {
  const over = (isOver) => zone.classList.toggle("over", isOver);
  // Anywhere on the page will do; the zone shows that it has been understood.
  document.addEventListener(
    "dragover",
    (event) => {
      if (!event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      over(true);
    },
    { signal },
  );
  document.addEventListener("dragleave", (event) => event.relatedTarget ?? over(false), { signal });
  document.addEventListener(
    "drop",
    async (event) => {
      if (!event.dataTransfer.files.length) return;
      event.preventDefault();
      over(false);
      onFiles(await dropped(event.dataTransfer));
    },
    { signal },
  );
  document.addEventListener(
    "paste",
    (event) => {
      const files = [...event.clipboardData.files];
      const text = event.target.matches?.("input") ? "" : event.clipboardData.getData("text").trim();
      if (files.length) onFiles(files);
      else if (/^https?:\S+$/.test(text)) onAddress(text);
      else return;
      event.preventDefault();
    },
    { signal },
  );
}

const inOrder = (files) => files.sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));

/** All files that were dropped, with those in folders, in the order of their names. */
async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return [...transfer.files];
  const found = [];
  for (const entry of entries) await walk(entry, found);
  return inOrder(found);
}

async function walk(entry, found) {
  if (entry.isFile) {
    found.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // 100 at a time
    if (!some.length) return;
    for (const one of some) if (!HIDDEN.test(one.name)) await walk(one, found);
  }
}
