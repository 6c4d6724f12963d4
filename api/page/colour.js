// From numbers to colours: the rules of the panels, so that both show the same thing.
//
// A signed map is symmetric about zero, which is white; an unsigned one begins with the dark end at zero.
// Nothing is normalised by its minimum: that would give noise around zero the colours of evidence.

// Each table as equally spaced sRGB colours, taken from matplotlib; between them it is linear.
const TABLES = {
  RdBu: "053061 165190 2971b1 3f8dc0 6bacd0 9ac9e0 c2ddeb dfecf2 f7f6f6 fae4d7 faccb4 f4aa88 e48065 d05447 b92732 930e26 67001f",
  PuOr: "2d004b 451871 5f3a91 7a6aa7 998fbf b7b1d5 cfcee5 e4e5ef f7f6f5 fbe8cc fdd59f fdbb6b ed9b39 d87b11 bc6109 9d4c06 7f3b08",
  magma:
    "000003 0a0722 1c1046 350f6a 50127b 691c80 822581 9c2e7f b63679 d0416f e65162 f56a5b fb8861 fea671 fec488 fde1a3 fbfcbf",
  viridis:
    "440154 47186a 472c7b 424085 3a528b 32628d 2c728e 26818e 20908c 1e9f88 28ae7f 3ebc73 5ec961 83d34b addc30 d7e219 fde724",
  cividis:
    "00224d 002d69 1a386f 31436c 434e6b 52596c 61646f 6e7073 7c7b78 8b8778 9b9376 aba072 bbad6c ccbb63 dec957 efd846 fde737",
  grey: "000000 ffffff",
};

/** The tables to choose from, with their names, for maps with both signs and for those with one. */
export const COLOURS = {
  signed: [
    ["RdBu", "Red – blue"],
    ["PuOr", "Orange – purple"],
  ],
  unsigned: [
    ["magma", "Magma"],
    ["viridis", "Viridis"],
    ["cividis", "Cividis"],
    ["grey", "Grey"],
  ],
};

const tables = new Map();

/** 256 colours of a table as RGB, Uint8Array of 768. */
export function table(name) {
  if (!tables.has(name)) {
    const stops = TABLES[name]
      .split(" ")
      .map((hex) => [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)));
    const colours = new Uint8Array(768);
    for (let i = 0; i < 256; i++) {
      const place = (i / 255) * (stops.length - 1);
      const below = Math.min(Math.floor(place), stops.length - 2);
      for (let c = 0; c < 3; c++) {
        colours[3 * i + c] = Math.round(
          stops[below][c] + (place - below) * (stops[below + 1][c] - stops[below][c]),
        );
      }
    }
    tables.set(name, colours);
  }
  return tables.get(name);
}

/** The number that gets the last colour. Of a signed map it is the 99th percentile of the magnitudes, because
 * a few extreme pixels would leave all others white; of an unsigned one the maximum. 0 is no evidence. */
export function limitOf(values, signed) {
  if (!signed) return values.reduce((most, value) => Math.max(most, value), 0);
  const sorted = Float32Array.from(values, Math.abs).sort();
  const place = 0.99 * (sorted.length - 1);
  const below = Math.floor(place);
  const next = sorted[Math.min(below + 1, sorted.length - 1)];
  return sorted[below] + (place - below) * (next - sorted[below]) || sorted.at(-1);
}

/** A map [rows, columns] as a canvas of the same size.
 * scale: {limit, signed, table}. With `fade` a colour is as opaque as its number is large. */
export function painted({ shape: [rows, columns], values }, scale, { fade = false } = {}) {
  const canvas = new OffscreenCanvas(columns, rows);
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  const colours = table(scale.table);
  for (let i = 0; i < values.length; i++) {
    const share = scale.limit ? Math.min(1, Math.max(scale.signed ? -1 : 0, values[i] / scale.limit)) : 0;
    const colour = 3 * Math.round(scale.signed ? 127.5 + 127.5 * share : 255 * share);
    image.data.set([colours[colour], colours[colour + 1], colours[colour + 2]], 4 * i);
    image.data[4 * i + 3] = fade ? Math.round(255 * Math.abs(share) ** 0.75) : 255;
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

/** Weights [3, h, w] of a kernel that reads colours: mid-grey is zero, `limit` the largest of all kernels. */
export function paintedKernel({ shape: [, rows, columns], values }, limit) {
  const canvas = new OffscreenCanvas(columns, rows);
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  const size = rows * columns;
  for (let i = 0; i < size; i++) {
    for (let c = 0; c < 3; c++)
      image.data[4 * i + c] = 255 * (0.5 + (0.5 * values[c * size + i]) / (limit || 1));
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

/** A map at `side` rows and columns, bilinear, with a cell's centre over that of the pixels it stands for.
 * Colours come after: half-way between red and blue would be violet, which is on no scale. */
export function enlarged({ shape: [rows, columns], values }, side) {
  if (rows >= side || rows < 2 || columns < 2) return { shape: [rows, columns], values };
  const large = new Float32Array(side * side);
  const along = (i, count) => {
    const place = Math.min(count - 1, Math.max(0, ((i + 0.5) * count) / side - 0.5));
    const below = Math.min(Math.floor(place), count - 2);
    return [below, place - below];
  };
  const acrosses = Array.from({ length: side }, (_, x) => along(x, columns));
  for (let y = 0; y < side; y++) {
    const [row, down] = along(y, rows);
    for (let x = 0; x < side; x++) {
      const [column, across] = acrosses[x];
      const at = row * columns + column;
      const above = values[at] + across * (values[at + 1] - values[at]);
      const under = values[at + columns] + across * (values[at + columns + 1] - values[at + columns]);
      large[y * side + x] = above + down * (under - above);
    }
  }
  return { shape: [side, side], values: large };
}
