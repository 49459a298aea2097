// A bundle that inverts and edits pictures in the browser: the host's part of an edit, as in the command.

import { loadEdit, moved, moveFor, restyled } from "./edits.js";
import { decoded, shown, spread, toBytes } from "./pictures.js";
import { runProgram, zerosOf } from "./program.js";
import { readSafetensors } from "./safetensors.js";
import { offered, Stages } from "./stages.js";

const SITE = new URL("./", import.meta.url);
const SAME = 2;  // levels of 255 by which WebGPU may differ from what the export computed

async function fetched(path, progress) {
  let answer;
  try {
    answer = await fetch(new URL(path, SITE));
  } catch {
    throw new Error(`${path} cannot be fetched; check the connection and load the page again`);
  }
  if (!answer.ok) throw new Error(`${path} cannot be fetched: the server answered ${answer.status}`);
  if (!progress || !answer.body) return answer.arrayBuffer();
  const parts = [];
  for (const reader = answer.body.getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) return new Blob(parts).arrayBuffer();
    parts.push(value);
    progress(value.length);
  }
}

const parsed = async (path) => JSON.parse(new TextDecoder().decode(await fetched(path)));

async function digest(buffer) {
  return [...new Uint8Array(await crypto.subtle.digest("SHA-256", buffer))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

export class Pipeline {
  /** `wanted`: "wasm" or "webgpu" instead of what the browser offers. `progress(bytes, all)` is told what has come. */
  static async load(wanted, progress = () => {}) {
    const [site, manifest] = await Promise.all([parsed("site.json"), parsed("bundle/bundle.json")]);
    const all = Object.values(manifest.files).reduce((sum, file) => sum + file.bytes, 0);
    let come = 0;
    const read = async (name) => {
      const buffer = await fetched(`bundle/${name}`, (bytes) => { come += bytes; progress(come, all); }), entry = manifest.files[name];
      const whole = buffer.byteLength === entry.bytes && (!self.crypto?.subtle || (await digest(buffer)) === entry.sha256);
      if (!whole) throw new Error(`bundle/${name} is damaged; load the page again, or write the site again with: sdic-export web`);
      return buffer;
    };
    const backend = !site.webgpu ? "wasm" : ["wasm", "webgpu"].includes(wanted) ? wanted : await offered();
    const pipeline = new Pipeline(site, manifest, await Stages.load(manifest, backend, read));
    pipeline.edits = new Map(await Promise.all(site.edits.map(async (edit) => [edit.name, await loadEdit(edit, manifest, read)])));
    if (pipeline.stages.description.startsWith("WebGPU") && !(await pipeline.agrees())) {
      await pipeline.stages.close();
      pipeline.stages = await Stages.load(manifest, "wasm", read);
    }
    return pipeline;
  }

  constructor(site, manifest, stages) {
    Object.assign(this, { site, manifest, stages, edits: new Map(), inversion: null });
  }

  /** What a page needs to show its controls. */
  get described() {
    const { name, method, domain, licence, faces, moves, sizes: { R: width }, input: { visible_rows: [first, end] } } = this.manifest;
    const edits = this.site.edits.map(({ name: known, kind, range }) => ({ name: known, kind, range }));
    const all = { name, method, domain, licence, faces, width, height: end - first, moves: Object.keys(moves), edits };
    return { ...all, examples: this.site.examples, backend: this.stages.description };
  }

  /** Whether the picture of the export's check comes out the same. */
  async agrees() {
    const { tensors: { image, picture }, metadata } = readSafetensors(await fetched("check.safetensors")), { R: side } = this.manifest.sizes;
    try {
      const { picture: made } = await runProgram(this.manifest.programs.invert, this.stages, { image: image.data }), step = Number(metadata.step);
      const whole = toBytes(made, { ...this.manifest, input: { visible_rows: [0, side] } }).pixels, [rows, columns] = picture.shape;
      for (let y = 0; y < rows; y += 1) for (let x = 0; x < columns; x += 1) for (let channel = 0; channel < 3; channel += 1) {
        const pixel = (Math.floor(step / 2) + y * step) * side + Math.floor(step / 2) + x * step;
        if (Math.abs(whole[4 * pixel + channel] - picture.data[3 * (y * columns + x) + channel]) > SAME) return false;
      }
      return true;
    } catch {
      return false;
    }
  }

  /** Invert a picture file; what the network was given of it and the inversion, as RGBA bytes. */
  async invert(file, middle) {
    const { bytes, whole, squashed } = await decoded(file, this.manifest, middle), image = spread(bytes, this.manifest);
    const tensors = { image, ...(await runProgram(this.manifest.programs.invert, this.stages, { image })) };
    this.inversion = Object.fromEntries(this.manifest.keeps.map((name) => [name, tensors[name]]));
    return { input: shown(bytes, this.manifest), inversion: toBytes(tensors.picture, this.manifest), whole, squashed };
  }

  /** The picture of some edits, [name, strength] each, as RGBA bytes; without any it is the inversion. */
  async edit(wanted, move) {
    const unknown = wanted.find(([name]) => !this.edits.has(name)), { manifest, inversion } = this;
    if (unknown) throw new Error(`there is no edit "${unknown[0]}"; there are: ${[...this.edits.keys()].join(", ")}`);
    const parts = wanted.filter(([, strength]) => strength).map(([name, strength]) => [this.edits.get(name), strength]);
    if (!parts.length) return toBytes(inversion.picture, manifest);
    const form = moveFor(manifest, parts, move), program = manifest.programs[form.program], zeros = program.zeros ?? [];
    await this.#prepare(program);
    const tensors = Object.fromEntries(program.takes.map((name) => [name, zeros.includes(name) ? zerosOf(manifest, name) : inversion[name]]));
    for (const code of form.codes) tensors[code] = moved(inversion[code], parts);
    if (parts.some(([edit]) => edit.styles)) tensors.styles = restyled(inversion.styles, parts);
    return toBytes((await runProgram(program, this.stages, tensors)).picture, manifest);
  }

  /** Have the inversion hold what the program "prepare" gives, where `program` takes any of it. */
  async #prepare(program) {
    const prepare = this.manifest.programs.prepare, given = Object.keys(prepare?.gives ?? {});
    if (!program.takes.some((name) => given.includes(name) && !this.inversion[name])) return;
    const zeros = prepare.zeros ?? [];
    const takes = prepare.takes.map((name) => [name, zeros.includes(name) ? zerosOf(this.manifest, name) : this.inversion[name]]);
    Object.assign(this.inversion, await runProgram(prepare, this.stages, Object.fromEntries(takes)));
  }
}
