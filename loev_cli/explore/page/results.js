// The query, its weight sliders, and the result list with distances.

import { css } from "./colour.js";
import { clock, touch } from "./player.js";

const SVG = "http://www.w3.org/2000/svg";
const signed = (x) => x.toFixed(2).replace("-", "−");
const FURTHEST = 2; // cosine distance: 0 the same, 1 unrelated, 2 opposite

export function make(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

export function icon(...paths) {
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("viewBox", "0 0 16 16");
  drawing.setAttribute("aria-hidden", "true");
  for (const [className, d] of paths) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", d);
    path.setAttribute("class", className);
    drawing.append(path);
  }
  return drawing;
}

const PLAY = ["icon-play", "M5 3v10l8-5z"];
const PAUSE = ["icon-pause", "M4 3h3v10H4zM9 3h3v10H9z"];
const FROM = ["line", "M8 2.5v2.2M8 11.3v2.2M2.5 8h2.2M11.3 8h2.2M8 4.7a3.3 3.3 0 1 1 0 6.6 3.3 3.3 0 0 1 0-6.6z"];

export function playButton(track, onPlay) {
  const button = make("button", "round small");
  button.type = "button";
  button.dataset.row = track.row;
  button.setAttribute("aria-label", `Play ${track.title}`);
  button.append(icon(PLAY, PAUSE));
  // Not disabled: it stays focusable, and its title says why the track cannot be played.
  button.setAttribute("aria-disabled", String(!track.audio));
  if (!track.audio) button.title = `Cannot be played: the file ${track.why}`;
  button.addEventListener("click", (event) => {
    event.stopPropagation();
    onPlay(track);
  });
  return button;
}

// A track's key, tempo and duration, for a short line.
export function facts(track) {
  const { key, bpm, duration_s: seconds } = track.columns;
  const length = seconds
    ? `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`
    : "";
  return [key, bpm ? `${Math.round(bpm)} BPM` : "", length].filter(Boolean);
}

export function drawQuery(box, track, onPlay) {
  box.replaceChildren();
  if (!track) {
    box.append(
      make("p", "empty", "Choose a track to search from"),
      make("p", "quiet", touch
        ? "Tap a point on the map, pinch to zoom, or find a track by name."
        : "Click a point on the map, move with the arrow keys, or find a track by name."),
    );
    return;
  }
  const names = make("div", "names");
  const title = make("p", "title", track.title);
  title.title = track.path;
  names.append(make("p", "eyebrow", "Searching from"), title);
  if (track.subtitle) names.append(make("p", "quiet clip", track.subtitle));
  names.append(make("p", "facts", facts(track).join(" · ")));
  if (!track.audio) names.append(make("p", "quiet small", `Cannot be played: the file ${track.why}`));
  box.append(playButton(track, onPlay), names);
}

// Key and tempo along a track, as a strip; `onPlay(second)` is called by a click.
export function drawSegments(box, segments, keyColour, onPlay) {
  const strip = make("div", "strip");
  strip.setAttribute("role", "group");
  strip.setAttribute("aria-label", "Key and tempo along the track");
  for (const { start_s: start, end_s: end, key, bpm, code } of segments) {
    const text = [key, bpm ? `${Math.round(bpm)} BPM` : ""].filter(Boolean).join(" · ");
    const part = make("button", "segment", text);
    part.type = "button";
    part.title = `${text} from ${clock(start)} to ${clock(end)}`;
    part.setAttribute("aria-label", `Play from ${clock(start)}: ${text}`);
    part.style.flexGrow = end - start;
    if (code !== null) part.style.borderLeftColor = css(keyColour(code));
    part.addEventListener("click", () => onPlay(start));
    strip.append(part);
  }
  box.querySelector(".names").append(strip);
}

// A slider for each subspace; `change()` is called with every move.
export class Weights {
  constructor(fieldset, subspaces, initial, change) {
    this.sliders = new Map();
    subspaces.forEach((name, i) => {
      const row = make("div", "weight");
      const label = make("label", "", name);
      const slider = make("input");
      slider.type = "range";
      slider.id = `weight-${i}`;
      [slider.min, slider.max, slider.step] = [-1, 1, 0.05];
      label.htmlFor = slider.id;
      row.dataset.hue = i % 6;
      label.prepend(make("i", "dot"));
      const shown = make("output");
      shown.htmlFor = slider.id;
      const only = make("button", "plain only", "only");
      only.type = "button";
      only.setAttribute("aria-label", `Only ${name}`);
      only.addEventListener("click", () => {
        this.set({ [name]: 1 });
        change();
      });
      slider.addEventListener("input", () => {
        this.show();
        change();
      });
      this.sliders.set(name, { slider, shown, only });
      row.append(label, slider, shown, only);
      fieldset.append(row);
    });
    this.set(initial);
  }

