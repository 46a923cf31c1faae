/** A look as it comes over HTTP: one safetensors file, whose metadata say what its tensors belong to. */

/** @typedef {import("../types.js").Tensor} Tensor */
/** @typedef {import("../types.js").Look} Look */

/**
 * The float32 tensors and the metadata of a safetensors file.
 *
 * @param {ArrayBuffer} buffer
 * @returns {{tensors: Record<string, Tensor>, metadata: Record<string, string>}}
 * @throws {Error} it is no such file, or has tensors of another type
 */
export function readSafetensors(buffer) {
  const wrong = (/** @type {string} */ what) => new Error(`The answer is no safetensors file of float32 tensors: ${what}.`);
  if (buffer.byteLength < 8) throw wrong("it is too short");
  const start = 8 + Number(new DataView(buffer).getBigUint64(0, true));
  if (start > buffer.byteLength) throw wrong("its header is cut short");
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, start - 8)));
  /** @type {Record<string, Tensor>} */
  const tensors = Object.create(null);
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const [from, to] = entry.data_offsets;
    if (entry.dtype !== "F32") throw wrong(`'${name}' is ${entry.dtype}`);
    if (start + to > buffer.byteLength) throw wrong(`'${name}' is cut short`);
    tensors[name] = { shape: entry.shape, data: new Float32Array(buffer.slice(start + from, start + to)) };
  }
  return { tensors, metadata: header.__metadata__ ?? {} };
}

/**
 * @param {ArrayBuffer} buffer the answer of `POST /v1/look`
 * @returns {Look}
 */
export function readLook(buffer) {
  const { tensors, metadata } = readSafetensors(buffer);
  return {
    width: JSON.parse(metadata.width),
    height: JSON.parse(metadata.height),
    extent: JSON.parse(metadata.extent),
    memory_shapes: JSON.parse(metadata.memory_shapes),
    tensors,
  };
}
