// Receivers of signed calls, what became of each call, and calling again.

import { get, pause, post, remove, unlessLeft } from "./api.js";
import { acting, el, icon, iconButton, refusal, rowWords, toast } from "./dom.js";
import { STATES, count, duration, when } from "./words.js";

const EVERY_MS = 4000;
const ALL = "every end of a job or a batch, except of jobs within a batch"; // where no events are named

export function webhooks(signal) {
  const secret = el("div");
  const receivers = el("ul", { class: "rows", "aria-label": "Receivers" });
  const deliveries = el("ul", { class: "rows deliveries", "aria-label": "Deliveries, newest first" });
  const url = el("input", { type: "url", id: "receiver", placeholder: "https://…", required: true });
  const problem = el("div");
  const add = acting(async () => {
    problem.replaceChildren();
    try {
      showSecret(await post("/v1/webhooks", { url: url.value.trim() }));
      url.value = "";
      await read();
    } catch (refused) {
      problem.replaceChildren(refusal(refused));
    }
  });

  function showSecret(made) {
    secret.replaceChildren(
      el(
        "div",
        { class: "secret", role: "status" },
        el(
          "p",
          {},
          "This signs what is sent to ",
          el("b", {}, made.url),
          ". It is shown now and never again:",
        ),
        el("code", {}, made.secret),
        iconButton("cross", "I have kept it", () => secret.replaceChildren()),
      ),
    );
  }

  const receiver = (one) => {
    const base = `/v1/webhooks/${one.id}`;
    const state = one.disabled_at
      ? ["failed", "switched off"]
      : one.failing_since
        ? ["partial", `failing for ${duration((Date.now() - new Date(one.failing_since)) / 1000)}`]
        : ["succeeded", "in use"];
    const then = (work) => acting(async () => (await work(), await read()));
    return el(
      "li",
      { class: "row" },
      rowWords(one.url, one.events?.join(", ") ?? ALL),
      el("span", { class: "pill", "data-state": state[0] }, state[1]),
      el(
        "span",
        { class: "actions" },
        one.disabled_at &&
          el("button", { type: "button", onclick: then(() => post(`${base}/enable`)) }, "Switch on"),
        el(
          "button",
          {
            type: "button",
            onclick: then(async () => (await post(`${base}/test`), toast("A test is on its way."))),
          },
          "Test",
        ),
        el(
          "button",
          { type: "button", onclick: then(async () => showSecret(await post(`${base}/rotate`))) },
          "New secret",
        ),
        iconButton(
          "bin",
          `Remove ${one.url}`,
          then(async () => confirm(`Remove ${one.url}?`) && (await remove(base))),
        ),
      ),
    );
  };

  const delivery = (one) => {
    const subject = /^(job|batch)_/.exec(one.subject_id)?.[1];
    const last = one.attempts.at(-1);
    const outcome = last ? `${last.status_code ?? ""} ${last.error ?? ""}`.trim() : "";
    const next = one.next_attempt_at && one.status === "pending" ? `next ${when(one.next_attempt_at)}` : "";
    return el(
      "li",
      { class: "row" },
      rowWords(
        [
          one.event_type,
          " ",
          subject && el("a", { href: `#/${subject}/${one.subject_id}` }, `its ${subject}`),
        ],
        [count(one.attempts.length, "attempt"), outcome, next].filter(Boolean).join(" · "),
      ),
      el(
        "span",
        { class: "pill", "data-state": { delivered: "succeeded", failed: "failed" }[one.status] ?? "queued" },
        STATES[one.status] ?? one.status,
      ),
      el("time", { datetime: one.created_at }, when(one.created_at)),
      el(
        "button",
        {
          type: "button",
          onclick: acting(
            async () => (
              await post(`/v1/deliveries/${one.id}/redeliver`),
              toast("It is sent again."),
              await read()
            ),
          ),
        },
        icon("again"),
        "Send again",
      ),
    );
  };

  async function read() {
    const [{ webhooks }, { deliveries: sent }] = await Promise.all([
      get("/v1/webhooks", signal),
      get("/v1/deliveries?limit=12", signal),
    ]);
    // Not while a button in there has the focus: whoever is using it would lose it.
    if (!receivers.contains(document.activeElement))
      receivers.replaceChildren(
        ...(webhooks.length
          ? webhooks.map(receiver)
          : [el("li", { class: "empty" }, "No receiver is registered.")]),
      );
    if (!deliveries.contains(document.activeElement))
      deliveries.replaceChildren(
        ...(sent.length ? sent.map(delivery) : [el("li", { class: "empty" }, "Nothing was sent yet.")]),
      );
  }

  (async () => {
    for (;;) {
      await read().catch(unlessLeft);
      await pause(EVERY_MS, signal);
    }
  })().catch(() => {}); // left

  return el(
    "section",
    { class: "block" },
    el("h2", {}, "Webhooks"),
    el(
      "form",
      {
        class: "url",
        onsubmit: (event) => (event.preventDefault(), add({ currentTarget: event.submitter })),
      },
      el("label", { for: "receiver" }, "Tell this address when a job has ended"),
      url,
      el("button", { type: "submit" }, "Register"),
    ),
    problem,
    secret,
    receivers,
    el("h3", {}, "Deliveries"),
    deliveries,
  );
}