  set(weights) {
    for (const [name, { slider }] of this.sliders) slider.value = weights[name] ?? 0;
    this.show();
  }

  show() {
    for (const { slider, shown } of this.sliders.values()) {
      const value = Number(slider.value);
      shown.value = value === 0 ? "0" : signed(value);
      const [from, to] = value < 0 ? [50 + 50 * value, 50] : [50, 50 + 50 * value];
      slider.style.setProperty("--from", `${from}%`);
      slider.style.setProperty("--to", `${to}%`);
      slider.setAttribute("aria-valuetext",
        value === 0 ? "not used" : `${value} ${value < 0 ? "dissimilar" : "similar"}`);
    }
  }

  // In the syntax of `loev search --weights`; weights of 0 are omitted.
  get text() {
    return [...this.sliders]
      .filter(([, { slider }]) => Number(slider.value) !== 0)
      .map(([name, { slider }]) => `${name}=${Number(slider.value)}`)
      .join(",");
  }

  weight(name) {
    return Number(this.sliders.get(name)?.slider.value ?? 0);
  }
}

export class Hits {
  // on: {play(track), from(track), point(row or -1)}
  constructor(list, on) {
    this.list = list;
    this.on = on;
    list.addEventListener("keydown", (event) => this.key(event));
    list.addEventListener("pointerover", (event) => on.point(rowOf(event.target)));
    list.addEventListener("pointerleave", () => on.point(-1));
    list.addEventListener("focusin", (event) => on.point(rowOf(event.target)));
    list.addEventListener("focusout", () => on.point(-1));
  }

  draw(hits, weights, swatchOf) {
    const focused = this.list.contains(document.activeElement);
    this.list.replaceChildren(...hits.map((hit) => this.item(hit, weights, swatchOf)));
    if (focused) this.list.querySelector("button")?.focus();
  }

  item(hit, weights, swatchOf) {
    const item = make("li", "hit");
    item.dataset.row = hit.row;
    const names = make("div", "names");
    const title = make("p", "title", hit.title);
    title.title = hit.path;
    const line = make("p", "quiet clip");
    const swatch = swatchOf(hit.row);
    if (swatch) {
      const dot = make("i", "swatch");
      dot.style.background = css(swatch);
      line.append(dot);
    }
    line.append(facts(hit).slice(0, 2).join(" · ") || hit.subtitle);
    names.append(title, line);
    const from = make("button", "round small ghost");
    from.type = "button";
    from.setAttribute("aria-label", `Search from ${hit.title}`);
    from.title = "Search from this track";
    from.append(icon(FROM));
    from.addEventListener("click", (event) => {
      event.stopPropagation();
      this.on.from(hit);
    });
    const rank = make("p", "rank");
    rank.append(make("span", "hidden", "rank "), make("span", "", hit.rank));
    if (hit.score !== undefined) {
      rank.append(make("span", "hidden", ", score "), make("b", "", signed(hit.score)));
      rank.title = `score ${hit.score}`;
    }
    item.append(rank, playButton(hit, this.on.play), names,
      ...(hit.distances ? [why(hit, weights)] : []), from);
    item.addEventListener("click", () => this.on.play(hit));
    return item;
  }

  // Up and down move between tracks within the same column of buttons.
  key(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const item = event.target.closest("li");
    if (!step || !item) return;
    event.preventDefault();
    const index = [...item.querySelectorAll("button")].indexOf(event.target);
    const next = step > 0 ? item.nextElementSibling : item.previousElementSibling;
    next?.querySelectorAll("button")[index]?.focus();
  }
}

// Distances as dots on a scale from identical to opposite, one line per subspace.
function why(hit, weights) {
  const box = make("dl", "why");
  Object.entries(hit.distances).forEach(([name, distance], i) => {
    const row = make("div", weights.weight(name) === 0 ? "unasked" : "");
    row.dataset.hue = i % 6;
    const line = make("span", "line");
    line.setAttribute("aria-hidden", "true");
    const dot = make("i");
    dot.style.left = `${(100 * distance) / FURTHEST}%`;
    line.append(dot);
    const value = make("dd");
    value.append(line, make("span", "n", distance.toFixed(2)));
    row.append(make("dt", "", name), value);
    box.append(row);
  });
  return box;
}

export function markPlaying(row) {
  for (const button of document.querySelectorAll("button[data-row]")) {
    const playing = Number(button.dataset.row) === row;
    button.classList.toggle("playing", playing);
    button.setAttribute("aria-label",
      button.getAttribute("aria-label").replace(/^(Play|Pause)/, playing ? "Pause" : "Play"));
    button.closest(".hit")?.classList.toggle("current", playing);
  }
}

function rowOf(element) {
  const item = element.closest?.("li.hit");
  return item ? Number(item.dataset.row) : -1;
}
