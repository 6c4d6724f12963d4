// NumPy's files in the browser: float32 arrays from .npy and .npz.
// The format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html

const NPY = "\x93NUMPY";

/** An array: {shape: [rows, columns, ...], values: Float32Array}, in C order. */
export function readNpy(buffer) {
  const bytes = new Uint8Array(buffer);
  const view = new DataView(buffer);
  if (latin1(bytes.subarray(0, 6)) !== NPY) throw new Error("This is no .npy file.");
  const wide = bytes[6] >= 2; // version 2 has a longer length field
  const length = wide ? view.getUint32(8, true) : view.getUint16(8, true);
  const start = (wide ? 12 : 10) + length;
  const header = latin1(bytes.subarray(start - length, start));
  const descr = /'descr': '([^']*)'/.exec(header)?.[1];
  if (descr !== "<f4" || !header.includes("'fortran_order': False")) {
    throw new Error(`Only little-endian float32 arrays in C order can be shown, not ${header.trim()}`);
  }
  const shape = /'shape': \(([^)]*)\)/
    .exec(header)[1]
    .split(",")
    .filter((part) => part.trim())
    .map(Number);
  const count = shape.reduce((product, side) => product * side, 1);
  return { shape, values: new Float32Array(buffer.slice(start, start + 4 * count)) };
}

/** The arrays of an .npz by name, in the file's order: a Map of what readNpy gives. */
export async function readNpz(buffer) {
  const view = new DataView(buffer);
  const bytes = new Uint8Array(buffer);
  // The directory is at the end: its last record, of 22 bytes and a comment, begins with PK\5\6.
  let end = buffer.byteLength - 22;
  while (end >= 0 && view.getUint32(end, true) !== 0x06054b50) end--;
  if (end < 0) throw new Error("This is no .npz file.");
  const arrays = new Map();
  let entry = view.getUint32(end + 16, true);
  for (let left = view.getUint16(end + 10, true); left > 0; left--) {
    const method = view.getUint16(entry + 10, true);
    const packed = view.getUint32(entry + 20, true);
    const nameLength = view.getUint16(entry + 28, true);
    const local = view.getUint32(entry + 42, true);
    const name = latin1(bytes.subarray(entry + 46, entry + 46 + nameLength));
    const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    const data = buffer.slice(start, start + packed);
    arrays.set(name.replace(/\.npy$/, ""), readNpy(method === 8 ? await inflated(data) : data));
    entry += 46 + nameLength + view.getUint16(entry + 30, true) + view.getUint16(entry + 32, true);
  }
  return arrays;
}

function inflated(data) {
  const stream = new Blob([data]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Response(stream).arrayBuffer();
}

function latin1(bytes) {
  return String.fromCharCode(...bytes);
}

/** Splits [n, ...] into its n parts along the first axis. */
export function split({ shape, values }) {
  const size = values.length / shape[0];
  return Array.from({ length: shape[0] }, (_, i) => ({
    shape: shape.slice(1),
    values: values.subarray(i * size, (i + 1) * size),
  }));
}
