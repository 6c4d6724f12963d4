// Asking for a key, once for however many calls wait for it.

import { key, onKeyNeeded } from "./api.js";

const WHENCE = "Whoever runs the service makes one with: pawlens keys create NAME";

let asking = null;

export function installKeyDialog() {
  const dialog = document.getElementById("key-dialog");
  const [why, input, remember] = ["key-why", "key-input", "key-remember"].map((id) =>
    document.getElementById(id),
  );

  function ask(words) {
    asking ??= new Promise((resolve) => {
      why.textContent = words;
      input.value = "";
      dialog.returnValue = "";
      dialog.addEventListener(
        "close",
        () => {
          asking = null;
          const given = dialog.returnValue === "use" ? input.value.trim() : "";
          if (given) key.set(given, remember.checked);
          resolve(Boolean(given));
        },
        { once: true },
      );
      dialog.showModal();
    });
    return asking;
  }

  // A key that was entered meanwhile, for another call, is tried before anything is asked.
  onKeyNeeded((problem, tried) =>
    key.get() && key.get() !== tried
      ? Promise.resolve(true)
      : ask(tried ? problem.detail : `This service needs a key. ${WHENCE}`),
  );
  document.addEventListener("enter-key", async ({ detail: done }) => {
    if (await ask(WHENCE)) done();
  });
  document.getElementById("key-cancel").addEventListener("click", () => dialog.close(""));
}
