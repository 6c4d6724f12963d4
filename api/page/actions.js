// What can be done with a job, as buttons.

import * as api from "./api.js";
import { acting, el, icon, iconButton, toast } from "./dom.js";
import { hasMap } from "./methods.js";
import { FINAL } from "./words.js";

/** Those that its state allows. `cancel`, `again` and `remove` are what the page does about it,
 * `compare` its link. */
export function actions(job, { cancel, compare, again, remove }) {
  const isOver = FINAL.has(job.status);
  const isStopping = job.status === "canceling";
  const button = (name, words, work, attributes = {}) =>
    el("button", { type: "button", onclick: acting(work), ...attributes }, icon(name), words);
  const file = job.name ?? `${job.id}.${job.image?.media_type.slice("image/".length)}`;
  return [
    !isOver && button("cross", "Cancel", cancel, { class: "danger", disabled: isStopping }),
    isOver && job.methods.some(hasMap) && compare,
    isOver && (job.image || job.source_url) && button("again", "Ask again", again),
    button("link", "Copy link", copyLink),
    iconButton(
      "json",
      "Download the job as JSON",
      acting(() => api.download(job.links.self, `${job.id}.json`)),
    ),
    job.image &&
      iconButton(
        "image",
        "Download the picture",
        acting(() => api.download(job.links.image, file)),
      ),
    isOver && iconButton("bin", "Delete the job", acting(remove)),
  ].filter(Boolean);
}

async function copyLink() {
  if (!navigator.clipboard) return toast(`This browser copies only over HTTPS. The link: ${location.href}`);
  await navigator.clipboard.writeText(location.href);
  toast("Copied. Whoever reaches this server, with its key if it needs one, can open it.");
}
