// Pictures in and out, by the same arithmetic as the command's.
//
// Resizing is with antialiasing in 8-bit fixed point, as Pillow does it, so every rounding counts: weights in double precision, rounded
// to PRECISION bits, one pass along the rows, rounded to bytes, then one along the columns.

const PRECISION = 32 - 8 - 2;  // 8 bits for the pixel, 2 for sums beyond its range
const PIXEL_LIMIT = 100e6;
const STRIP_PIXELS = 1 << 22;  // that are decoded into memory at once: phones refuse larger canvases than they have memory for

const bilinear = (x) => (Math.abs(x) < 1 ? 1 - Math.abs(x) : 0);

function bicubic(x) {
  const a = -0.5, y = Math.abs(x);
  if (y < 1) return ((a + 2) * y - (a + 3)) * y * y + 1;
  return y < 2 ? (((y - 5) * y + 8) * y - 4) * a : 0;
}

const sinc = (x) => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));
const lanczos = (x) => (-3 <= x && x < 3 ? sinc(x) * sinc(x / 3) : 0);

const FILTERS = { bilinear: [bilinear, 1], bicubic: [bicubic, 2], lanczos: [lanczos, 3] };  // and where their weight has become 0

/** For every output position the first input position and the weights from there on. */
function windows(input, output, [weight, support]) {
  const scale = input / output, stretch = Math.max(scale, 1), reach = support * stretch;
  return Array.from({ length: output }, (_, position) => {
    const centre = (position + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5)), end = Math.min(input, Math.trunc(centre + reach + 0.5));
    const exact = [];
    for (let i = first; i < end; i += 1) exact.push(weight((i - centre + 0.5) * (1 / stretch)));
    const sum = exact.reduce((total, value) => total + value, 0);
    const fixed = exact.map((value) => {
      const scaled = (sum !== 0 ? value * (1 / sum) : value) * (1 << PRECISION);
      return Math.trunc(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
    });
    return { first, weights: Int32Array.from(fixed) };
  });
}

/** Rows of RGBA bytes to rows of RGB bytes of another width. */
function alongRows(bytes, width, height, all, target, row) {
  for (let y = 0; y < height; y += 1) {
    let out = 3 * all.length * (row + y);
    for (const { first, weights } of all) {
      let red = 1 << (PRECISION - 1), green = red, blue = red, from = 4 * (y * width + first);
      for (let i = 0; i < weights.length; i += 1, from += 4) {
        const weight = weights[i];
        red += bytes[from] * weight;
        green += bytes[from + 1] * weight;
        blue += bytes[from + 2] * weight;
      }
      target[out] = red >> PRECISION;  // a clamped array
      target[out + 1] = green >> PRECISION;
      target[out + 2] = blue >> PRECISION;
      out += 3;
    }
  }
}

function alongColumns(bytes, pitch, all) {
  const out = new Uint8ClampedArray(pitch * all.length), sums = new Int32Array(pitch);
  all.forEach(({ first, weights }, position) => {
    sums.fill(1 << (PRECISION - 1));
    for (let i = 0; i < weights.length; i += 1) {
      const start = pitch * (first + i), weight = weights[i];
      for (let x = 0; x < pitch; x += 1) sums[x] += bytes[start + x] * weight;
    }
    for (let x = 0; x < pitch; x += 1) out[pitch * position + x] = sums[x] >> PRECISION;
  });
  return out;
}

/** RGB bytes of `width` x `height` from a picture whose `strip(first, end)` gives rows of RGBA bytes, about `pixels` of them at once. */
export function resized(strip, from, width, height, resampling, pixels = STRIP_PIXELS) {
  const filter = FILTERS[resampling], narrowed = new Uint8ClampedArray(3 * width * from.height), all = windows(from.width, width, filter);
  const rows = Math.max(1, Math.floor(pixels / from.width));
  for (let row = 0; row < from.height; row += rows) {
    const end = Math.min(from.height, row + rows);
    alongRows(strip(row, end), from.width, end - row, all, narrowed, row);
  }
  return alongColumns(narrowed, 3 * width, windows(from.height, height, filter));
}

