// The interpreter of a bundle's programs. It knows no method.

/** The shape of a tensor of the manifest, for one picture. */
export const shapeOf = (manifest, tensor) => manifest.tensors[tensor].map((axis) => (axis === "N" ? 1 : manifest.sizes[axis] ?? axis));

/** Zeros of that shape. */
export const zerosOf = (manifest, tensor) => new Float32Array(shapeOf(manifest, tensor).reduce((product, size) => product * size, 1));

/** Run the steps from the tensors that the program takes to those that it gives, by name. `stages.run(stage, inputs, outputs)` runs one
 * stage. A value that no later step reads is let go at once. */
export async function runProgram(program, stages, tensors) {
  const last = new Map();
  program.steps.forEach(([, inputs, outputs], index) => [...Object.values(inputs), ...Object.values(outputs)].forEach((value) => last.set(value, index)));
  Object.values(program.gives).forEach((value) => last.set(value, program.steps.length));
  const values = new Map(program.takes.map((name) => [name, tensors[name]]));
  for (const [index, [stage, inputs, outputs]] of program.steps.entries()) {
    const bound = Object.fromEntries(Object.entries(inputs).map(([name, value]) => [name, values.get(value)]));
    const results = await stages.run(stage, bound, Object.keys(outputs));
    for (const [name, value] of Object.entries(outputs)) values.set(value, results[name]);
    for (const value of [...values.keys()]) if (!(last.get(value) > index)) values.delete(value);
  }
  return Object.fromEntries(Object.entries(program.gives).map(([name, value]) => [name, values.get(value)]));
}
