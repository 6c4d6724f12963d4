// Zooming, moving and reading numbers in a viewer: by mouse, by fingers, by keys.

import { announce } from "./dom.js";

/** Makes a viewer's canvas answer to mouse, fingers and keys. */
export function gestures(viewer) {
  const { canvas } = viewer;
  const fingers = new Map();
  canvas.addEventListener("pointerdown", (event) => {
    fingers.set(event.pointerId, event);
    if (viewer.view.zoom > 1) canvas.setPointerCapture(event.pointerId);
    viewer.say(viewer.at(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return viewer.say(viewer.at(event));
    const others = [...fingers.values()].filter((finger) => finger.pointerId !== event.pointerId);
    if (others.length) {
      const apart = (finger) =>
        Math.hypot(finger.clientX - others[0].clientX, finger.clientY - others[0].clientY);
      viewer.zoomBy(apart(event) / apart(before), viewer.at(others[0]));
    } else if (viewer.view.zoom > 1) {
      const [from, to] = [viewer.at(before), viewer.at(event)];
      viewer.look({
        ...viewer.view,
        x: viewer.view.x - (to.x - from.x) / viewer.size.width,
        y: viewer.view.y - (to.y - from.y) / viewer.size.height,
      });
    }
    fingers.set(event.pointerId, event);
    viewer.say(viewer.at(event)); // what lies there now
  });
  for (const ended of ["pointerup", "pointercancel", "pointerleave"]) {
    canvas.addEventListener(ended, (event) => fingers.delete(event.pointerId));
  }
  canvas.addEventListener("pointerleave", () => viewer.say(viewer.point));
  const zoomAt = (event, factor) => {
    viewer.zoomBy(factor, viewer.at(event));
    viewer.say(viewer.at(event)); // at the picture's edge another point has come there
  };
  canvas.addEventListener("dblclick", (event) => zoomAt(event, 2));
  canvas.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey && !event.metaKey && viewer.view.zoom === 1) return; // the page scrolls
      event.preventDefault();
      zoomAt(event, Math.exp(-event.deltaY / 300));
    },
    { passive: false },
  );
  canvas.addEventListener("keydown", (event) => keyed(viewer, event));
  canvas.addEventListener("blur", () => viewer.draw());
}

function keyed(viewer, event) {
  const step =
    Math.max(viewer.size.width, viewer.size.height) / (event.shiftKey ? 10 : 50) / viewer.view.zoom;
  const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (move) {
    const from = viewer.point ?? {
      x: viewer.view.x * viewer.size.width,
      y: viewer.view.y * viewer.size.height,
    };
    const within = (value, most) => Math.min(most - 1, Math.max(0, value));
    viewer.point = {
      x: within(from.x + step * move[0], viewer.size.width),
      y: within(from.y + step * move[1], viewer.size.height),
    };
    viewer.say(viewer.point);
    announce(viewer.output.value);
    viewer.look({
      ...viewer.view,
      ...(viewer.view.zoom > 1 && {
        x: viewer.point.x / viewer.size.width,
        y: viewer.point.y / viewer.size.height,
      }),
    });
  } else if (event.key === "+" || event.key === "=") viewer.zoomBy(1.6);
  else if (event.key === "-") viewer.zoomBy(1 / 1.6);
  else if (event.key === "0") viewer.look({ zoom: 1, x: 0.5, y: 0.5 });
  else return;
  event.preventDefault();
}
