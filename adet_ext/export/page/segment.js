// The model in a worker: a picture's pixels in, boxes, scores, classes and masks at its size out.
// H x W the frame of the network, R the side of a mask.
import * as ort from "./onnxruntime/ort.wasm.min.mjs";

let card, session;

async function start() {
  // Threads need a page that is cross-origin isolated, by two headers of its server.
  ort.env.wasm.numThreads = self.crossOriginIsolated ? navigator.hardwareConcurrency : 1;
  ort.env.logLevel = "error";
  const answer = await fetch("./model.json");
  if (!answer.ok) throw new Error(`model.json: the server answers ${answer.status}`);
  card = await answer.json();
  session = await ort.InferenceSession.create("./model.onnx", { executionProviders: ["wasm"] });
  return card;
}

// Return the size (height, width) that evaluation resizes a picture to, or the largest one that the frame holds.
function target(height, width) {
  let size = [height, width];
  if (card.min_size) {
    const scale = card.min_size / Math.min(height, width);
    size = [scale * height, scale * width];
    size[height < width ? 0 : 1] = card.min_size; // scale * length may miss it by a rounding error
    const least = Math.min(1, card.max_size / Math.max(...size));
    size = size.map((length) => Math.floor(length * least + 0.5));
  }
  const [H, W] = card.frame;
  if (size[0] > H || size[1] > W) {
    const scale = Math.min(H / height, W / width);
    size = [Math.min(Math.round(height * scale), H), Math.min(Math.round(width * scale), W)];
  }
  return size.map((length) => Math.max(length, 1));
}

// Pillow's weights are whole numbers of this part of one; ties between bytes are decided by their rounding.
const ONE = 2 ** 22;
const byte = (sum) => Math.floor(sum / ONE + 0.5);

// Return for each of `to` cells the first of `from` cells under a triangle around its center, and their weights.
function taps(from, to) {
  const scale = from / to;
  const reach = Math.max(scale, 1);
  return Array.from({ length: to }, (_, i) => {
    const center = (i + 0.5) * scale;
    const first = Math.max(0, Math.floor(center - reach + 0.5));
    const last = Math.min(from, Math.floor(center + reach + 0.5));
    const weights = Array.from({ length: last - first }, (_, k) =>
      Math.max(0, 1 - Math.abs((first + k + 0.5 - center) / reach)));
    const sum = weights.reduce((a, b) => a + b);
    return { first, weights: weights.map((w) => Math.floor((w / sum) * ONE + 0.5)) };
  });
}

// Resize RGBA pixels as Pillow's bilinear filter does: rows, rounded to bytes, then columns. RGB, 3 bytes a pixel.
function resized(pixels, height, width, h, w) {
  const rows = new Uint8ClampedArray(height * w * 3);
  taps(width, w).forEach(({ first, weights }, x) => {
    for (let y = 0; y < height; y++) {
      for (let c = 0; c < 3; c++) {
        let sum = 0;
        for (let k = 0; k < weights.length; k++) sum += weights[k] * pixels[(y * width + first + k) * 4 + c];
        rows[(y * w + x) * 3 + c] = byte(sum);
      }
    }
  });
  const result = new Uint8ClampedArray(h * w * 3);
  const stride = w * 3;
  taps(height, h).forEach(({ first, weights }, y) => {
    for (let i = 0; i < stride; i++) {
      let sum = 0;
      for (let k = 0; k < weights.length; k++) sum += weights[k] * rows[(first + k) * stride + i];
      result[y * stride + i] = byte(sum);
    }
  });
  return result;
}

// Return what the graph takes: (1, 3, H, W) in the model's channel order, padded with zeros, and (1, 2).
function packed(pixels, height, width, h, w) {
  const [H, W] = card.frame;
  const small = resized(pixels, height, width, h, w);
  const planes = new Uint8Array(3 * H * W);
  for (let c = 0; c < 3; c++) {
    const from = card.channels === "BGR" ? 2 - c : c;
    for (let y = 0; y < h; y++) {
      for (let x = 0; x < w; x++) planes[(c * H + y) * W + x] = small[(y * w + x) * 3 + from];
    }
  }
  return {
    images: new ort.Tensor("uint8", planes, [1, 3, H, W]),
    sizes: new ort.Tensor("int64", BigInt64Array.from([h, w], BigInt), [1, 2]),
  };
}

// Paste probabilities (R, R) over a box: bytes 0 and 1 of the pixels whose centers it holds, where it is 0.5 or more.
function pasted(mask, R, [x0, y0, x1, y1]) {
  const left = Math.floor(x0), top = Math.floor(y0);
  const width = Math.ceil(x1) - left, height = Math.ceil(y1) - top;
  const data = new Uint8Array(width * height);
  const at = (row, column) => (row < 0 || column < 0 || row >= R || column >= R ? 0 : mask[row * R + column]);
  for (let y = 0; y < height; y++) {
    const v = ((top + y + 0.5 - y0) / (y1 - y0)) * R - 0.5;
    const row = Math.floor(v), fv = v - row;
    for (let x = 0; x < width; x++) {
      const u = ((left + x + 0.5 - x0) / (x1 - x0)) * R - 0.5;
      const column = Math.floor(u), fu = u - column;
      const upper = (1 - fu) * at(row, column) + fu * at(row, column + 1);
      const lower = (1 - fu) * at(row + 1, column) + fu * at(row + 1, column + 1);
      if ((1 - fv) * upper + fv * lower >= 0.5) data[y * width + x] = 1;
    }
  }
  return { left, top, width, height, data };
}

// Return the objects of a picture whose scores are `threshold` or more, best first, and the milliseconds it took.
async function segment({ pixels, height, width, threshold }) {
  const begin = performance.now();
  const [h, w] = target(height, width);
  const names = card.outputs.filter((name) => ["boxes", "scores", "classes", "valid", "masks"].includes(name));
  const found = await session.run(packed(pixels, height, width, h, w), names);
  const [boxes, scores, classes, valid] = names.map((name) => found[name].data);
  const scale = [width / w, height / h], limit = [width, height];
  const objects = [];
  for (let i = 0; i < scores.length; i++) {
    if (!valid[i] || scores[i] < threshold) continue;
    const box = [0, 1, 2, 3].map((k) => Math.min(Math.max(boxes[4 * i + k] * scale[k % 2], 0), limit[k % 2]));
    if (box[2] <= box[0] || box[3] <= box[1]) continue;
    const object = { box, score: scores[i], class: Number(classes[i]), mask: null };
    if (found.masks) {
      const R = found.masks.dims[3];
      object.mask = pasted(found.masks.data.subarray(i * R * R, (i + 1) * R * R), R, box);
    }
    objects.push(object);
  }
  for (const value of Object.values(found)) value.dispose();
  return { objects, ms: performance.now() - begin };
}

const ready = start();
self.onmessage = async ({ data: { id, request } }) => {
  try {
    self.postMessage({ id, result: request === "card" ? await ready : (await ready, await segment(request)) });
  } catch (error) {
    self.postMessage({ id, error: String(error.message ?? error) });
  }
};
