// Where the square that the network sees lies in the picture: the arithmetic of core/vision/preprocessing.py.

/** As an explanation's provenance gives it: {x, y, width, height} in pixels of the upright original. */
export function square({ size, scale_x, scale_y, offset_x, offset_y }) {
  return { x: offset_x, y: offset_y, width: size * scale_x, height: size * scale_y };
}

/** The same before there is an explanation, from the current weights.
 * model: /v1/model. The shorter side is resized to input_size * resize_scale, then the centre is cut out. */
export function crop(width, height, model) {
  const shorterSide = roundHalfEven(model.input_size * model.resize_scale);
  const shorter = Math.min(width, height);
  const resized = [width, height].map((side) => Math.floor((shorterSide * side) / shorter));
  const scale = [width / resized[0], height / resized[1]];
  const offset = resized.map((side) => roundHalfEven((side - model.input_size) / 2));
  return {
    x: offset[0] * scale[0],
    y: offset[1] * scale[1],
    width: model.input_size * scale[0],
    height: model.input_size * scale[1],
  };
}

/** As Python rounds: a half to the even neighbour. */
function roundHalfEven(value) {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 === 0 ? below : below + 1;
}
