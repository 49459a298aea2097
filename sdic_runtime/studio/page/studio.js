// The studio's page: a picture is sent once and inverted once; a slider asks for the newest edit alone.

import { follower } from "./address.js";
import { brush } from "./brush.js";
import { ask, json, post } from "./service.js";

const $ = (id) => document.getElementById(id);
const state = { bundles: [], bundle: null, picture: null, face: null, inversion: null, size: null, pastes: false, edits: new Map(), move: "", paste: "", compared: new Map() };
// Of this tab: two tabs on one picture do not replace each other's requests. Browsers have randomUUID for this machine's own pages and https alone.
const slot = crypto.getRandomValues(new Uint32Array(4)).join("-");

// ---- Words to the user

function say(text) { $("status").textContent = text; }
function complain(error) { $("error").textContent = error ? error.message : ""; if (error) say(""); }
async function trying(work) {
  complain(null);
  try { return await work(); } catch (error) { if (error.name !== "AbortError") complain(error); return undefined; }
}

// ---- What there is

const pause = () => new Promise((done) => setTimeout(done, 500));

/** The first models, among them that of the link; those that load later come later. */
async function loadBundles() {
  const named = new URLSearchParams(location.hash.slice(1)).get("bundle");
  for (let more = true; ; await pause()) {
    try { more = await newBundles(); } catch (error) {
      if (error.status !== 503) throw error;
      say(error.message);
      continue;
    }
    if (more && named && !state.bundles.some((bundle) => bundle.name === named)) { say(`the model "${named}" may still be loading`); continue; }
    if (more) awaitBundles();
    break;
  }
  say("");
  useBundle(state.bundles[0].name);
}

async function awaitBundles() {
  for (let more = true; more; ) {
    await pause();
    try { more = await newBundles(); } catch { /* asked again */ }
  }
}

/** Show the models that have been loaded; whether more are to come. */
async function newBundles() {
  const more = (await (await fetch("ready")).json()).status === "loading", found = await json("api/bundles");
  if (found.length > state.bundles.length) {
    state.bundles = found.map((bundle) => state.bundles.find((one) => one.name === bundle.name) || bundle);
    $("bundle").replaceChildren(...state.bundles.map((bundle) => new Option(`${bundle.name} (${bundle.method})`, bundle.name)));
    if (state.bundle) $("bundle").value = state.bundle.name;
    $("bundle-choice").hidden = $("compare").parentElement.hidden = state.bundles.length < 2;
    if ($("compare").checked) compare();
  }
  return more;
}

function useBundle(name) {
  const bundle = state.bundles.find((one) => one.name === name) || state.bundles[0];
  state.bundle = bundle;
  $("bundle").value = bundle.name;
  $("model").textContent = `${bundle.domain}, ${bundle.width} x ${bundle.height}, ${bundle.backend}`;
  $("model").title = bundle.licence;
  $("move").replaceChildren(...bundle.moves.map((move, index) => new Option(move.name, index ? move.name : "")));
  $("move-choice").hidden = bundle.moves.length < 2;
  state.move = "";
  for (const known of state.edits.keys()) if (!bundle.edits.some((edit) => edit.name === known)) state.edits.delete(known);
  buildSliders();
}

// ---- Sliders

function buildSliders() {
  const sliders = state.bundle.edits.filter((edit) => !edit.kind.includes("preset")), presets = state.bundle.edits.filter((edit) => edit.kind.includes("preset"));
  $("sliders").replaceChildren(...sliders.map(slider));
  $("presets").replaceChildren(...presets.map(slider));
  $("presets-box").hidden = !presets.length;
  $("swept").replaceChildren(...state.bundle.edits.map((edit) => new Option(edit.name, edit.name)));
}

