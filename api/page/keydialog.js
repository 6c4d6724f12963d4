// Asking for a key, once for however many calls wait for it.

import { isKey, key, onKeyNeeded } from "./api.js";

const WHENCE = "Whoever runs the service makes one with: pawlens keys create NAME";
const LOOKS = "A key looks like pk_…: after that there are letters, digits, - and _ only.";

let asking = null;
let declined = false; // then nothing that happens by itself asks, until the user goes or does something

export function installKeyDialog() {
  const dialog = document.getElementById("key-dialog");
  const [why, input, remember] = ["key-why", "key-input", "key-remember"].map((id) =>
    document.getElementById(id),
  );

  function ask(words) {
    asking ??= new Promise((resolve) => {
      why.textContent = words;
      input.value = "";
      input.setCustomValidity("");
      dialog.returnValue = "";
      dialog.addEventListener(
        "close",
        () => {
          asking = null;
          const given = dialog.returnValue === "use" ? input.value.trim() : "";
          if (given) key.set(given, remember.checked);
          declined = !given;
          resolve(Boolean(given));
        },
        { once: true },
      );
      dialog.showModal();
    });
    return asking;
  }

  onKeyNeeded(async (problem, tried, isDoing) => {
    // A key that was entered meanwhile, for another call, is tried before anything is asked.
    if (key.get() && key.get() !== tried) return true;
    if (declined && !isDoing) return false;
    return ask(tried ? problem.detail : `This service needs a key. ${WHENCE}`);
  });
  input.addEventListener("input", () => input.setCustomValidity(isKey(input.value.trim()) ? "" : LOOKS));
  addEventListener("hashchange", () => (declined = false));
  document.addEventListener("enter-key", async ({ detail: done }) => {
    if (await ask(WHENCE)) done();
  });
  document.addEventListener("forget-key", ({ detail: done }) => {
    key.forget();
    declined = true; // whoever forgets it has not been waiting to be asked for it
    done();
  });
  document.getElementById("key-cancel").addEventListener("click", () => dialog.close(""));
}
