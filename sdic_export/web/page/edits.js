// Edits of latent codes: a code becomes code + offset, float32 as in the command. See sdic_runtime/edits.py for the forms.

import { readSafetensors } from "./safetensors.js";

const KINDS = { direction: "direction", "GANSpace preset": "ganspace", style: "style", "StyleSpace preset": "style" };

/** An edit of site.json with its numbers: {name, kind, range, offset(code) or styles}. `read`: file name -> ArrayBuffer. */
export async function loadEdit(described, manifest, read) {
  const edit = { ...described, kind: KINDS[described.kind] }, { L: rows, C: width, M: styles } = manifest.sizes;
  if (described.channels) {
    edit.styles = new Float32Array(styles);
    const starts = manifest.style_layers.map((_, layer) => manifest.style_layers.slice(0, layer).reduce((sum, size) => sum + size, 0));
    for (const [layer, channel] of described.channels) edit.styles[starts[layer] + channel] += described.amount;
    return edit;
  }
  const { tensors, metadata } = readSafetensors(await read(described.basis ?? described.file));
  if (described.basis) edit.offset = component(tensors, described.component, rows, width);
  else if (tensors.styles) edit.styles = tensors.styles.data;
  else edit.offset = constant(tensors.direction.data, metadata.rows ? JSON.parse(metadata.rows) : [0, rows], rows, width);
  return edit;
}

/** A constant offset, [C] or [L, C], on the style rows first..end-1. */
function constant(vector, [first, end], rows, width) {
  const offset = new Float32Array(rows * width);
  for (let row = first; row < end; row += 1) {
    const from = vector.length > width ? row * width : 0;
    offset.set(vector.subarray(from, from + width), row * width);
  }
  return () => offset;
}

/** To the coordinate `sigma` along a component of a PCA basis; the present one is read off style row 0. */
function component({ mean, comp, std }, [index, first, end, sigma], rows, width) {
  const axis = comp.data.subarray(index * width, (index + 1) * width), deviation = std.data[index];
  return (code) => {
    let along = 0;
    for (let i = 0; i < width; i += 1) along += Math.fround(code[i] - mean.data[i]) * axis[i];
    const amount = Math.fround(Math.fround(sigma - Math.fround(along / deviation)) * deviation), offset = new Float32Array(rows * width);
    for (let row = first; row < end; row += 1) for (let i = 0; i < width; i += 1) offset[row * width + i] = amount * axis[i];
    return offset;
  };
}

/** `code` moved by all `parts`, [edit, strength] each; their offsets are all read off the unedited code. */
export function moved(code, parts) {
  return added(code, parts.filter(([edit]) => edit.offset).map(([edit, strength]) => [edit.offset(code), strength]));
}

/** Offsets to styles moved in the same way. */
export function restyled(styles, parts) {
  return added(styles, parts.filter(([edit]) => edit.styles).map(([edit, strength]) => [edit.styles, strength]));
}

function added(values, offsets) {
  const total = new Float32Array(values.length);  // every store rounds to float32
  for (const [offset, strength] of offsets) {
    const factor = Math.fround(strength);
    for (let i = 0; i < total.length; i += 1) total[i] += Math.fround(factor * offset[i]);
  }
  return total.map((value, i) => values[i] + value);
}

/** The move called `name`, or the first that is meant for the kinds of `parts`. */
export function moveFor(manifest, parts, name) {
  const kinds = new Set(parts.map(([edit]) => edit.kind)), further = [...kinds].filter((kind) => kind !== "style");
  const fitting = Object.entries(manifest.moves).filter(([, move]) => {
    const styled = !kinds.has("style") || manifest.programs[move.program].takes.includes("styles");
    return styled && further.every((kind) => (move.kinds ?? ["direction", "ganspace"]).includes(kind));
  });
  if (!fitting.length) throw new Error(`this model has no move for edits of the kinds ${[...kinds].join(" and ")} in one picture; reset one of them`);
  const found = name ? fitting.find(([known]) => known === name) : fitting[0];
  if (!found) throw new Error(`the form "${name}" is not for these edits; choose ${fitting.map(([known]) => known).join(" or ")}`);
  return found[1];
}