function slider(edit) {
  const [low, high] = edit.range, box = document.createElement("div"), id = `slider-${edit.name}`;
  box.className = "slider";
  const label = Object.assign(document.createElement("label"), { textContent: edit.name.replaceAll("_", " "), htmlFor: id });
  const shown = document.createElement("output"), reset = Object.assign(document.createElement("button"), { type: "button", textContent: "0" });
  const input = Object.assign(document.createElement("input"), { type: "range", id, min: Math.min(low, 0), max: Math.max(high, 0), step: "any", name: edit.name });
  shown.htmlFor = id;
  reset.setAttribute("aria-label", `Reset ${label.textContent}`);
  const step = (high - low) / 40;
  const set = (value) => {
    input.value = value;
    shown.textContent = Number(value).toFixed(2);
    input.setAttribute("aria-valuetext", `${label.textContent} ${Number(value).toFixed(2)}`);
    if (Number(value)) state.edits.set(edit.name, Number(value)); else state.edits.delete(edit.name);
  };
  set(state.edits.get(edit.name) || 0);
  input.addEventListener("input", () => { set(Number(input.value)); render(true); });
  input.addEventListener("change", () => render(false));
  input.addEventListener("keydown", (event) => {  // a step of a continuous slider is the browser's own: give it a useful one
    const way = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (way === undefined) return;
    event.preventDefault();
    set(Math.min(input.max, Math.max(input.min, Number(input.value) + way * step)));
    render(false);
  });
  reset.addEventListener("click", () => { set(0); render(false); });
  box.append(label, shown, reset, input);
  return box;
}

// ---- A picture, its faces, its inversion

async function send(file) {
  if (!file) return;
  await loaded;  // a picture may be dropped before the models are known
  await trying(async () => {
    if (!state.bundle) throw new Error("no model is ready; load the page again");
    say("sending the picture");
    $("aligned").checked = false;
    const made = await json("api/pictures", { method: "POST", headers: { "content-type": "application/octet-stream" }, body: file });
    await usePicture(made);
    await invert();
  });
}

async function usePicture(made) {
  state.picture = made.picture;
  state.face = null;
  $("photo-image").src = `api/pictures/${made.picture}/image`;
  $("drop").hidden = true;
  $("photo").hidden = false;
  const faces = state.bundle.faces ? made.faces : [];
  $("faces").querySelectorAll("button").forEach((button) => button.remove());
  faces.forEach((face, index) => {
    const [left, top, right, bottom] = face.box, button = document.createElement("button");
    Object.assign(button, { type: "button", textContent: String(index + 1), title: face.warning || `face ${index + 1}` });
    Object.assign(button.style, {
      left: `${100 * left / made.width}%`, top: `${100 * top / made.height}%`,
      width: `${100 * (right - left) / made.width}%`, height: `${100 * (bottom - top) / made.height}%`,
    });
    button.setAttribute("aria-label", `Face ${index + 1} of ${faces.length}`);
    button.setAttribute("aria-pressed", String(index === 0));
    button.addEventListener("click", () => chooseFace(index + 1));
    $("faces").append(button);
  });
  $("aligned-choice").hidden = !state.bundle.faces;
  $("faces-said").textContent = !state.bundle.faces ? "" : faces.length === 1 ? "one face" : `${faces.length} faces; press one to edit it`;
}

async function chooseFace(number) {
  state.face = number;
  $("aligned").checked = false;
  $("faces").querySelectorAll("button").forEach((button, index) => button.setAttribute("aria-pressed", String(index + 1 === number)));
  await trying(invert);
}

/** What of the picture a model is to invert. */
function taken(bundle) {
  const aligned = $("aligned").checked;
  return { bundle: bundle.name, face: aligned ? null : state.face, crop: true, aligned };
}

async function invert() {
  say("inverting");
  const made = await json(`api/pictures/${state.picture}/invert`, post(taken(state.bundle)));
  await useInversion(made);
  say([`inverted in ${made.seconds.toFixed(2)} s`, ...made.notices].join("; "));
}

async function useInversion(made) {
  state.inversion = made.inversion;
  state.size = [made.width, made.height];
  state.pastes = made.pastes;
  $("paste-choice").hidden = !made.pastes;
  $("views").hidden = $("controls").hidden = false;
  $("input").src = `api/inversions/${made.inversion}/input`;
  const plain = await show($("inversion"), await ask(`api/inversions/${made.inversion}/edit`, post({ format: "webp" })));
  $("before").src = plain;
  clearBrush(state.size);
  await Promise.all([render(false), compare()]);
}

async function show(image, answer) {
  const old = image.src;
  image.src = URL.createObjectURL(await answer.blob());
  try { await image.decode(); } catch { /* the next one replaces it */ }
  if (old.startsWith("blob:") && old !== $("before").src) URL.revokeObjectURL(old);
  return image.src;
}

