// What a method's result says, how far it can be trusted, and its files.

import { download } from "./api.js";
import { acting, el, icon, refusal } from "./dom.js";
import { explained } from "./look.js";
import { findings, reading } from "./words.js";

/** Elements for a method of a job as far as it is. `map` is on show; `again` asks about the picture anew. */
export function notes(job, method, map, again) {
  if (!method) return job.prediction ? [nothingAsked(again)] : [];
  if (method.error) return [refusal(method.error)];
  const says = el("p", { class: "lead" }, reading(method.name, explained(job, method), method.provenance));
  if (method.status === "running") return [says, el("p", { class: "hint" }, "Still being worked on.")];
  if (method.status !== "succeeded") return [];
  const found = findings(method, map);
  return [
    says,
    found.length > 0 && el("ul", { class: "findings" }, found.map(finding)),
    el(
      "div",
      { class: "downloads" },
      method.artifacts.map((file) => downloadOf(method, file)),
    ),
    el("details", {}, el("summary", {}, "How it was made"), el("pre", { tabindex: "0" }, made(method))),
  ].filter(Boolean);
}

function nothingAsked(again) {
  const button = el("button", { type: "button", class: "link", onclick: acting(again) }, "Ask why");
  return el("p", { class: "hint" }, "No explanation was asked for. ", button);
}

function finding([passed, words]) {
  const sign = { true: "check", false: "warning", null: "dot" }[passed];
  return el("li", { "data-passed": String(passed) }, icon(sign), words);
}

function downloadOf(method, { url, name }) {
  const onclick = acting(() => download(url, `${method.name}-${name}`));
  return el("button", { type: "button", class: "quiet", onclick }, icon("download"), name);
}

function made({ seconds, cached, quality, provenance }) {
  return JSON.stringify({ seconds, cached, quality, provenance }, null, 1);
}
