// How the service is doing: health, queues and throughput live, workers, network, webhooks, key. #/operation

import { get, key, pause } from "./api.js";
import { el, icon, refusal, rowWords, toast } from "./dom.js";
import { webhooks } from "./webhooks.js";
import { count, duration, percent, when } from "./words.js";

const EVERY_MS = 2000;
const REMEMBERED = 90; // points of the curve: three minutes
const STUCK_SECONDS = 60;

export async function show(main, _parts, signal) {
  const health = el("ul", { class: "health", "aria-label": "Health" });
  const queues = new Map();
  const queueList = el("ul", { class: "queues", "aria-label": "Queues" });
  const workers = el("ul", { class: "rows", "aria-label": "Workers" });
  const model = el("div");
  const problem = el("div");
  let known = null;
  main.append(
    el(
      "article",
      { class: "operation" },
      el(
        "header",
        { class: "page-head" },
        el("h1", { tabindex: "-1" }, "Operation"),
        el("a", { class: "button", href: "/docs" }, icon("json"), "The API, to try out"),
      ),
      problem,
      health,
      el("section", { class: "block" }, el("h2", {}, "Queues"), queueList),
      el("section", { class: "block" }, el("h2", {}, "Workers"), workers),
      el("section", { class: "block" }, el("h2", {}, "The network"), model),
      webhooks(signal),
      keySection(),
    ),
  );
  for (;;) {
    try {
      const { queues: depths, workers: alive } = await get("/v1/queue", signal);
      if (!known) model.replaceChildren(network((known = await get("/v1/model", signal))));
      problem.replaceChildren();
      health.replaceChildren(...depths.map((depth) => check(depth, alive)));
      for (const depth of depths) {
        if (!queues.has(depth.name)) {
          queues.set(depth.name, new Queue(depth.name));
          queueList.append(queues.get(depth.name).element);
        }
        queues.get(depth.name).update(depth);
      }
      workers.replaceChildren(
        ...(alive.length
          ? alive.map(worker)
          : [el("li", { class: "empty" }, "No worker is alive. Jobs are kept and start when one is.")]),
      );
    } catch (refused) {
      if (refused.name === "AbortError") throw refused;
      problem.replaceChildren(refusal(refused));
    }
    await pause(EVERY_MS, signal);
  }
}

const NAMES = { predict: "Predictions", explain: "Explanations", io: "Downloads and webhooks" };

/** Whether what is posted for a queue is worked on. */
function check({ name, waiting, running, oldest_seconds, finished_last_minute }, workers) {
  const many = workers.filter(({ queue }) => queue === name).length;
  // A download that takes its time counts as waiting, so that of those nothing can be said.
  const isStill = name !== "io" && waiting && !running && !finished_last_minute;
  const isStuck = isStill && oldest_seconds > STUCK_SECONDS;
  const fault = !many
    ? "no worker is alive; jobs are kept, and start when one is"
    : isStuck
      ? `nothing was started for ${duration(oldest_seconds)}; pawlens doctor may say why`
      : null;
  return el(
    "li",
    { "data-state": fault ? "degraded" : "ok" },
    icon(fault ? "warning" : "check"),
    el("b", {}, NAMES[name] ?? name),
    el("span", { class: "hint" }, fault ?? count(many, "worker")),
  );
}

class Queue {
  constructor(name) {
    this.name = name;
    this.rates = [];
    this.curve = el("canvas", { "aria-hidden": "true" });
    this.rate = el("span", { class: "big number" });
    this.says = el("p", { class: "hint" });
    this.element = el(
      "li",
      { class: "queue" },
      el("h3", {}, NAMES[name] ?? name),
      this.rate,
      name === "io" ? " to download" : " a minute", // jobs pass through io and end elsewhere
      this.curve,
      this.says,
    );
  }

