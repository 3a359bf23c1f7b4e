// The audio element, its controls, and playing on hover.

import { audioOf } from "./api.js";

const DWELL_MS = 140;
const LONG_S = 60; // of a longer track, a preview starts a third of the way in
// Devices without a pointer are told to tap and pinch.
export const touch = matchMedia("(hover: none)").matches;
export const clock = (s) => `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`;

export class Player {
  // on: {change(row or -1), say(text)}
  constructor(on) {
    const by = (id) => document.getElementById(id);
    this.on = on;
    this.track = null;
    this.audio = by("audio");
    [this.button, this.seek, this.time] = [by("play"), by("seek"), by("time")];
    [this.title, this.subtitle, this.hover] = [by("now"), by("nowsub"), by("hover")];
    this.subtitle.textContent = `${touch ? "Tap" : "Click"} a point on the map`;
    const volume = by("volume");
    this.audio.volume = volume.value;
    volume.addEventListener("input", () => (this.audio.volume = volume.value));
    this.button.addEventListener("click", () => this.toggle());
    this.seek.addEventListener("input", () => {
      this.audio.currentTime = this.seek.value;
      this.show();
    });
    for (const event of ["play", "pause", "ended", "timeupdate", "durationchange"]) {
      this.audio.addEventListener(event, () => this.show());
    }
    this.audio.addEventListener("error", () => this.failed());
    this.hover.addEventListener("change", () => {
      if (!this.hover.checked) this.stopHover();
      this.on.say(this.hover.checked ? "Tracks play on hover" : "Tracks play when selected");
    });
  }

  get playing() {
    return this.track && !this.audio.paused ? this.track.row : -1;
  }

  // Plays a track from its beginning, or a preview of it.
  play(track, { preview = false } = {}) {
    if (this.track?.row === track.row && !this.audio.paused) return;
    this.track = track;
    this.decoded = false;
    this.title.textContent = track.title;
    this.subtitle.textContent = track.audio ? track.subtitle : `Cannot be played: the file ${track.why}`;
    this.subtitle.classList.toggle("error", !track.audio);
    this.button.disabled = this.seek.disabled = !track.audio;
    if (!track.audio) {
      this.audio.pause();
      this.audio.removeAttribute("src");
      this.audio.load();
      this.show();
      if (!preview) this.on.say(`${track.title} cannot be played: the file ${track.why}`);
      return;
    }
    const length = track.columns.duration_s || 0;
    this.start(preview && length > LONG_S ? length / 3 : 0);
  }

  // From a second of a track on.
  playFrom(track, at) {
    if (!track.audio || this.track?.row !== track.row || !this.audio.src) {
      this.play(track);
      if (track.audio) this.start(at);
      return;
    }
    this.audio.currentTime = at;
    this.audio.play().catch(() => {});
    this.show();
  }

  start(at) {
    this.audio.src = audioOf(this.track, this.decoded) + (at ? `#t=${at.toFixed(1)}` : "");
    this.audio.play().catch((error) => {
      if (error.name === "NotAllowedError") {
        this.subtitle.textContent = `Press play: the browser requires a ${touch ? "tap" : "click"} before it plays audio`;
      }
    });
    this.show();
  }

  toggle(track = this.track) {
    if (!track) return;
    if (this.track?.row !== track.row || !this.audio.src) this.play(track);
    else if (this.audio.paused) this.audio.play().catch(() => {});
    else this.audio.pause();
  }

  // Files the browser cannot play are decoded by the server.
  failed() {
    if (!this.track || !this.audio.getAttribute("src")) return;
    if (!this.decoded && this.track.audio === "file") {
      this.decoded = true;
      this.start(0);
      return;
    }
    this.subtitle.textContent = "Cannot be played: the file cannot be decoded";
    this.subtitle.classList.add("error");
    this.on.say(`${this.track.title} cannot be decoded`);
    this.show();
  }

  // The pointer is over a track, or over none.
  point(track) {
    clearTimeout(this.dwell);
    if (!this.hover.checked || !track) return;
    this.dwell = setTimeout(() => this.play(track, { preview: true }), DWELL_MS);
  }

  stopHover() {
    clearTimeout(this.dwell);
    this.audio.pause();
  }

  left() {
    clearTimeout(this.dwell);
    if (this.hover.checked) this.audio.pause();
  }

  show() {
    const { audio } = this;
    const known = Number.isFinite(audio.duration) ? audio.duration : this.track?.columns.duration_s || 0;
    this.seek.max = known || 1;
    this.seek.value = audio.currentTime;
    this.seek.setAttribute("aria-valuetext", `${clock(audio.currentTime)} of ${clock(known)}`);
    this.seek.style.setProperty("--done", `${known ? (100 * audio.currentTime) / known : 0}%`);
    this.time.textContent = `${clock(audio.currentTime)} / ${clock(known)}`;
    const playing = !audio.paused;
    this.button.classList.toggle("playing", playing);
    this.button.setAttribute("aria-label", playing ? "Pause" : "Play");
    if (this.playing !== this.told) {
      this.told = this.playing;
      this.on.change(this.told);
    }
  }
}