const NEEDS_FACE = 'set "Photograph" to "the face alone"', HELP = { keep: $("keep-help").textContent, wipe: $("wipe-help").textContent };

/** Masks and the inversion are of the model's own picture: beside a whole photograph neither brush nor wipe can lie on it. */
function fitStage(paste) {
  const whole = Boolean(paste) && state.pastes;
  $("stage").classList.toggle("whole", whole);
  $("keep").disabled = $("wipe").disabled = whole;
  $("keep-help").textContent = whole ? `${NEEDS_FACE} to brush; what was brushed on it still stays as it is` : HELP.keep;
  $("wipe-help").textContent = whole ? `${NEEDS_FACE} to compare` : HELP.wipe;
}

// ---- Edits: one request at a time, and the newest wish next

let running = null, wished = null;

function wish(preview) {
  const edits = [...state.edits].map(([name, strength]) => ({ name, strength }));
  return { edits, move: state.move || null, paste: state.paste, format: preview ? "jpeg" : "png", slot };
}

function render(preview) {
  wished = preview;
  if (!preview) remember();
  running ||= renderAll();
  return running;
}

async function renderAll() {
  let preview = false;
  $("stage").classList.add("busy");
  try {
    while (wished !== null) {
      preview = wished;
      wished = null;
      await trying(() => renderOne(preview));
    }
  } finally {
    $("stage").classList.remove("busy");
    running = null;
  }
  if (!preview) await compare();
}

async function renderOne(preview) {
  const start = performance.now(), sent = wish(preview);
  try {
    const answer = await ask(`api/inversions/${state.inversion}/edit`, post(sent));
    await show($("edited"), answer);
  } catch (error) {
    if (error.status !== 409) throw error;  // a newer one took its place
    return;
  }
  fitStage(sent.paste || state.paste);
  const list = [...state.edits].map(([name, strength]) => `${name.replaceAll("_", " ")} ${strength.toFixed(2)}`).join(", "), edited = $("edited");
  $("edited-caption").textContent = list || "edit: none yet";
  edited.alt = list ? `The picture with ${list}` : "The picture, not edited";
  Object.assign(edited.dataset, { milliseconds: performance.now() - start, full: !preview, shown: 1 + Number(edited.dataset.shown || 0) });
  if (!preview) $("download").href = edited.src;
}

async function compare() {
  const others = $("compare").checked ? state.bundles.filter((bundle) => bundle !== state.bundle) : [];
  if (!others.length) { $("others").replaceChildren(); return; }
  for (const bundle of others) {
    await trying(async () => {
      const wanted = taken(bundle), key = `${state.picture}/${JSON.stringify(wanted)}`;
      if (!state.compared.has(key)) {
        const made = await json(`api/pictures/${state.picture}/invert`, post(wanted));
        state.compared.set(key, made.inversion);
      }
      const edits = wish(false).edits.filter((edit) => bundle.edits.some((known) => known.name === edit.name));
      const answer = await ask(`api/inversions/${state.compared.get(key)}/edit`, post({ edits, format: "webp", slot }));
      let figure = [...$("others").children].find((one) => one.dataset.bundle === bundle.name);
      if (!figure) {
        figure = document.createElement("figure");
        figure.dataset.bundle = bundle.name;
        figure.append(Object.assign(new Image(), { alt: `The edit by ${bundle.name}` }), Object.assign(document.createElement("figcaption"), { textContent: `${bundle.name} (${bundle.method})` }));
        $("others").append(figure);
      }
      await show(figure.firstChild, answer);
    });
  }
}

// ---- A link that restores the state: everything is behind the #, which is never sent

function link() {
  const parts = new URLSearchParams({ bundle: state.bundle.name, picture: state.picture || "", ...(state.face && { face: state.face }), ...($("aligned").checked && { aligned: "yes" }), ...(state.move && { move: state.move }), ...(state.paste && { paste: state.paste }) });
  for (const [name, strength] of state.edits) parts.append(`edit.${name}`, strength.toFixed(3));
  return `#${parts}`;
}

const remember = follower(link);

