// Runs the model away from the page, so that it stays responsive.

import * as ort from "./ort.wasm.bundle.min.mjs";
import { annotate, cutWindows, distances, isSilent, Mean, readSafetensors } from "./loev.js";

ort.env.wasm.numThreads = 1; // more need headers that static hosts do not send
ort.env.wasm.wasmPaths = { wasm: new URL("ort-wasm-simd-threaded.wasm", import.meta.url).href };

const fetched = async (name) => {
  const response = await fetch(new URL(name, import.meta.url));
  if (!response.ok) throw new Error(`${name}: HTTP ${response.status}`);
  return response;
};

async function verified(name, { sha256, n_bytes: nBytes }) {
  const buffer = await (await fetched(name)).arrayBuffer();
  const digest = crypto.subtle && (await crypto.subtle.digest("SHA-256", buffer)); // none on plain http
  const hex = digest && [...new Uint8Array(digest)].map((x) => x.toString(16).padStart(2, "0")).join("");
  if (buffer.byteLength !== nBytes || (hex && hex !== sha256)) {
    throw new Error(`${name} is damaged: its checksum is not the one in config.json`);
  }
  return buffer;
}

async function open() {
  const [config, examples] = await Promise.all(
    ["config.json", "examples.json"].map(async (name) => (await fetched(name)).json()));
  const [graph, readouts] = await Promise.all(
    ["model.onnx", "annotations.safetensors"].map((name) => verified(name, config.files[name])));
  const session = await ort.InferenceSession.create(new Uint8Array(graph), {
    executionProviders: ["wasm"],
  });
  return { config, examples, session, weights: readSafetensors(readouts) };
}

const opened = open();
opened.then(
  ({ config, examples }) => postMessage({ ready: { config, tracks: examples.tracks } }),
  (error) => postMessage({ failed: error.message }));

async function analyze(id, samples) {
  const { config, examples, session, weights } = await opened;
  const names = Object.keys(config.subspaces);
  const windows = cutWindows(samples, config.window_n_samples, config.hop_n_samples);
  const means = Object.fromEntries(names.map((name) => [name, new Mean()]));
  const [input] = session.inputNames;
  for (const [i, window] of windows.entries()) {
    const waveform = new ort.Tensor("float32", window, [1, window.length]);
    const output = await session.run({ [input]: waveform }, names);
    for (const name of names) means[name].add(output[name].data);
    postMessage({ id, done: (i + 1) / windows.length });
  }
  const vectors = Object.fromEntries(names.map((name) => [name, means[name].value]));
  const silent = isSilent(samples);
  const read = silent ? { answer: {}, p: {} } : annotate(vectors, config, weights);
  return { vectors, silent, ...read, distances: distances(vectors, examples), nWindows: windows.length };
}

onmessage = async ({ data: { id, samples } }) => {
  try {
    postMessage({ id, result: await analyze(id, samples) });
  } catch (error) {
    postMessage({ id, error: error.message });
  }
};
