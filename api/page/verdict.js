// The answer, or where the job is on the way to it.

import { el, icon, refusal } from "./dom.js";
import { LOG_ODDS, STATES, duration, number, percent, place, signed, when } from "./words.js";

/** What one wants to know of a job first, as an element. `model` says whether scores are calibrated. */
export function verdict(job, model) {
  if (job.prediction) return answer(job, model);
  if (job.error) return refusal(job.error);
  return el(
    "section",
    { class: "verdict waiting", "aria-label": "State" },
    spinner(job),
    el("h2", {}, waiting(job)),
    el("p", {}, more(job)),
  );
}

const CALIBRATED = "Probabilities are calibrated.";
const UNCALIBRATED = "Probabilities of these weights are not calibrated.";

function answer(job, model) {
  const { label, scores, margin } = job.prediction;
  const sorted = Object.entries(scores).sort(([, a], [, b]) => b - a);
  const isCalibrated = model?.digest === job.model?.digest && model?.calibrated;
  return el(
    "section",
    { class: "verdict", "aria-label": "Answer" },
    el("p", { class: "eyebrow" }, sureness(scores[label])),
    el("h2", { class: "answer" }, label, " ", el("span", { class: "probability" }, percent(scores[label]))),
    el(
      "ul",
      { class: "scores" },
      sorted.slice(0, 5).map(([name, score], i) => {
        const bar = el("span", { class: "bar" });
        bar.style.setProperty("--share", score);
        return el(
          "li",
          { class: i ? "" : "first" },
          el("span", {}, name),
          bar,
          el("span", { class: "number" }, percent(score)),
        );
      }),
    ),
    el("p", { class: "hint" }, `${odds(sorted)} ${isCalibrated ? CALIBRATED : UNCALIBRATED}`),
    el("p", { class: "hint" }, `Margin${isCalibrated ? " before calibration" : ""}: ${signed(margin)} log-odds.`),
    el("details", { class: "hint" }, el("summary", {}, "What are log-odds?"), el("p", {}, LOG_ODDS)),
    job.error && refusal(job.error),
  );
}

/** By how much the first answer is likelier than the second, in words. */
function odds([[first, share], [second, rest] = []]) {
  return rest > 0 ? `By these, ${first} is ${number(share / rest)} times as likely as ${second}.` : "";
}

function sureness(score) {
  if (score >= 0.99) return "The network is certain";
  if (score >= 0.9) return "The network is sure";
  return score >= 0.7 ? "The network leans towards" : "The network is undecided";
}

function spinner(job) {
  return job.status === "canceled" || job.status === "expired"
    ? icon("pause")
    : el("span", { class: "spinner", "aria-hidden": "true" });
}

function waiting(job) {
  return (
    {
      fetching: "Downloading the picture",
      queued: job.queue
        ? job.queue.position === 1
          ? "Next in line"
          : place(job.queue.position)
        : "Waiting",
      running: "Looking at the picture",
      canceling: "Stopping",
      canceled: "Canceled",
      expired: "Its deadline passed before it was done",
    }[job.status] ?? STATES[job.status]
  );
}

function more(job) {
  if (job.status === "queued" && job.queue?.estimated_start_at) {
    const soon = new Date(job.queue.estimated_start_at) - Date.now() < 1500;
    return soon
      ? "Starts any moment."
      : `Starts ${when(job.queue.estimated_start_at)}, at the pace of the last minute.`;
  }
  if (job.status === "queued") return "It starts as soon as a worker is free, also if you leave this page.";
  if (job.status === "canceled") return "Nothing was made of it.";
  return "";
}

/** Where the time went, in one line. */
export function timings({ timings, attempt }) {
  if (!timings) return "";
  const pictures = timings.batch_size > 1 ? ` for ${timings.batch_size} pictures` : "";
  const parts = [
    `waited ${duration(timings.queued_ms / 1000)}`,
    `read in ${Math.max(1, Math.round(timings.decode_ms))}\u00a0ms`,
    `network ${Math.round(timings.inference_ms)}\u00a0ms${pictures}`,
  ];
  if (attempt > 1) parts.push(`attempt ${attempt}`);
  return parts.join(" · ");
}
