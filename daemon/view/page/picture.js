// A picture with its verdict and its map: read from the bytes that pictures.py writes, and drawn on a canvas.

// Colours of a map's cell, red green blue alpha: clear where all is well, amber at the region threshold (128), red.
const STOPS = [[0, 60, 120, 255, 0], [56, 60, 140, 255, 50], [128, 255, 200, 60, 165], [192, 255, 110, 40, 215], [255, 225, 20, 45, 240]];
const COLOURS = makeColours();

/** Decode one piece of bytes (ArrayBuffer) into {number, result, bitmap, heat, covers}. */
export async function readPicture(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const start = 4 + length;
  const blob = new Blob([new Uint8Array(buffer, start, head.picture_bytes)], { type: head.type });
  const bitmap = await createImageBitmap(blob);
  const heat = head.map && makeHeat(new Uint8Array(buffer, start + head.picture_bytes), head.map);
  return { number: head.number, result: head.result, bitmap, heat, covers: head.map?.covers };
}

/** Draw a picture, its heatmap at an opacity of 0 to 1, and frames around the anomalous places. */
export function drawPicture(canvas, { result, bitmap, heat, covers }, opacity) {
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  canvas.style.aspectRatio = `${bitmap.width} / ${bitmap.height}`;
  const context = canvas.getContext("2d");
  const scale = bitmap.width / (result.frame?.width_px ?? bitmap.width);
  context.drawImage(bitmap, 0, 0);
  if (heat && opacity > 0) {
    context.globalAlpha = opacity;
    context.imageSmoothingQuality = "high";
    context.drawImage(heat, covers.x_px * scale, covers.y_px * scale, covers.width_px * scale, covers.height_px * scale);
    context.globalAlpha = 1;
  }
  context.strokeStyle = "#ff4d52";
  context.lineWidth = Math.max(2, bitmap.width / 250);
  for (const box of opacity > 0 ? result.regions ?? [] : []) {
    context.strokeRect(box.x_px * scale, box.y_px * scale, box.width_px * scale, box.height_px * scale);
  }
}

/** When a frame was captured, in this browser's time zone. */
export function clock(utcNs) {
  return new Date(utcNs / 1e6).toLocaleTimeString([], { hour12: false });
}

/** A score with three digits, or a dash where there is none. */
export function score(value) {
  return value === null || value === undefined ? "\u2013" : value.toFixed(3);
}

function makeHeat(values, { width, height }) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  for (let cell = 0; cell < width * height; cell++) pixels[cell] = COLOURS[values[cell]];
  context.putImageData(image, 0, 0);
  return canvas;
}

function makeColours() {
  const bytes = new Uint8Array(1024);
  for (let stop = 1; stop < STOPS.length; stop++) {
    const [from, to] = [STOPS[stop - 1], STOPS[stop]];
    for (let value = from[0]; value <= to[0]; value++) {
      const share = (value - from[0]) / (to[0] - from[0]);
      for (let part = 0; part < 4; part++) bytes[4 * value + part] = from[part + 1] + share * (to[part + 1] - from[part + 1]);
    }
  }
  return new Uint32Array(bytes.buffer);
}
