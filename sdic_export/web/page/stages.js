// The stages of a bundle on onnxruntime-web: on WebGPU where it runs every operator of a stage, else on WebAssembly.

import { shapeOf } from "./program.js";

const MOST_THREADS = 8;  // more gain nothing on the sizes that phones and laptops have
const RUNTIMES = {
  webgpu: ["ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm"],
  wasm: ["ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"],
};
const WASM = "wasm", WEBGPU = "webgpu";

/** The backend that this browser offers: "webgpu" where a GPU is there for it, and no program in its place, else "wasm". */
export async function offered() {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  return adapter && !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter) ? WEBGPU : WASM;
}

const told = (error) => String(error?.message ?? error).slice(0, 200);

/** The files of weights that several graphs share. */
function external(manifest) {
  const named = Object.values(manifest.weights ?? {}).flat();
  return new Set(named.filter((name, index) => named.indexOf(name) !== index));
}

/** `read` that has the files of `kept` in memory once they are there. */
function remembering(read, kept) {
  const known = new Map();
  return async (name) => {
    if (!kept.has(name)) return read(name);
    if (!known.has(name)) known.set(name, await read(name));
    return known.get(name);
  };
}

export class Stages {
  /** `read(file)` gives a file of the bundle as an ArrayBuffer. */
  static async load(manifest, backend, read) {
    const [code, wasm] = RUNTIMES[backend].map((name) => new URL(`onnxruntime/${name}`, import.meta.url).href);
    const ort = await import(code), stages = new Stages(manifest, ort);
    ort.env.wasm.wasmPaths = { wasm };
    ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, MOST_THREADS) : 1;
    ort.env.logLevel = "fatal";  // what goes wrong is said on the page
    stages.read = remembering(read, external(manifest));
    for (const key of Object.keys(manifest.graphs)) await stages.#open(key, backend);
    stages.read = read;
    return stages;
  }

  constructor(manifest, ort) {
    Object.assign(this, { manifest, ort, sessions: new Map(), backends: new Map() });
  }

  /** Where it runs, in words. */
  get description() {
    const onGpu = [...this.backends].filter(([, backend]) => backend === WEBGPU).map(([key]) => key), threads = this.ort.env.wasm.numThreads;
    const wasm = threads > 1 ? `WebAssembly, ${threads} threads` : "WebAssembly, one thread";
    return !onGpu.length ? wasm : onGpu.length === this.backends.size ? "WebGPU" : `WebGPU (${onGpu.join(", ")}) and ${wasm}`;
  }

  /** Open a session of the graph `key`, on WebGPU if that is the `backend` and has every operator. */
  async #open(key, backend) {
    const [file, ...bands] = this.manifest.graphs[key].fp32, graph = new Uint8Array(await this.read(file)), externalData = [];
    if (bands.length) throw new Error(`the graph "${key}" is in bands, which this page does not run`);
    for (const name of this.manifest.weights?.[file] ?? []) externalData.push({ path: name.split("/").pop(), data: new Uint8Array(await this.read(name)) });
    const options = { freeDimensionOverrides: { N: 1 }, graphOptimizationLevel: "all", externalData, executionProviders: [backend] };
    if (backend === WEBGPU) options.extra = { session: { disable_cpu_ep_fallback: "1" } };  // so that it fails unless every operator is there
    try {
      this.sessions.set(key, await this.ort.InferenceSession.create(graph, options));
      this.backends.set(key, backend);
    } catch (error) {
      if (backend === WEBGPU) await this.#open(key, WASM);
      else throw new Error(`the stage "${key}" cannot be loaded: ${told(error)}`);
    }
  }

  /** What `stage` makes of `inputs`, name -> Float32Array: the `outputs` asked for, by name. */
  async run(stage, inputs, outputs) {
    const alone = `${stage}:${outputs[0]}`, key = outputs.length === 1 && this.sessions.has(alone) ? alone : stage;
    const feed = (name) => [name, new this.ort.Tensor("float32", inputs[name], shapeOf(this.manifest, name))];
    const session = this.sessions.get(key), feeds = Object.fromEntries(session.inputNames.map(feed));
    let results;
    try {
      results = await session.run(feeds, outputs);
    } catch (error) {
      if (this.backends.get(key) === WASM) throw new Error(`the stage "${stage}" failed, most likely for lack of memory: ${told(error)}`);
      await session.release();
      await this.#open(key, WASM);  // WebGPU says only now that it lacks a form of an operator
      return this.run(stage, inputs, outputs);
    }
    const made = {};
    for (const name of outputs) {
      made[name] = await results[name].getData();
      results[name].dispose?.();
    }
    return made;
  }

  async close() {
    for (const session of this.sessions.values()) await session.release();
  }
}