async function restore() {
  const parts = new URLSearchParams(location.hash.slice(1));
  useBundle(parts.get("bundle"));
  for (const [key, value] of parts) {
    const name = key.startsWith("edit.") ? key.slice(5) : "";
    if (state.bundle.edits.some((edit) => edit.name === name) && Number.isFinite(Number(value))) state.edits.set(name, Number(value));
  }
  buildSliders();
  state.move = state.bundle.moves.some((move) => move.name === parts.get("move")) ? parts.get("move") : "";
  state.paste = ["difference", "replace"].includes(parts.get("paste")) ? parts.get("paste") : "";
  $("move").value = state.move;
  $("paste").value = state.paste;
  const picture = parts.get("picture");
  if (!/^[\w-]{10,}$/.test(picture || "")) return;
  let made;
  try { made = await json(`api/pictures/${picture}`); } catch (error) {
    if (error.status !== 404) throw error;
    say("the picture of this link is not in memory any more; drop it again, and its edits are applied");
    return;
  }
  await usePicture(made);
  $("aligned").checked = state.bundle.faces && parts.has("aligned");
  const face = Number(parts.get("face"));
  if (state.bundle.faces && face >= 1 && face <= made.faces.length) state.face = face;
  $("faces").querySelectorAll("button").forEach((button, index) => button.setAttribute("aria-pressed", String(index + 1 === (state.face || 1))));
  await invert();
}

// ---- The brush

const clearBrush = brush(async (mask) => {
  await trying(async () => {
    const made = await json(`api/inversions/${state.inversion}/mask`, { method: "PUT", body: mask });
    say(made.masked ? "what you brushed stays as it is" : "no region is kept");
  });
  await render(false);
});

// ---- Strips and animations

async function sweep(kind) {
  await trying(async () => {
    const name = $("swept").value, [low, high] = state.bundle.edits.find((edit) => edit.name === name).range, steps = Number($("steps").value);
    if (!(steps >= 2 && steps <= 15)) throw new Error("give 2 to 15 pictures");
    const strengths = [...Array(steps)].map((_, index) => index / (steps - 1)).map((share) => low * (1 - share) + high * share);
    say(`making the ${kind}`);
    const answer = await ask(`api/inversions/${state.inversion}/${kind}`, post({ ...wish(false), slot: null, swept: name, strengths }));
    await show($("sweep"), answer);
    Object.assign($("sweep-link"), { href: $("sweep").src, download: `${name}.${kind === "strip" ? "png" : "gif"}`, hidden: false });
    $("sweep").alt = `${name} at ${steps} strengths from ${low.toFixed(1)} to ${high.toFixed(1)}; press to download`;
    say("");
  });
}

// ---- Wiring

function wire() {
  const drop = $("drop");
  $("file").addEventListener("change", () => { send($("file").files[0]); $("file").value = ""; });
  for (const kind of ["dragenter", "dragover"]) document.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
  for (const kind of ["dragleave", "drop"]) document.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.remove("over"); });
  document.addEventListener("drop", (event) => send(event.dataTransfer.files[0]));
  document.addEventListener("paste", (event) => send([...event.clipboardData.files][0]));
  $("again").addEventListener("click", () => { $("drop").hidden = false; $("photo").hidden = true; $("file").click(); });
  $("bundle").addEventListener("change", () => { useBundle($("bundle").value); if (state.picture) trying(async () => { await usePicture(await json(`api/pictures/${state.picture}`)); await invert(); }); });
  $("move").addEventListener("change", () => { state.move = $("move").value; render(false); });
  $("paste").addEventListener("change", () => { state.paste = $("paste").value; if (state.paste) fitStage(state.paste); render(false); });
  $("compare").addEventListener("change", compare);
  $("aligned").addEventListener("change", () => trying(invert));
  $("reset").addEventListener("click", () => { state.edits.clear(); buildSliders(); render(false); });
  $("link").addEventListener("click", async () => {
    const address = new URL(link(), location.href).href;
    try { await navigator.clipboard.writeText(address); say("the link is copied"); } catch { say(address); }
  });
  $("wipe").addEventListener("input", () => { $("before").style.clipPath = `inset(0 ${100 - $("wipe").value}% 0 0)`; });
  $("strip").addEventListener("click", () => sweep("strip"));
  $("animation").addEventListener("click", () => sweep("animation"));
}

const loaded = trying(async () => { await loadBundles(); await restore(); });
wire();