  update({ waiting, running, oldest_seconds, finished_last_minute }) {
    const isIo = this.name === "io";
    const rate = isIo ? waiting : finished_last_minute;
    this.rates = [...this.rates, rate].slice(-REMEMBERED);
    this.rate.textContent = rate.toLocaleString("en");
    const oldest = waiting ? `the oldest for ${duration(oldest_seconds)}` : null;
    const counts = isIo ? [] : [`${waiting.toLocaleString("en")} waiting`, `${running} running`];
    this.says.textContent = [...counts, oldest].filter(Boolean).join(" · ") || "\u00a0";
    this.#draw();
  }

  #draw() {
    const { curve, rates } = this;
    const density = window.devicePixelRatio || 1;
    const [width, height] = [curve.clientWidth, curve.clientHeight];
    Object.assign(curve, { width: width * density, height: height * density });
    const context = curve.getContext("2d");
    context.scale(density, density);
    const most = Math.max(1, ...rates);
    const x = (i) => width - ((rates.length - 1 - i) * width) / (REMEMBERED - 1);
    const y = (rate) => height - 3 - (rate / most) * (height - 8);
    context.strokeStyle = context.fillStyle = getComputedStyle(curve).color;
    context.globalAlpha = 0.15;
    context.fillRect(0, y(0), width, 1);
    context.beginPath();
    rates.forEach((rate, i) => context.lineTo(x(i), y(rate)));
    context.lineTo(width, y(0));
    context.lineTo(x(0), y(0));
    context.fill();
    context.globalAlpha = 1;
    context.beginPath();
    rates.forEach((rate, i) => context.lineTo(x(i), y(rate)));
    context.lineWidth = 2;
    context.lineJoin = "round";
    context.stroke();
  }
}

function worker({ queue, hostname, pid, started_at, report }) {
  const device = report.device_name
    ? `${report.device_name} · ${report.precision} · ${report.max_batch} at once`
    : "needs no model";
  return el(
    "li",
    { class: "row" },
    rowWords(NAMES[queue] ?? queue, device),
    el("span", { class: "hint" }, `${hostname}, process ${pid}`),
    el("time", { datetime: started_at }, `started ${when(started_at)}`),
  );
}

function network(found) {
  const side = found.input_size;
  const measured = Object.entries(found.metrics).filter(([, set]) => set?.accuracy);
  return el(
    "div",
    { class: "network" },
    el(
      "p",
      {},
      el("b", {}, `${found.name} ${found.version}`),
      ` · ${found.architecture}, ${side} × ${side} pixels, ${count(found.labels.length, "class", "classes")} · `,
      el("span", { class: "hint" }, found.calibrated ? "calibrated" : "not calibrated"),
    ),
    el("p", { class: "hint" }, found.provenance),
    measured.length > 0 &&
      el(
        "table",
        {},
        el("caption", {}, "Measured on pictures that it was not trained on"),
        el(
          "thead",
          {},
          el(
            "tr",
            {},
            ["Pictures", "how many", "right"].map((words) => el("th", { scope: "col" }, words)),
          ),
        ),
        el(
          "tbody",
          {},
          measured.map(([name, { pictures, accuracy }]) =>
            el(
              "tr",
              {},
              el("th", { scope: "row" }, name.replaceAll("_", " ")),
              el("td", {}, pictures?.toLocaleString("en") ?? "not noted"),
              el("td", {}, percent(accuracy)),
            ),
          ),
        ),
      ),
  );
}

function keySection() {
  const section = el("section", { class: "block" }, el("h2", {}, "Key"));
  const tell = (event, detail) => document.dispatchEvent(new CustomEvent(event, { detail }));
  const draw = () => {
    const has = Boolean(key.get());
    section.replaceChildren(
      el("h2", {}, "Key"),
      el(
        "p",
        { class: "hint" },
        has
          ? "This browser sends a key with every call, and shows what was posted with it."
          : "This browser sends no key. Where the service needs one, it asks.",
      ),
      has
        ? el(
            "button",
            {
              type: "button",
              onclick: () => tell("forget-key", () => (toast("Forgotten."), draw())),
            },
            "Forget the key",
          )
        : el(
            "button",
            { type: "button", onclick: () => tell("enter-key", draw) },
            icon("key"),
            "Enter a key",
          ),
    );
  };
  draw();
  return section;
}
