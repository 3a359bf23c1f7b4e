// The page: a file in, its key, tempo and nearest examples out. Nothing is sent anywhere.

import { css, keyColour } from "./colour.js";
import { Hits, make, markPlaying } from "./results.js";
import { KEYS, tempi } from "./loev.js";

const by = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const SHOWN = 6;
const percent = (p) => `${Math.round(100 * p)} %`;
const state = { model: null, result: null, duration: 0, subspace: "" };

// ---------------------------------------------------------------- the model, in its worker

const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
const waiting = new Map();
let nAsked = 0;

const ready = new Promise((resolve, reject) => {
  worker.addEventListener("message", ({ data }) => {
    if (data.ready) resolve(data.ready);
    if (data.failed) reject(new Error(data.failed));
    const asked = waiting.get(data.id);
    if (data.done) asked?.progress(data.done);
    if (data.result) asked?.resolve(data.result);
    if (data.error) asked?.reject(new Error(data.error));
  });
  worker.addEventListener("error", (event) => reject(new Error(event.message || "worker.js cannot be loaded")));
});

// Mono samples at the model's rate -> vectors, answers, and distances to the examples.
export async function analyze(samples, progress = () => {}) {
  await ready;
  const id = ++nAsked;
  const done = new Promise((resolve, reject) => waiting.set(id, { resolve, reject, progress }));
  worker.postMessage({ id, samples });
  return done.finally(() => waiting.delete(id));
}

// Bytes of an audio file -> mono samples at a rate. The browser decodes and resamples.
export async function decode(buffer, rate) {
  const audio = await new OfflineAudioContext(1, 1, rate).decodeAudioData(buffer);
  const channels = Array.from({ length: audio.numberOfChannels }, (_, i) => audio.getChannelData(i));
  if (channels.length === 1) return channels[0].slice();
  return channels[0].map((_, n) => channels.reduce((sum, x) => sum + x[n], 0) / channels.length);
}

// ---------------------------------------------------------------- a file

let current = 0; // of several files in a row only the last is shown

async function take(name, read) {
  const mine = ++current;
  const tell = (text, failed = false) => {
    if (mine !== current) return;
    by("status").textContent = text;
    by("status").classList.toggle("failed", failed);
  };
  player.pause();
  by("result").hidden = true;
  by("bar").hidden = false;
  by("bar").removeAttribute("value");
  tell(state.model ? `Decoding ${name}` : "Loading the model");
  try {
    const { config } = await ready;
    tell(`Decoding ${name}`);
    const buffer = await read();
    let samples;
    try {
      samples = await decode(buffer, config.sample_rate_hz);
    } catch {
      throw new Error("this browser cannot decode it; MP3, WAV, FLAC and M4A work in most");
    }
    if (!samples.length) throw new Error("it contains no samples");
    if (mine !== current) return;
    const duration = samples.length / config.sample_rate_hz;
    tell(`Analyzing ${name}`);
    const result = await analyze(samples, (done) => mine === current && (by("bar").value = done));
    if (mine !== current) return;
    tell("");
    Object.assign(state, { result, duration });
    show(name);
  } catch (error) {
    tell(`${name}: ${error.message}`, true);
  }
  if (mine === current) by("bar").hidden = true;
}

const takeFile = (file) => file && take(file.name, () => file.arrayBuffer());

const takeExample = (track) =>
  take(track.path, async () => {
    const response = await fetch(new URL(`music/${track.path}`, import.meta.url));
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    return response.arrayBuffer();
  });

// ---------------------------------------------------------------- the answers

function show(name) {
  const { answer, silent, nWindows } = state.result;
  by("title").textContent = name;
  const seconds = Math.round(state.duration);
  by("facts").textContent =
    `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")} · ${nWindows} window${nWindows > 1 ? "s" : ""}`;
  by("key").textContent = silent ? "silence" : answer.key;
  by("keyhow").textContent = silent ? "no key" : `${percent(answer.key_confidence)} confidence`;
  by("bpm").textContent = silent ? "silence" : `${answer.bpm.toFixed(1)} BPM`;
  by("bpmhow").textContent = silent ? "no tempo"
    : `${percent(answer.bpm_confidence)} confidence${other(answer)}`;
  by("result").hidden = false;
  draw();
  by("result").focus({ preventScroll: true });
  if (by("result").getBoundingClientRect().top > innerHeight - 120) by("result").scrollIntoView();
}

// The alternative tempo, unless its probability is below 1 %.
const other = ({ bpm_alt: bpm, bpm_alt_confidence: p }) =>
  p >= 0.01 ? `; alternative ${bpm.toFixed(1)}, ${percent(p)}` : "";

function draw() {
  if (!state.result) return;
  drawWheel(state.result.p.key);
  drawTempi(state.result.p.tempo);
  drawHits();
}

