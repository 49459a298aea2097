// The page: a picture is inverted once; a slider asks for the newest edit alone.

import { follower } from "./address.js";

const $ = (id) => document.getElementById(id);
const ISOLATION_MILLISECONDS = 3000;
const state = { model: null, file: null, inverted: false, edits: new Map(), move: "" };

function say(text) { $("status").textContent = text; }
function complain(error) { $("error").textContent = error ? error.message : ""; if (error) say(""); }
async function trying(work) {
  complain(null);
  try { return await work(); } catch (error) { complain(error); return undefined; }
}

// ---- The worker: one task at a time, in order

const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" }), waiting = new Map();
let asked = 0;

worker.addEventListener("message", ({ data }) => {
  if (data.all) { say(`loading the model: ${(data.bytes / 1e6).toFixed(1)} of ${(data.all / 1e6).toFixed(1)} MB`); return; }
  const { done, failed } = waiting.get(data.number);
  waiting.delete(data.number);
  if (data.error) failed(new Error(data.error)); else done(data);
});
worker.addEventListener("error", (event) => complain(new Error(`the page's worker failed: ${event.message || "it could not be loaded"}; load the page again`)));

const ask = (task, wanted = {}) => new Promise((done, failed) => {
  asked += 1;
  waiting.set(asked, { done, failed });
  worker.postMessage({ number: asked, task, ...wanted });
});

function draw(canvas, { pixels, width, height }) {
  Object.assign(canvas, { width, height });
  canvas.getContext("2d", { alpha: false }).putImageData(new ImageData(pixels, width, height), 0, 0);
}

// ---- Sliders

const spoken = (name) => name.replaceAll("_", " ");
const ends = ({ range: [low, high] }) => [Math.min(low, 0), Math.max(high, 0)];
const within = (edit, strength) => Math.min(ends(edit)[1], Math.max(ends(edit)[0], strength));

function slider(edit) {
  const [min, max] = ends(edit), box = document.createElement("div"), id = `slider-${edit.name}`, step = (max - min) / 40;
  box.className = "slider";
  const label = Object.assign(document.createElement("label"), { textContent: spoken(edit.name), htmlFor: id });
  const value = document.createElement("output"), reset = Object.assign(document.createElement("button"), { type: "button", textContent: "0" });
  const input = Object.assign(document.createElement("input"), { type: "range", id, min, max, step: "any", name: edit.name });
  value.htmlFor = id;
  reset.setAttribute("aria-label", `Reset ${label.textContent}`);
  const set = (number) => {
    input.value = number;
    value.textContent = number.toFixed(2);
    input.setAttribute("aria-valuetext", `${label.textContent} ${number.toFixed(2)}`);
    if (number) state.edits.set(edit.name, number); else state.edits.delete(edit.name);
    render();
  };
  input.addEventListener("input", () => set(Number(input.value)));
  input.addEventListener("keydown", (event) => {  // a step of a continuous slider is the browser's own: give it a useful one
    const way = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (way === undefined) return;
    event.preventDefault();
    set(within(edit, Number(input.value) + way * step));
  });
  reset.addEventListener("click", () => set(0));
  box.append(label, value, reset, input);
  set(state.edits.get(edit.name) ?? 0);
  return box;
}

function buildSliders() {
  const presets = state.model.edits.filter((edit) => edit.kind.includes("preset")), others = state.model.edits.filter((edit) => !presets.includes(edit));
  $("sliders").replaceChildren(...others.map(slider));
  $("presets").replaceChildren(...presets.map(slider));
  $("presets-box").hidden = !presets.length;
}

// ---- A picture, its inversion, its edits

let newest = 0;  // of the pictures that were given: the last one wins

/** `file`: a File, or how to get one. */
async function invert(file) {
  if (!file) return;
  newest += 1;
  const own = newest;
  await loaded;  // a picture may be dropped before the model is there
  if (!state.model) return;
  await trying(async () => {
    say("inverting");
    const picture = typeof file === "function" ? await file() : file;
    if (own !== newest) return;
    const { result, milliseconds } = await ask("invert", { file: picture, middle: $("middle").checked });
    state.file = picture;
    draw($("input"), result.input);
    draw($("inversion"), result.inversion);
    draw($("before"), result.inversion);
    Object.assign($("inversion").dataset, { milliseconds, shown: 1 + Number($("inversion").dataset.shown) });
    $("middle-choice").hidden = Math.max(result.squashed, 1 / result.squashed) <= 1.03;
    $("views").hidden = $("controls").hidden = false;
    state.inverted = true;
    await render();
    if (own === newest) say(`inverted in ${(milliseconds / 1000).toFixed(2)} s`);
  });
}

let running = null, wished = false;

/** Show the newest wish; what was wished meanwhile is dropped. */
function render() {
  if (!state.inverted) return Promise.resolve();
  wished = true;
  running ||= renderAll();
  return running;
}

