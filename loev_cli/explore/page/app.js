// The page: its state, and updates when the state changes.

import * as api from "./api.js";
import { colouring, drawLegend, keyColour, UNKNOWN, valueOf } from "./colour.js";
import { Finder } from "./find.js";
import { MapView } from "./map.js";
import { Player } from "./player.js";
import { drawQuery, drawSegments, facts, Hits, make, markPlaying, Weights } from "./results.js";

const by = (id) => document.getElementById(id);
const SPEAK_AFTER_MS = 700;
const TYPED_MS = 250; // a pause in typing after which the filter applies
const NARROW = "(max-width: 860px)"; // as in style.css
// Default color column of a map, by its subspace.
const ABOUT = { pitch: ["key"], tempo: ["bpm"], "": ["key", "bpm", "tag_genre", "folder"] };

const state = { map: "", row: -1, colour: "auto", column: null, chosen: new Set(), passing: null, where: "", invalid: false };
let library, map, player, weights, hits, paint;

async function start() {
  if (location.search) history.replaceState(null, "", location.pathname + location.hash); // the token
  library = await api.library();
  by("name").textContent = library.name;
  document.title = `${library.name} · loev explore`;
  by("count").textContent = `${library.n_tracks.toLocaleString("en")} ${library.n_tracks === 1 ? "track" : "tracks"}, ${library.model}`;
  noticeMissing();
  by("form").hidden = Boolean(library.session); // both searches of an A/B test have their own weights

  map = window.loevMap = new MapView(by("map"), {
    hover: pointAt,
    leave: () => {
      pointAt(-1);
      player.left();
    },
    pick: (row) => choose(row, { play: true }),
    play: async (row) => player.toggle(await api.track(row)),
    cursor: async (row) => {
      const track = await api.track(row);
      if (map.cursor === row) speak([track.title, track.subtitle, ...facts(track)].filter(Boolean).join(", "), 0);
    },
  });
  player = new Player({
    change: (row) => {
      map.setMarks({ playing: row });
      markPlaying(row);
    },
    say: speak,
  });
  hits = new Hits(by("hits"), {
    play: (hit) => {
      player.toggle(hit);
      if (library.session) api.clicked(hit);
    },
    from: (hit) => {
      if (library.session) api.clicked(hit);
      choose(hit.row);
    },
    point: (row) => map.setHovered(row),
  });
  new Finder((track) => {
    choose(track.row);
    map.setCursor(track.row);
  });

  const wanted = new URLSearchParams(location.hash.slice(1));
  weights = new Weights(by("weights"), library.subspaces, weightsOf(wanted) ?? library.weights, search);
  by("where").value = wanted.get("where") ?? "";
  if (wanted.has("k")) by("k").value = wanted.get("k");
  if (!by("k").value) by("k").value = "20";
  by("where").placeholder = library.columns.includes("bpm") ? "bpm between 120 and 128" : "duration_s > 60";
  drawChoices(wanted);
  wire();
  drawQuery(by("query"), null);
  themed();
  const first = library.subspaces.includes(wanted.get("map")) ? wanted.get("map") : library.subspaces[0];
  await showMap(first);
  if (by("where").value) await filter();
  const row = Number(wanted.get("row") ?? -1);
  if (row >= 0 && row < library.n_tracks) await choose(row);
  document.body.dataset.ready = "yes";
}

function weightsOf(wanted) {
  const given = (wanted.get("weights") ?? "").split(",").map((part) => part.split("="));
  const known = given.filter(([name, x]) => library.subspaces.includes(name) && Math.abs(x) <= 1);
  return known.length ? Object.fromEntries(known.map(([name, x]) => [name, Number(x)])) : null;
}

function noticeMissing() {
  const { audio_found: found, audio_looked_for: looked, audio_folder: folder } = library;
  if (found === looked) return;
  by("notice").hidden = false;
  by("notice").textContent = (found === 0 ? "No track can be played: their files are not" : "Some tracks cannot be played: not all files are")
    + ` in ${folder}. Restart with --audio FOLDER to set the audio folder. Map and search work without audio.`;
}

function drawChoices(wanted) {
  library.subspaces.forEach((name, i) => {
    const label = make("label");
    label.dataset.hue = i % 6;
    const radio = make("input");
    [radio.type, radio.name, radio.value] = ["radio", "map", name];
    radio.addEventListener("change", () => {
      map.whole();
      showMap(name);
    });
    label.append(radio, make("span", "", name));
    by("maps").append(label);
  });
  by("layout").value = library.layouts.includes("neighbors") && wanted.get("layout") !== "components"
    ? "neighbors" : "components";
  by("layoutbox").hidden = library.layouts.length < 2;
  const names = { auto: "by map", none: "one color" };
  for (const name of ["auto", ...library.columns, "none"]) {
    const option = make("option", "", names[name] ?? name.replace(/^tag_/, ""));
    option.value = name;
    by("colour").append(option);
  }
  state.colour = [...by("colour").options].some((o) => o.value === wanted.get("colour")) ? wanted.get("colour") : "auto";
  by("colour").value = state.colour;
}