function svg(tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// Place on the circle of fifths from C; a minor key has that of its relative major.
const fifth = (key) => (7 * (key >= 12 ? key + 3 : key)) % 12;

// The circle of fifths, major keys outside, each as solid as it is probable.
function drawWheel(p) {
  by("wheel").replaceChildren();
  if (!p) return;
  const most = p.indexOf(Math.max(...p));
  KEYS.forEach((name, key) => {
    const minor = key >= 12;
    const [inner, outer] = minor ? [20, 38] : [39, 60];
    const from = ((fifth(key) * 30 - 104) * Math.PI) / 180;
    const to = from + (28 * Math.PI) / 180;
    const at = (r, angle) => `${r * Math.cos(angle)} ${r * Math.sin(angle)}`;
    const wedge = svg("path", {
      d: `M${at(inner, from)}L${at(outer, from)}A${outer} ${outer} 0 0 1 ${at(outer, to)}` +
        `L${at(inner, to)}A${inner} ${inner} 0 0 0 ${at(inner, from)}Z`,
      class: key === most ? "part most" : "part",
    });
    wedge.style.fill = css(keyColour(fifth(key) + (minor ? 12 : 0), isDark()));
    wedge.style.fillOpacity = 0.1 + 0.9 * p[key];
    wedge.append(svg("title", {}, `${name}: ${percent(p[key])}`));
    const middle = (from + to) / 2;
    const r = (inner + outer) / 2;
    const tonic = name.split(" ")[0];
    const text = svg("text", { x: r * Math.cos(middle), y: r * Math.sin(middle) + 0.5,
      class: p[key] > 0.5 ? "on" : "" }, minor ? tonic[0].toLowerCase() + tonic.slice(1) : tonic);
    by("wheel").append(wedge, text);
  });
}

// The probability of each tempo, on a logarithmic axis.
function drawTempi(p) {
  by("tempi").replaceChildren();
  if (!p) return;
  const [width, height] = [280, 112];
  const bpm = tempi(state.model.config.annotations.readouts.tempo);
  const octaves = Math.log2(bpm.at(-1) / bpm[0]);
  const x = (value) => (width * Math.log2(value / bpm[0])) / octaves;
  const highest = Math.max(...p);
  const points = p.map((q, i) => `${x(bpm[i]).toFixed(1)} ${(height * (1 - (0.94 * q) / highest)).toFixed(1)}`);
  by("tempi").append(
    svg("path", { class: "area", d: `M0 ${height}L${points.join("L")}L${width} ${height}Z` }),
    svg("path", { class: "axis", d: `M0 ${height}H${width}` }));
  for (const value of [40, 60, 80, 120, 160, 240]) {
    by("tempi").append(svg("text", { x: x(value), y: height + 14,
      "text-anchor": value === 40 ? "start" : value === 240 ? "end" : "middle" }, value));
  }
}

// ---------------------------------------------------------------- the nearest examples

const player = new Audio();
for (const event of ["play", "pause", "ended"]) {
  player.addEventListener(event, () => markPlaying(player.paused ? -1 : Number(player.dataset.row)));
}

const hits = new Hits(by("hits"), {
  play(track) {
    if (!player.paused && Number(player.dataset.row) === track.row) {
      player.pause();
      return;
    }
    player.dataset.row = track.row;
    player.src = new URL(`music/${track.path}`, import.meta.url);
    player.play().catch((error) => (by("status").textContent = `${track.title}: ${error.message}`));
  },
  from: takeExample,
  point() {},
});

function drawHits() {
  const { distances } = state.result;
  const ranked = state.model.tracks
    .map((track, row) => ({ ...track, row, distances: distances[row], distance: distances[row][state.subspace] }))
    .sort((a, b) => a.distance - b.distance)
    .slice(0, SHOWN)
    .map((hit, i) => ({ ...hit, rank: i + 1, score: +(1 - hit.distance).toFixed(2) })); // no -0.00
  const weights = { weight: (name) => Number(name === state.subspace) };
  hits.draw(ranked, weights, (row) => keyColour(state.model.tracks[row].code, isDark()));
}

function offerSubspaces() {
  const means = { invariant: "sound, whatever key and tempo", pitch: "key and harmony", tempo: "tempo and rhythm" };
  Object.keys(state.model.config.subspaces).forEach((name, i) => {
    const [label, radio] = [make("label"), make("input")];
    label.dataset.hue = i % 6;
    label.title = means[name] ?? name;
    Object.assign(radio, { type: "radio", name: "subspace", value: name, checked: i === 0 });
    radio.addEventListener("change", () => {
      state.subspace = name;
      drawHits();
    });
    label.append(radio, make("span", "", name));
    by("subspaces").append(label);
    if (i === 0) state.subspace = name;
  });
}

function offerExamples() {
  for (const track of state.model.tracks) {
    const { key, bpm } = track.columns;
    const button = make("button", "chip", `${track.title}, ${key}, ${bpm}`);
    button.type = "button";
    button.addEventListener("click", () => takeExample(track));
    const item = make("li");
    item.append(button);
    by("examples").append(item);
  }
}

// ---------------------------------------------------------------- theme, start

const theme = () => localStorage.getItem("loev-theme") ?? "auto";
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => theme() === "dark" || (theme() === "auto" && prefersDark.matches);

function themed() {
  document.documentElement.dataset.theme = theme();
  by("theme").textContent = `Theme: ${theme()}`;
  draw();
}

by("theme").addEventListener("click", () => {
  localStorage.setItem("loev-theme", { auto: "light", light: "dark", dark: "auto" }[theme()]);
  themed();
});
prefersDark.addEventListener("change", themed);

by("file").addEventListener("change", () => {
  takeFile(by("file").files[0]);
  by("file").value = ""; // the same file again is a change too
});
for (const event of ["dragover", "dragleave", "drop"]) {
  addEventListener(event, (dragged) => {
    dragged.preventDefault();
    by("drop").classList.toggle("over", event === "dragover");
    if (event === "drop") takeFile(dragged.dataTransfer.files[0]);
  });
}

themed();
try {
  state.model = await ready;
  offerSubspaces();
  offerExamples();
  by("model").textContent = state.model.config.name;
  if (!current) by("status").textContent = "";
  document.body.dataset.ready = "yes";
} catch (error) {
  by("status").textContent = `The model cannot be loaded: ${error.message}`;
  by("status").classList.add("failed");
}
