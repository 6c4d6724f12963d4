// Making elements. Text is always text here, never HTML, so that no name of a file can become markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element: el("button", {class: "quiet", onclick: f, disabled: true}, "Cancel", icon("cross")).
 * Attributes that are null or false are left out; children may be strings, nodes, null or lists. */
export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(
    ...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

/** One of the drawings in icons.svg. It says nothing to a screen reader; the words beside it do. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `/page/icons.svg#${name}`);
  svg.append(use);
  return svg;
}

/** A button that shows a drawing alone; `label` is its name. */
export function iconButton(name, label, onclick, attributes = {}) {
  return el(
    "button",
    { type: "button", class: "icon-button", "aria-label": label, title: label, onclick, ...attributes },
    icon(name),
  );
}

/** What a row of a list is about, and a line below it. */
export function rowWords(title, hint) {
  return el(
    "span",
    { class: "row-words" },
    el("span", { class: "row-title" }, title),
    el("span", { class: "hint" }, hint),
  );
}

/** One choice out of a few: a group of radio buttons that looks like one bar.
 * `choices` are [value, words]; `onchange` gets the value. */
export function segments(legend, choices, value, onchange) {
  const name = `segments-${++segments.count}`;
  return el(
    "fieldset",
    { class: "segments" },
    el("legend", {}, legend),
    choices.map(([choice, words]) =>
      el(
        "label",
        {},
        el("input", {
          type: "radio",
          name,
          value: choice,
          checked: choice === value,
          onchange: () => onchange(choice),
        }),
        el("span", {}, words),
      ),
    ),
  );
}
segments.count = 0;

/** Says something to a screen reader, without moving anything on the screen. */
export function announce(words) {
  document.getElementById("announcer").textContent = words;
}

/** A refusal or a failure, in the place where it happened. `problem` is an Error or {title, detail}. */
export function refusal(problem, ...more) {
  const faults = problem.errors ?? [];
  return el(
    "div",
    { class: "refusal", role: "alert" },
    icon("warning"),
    el(
      "div",
      {},
      problem.title && el("strong", {}, problem.title),
      el("p", {}, problem.detail ?? problem.message),
      faults.length > 1 &&
        el(
          "ul",
          {},
          faults.slice(0, 20).map((fault) => el("li", {}, faultInWords(fault))),
        ),
      more,
    ),
  );
}

/** Opens the view anew: the way out of what may be otherwise in a moment. */
export function tryAgain() {
  const onclick = () => dispatchEvent(new HashChangeEvent("hashchange"));
  return el("button", { type: "button", class: "link", onclick }, "Try again");
}

/** In place of a view that cannot be had; `elsewhere` is a link. */
export function notShown(title, problem, elsewhere) {
  return [
    el("h1", { tabindex: "-1" }, title),
    refusal(problem, problem.status !== 404 && tryAgain()),
    el("p", {}, elsewhere),
  ];
}

function faultInWords(fault) {
  const where =
    fault.name ?? fault.field ?? fault.loc ?? (fault.index === undefined ? "" : `number ${fault.index + 1}`);
  return `${where ? `${where}: ` : ""}${fault.detail ?? fault.message ?? fault.msg ?? ""}`;
}

/** A message at the foot of the page that leaves by itself; `problem` true keeps it for longer. */
export function toast(words, { problem = false } = {}) {
  const note = el(
    "div",
    { class: problem ? "toast problem" : "toast", role: problem ? "alert" : "status" },
    words,
  );
  document.getElementById("toasts").append(note);
  setTimeout(() => note.remove(), problem ? 9000 : 3500);
}

/** Runs what a click asked for, with the button disabled meanwhile, and shows a refusal as a toast. */
export function acting(work) {
  return async (event) => {
    const button = event?.currentTarget;
    const hasFocus = button && document.activeElement === button;
    if (button) button.disabled = true; // which takes the focus from it
    try {
      await work(event);
    } catch (problem) {
      if (problem.name !== "AbortError") toast(problem.detail ?? problem.message, { problem: true });
    } finally {
      if (button) button.disabled = false;
      if (hasFocus && document.activeElement === document.body) button.focus();
    }
  };
}

/** Put a row of a list where its id belongs, the newest first: ids grow with time. `rows` has those that are there.
 *
 * Of one that is there, what is inside is renewed; its link itself stays, since the focus may be on it. */
export function placeRow(list, rows, made) {
  const { id } = made.dataset;
  const known = rows.get(id);
  if (known) return known.firstChild.replaceChildren(...made.firstChild.childNodes);
  rows.set(id, made);
  const after = [...list.children].find((child) => child.dataset.id < id);
  list.insertBefore(made, after ?? null);
}
