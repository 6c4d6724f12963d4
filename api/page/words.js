// What numbers and states mean, in words. The sentences about explanations are those of the panels, but without
// colours and depths: here one can choose others, and the legend tells them.

/** What a job is called: its file's name, or the last part of its address. */
export function nameOf(job) {
  if (job.name || !job.source_url) return job.name ?? "Picture";
  const { hostname, pathname } = new URL(job.source_url);
  return pathname.split("/").findLast(Boolean) ?? hostname;
}

/** 0.9941 -> "99.4 %". Never rounded to certainty: 0.99996 -> "> 99.9 %". */
export function percent(share) {
  if (share >= 0.9995 && share < 1) return ">\u00a099.9\u00a0%";
  if (share > 0 && share < 0.0005) return "<\u00a00.1\u00a0%";
  return `${share === 0 || share === 1 ? 100 * share : (100 * share).toFixed(1)}\u00a0%`;
}

/** Two significant digits, as written by hand: 0.012, −3.8, 1.2 × 10⁻⁵. */
export function number(value) {
  if (value === 0) return "0";
  const [digits, exponent] = value.toExponential(1).split("e").map(Number); // of what is shown: 9.96 is 10
  if (exponent > -4 && exponent < 4) return value.toFixed(Math.max(0, 1 - exponent)).replace("-", "−");
  const raised = String(exponent).replace(/./g, (c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]);
  return `${digits.toFixed(1).replace("-", "−")}\u00a0×\u00a010${raised}`;
}

export const signed = (value) => (value > 0 ? `+${number(value)}` : number(value));

export function count(n, one, many = `${one}s`) {
  return `${n.toLocaleString("en")}\u00a0${n === 1 ? one : many}`;
}

/** A place in the queue; the service counts up to 1000, which stands for all that come after it, too. */
export function place(position) {
  return `Number ${position.toLocaleString("en")}${position < 1000 ? "" : " or later"} in line`;
}

