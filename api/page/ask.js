// The first view: a picture, the methods, go. #/

import * as api from "./api.js";
import { model } from "./artifacts.js";
import { acting, announce, el, icon, iconButton, refusal } from "./dom.js";
import { examples } from "./examples.js";
import { methodChoice } from "./choice.js";
import { dropZone, kindOf } from "./sources.js";
import { count } from "./words.js";

const MOST_IN_TRAY = 12;

let brought = null; // what another view has brought along

/** Opens the form with this picture, a File or its address, the next time that it is shown. */
export function askAgain(picture) {
  brought = picture;
}

export async function show(main, _parts, signal) {
  const form = new AskForm(signal, Promise.all([api.get("/v1/methods", signal), model()]));
  main.append(form.element);
  form.bring(brought);
  brought = null;
  await form.offered;
}

class AskForm {
  constructor(signal, known) {
    this.signal = signal;
    this.offered = known.then(([info, weights]) => this.#offer(info, weights));
    this.files = [];
    this.left = el("div", { class: "left-out" }); // about what was dropped; a refusal is where one asks
    this.problem = el("div", { class: "refused" });
    this.tray = el("ul", { class: "tray", "aria-label": "Pictures to ask about" });
    this.url = el("input", {
      type: "url",
      id: "url",
      placeholder: "https://…/cat.jpg",
      autocomplete: "off",
      oninput: () => this.#ready(),
    });
    this.go = el("button", { type: "submit", class: "primary large", disabled: true }, "Ask");
    this.methods = el("div", { class: "choice-place" }, el("p", { class: "hint" }, "Loading the methods…"));
    this.element = el(
      "div",
      { class: "ask" },
      el(
        "header",
        { class: "hero" },
        el("h1", { tabindex: "-1" }, "Cat or dog?", el("em", {}, " And why?")),
        el(
          "p",
          { class: "lead" },
          "Show the network a picture. It answers at once, and then shows what made it think so.",
        ),
      ),
      el(
        "form",
        { onsubmit: (event) => this.#submit(event), novalidate: true },
        dropZone({ onFiles: (files) => this.add(files), onAddress: (url) => this.bring(url) }, signal),
        this.tray,
        this.left,
        el("div", { class: "url" }, el("label", { for: "url" }, "or the address of a picture"), this.url),
        el(
          "section",
          { class: "block" },
          el("h2", {}, "Try one of these"),
          examples((file) => this.#at(file)),
        ),
        el("section", { class: "block" }, el("h2", {}, "What would you like to see?"), this.methods),
        this.problem,
        el("div", { class: "go" }, this.go),
      ),
    );
  }

  #offer(info, weights) {
    this.choice = methodChoice(info, weights, this.signal);
    this.methods.replaceChildren(this.choice.element);
    this.#ready();
  }

  /** A File, or an address. */
  bring(picture) {
    if (picture instanceof File) this.add([picture]);
    else if (picture) this.url.value = picture;
    this.#ready();
  }

  /** More files; what cannot go along, of these and of those before, is named and left out. */
  add(files) {
    const isPicture = (file) => kindOf(file) === "picture";
    const pictures = files.filter(isPicture);
    // An archive or a list goes alone. Among pictures, as in a folder, it is not what was meant.
    const single = pictures.length ? null : files.find(kindOf);
    const taken = single ? [single] : pictures;
    const kept = single ? [] : this.files.filter(isPicture);
    const gone = taken.length ? this.files.filter((file) => !kept.includes(file)) : [];
    const left = [...gone, ...files.filter((file) => !taken.includes(file))];
    this.problem.replaceChildren();
    this.left.replaceChildren(
      left.length
        ? refusal({
            title: single || gone.length ? "A zip or a list goes alone" : "Not all of that is a picture",
            detail: `Left out: ${left
              .slice(0, 5)
              .map(({ name }) => name)
              .join(", ")}${left.length > 5 ? ` and ${left.length - 5} more` : ""}.`,
          })
        : "",
    );
    if (taken.length) {
      this.files = [...kept, ...taken];
      announce(count(this.files.length, "file"));
    }
    this.#ready();
  }

  #ready() {
    const { files } = this;
    this.go.disabled = !this.choice || !(files.length || this.url.value.trim());
    this.go.textContent =
      files.length > 1
        ? `Ask about ${files.length} pictures`
        : files.length && kindOf(files[0]) !== "picture"
          ? "Ask about all of it"
          : "Ask";
    this.tray.replaceChildren(
      ...files.slice(0, MOST_IN_TRAY).map((file, i) =>
        el(
          "li",
          {},
          preview(file),
          el("span", { class: "tray-name", title: file.name }, file.name),
          iconButton("cross", `Leave out ${file.name}`, () => this.#drop(i)),
        ),
      ),
      ...(files.length > 1 ? [this.#rest()] : []),
    );
  }

  #rest() {
    const more = this.files.length - MOST_IN_TRAY;
    const none = () => {
      this.files = [];
      this.#ready();
      this.#focus(0);
    };
    return el(
      "li",
      { class: "tray-more" },
      more > 0 && `and ${more} more`,
      el("button", { type: "button", class: "link", onclick: none }, "Leave all out"),
    );
  }

  #drop(i) {
    this.files.splice(i, 1);
    this.#ready();
    this.#focus(i);
  }

  /** What was left out took the focus with it: to the next one, or to where there are more. */
  #focus(i) {
    const crosses = [...this.tray.querySelectorAll(".icon-button")];
    (crosses[i] ?? crosses.at(-1) ?? this.element.querySelector(".drop button")).focus();
  }

  /** An example goes by itself; what is in the form stays there, in case that it is refused. */
  async #at(file) {
    await this.#post([file], "");
  }

