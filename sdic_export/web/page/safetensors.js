// Safetensors files: eight bytes of length, a JSON header, then the tensors.

const KINDS = { F32: Float32Array, F64: Float64Array };

/** {tensors: name -> {shape, data: Float32Array}, metadata: name -> string} of an ArrayBuffer. */
export function readSafetensors(buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const { __metadata__: metadata = {}, ...entries } = header, tensors = {};
  for (const [name, { dtype, shape, data_offsets: [start, end] }] of Object.entries(entries)) {
    const Kind = KINDS[dtype];
    if (!Kind) throw new Error(`the tensor "${name}" is of the type ${dtype}, which this page does not read`);
    tensors[name] = { shape, data: Float32Array.from(new Kind(buffer.slice(8 + length + start, 8 + length + end))) };
  }
  return { tensors, metadata };
}