function wire() {
  by("colour").addEventListener("change", () => {
    state.colour = by("colour").value;
    colour();
  });
  by("layout").addEventListener("change", () => {
    map.whole();
    showMap(state.map);
  });
  by("form").addEventListener("submit", (event) => event.preventDefault());
  by("where").addEventListener("input", () => {
    clearTimeout(filter.timer);
    filter.timer = setTimeout(filter, TYPED_MS);
  });
  by("where").addEventListener("change", filter);
  by("legendbox").open = !matchMedia(NARROW).matches;
  by("k").addEventListener("change", search);
  by("in").addEventListener("click", () => map.zoomBy(1.6));
  by("out").addEventListener("click", () => map.zoomBy(1 / 1.6));
  by("whole").addEventListener("click", () => map.whole());
  by("copy").addEventListener("click", copy);
  by("theme").addEventListener("click", () => {
    const next = { auto: "light", light: "dark", dark: "auto" }[theme()];
    localStorage.setItem("loev-theme", next);
    themed();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", themed);
}

// ---------------------------------------------------------------- map and colors

// The components are shown at once; the points move when the slower neighbor layout is ready.
async function showMap(name) {
  state.map = name;
  for (const radio of by("maps").querySelectorAll("input")) radio.checked = radio.value === name;
  by("map").setAttribute("aria-label", `Map of ${library.n_tracks} tracks by ${name}`);
  remember();
  await colour();
  const layout = by("layout").value;
  const isWanted = () => state.map === name && by("layout").value === layout;
  const late = setTimeout(async () => {
    if (layout === "components" || !isWanted()) return;
    const places = await api.places(name, "components");
    if (!isWanted() || arrived) return;
    by("drawing").hidden = false;
    map.setPlaces(places);
  }, 250);
  let arrived = false;
  const places = await api.places(name, layout);
  arrived = true;
  clearTimeout(late);
  if (!isWanted()) return;
  by("drawing").hidden = true;
  map.setPlaces(places);
}

async function colour() {
  const about = [...(ABOUT[state.map] ?? []), ...ABOUT[""]].find((c) => library.columns.includes(c));
  const name = state.colour === "auto" ? about ?? "none" : state.colour;
  if (name === "none") state.column = null;
  else if (state.column?.name !== name) {
    const column = await api.column(name);
    state.column = column;
  }
  state.chosen.clear();
  repaint();
  remember();
}

function repaint() {
  paint = colouring(state.column, isDark(), library.n_tracks);
  map.setColours(paint, rgbOf("--map"), rgbOf("--faint"));
  drawLegend(by("legendbox"), state.column, paint.palette, state.chosen, (code) => {
    if (!state.chosen.delete(code)) state.chosen.add(code);
    const focused = [...by("legend").querySelectorAll("[aria-pressed]")].indexOf(document.activeElement);
    repaint();
    by("legend").querySelectorAll("[aria-pressed]")[focused]?.focus();
  });
  showPassing();
  for (const item of by("hits").children) {
    const swatch = item.querySelector(".swatch");
    const rgb = swatchOf(Number(item.dataset.row));
    if (swatch && rgb) swatch.style.background = `rgb(${rgb.join(" ")})`;
  }
}

// Rows that pass the filter and the classes selected in the legend.
function showPassing() {
  const { passing, chosen } = state;
  if (!passing && !chosen.size) {
    map.setVisible(null);
    return;
  }
  const mask = passing ? passing.slice() : new Uint8Array(library.n_tracks).fill(1);
  if (chosen.size) for (let i = 0; i < mask.length; i++) mask[i] &= chosen.has(paint.codes[i]) ? 1 : 0;
  map.setVisible(mask);
}

function swatchOf(row) {
  if (!state.column || paint.codes[row] === UNKNOWN) return null;
  return paint.palette[paint.codes[row]];
}

const theme = () => localStorage.getItem("loev-theme") ?? "auto";
const isDark = () => theme() === "dark" || (theme() === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);

function themed() {
  document.documentElement.dataset.theme = theme();
  by("theme").textContent = `Theme: ${theme()}`;
  if (state.map) repaint();
}

function rgbOf(name) {
  const probe = make("span");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const [r, g, b] = getComputedStyle(probe).color.match(/[\d.]+/g).map(Number);
  probe.remove();
  return [r, g, b];
}

// ---------------------------------------------------------------- hover, selection, search

async function pointAt(row, x, y) {
  const tip = by("tip");
  pointAt.row = row;
  by("map").classList.toggle("over", row >= 0);
  if (row < 0) {
    tip.hidden = true;
    player.point(null);
    return;
  }
  const track = await api.track(row);
  if (pointAt.row !== row) return;
  const about = state.column ? valueOf(state.column, row) : "";
  const line = [...new Set([...facts(track), track.columns[state.column?.name] === undefined ? about : ""])];
  tip.replaceChildren(make("b", "", track.title));
  if (track.subtitle) tip.append(make("span", "", track.subtitle));
  tip.append(make("span", "quiet", line.filter(Boolean).join(" · ")));
  if (!track.audio) tip.append(make("span", "quiet", "cannot be played"));
  tip.hidden = false;
  const { width, height } = map;
  tip.style.left = `${Math.min(Math.max(8, x + 14), width - tip.offsetWidth - 8)}px`;
  tip.style.top = `${y + 16 + tip.offsetHeight > height ? y - tip.offsetHeight - 14 : y + 16}px`;
  player.point(track);
}

async function choose(row, { play = false } = {}) {
  const track = await api.track(row);
  state.row = row;
  drawQuery(by("query"), track, (t) => player.toggle(t));
  showSegments(track);
  map.setMarks({ query: row });
  if (play) player.play(track);
  await search();
}

async function filter() {
  clearTimeout(filter.timer);
  const text = by("where").value.trim();
  if (text === state.where) return;
  state.where = text;
  let [passing, problem] = [null, ""];
  try {
    if (text) passing = await api.where(text);
  } catch (error) {
    problem = error.message;
  }
  if (text !== state.where) return; // a later filter was asked for
  state.passing = passing;
  state.invalid = Boolean(problem);
  by("whereerror").textContent = problem;
  if (problem) by("where").setAttribute("aria-invalid", "true");
  else by("where").removeAttribute("aria-invalid");
  showPassing();
  if (state.passing) {
    const n = state.passing.reduce((sum, x) => sum + x, 0);
    speak(`${n} of ${library.n_tracks} tracks pass the filter`);
  }
  await search();
}

// A track that does not change has no strip.
async function showSegments(track) {
  const segments = await api.segments(track.row).catch(() => []);
  if (segments.length < 2 || state.row !== track.row) return;
  drawSegments(by("query"), segments, (code) => keyColour(code, isDark()), (at) => player.playFrom(track, at));
}

// One request at a time; the latest one always runs.
async function search() {
  remember();
  if (state.row < 0) return;
  if (search.busy) {
    search.again = true;
    return;
  }
  search.busy = true;
  do {
    search.again = false;
    await searchOnce();
  } while (search.again);
  search.busy = false;
}

async function searchOnce() {
  const asked = { row: state.row, weights: weights.text, k: by("k").value, where: state.where };
  if (state.invalid) {
    show(null, "No results: the filter is not valid.");
    return;
  }
  if (!asked.weights) {
    show(null, "All weights are 0: move a slider to choose what results should have in common.");
    return;
  }
  by("m3u").href = api.m3u(asked);
  let [answer, problem] = [null, ""];
  try {
    answer = await (library.session ? api.shown(asked, library.session) : api.search(asked));
  } catch (error) {
    problem = error.message;
  }
  if (!search.again) show(answer, problem); // else the next one is shown
}

function show(answer, problem = "") {
  const found = answer?.hits ?? [];
  hits.draw(found, weights, swatchOf);
  // Places on the map are those of one search.
  map.setMarks({ query: state.row, hits: library.session ? [] : found.map((hit) => hit.row) });
  markPlaying(player.playing);
  by("scale").hidden = !found.length || Boolean(library.session);
  by("commandbox").hidden = !answer?.command;
  by("command").textContent = answer?.command ?? "";
  const none = answer && !found.length ? "No other track passes the filter." : "";
  by("hitshead").textContent = problem || none || `Nearest ${found.length}`;
  speak(problem || none || `${found.length} tracks nearest to ${answer.query.title}: first ${found[0].title}`);
}

async function copy() {
  const text = by("command").textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    getSelection().selectAllChildren(by("command")); // not a secure context
    document.execCommand("copy");
  }
  by("copy").textContent = "Copied";
  speak("Command copied", 0);
  setTimeout(() => (by("copy").textContent = "Copy"), 1600);
}

// Stores the state in the URL, so that a reload or bookmark restores it.
function remember() {
  const chosen = new URLSearchParams({ map: state.map, weights: weights.text, k: by("k").value });
  if (state.colour !== "auto") chosen.set("colour", state.colour);
  if (library.layouts.length > 1 && by("layout").value === "components") chosen.set("layout", "components");
  if (state.row >= 0) chosen.set("row", state.row);
  if (by("where").value.trim()) chosen.set("where", by("where").value.trim());
  clearTimeout(remember.timer);
  remember.timer = setTimeout(() => history.replaceState(null, "", `#${chosen}`), 200);
}

// Announces to screen readers, debounced.
function speak(text, after = SPEAK_AFTER_MS) {
  clearTimeout(speak.timer);
  speak.timer = setTimeout(() => (by("live").textContent = text), after);
}

start().catch((error) => {
  by("notice").hidden = false;
  by("notice").textContent = `The page failed to load: ${error.message}`;
});