  async #submit(event) {
    event.preventDefault();
    if (this.go.disabled) return;
    this.go.textContent = "Sending…";
    await acting(() => this.#post(this.files, this.url.value.trim()))({ currentTarget: this.go });
    this.#ready();
  }

  async #post(files, url) {
    this.problem.replaceChildren();
    try {
      await this.offered; // an example may be chosen before there are methods to choose
      location.hash = await this.#posted(files, url);
    } catch (problem) {
      if (problem.name === "AbortError") return;
      this.problem.replaceChildren(refusal(problem));
      this.problem.scrollIntoView({ block: "center" });
    }
  }

  /** Where to go when it has been accepted. */
  async #posted(files, url) {
    const form = new FormData();
    const kind = files.length ? kindOf(files[0]) : "url";
    if (files.length && url)
      throw new api.Problem(0, {
        title: "One thing at a time",
        detail: "There is a picture as well as an address. Take one of them away.",
      });
    const isBatch = files.length > 1 || kind === "archive" || kind === "manifest";
    if (kind === "url") form.append("url", url);
    else
      for (const file of files)
        form.append(
          isBatch ? { picture: "files", archive: "archive", manifest: "manifest" }[kind] : "file",
          file,
          file.name,
        );
    const { methods, options } = this.choice.value();
    if (methods.length) {
      form.append("methods", methods.join(","));
      if (Object.keys(options).length) form.append("options", JSON.stringify(options));
    }
    const headers = { "Idempotency-Key": api.once() };
    const made = await api.post(isBatch ? "/v1/batches" : "/v1/jobs", form, { headers, signal: this.signal });
    return `#/${isBatch ? "batch" : "job"}/${made.id}`;
  }
}

function preview(file) {
  if (kindOf(file) !== "picture") return icon(kindOf(file) === "archive" ? "folder" : "list");
  const image = new Image(64, 64);
  image.alt = "";
  image.src = URL.createObjectURL(file);
  image.onload = () => URL.revokeObjectURL(image.src);
  image.onerror = () => {
    URL.revokeObjectURL(image.src);
    image.replaceWith(icon("warning")); // the service says what is wrong with it
  };
  return image;
}