async function renderAll() {
  $("stage").classList.add("busy");
  try {
    while (wished) {
      wished = false;
      await trying(renderOne);
    }
  } finally {
    $("stage").classList.remove("busy");
    running = null;
  }
  remember();
}

async function renderOne() {
  const edits = [...state.edits], start = performance.now(), { result } = await ask("edit", { edits, move: state.move || null });
  draw($("edited"), result);
  const list = edits.map(([name, strength]) => `${spoken(name)} ${strength.toFixed(2)}`).join(", ");
  $("edited-caption").textContent = list || "edit: none yet";
  $("edited").setAttribute("aria-label", list ? `The picture with ${list}` : "The picture, not edited");
  Object.assign($("edited").dataset, { milliseconds: performance.now() - start, shown: 1 + Number($("edited").dataset.shown) });
}

async function download() {
  const blob = await new Promise((done) => $("edited").toBlob(done, "image/png")), link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${(state.file.name || "picture").replace(/\.\w+$/, "")}.${[...state.edits].map(([name, strength]) => `${name}${strength > 0 ? "+" : ""}${strength.toFixed(2)}`).join("_") || "inverted"}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// ---- A link that restores the sliders: they are behind the #, which is never sent

function link() {
  const parts = new URLSearchParams([...state.edits].map(([name, strength]) => [name, strength.toFixed(3)]));
  if (state.move) parts.set("form", state.move);
  return `#${parts}`;
}

const remember = follower(link);

function restore() {
  for (const [name, text] of new URLSearchParams(location.hash.slice(1))) {
    const edit = state.model.edits.find((known) => known.name === name), strength = Number(text);
    if (edit && Number.isFinite(strength)) state.edits.set(name, within(edit, strength));
    if (name === "form" && state.model.moves.includes(text)) state.move = text;
  }
}

// ---- Threads need a page that is isolated from others; a worker of our own sees to that where the server does not

async function isolated() {
  if (self.crossOriginIsolated || !self.isSecureContext || !navigator.serviceWorker || sessionStorage.getItem("isolating")) return;
  try {
    await navigator.serviceWorker.register(new URL("isolation.js", import.meta.url));
    const late = new Promise((_, failed) => { setTimeout(failed, ISOLATION_MILLISECONDS); });  // `ready` never fails: it waits
    await Promise.race([navigator.serviceWorker.ready, late]);
    sessionStorage.setItem("isolating", "1");  // once: where it does not help, one thread has to do
    location.reload();
    await new Promise(() => {});
  } catch { /* one thread has to do */ }
}

// ---- Wiring

function wire() {
  const drop = $("drop");
  $("file").addEventListener("change", () => { invert($("file").files[0]); $("file").value = ""; });
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => { event.preventDefault(); drop.classList.toggle("over", name === "dragover"); });
  }
  document.addEventListener("drop", (event) => invert(event.dataTransfer.files[0]));
  document.addEventListener("paste", (event) => invert(event.clipboardData.files[0]));
  $("middle").addEventListener("change", () => invert(state.file));
  $("reset").addEventListener("click", () => { state.edits.clear(); buildSliders(); });
  $("link").addEventListener("click", async () => {
    const address = new URL(link(), location.href).href;
    try { await navigator.clipboard.writeText(address); say("the link is copied"); } catch { say(address); }
  });
  $("download").addEventListener("click", download);
  $("move").addEventListener("change", () => { state.move = $("move").value; render(); });
  $("wipe").addEventListener("input", () => { $("before").style.clipPath = `inset(0 ${100 - $("wipe").value}% 0 0)`; });
}

function examples() {
  $("examples").hidden = !state.model.examples.length;
  $("examples").replaceChildren(...state.model.examples.map((path, index) => {
    const button = Object.assign(document.createElement("button"), { type: "button" }), name = path.split("/").pop().replace(/^\d+_/, "");
    button.append(Object.assign(new Image(), { src: path, alt: `Example ${index + 1}` }));
    button.addEventListener("click", () => {
      for (const one of $("examples").children) one.setAttribute("aria-pressed", String(one === button));
      invert(async () => new File([await (await fetch(path)).blob()], name));
    });
    return button;
  }));
}

const loaded = isolated().then(() => trying(async () => {
  const { result } = await ask("load", { backend: new URLSearchParams(location.search).get("backend") });
  state.model = result;
  $("model").textContent = `${result.name} (${result.method}), ${result.width} x ${result.height}, ${result.backend}`;
  $("model").title = result.licence;
  $("advice").hidden = !result.faces;
  $("advice").textContent = "This model takes faces as they lie in FFHQ: give a picture that is cropped and aligned so.";
  $("move").replaceChildren(...result.moves.map((move, index) => new Option(move, index ? move : "")));
  $("move-choice").hidden = result.moves.length < 2;
  restore();
  $("move").value = state.move;
  buildSliders();
  examples();
  say("ready");
}));
wire();
await loaded;
