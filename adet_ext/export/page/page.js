// What the page does: takes a picture or the camera, asks the worker, draws the answer.

const worker = new Worker("./segment.js", { type: "module" });
const waiting = new Map();
const element = (id) => document.getElementById(id);
const canvas = element("picture"), context = canvas.getContext("2d", { willReadFrequently: true });
let card, shown = null, camera = null, next = 0;

worker.onmessage = ({ data: { id, result, error } }) => {
  const { resolve, reject } = waiting.get(id);
  waiting.delete(id);
  error === undefined ? resolve(result) : reject(new Error(error));
};
worker.onerror = (event) => say(`The model does not load: ${event.message ?? "onnxruntime's files are missing"}`);

function ask(request, transfer = []) {
  return new Promise((resolve, reject) => {
    waiting.set(next, { resolve, reject });
    worker.postMessage({ id: next++, request }, transfer);
  });
}

function say(text) {
  element("status").textContent = text;
}

const name = (label) => card.classes?.[label] ?? `class ${label}`;

// Segment a picture (anything that a canvas draws) of width x height and draw both; return the worker's answer.
async function show(source, width, height) {
  const threshold = Number(element("threshold").value);
  const picture = new OffscreenCanvas(width, height).getContext("2d");
  picture.drawImage(source, 0, 0, width, height);
  const pixels = picture.getImageData(0, 0, width, height);
  const copy = pixels.data.slice();
  const answer = await ask({ pixels: copy, width, height, threshold }, [copy.buffer]);
  draw(pixels, answer.objects);
  const count = answer.objects.length;
  say(`${count} ${count === 1 ? "object" : "objects"}, ${Math.round(answer.ms)} ms`);
  return answer;
}

function draw(pixels, objects) {
  const { width, height, data } = pixels;
  for (const [i, { mask }] of [...objects.entries()].reverse()) {
    if (!mask) continue;
    const color = rgb(i);
    for (let y = 0; y < mask.height; y++) {
      for (let x = 0; x < mask.width; x++) {
        if (!mask.data[y * mask.width + x]) continue;
        const at = ((mask.top + y) * width + mask.left + x) * 4;
        for (let c = 0; c < 3; c++) data[at + c] = 0.5 * data[at + c] + 0.5 * color[c];
      }
    }
  }
  canvas.width = width;
  canvas.height = height;
  canvas.hidden = false;
  context.putImageData(pixels, 0, 0);
  const size = Math.max(12, Math.round(Math.max(width, height) / 50));
  context.font = `${size}px sans-serif`;
  context.lineWidth = Math.max(1, size / 8);
  context.textBaseline = "top";
  objects.forEach(({ box: [x0, y0, x1, y1], score, class: label }, i) => {
    context.strokeStyle = context.fillStyle = `rgb(${rgb(i)})`;
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
    const text = `${name(label)} ${Math.round(100 * score)}%`;
    context.fillRect(x0, y0, context.measureText(text).width + 4, size + 2);
    context.fillStyle = "black";
    context.fillText(text, x0 + 2, y0 + 1);
  });
}

// Bright colors, neighbors in the list far apart on the wheel: hue to RGB at full saturation, lightened.
function rgb(i) {
  const hue = (i * 137.5) % 360;
  return [0, 8, 4].map((n) => {
    const k = (n + hue / 30) % 12;
    return Math.round(255 * (0.6 - 0.4 * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  });
}

async function showFile(blob) {
  stopCamera();
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  } catch {
    return say(`${blob.name ?? "This"} is no picture that this browser reads.`);
  }
  say("Segmenting ...");
  shown = () => show(bitmap, bitmap.width, bitmap.height);
  return guarded(shown);
}

async function guarded(work) {
  try {
    return await work();
  } catch (error) {
    say(`It failed: ${error.message}`);
  }
}

async function startCamera() {
  if (camera) return stopCamera();
  if (!navigator.mediaDevices) return say("Browsers give a camera to pages of https or localhost alone.");
  camera = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  const video = element("video");
  video.srcObject = camera;
  await video.play();
  element("camera").textContent = "Stop the camera";
  shown = null;
  while (camera) {
    await show(video, video.videoWidth, video.videoHeight);
    await new Promise(requestAnimationFrame);
  }
}

function stopCamera() {
  camera?.getTracks().forEach((track) => track.stop());
  camera = null;
  element("camera").textContent = "Open the camera";
}

element("file").onchange = ({ target }) => target.files.length && showFile(target.files[0]);
element("camera").onclick = () => guarded(startCamera).finally(() => camera || stopCamera());
element("threshold").oninput = ({ target }) => (element("least").textContent = `${Math.round(100 * target.value)}%`);
element("threshold").onchange = () => shown && guarded(shown);
document.ondragover = (event) => event.preventDefault();
document.ondrop = (event) => {
  event.preventDefault();
  if (event.dataTransfer.files.length) showFile(event.dataTransfer.files[0]);
};

const ready = guarded(async () => {
  card = await ask("card");
  document.title = element("title").textContent = card.architecture;
  for (const id of ["file", "camera"]) element(id).disabled = false;
  say("Drop a picture here, choose one, or open the camera. It stays in this browser.");
});

window.adet = { ready, showFile }; // for tests and for other scripts on the page