/** Seconds as a person would say them: "0.4 s", "12 s", "3 min". */
export function duration(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)}\u00a0s`;
  if (seconds < 90) return `${Math.round(seconds)}\u00a0s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)}\u00a0min` : `${(seconds / 3600).toFixed(1)}\u00a0h`;
}

/** The same of what is only expected: "about 12 s". */
export function about(seconds) {
  return seconds < 0.05 ? "under\u00a00.1\u00a0s" : `about ${duration(seconds)}`;
}

/** "3 minutes ago", "in 5 seconds". */
export function when(timestamp) {
  const seconds = (new Date(timestamp) - Date.now()) / 1000;
  const says = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
  const units = [
    ["day", 86400],
    ["hour", 3600],
    ["minute", 60],
    ["second", 1],
  ];
  const [unit, size] = units.find(([, size]) => Math.abs(seconds) >= size) ?? units.at(-1);
  return says.format(Math.round(seconds / size), unit);
}

export const STATES = {
  fetching: "downloading",
  queued: "waiting",
  running: "running",
  canceling: "stopping",
  succeeded: "done",
  partial: "partly done",
  failed: "failed",
  canceled: "canceled",
  expired: "too late",
  skipped: "left out",
  completed: "done",
  pending: "to be sent",
  delivered: "delivered",
};

export const FINAL = new Set(["succeeded", "partial", "failed", "canceled", "expired"]);

const start = (provenance) =>
  ({
    mean: "a plain picture of the mean colour",
    black: "a black picture",
    white: "a white picture",
    blur: "a blurred copy of the picture",
  })[provenance?.baseline] ?? "the baseline";

/** How to read the map of a method, for the explained class. */
export function reading(method, label, provenance) {
  const of = label === null ? "the explained class" : `“${label}”`;
  return (
    {
      grad_cam: `Where the network’s layers found ${of}, at the depth on show: roughly where, not which pixels. Before the last block the numbers are a first-order estimate.`,
      integrated_gradients: `How much each pixel speaks for ${of} or against it, in comparison with ${start(provenance)}.`,
      occlusion: `How much less likely ${of} becomes with this part covered. Below zero it becomes more likely.`,
      feature_maps:
        "Each tile is one channel: bright where it responds. Early layers tend to edges and colours, late ones to parts of animals. Choose one to lay it on the picture.",
      kernels:
        "Each tile is a pattern of weights that the network looks for, the same for every picture. The first layer is shown in the colours it responds to; deeper ones as one slice each, red for positive weights, blue for negative.",
    }[method] ?? `What speaks for ${of} or against it.`
  );
}

export const LOG_ODDS =
  "The scale on which the network weighs its answer. 0 is undecided; each +1 makes the class 2.7 times as likely against the others, each −1 as much less likely, before probabilities are calibrated. Evidence adds up on it, as probabilities do not.";

/** What one number of a map is. Grad-CAM's are log-odds after the last block only. */
export function unit(method, isLastBlock = true) {
  return (
    {
      grad_cam: isLastBlock ? "log-odds per cell" : "weight × activation",
      integrated_gradients: "log-odds per pixel",
      occlusion: "log-odds lost when covered",
      feature_maps: "activation",
    }[method] ?? "weight in the log-odds"
  );
}

/** Whether nothing on the map matters, neither any window nor all pixels together. */
function isRounding(name, values) {
  if (name !== "occlusion" && name !== "integrated_gradients") return false;
  let [largest, sum] = [0, 0];
  for (const value of values) {
    largest = Math.max(largest, Math.abs(value));
    sum += Math.abs(value);
  }
  const matters = name === "occlusion" ? largest : sum;
  return matters > 0 && matters < 1e-3;
}

/** What was measured about a method's result: [[passes (null: nothing to pass), sentence], ...]. */
export function findings(method, map) {
  const { quality, provenance } = method;
  if (map && isRounding(method.name, map.values))
    return [
      [null, "All of it is less than a thousandth of the log-odds: rounding, and no evidence."],
    ];
  const found = [];
  const error = quality?.completeness_error;
  // Null where the log-odds do not change at all: of that there is no share.
  if (method.name === "integrated_gradients" && error != null)
    found.push(completeness(error, quality.converged ?? true, provenance));
  if (provenance?.approximate) {
    found.push([
      null,
      `Approximate: ${provenance.computed} of ${provenance.windows} places computed, the others guessed.`,
    ]);
  }
  const faithful = quality?.deletion_insertion;
  if (faithful) found.push(deletion(faithful.deletion_auc, faithful.random_deletion_auc));
  const share = map && method.name !== "feature_maps" ? halfOfEvidence(map.values) : null;
  if (share !== null)
    found.push([
      null,
      `Half of the evidence in favour lies on ${percent(share)} of what the network sees.`,
    ]);
  return found;
}

function completeness(error, converged, provenance) {
  const change = changeOf(provenance);
  if (converged) {
    // A share of next to no change may be large; then it converged by an absolute bound.
    const off = error < 1 ? percent(error) : "at most 0.001";
    return [true, `Adds up to ${change}, with an error of ${off}.`];
  }
  if (error >= 1) return [false, `Does not add up to ${change}: the error is ${percent(error)}.`];
  return [false, `Adds up to ${change}, with an error of ${percent(error)}; it has not converged.`];
}

/** What the attributions of Integrated Gradients are to add up to. */
function changeOf(provenance) {
  const { baseline_margin: before, margin: after } = provenance ?? {};
  if (before == null || after == null) return `the change of the log-odds from ${start(provenance)}`;
  return `the change of the log-odds from ${signed(before)} (${start(provenance)}) to ${signed(after)}`;
}

const CLEAR = 0.1; // the control is one random order, and another one's value differs by 0.07 to 0.1

function deletion(strongestFirst, inRandomOrder) {
  const [value, control] = [strongestFirst, inRandomOrder].map((probability) => probability.toFixed(2));
  const says = `As its pixels vanish, strongest first, the mean probability is ${value}; in random order it is ${control}`;
  if (Math.abs(strongestFirst - inRandomOrder) < CLEAR) return [null, `${says}: no clear difference.`];
  return [strongestFirst < inRandomOrder, `${says}.`];
}

function halfOfEvidence(values) {
  const positive = values
    .filter((value) => value > 0)
    .sort()
    .reverse();
  const total = positive.reduce((sum, value) => sum + value, 0);
  if (total === 0) return null;
  let sum = 0;
  const pixels = positive.findIndex((value) => (sum += value) >= total / 2) + 1;
  return pixels / values.length;
}

/** A layer's name: "layer3.22" -> "stage 3, block 23". */
export function depth(name) {
  const known = /^layer(\d)(?:\.(\d+)(?:\.\w+)?)?$/.exec(name);
  if (!known) return { conv1: "first convolution", stem: "stem" }[name] ?? name;
  const [, stage, block] = known;
  return `stage ${stage}${block ? `, block ${Number(block) + 1}` : ""}`;
}
