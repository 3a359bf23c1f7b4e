// The box that finds a track by name: an ARIA combobox.

import * as api from "./api.js";
import { make } from "./results.js";

export class Finder {
  // choose(track)
  constructor(choose) {
    this.choose = choose;
    this.input = document.getElementById("find");
    this.list = document.getElementById("found");
    this.tracks = [];
    this.active = -1;
    this.input.addEventListener("input", () => this.ask());
    this.input.addEventListener("keydown", (event) => this.key(event));
    this.input.addEventListener("blur", () => setTimeout(() => this.close(), 150));
    this.input.addEventListener("focus", () => this.tracks.length && this.open());
  }

  async ask() {
    this.asking?.abort();
    this.asking = new AbortController();
    const text = this.input.value.trim();
    if (!text) {
      this.tracks = [];
      this.close();
      return;
    }
    try {
      this.tracks = await api.find(text, this.asking.signal);
    } catch (error) {
      if (error.name === "AbortError") return;
      this.tracks = [];
    }
    this.active = this.tracks.length ? 0 : -1;
    this.draw();
    this.open();
  }

  draw() {
    const items = this.tracks.map((track, i) => {
      const item = make("li");
      item.id = `found-${i}`;
      item.setAttribute("role", "option");
      item.append(make("span", "clip", track.title), make("span", "quiet clip", track.subtitle || track.path));
      item.addEventListener("pointerdown", (event) => {
        event.preventDefault();
        this.take(i);
      });
      return item;
    });
    if (!items.length) {
      const none = make("li", "quiet", "No matching track");
      none.setAttribute("role", "option");
      none.setAttribute("aria-disabled", "true");
      items.push(none);
    }
    this.list.replaceChildren(...items);
    this.mark();
  }

  mark() {
    this.list.querySelectorAll("[role=option]").forEach((item, i) => {
      item.setAttribute("aria-selected", String(i === this.active));
      if (i === this.active) item.scrollIntoView({ block: "nearest" });
    });
    if (this.active >= 0) this.input.setAttribute("aria-activedescendant", `found-${this.active}`);
    else this.input.removeAttribute("aria-activedescendant");
  }

  key(event) {
    const n = this.tracks.length;
    if (event.key === "ArrowDown" && n) this.active = (this.active + 1) % n;
    else if (event.key === "ArrowUp" && n) this.active = (this.active + n - 1) % n;
    else if (event.key === "Enter") this.take(this.active);
    else if (event.key === "Escape" && !this.list.hidden) this.close();
    else return;
    event.preventDefault();
    this.mark();
  }

  take(i) {
    const track = this.tracks[i];
    if (!track) return;
    this.close();
    this.input.value = "";
    this.tracks = [];
    this.choose(track);
  }

  open() {
    this.list.hidden = false;
    this.input.setAttribute("aria-expanded", "true");
  }

  close() {
    this.list.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
    this.input.removeAttribute("aria-activedescendant");
  }
}
