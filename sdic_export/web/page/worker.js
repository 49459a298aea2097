// The pipeline in a thread of its own, so that the page answers while it computes. One message in, one answer out, by number.

import { Pipeline } from "./pipeline.js";

let pipeline = null;

const TASKS = {
  async load({ backend }) {
    pipeline = await Pipeline.load(backend, (bytes, all) => self.postMessage({ bytes, all }));
    return pipeline.described;
  },
  invert: ({ file, middle }) => pipeline.invert(file, middle),
  edit: ({ edits, move }) => pipeline.edit(edits, move),
};

let turn = Promise.resolve();  // the task before is done: an edit never meets half of an inversion

self.addEventListener("message", ({ data }) => { turn = turn.then(() => answer(data)); });

async function answer({ number, task, ...wanted }) {
  const start = performance.now();
  try {
    const result = await TASKS[task](wanted);
    self.postMessage({ number, result, milliseconds: performance.now() - start });
  } catch (error) {
    self.postMessage({ number, error: String(error?.message ?? error) });
  }
}