/** The visible rows at the working size, [first, end]. */
const workingRows = ({ sizes, input }) => input.visible_rows.map((row) => Math.floor(row * sizes.S / sizes.R));

/** What the network takes of RGB bytes, S wide and as high as its visible rows: Float32Array [1, 3, S, S] in [-1, 1], black bars around. */
export function spread(bytes, manifest) {
  const side = manifest.sizes.S, [first] = workingRows(manifest), plane = side * side, out = new Float32Array(3 * plane).fill(-1);
  for (let pixel = 0; pixel < bytes.length / 3; pixel += 1) {
    for (let channel = 0; channel < 3; channel += 1) {
      out[channel * plane + first * side + pixel] = Math.fround(bytes[3 * pixel + channel] / 127.5) - 1;
    }
  }
  return out;
}

/** What the network is given, as a person sees it: the same bytes as a picture. */
export function shown(bytes, manifest) {
  const pixels = new Uint8ClampedArray(bytes.length / 3 * 4).fill(255);
  for (let i = 0; i < bytes.length / 3; i += 1) for (let channel = 0; channel < 3; channel += 1) pixels[4 * i + channel] = bytes[3 * i + channel];
  return { pixels, width: manifest.sizes.S, height: bytes.length / 3 / manifest.sizes.S };
}

/** The visible rows of a generated picture, Float32Array [1, 3, R, R], as RGBA bytes: clamped, rounded to the nearest, halves to even. */
export function toBytes(data, { sizes: { R: side }, input: { visible_rows: [first, end] } }) {
  const plane = side * side, pixels = new Uint8ClampedArray(4 * side * (end - first)).fill(255);
  for (let pixel = 0; pixel < side * (end - first); pixel += 1) {
    for (let channel = 0; channel < 3; channel += 1) {
      const value = data[channel * plane + first * side + pixel];
      if (!Number.isFinite(value)) throw new Error("the generated picture holds NaN or infinite values; see: sdic-export verify BUNDLE");
      pixels[4 * pixel + channel] = Math.fround(Math.fround(Math.min(1, Math.max(-1, value)) + 1) * 127.5);
    }
  }
  return { pixels, width: side, height: end - first };
}

/** The RGB bytes that the network sees of a picture file; with `middle` only the largest part in its middle that has the model's shape. */
export async function decoded(file, manifest, middle) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    throw new Error(`${file.name || "this file"} is not a picture that this browser reads, or damaged; use a JPEG or PNG`);
  }
  try {
    const whole = { width: bitmap.width, height: bitmap.height };
    if (whole.width * whole.height > PIXEL_LIMIT) {
      throw new Error(`the picture has ${Math.round(whole.width * whole.height / 1e6)} megapixels, and the limit is ${PIXEL_LIMIT / 1e6}; make it smaller`);
    }
    const [first, end] = workingRows(manifest), aspect = manifest.sizes.S / (end - first);
    const { left, top, width, height } = middle ? cut(whole, aspect) : { left: 0, top: 0, ...whole };
    const strip = (from, to) => {
      const canvas = new OffscreenCanvas(width, to - from), pen = canvas.getContext("2d", { willReadFrequently: true });
      pen.fillStyle = "#fff";  // what is transparent lies on white
      pen.fillRect(0, 0, width, to - from);
      pen.drawImage(bitmap, left, top + from, width, to - from, 0, 0, width, to - from);
      return pen.getImageData(0, 0, width, to - from).data;
    };
    const squashed = whole.width / whole.height / aspect;
    return { bytes: resized(strip, { width, height }, manifest.sizes.S, end - first, manifest.input.resampling), whole, squashed };
  } finally {
    bitmap.close();
  }
}

function cut({ width, height }, aspect) {
  const across = Math.max(Math.min(width, Math.round(height * aspect)), 1), down = Math.max(Math.min(height, Math.round(width / aspect)), 1);
  return { left: Math.floor((width - across) / 2), top: Math.floor((height - down) / 2), width: across, height: down };
}
