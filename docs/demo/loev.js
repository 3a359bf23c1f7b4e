// A model bundle without Python: windows, means, readouts and search as in loev_cli, in float64.
// tests/test_demo.py compares each with the Python.

const SILENCE_PEAK = 10 ** (-60 / 20);
const TOLERANCE = 0.04; // a tempo this near is right
const APART = 2 * TOLERANCE;
export const TONICS = ["C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"];
export const KEYS = ["major", "minor"].flatMap((mode) => TONICS.map((tonic) => `${tonic} ${mode}`));

// A waveform -> its windows. The last one ends with the track; a short track is repeated.
export function cutWindows(samples, size, hop) {
  if (samples.length < size) {
    return [Float32Array.from({ length: size }, (_, i) => samples[i % samples.length])];
  }
  const windows = [];
  let start = 0;
  for (; start + size <= samples.length; start += hop) windows.push(samples.subarray(start, start + size));
  if (start - hop + size < samples.length) windows.push(samples.subarray(samples.length - size));
  return windows;
}

// Sums vectors as they come, in float64.
export class Mean {
  constructor() {
    this.sum = null;
    this.n = 0;
  }

  add(vector) {
    this.sum ??= new Float64Array(vector.length);
    for (let i = 0; i < vector.length; i++) this.sum[i] += vector[i];
    this.n += 1;
  }

  get value() {
    return Float32Array.from(this.sum, (x) => x / this.n);
  }
}

export function isSilent(samples) {
  return samples.every((x) => Math.abs(x) <= SILENCE_PEAK);
}

// The float32 arrays of a safetensors file: name -> {shape, data}.
export function readSafetensors(buffer) {
  const nHeader = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, nHeader)));
  const arrays = {};
  for (const [name, { dtype, shape, data_offsets: [from, to] }] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    if (dtype !== "F32") throw new Error(`${name} has type ${dtype}, expected F32`);
    const begin = 8 + nHeader + from;
    arrays[name] = { shape, data: new Float32Array(buffer.slice(begin, begin + to - from)) };
  }
  return arrays;
}

// A readout's answer to a subspace's vector: p(class), of a linear layer and its temperature.
function probabilities(vector, weight, bias, temperature) {
  const [n, dim] = weight.shape;
  const logits = Array.from({ length: n }, (_, row) => {
    let sum = bias.data[row];
    for (let i = 0; i < dim; i++) sum += weight.data[row * dim + i] * vector[i];
    return sum / temperature;
  });
  const highest = Math.max(...logits);
  const raised = logits.map((x) => Math.exp(x - highest));
  const total = raised.reduce((a, b) => a + b);
  return raised.map((x) => x / total);
}

function readKey(p) {
  const best = p.indexOf(Math.max(...p));
  return { key: KEYS[best], mode: KEYS[best].split(" ")[1], key_confidence: p[best] };
}

export const tempi = ({ n_bins: n, min_bpm: low, bins_per_octave: octave }) =>
  Array.from({ length: n }, (_, i) => low * 2 ** (i / octave));

function readTempo(p, readout) {
  const bpm = tempi(readout);
  const near = (answer, tolerance) => bpm.map((x) => Math.abs(x / answer - 1) <= tolerance);
  const mass = (q, chosen) => q.reduce((sum, x, i) => sum + (chosen[i] ? x : 0), 0);
  const best = mostProbable(p, readout);
  const around = near(best, APART);
  const rest = p.map((x, i) => (around[i] ? 0 : x));
  const other = mostProbable(rest, readout);
  return {
    bpm: best,
    bpm_confidence: mass(p, near(best, TOLERANCE)),
    bpm_alt: other,
    bpm_alt_confidence: mass(rest, near(other, TOLERANCE)),
  };
}

// The center of mass of the most probable stretch of tempi that one answer covers.
function mostProbable(p, { min_bpm: low, bins_per_octave: octave }) {
  const half = Math.max(1, Math.floor(Math.log2(1 + TOLERANCE) * octave));
  let [best, most] = [0, -1];
  for (let i = 0; i < p.length; i++) {
    let sum = 0;
    for (let j = i - half; j <= i + half; j++) sum += p[j] ?? 0;
    if (sum > most) [best, most] = [i, sum];
  }
  if (most === 0) return NaN;
  let center = 0;
  for (let j = best - half; j <= best + half; j++) center += ((p[j] ?? 0) * j) / most;
  return low * 2 ** (center / octave);
}

// Vectors of a track -> {answer: as `loev annotate`, p: {key, tempo}}.
export function annotate(vectors, config, weights) {
  const p = {};
  const answer = {};
  for (const [name, readout] of Object.entries(config.annotations?.readouts ?? {})) {
    p[name] = probabilities(vectors[readout.subspace], weights[`${name}.weight`],
      weights[`${name}.bias`], readout.temperature);
    Object.assign(answer, name === "key" ? readKey(p[name]) : readTempo(p[name], readout));
  }
  return { answer, p };
}

// Vectors of a track -> for each example its cosine distance per subspace, as `loev search`.
export function distances(vectors, examples) {
  return examples.tracks.map((_, row) =>
    Object.fromEntries(Object.entries(examples.subspaces).map(([name, { center, rows }]) => {
      let [dot, length] = [0, 0];
      vectors[name].forEach((x, i) => {
        const moved = Math.fround(x - center[i]);
        dot += moved * rows[row][i];
        length += moved * moved;
      });
      const distance = length > 0 ? 1 - dot / Math.sqrt(length) : 1;
      return [name, Math.min(2, Math.max(0, distance))];
    })));
}
