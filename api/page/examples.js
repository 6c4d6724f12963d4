// Photos to try at once. They are posted like any other picture.

import { acting, el } from "./dom.js";
import { blob } from "./api.js";

const EXAMPLES = [
  ["bengal", "A spotted cat on a sofa", 500, 357],
  ["puppy", "A dog with black eyes", 500, 375],
  ["abyssinian", "A cat that looks away", 500, 461],
  ["bulldog", "A white dog on a lawn", 359, 500],
  ["wild", "A cat on a branch", 350, 300],
  ["cat-and-dog", "A cat and a dog side by side", 500, 420],
];

/** A row of them; onchoose(file) is called with the picture. */
export function examples(onchoose) {
  const choose = (name) =>
    acting(async () =>
      onchoose(new File([await blob(`/page/examples/${name}.webp`)], `${name}.webp`, { type: "image/webp" })),
    );
  return el(
    "div",
    {},
    el(
      "ul",
      { class: "examples" },
      EXAMPLES.map(([name, words, width, height]) =>
        el(
          "li",
          {},
          el(
            "button",
            { type: "button", onclick: choose(name), "aria-label": `Ask about: ${words}` },
            el("img", { src: `/page/examples/${name}.webp`, alt: "", width, height, loading: "lazy" }),
          ),
        ),
      ),
    ),
    el(
      "p",
      { class: "hint" },
      "Photos: ",
      el(
        "a",
        { href: "https://www.robots.ox.ac.uk/~vgg/data/pets/", rel: "noreferrer" },
        "Oxford-IIIT Pet dataset",
      ),
      ", Parkhi, Vedaldi, Zisserman, Jawahar, 2012, ",
      el(
        "a",
        { href: "https://creativecommons.org/licenses/by-sa/4.0/", rel: "noreferrer license" },
        "CC BY-SA 4.0",
      ),
      ".",
    ),
  );
}
