// The map: N points drawn into a pixel buffer, which is fast without a GPU, and a second canvas above
// for the marks.

import { UNKNOWN } from "./colour.js";

const MORPH_MS = 450;
const MARGIN_PX = 26;
const MOST_ZOOM = 400;
const REACH_PX = 18;
const CLICK_PX = 5;

const reduced = matchMedia("(prefers-reduced-motion: reduce)");

export class MapView {
  // on: {hover(row or -1, x, y), pick(row), play(row), cursor(row), leave()}
  constructor(root, on) {
    this.root = root;
    this.on = on;
    this.points = root.querySelector("#points");
    this.overlay = root.querySelector("#marks");
    this.n = 0;
    this.view = { x: 0, y: 0, zoom: 1 };
    this.half = [1, 1]; // half the spans of what is shown
    this.marks = { query: -1, hits: [], playing: -1 };
    this.hovered = -1;
    this.cursor = -1;
    this.visible = null; // Uint8Array, or null for all
    this.frame = 0;
    this.pointers = new Map();
    new ResizeObserver(() => this.resize()).observe(root);
    this.listen();
  }

  // places: (N, 2); animates from the current positions.
  setPlaces(places) {
    const n = places.length / 2;
    let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
    for (let i = 0; i < n; i++) {
      x0 = Math.min(x0, places[2 * i]);
      x1 = Math.max(x1, places[2 * i]);
      y0 = Math.min(y0, places[2 * i + 1]);
      y1 = Math.max(y1, places[2 * i + 1]);
    }
    const half = Math.max(x1 - x0, y1 - y0) / 2 || 1;
    const target = new Float32Array(2 * n);
    for (let i = 0; i < n; i++) {
      target[2 * i] = (places[2 * i] - (x0 + x1) / 2) / half;
      target[2 * i + 1] = -(places[2 * i + 1] - (y0 + y1) / 2) / half;
    }
    const halves = [(x1 - x0) / 2 / half || 0.01, (y1 - y0) / 2 / half || 0.01];
    const first = this.n !== n;
    this.n = n;
    this.index = new Grid(target);
    if (first || reduced.matches) {
      this.at = target;
      this.half = halves;
      this.morph = null;
    } else {
      this.morph = { from: this.at.slice(), fromHalf: this.half, to: target, half: halves,
        began: performance.now() };
    }
    this.draw();
  }

  setColours({ palette, codes }, background, muted) {
    this.codes = codes;
    this.background = pack(background);
    this.colours = new Uint32Array(256).fill(pack(muted));
    palette.forEach((rgb, i) => (this.colours[i] = pack(rgb)));
    this.colours[UNKNOWN] = pack(muted);
    this.muted = pack(muted);
    this.draw();
  }

  setVisible(mask) {
    this.visible = mask;
    this.draw();
  }

  setMarks(marks) {
    Object.assign(this.marks, marks);
    this.draw(false);
  }

  setHovered(row) {
    if (this.hovered === row) return;
    this.hovered = row;
    this.draw(false);
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.root;
    if (!width || !height) return;
    this.ratio = Math.min(devicePixelRatio || 1, 2);
    for (const canvas of [this.points, this.overlay]) {
      canvas.width = Math.round(width * this.ratio);
      canvas.height = Math.round(height * this.ratio);
    }
    this.width = width;
    this.height = height;
    this.head = this.root.parentElement.querySelector(".tools").offsetHeight + 8; // covered by tools
    this.context = this.points.getContext("2d", { alpha: false });
    this.pen = this.overlay.getContext("2d");
    this.image = this.context.createImageData(this.points.width, this.points.height);
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.draw();
  }

  // Requests a frame; with `all` false only the marks are redrawn.
  draw(all = true) {
    this.stale = this.stale || all;
    this.frame ||= requestAnimationFrame((now) => {
      this.frame = 0;
      if (!this.at || !this.pixels || !this.colours) return;
      const began = performance.now();
      if (this.morph) this.step(now);
      if (this.stale) this.drawPoints();
      this.stale = Boolean(this.morph);
      this.drawMarks();
      this.drawMs = performance.now() - began;
      if (this.morph) this.draw();
    });
  }

  step(now) {
    const { from, fromHalf, to, half, began } = this.morph;
    const t = Math.min(1, Math.max(0, (now - began) / MORPH_MS));
    const eased = t * t * (3 - 2 * t);
    const at = t < 1 ? new Float32Array(to.length) : to;
    if (t < 1) for (let i = 0; i < to.length; i++) at[i] = from[i] + (to[i] - from[i]) * eased;
    this.at = at;
    this.half = half.map((x, i) => fromHalf[i] + (x - fromHalf[i]) * eased);
    if (t === 1) this.morph = null;
    this.stale = true;
  }

  // CSS pixels per unit of the map.
  get scale() {
    const room = [this.width / 2 - MARGIN_PX, (this.height - this.head) / 2 - MARGIN_PX];
    return Math.max(1, Math.min(room[0] / this.half[0], room[1] / this.half[1])) * this.view.zoom;
  }

  // Screen position of the view's center: below the tools.
  get middle() {
    return [this.width / 2, (this.height + this.head) / 2];
  }

  get radius() {
    const few = this.n < 300 ? 4.5 : this.n < 2000 ? 3.5 : this.n < 10000 ? 2.4 : 1.5;
    return Math.min(7, few * this.view.zoom ** 0.3);
  }

  toScreen(row) {
    return [
      (this.at[2 * row] - this.view.x) * this.scale + this.middle[0],
      (this.at[2 * row + 1] - this.view.y) * this.scale + this.middle[1],
    ];
  }

  toMap(x, y) {
    return [
      (x - this.middle[0]) / this.scale + this.view.x,
      (y - this.middle[1]) / this.scale + this.view.y,
    ];
  }

  drawPoints() {
    const { pixels, at, codes, colours, visible, ratio } = this;
    const { width, height } = this.points;
    pixels.fill(this.background);
    const scale = this.scale * ratio;
    const left = this.middle[0] * ratio - this.view.x * scale;
    const top = this.middle[1] * ratio - this.view.y * scale;
    const disc = discOf(this.radius * ratio, width);
    const reach = disc.reach;
    const pass = (drawn, opacity) => {
      for (let i = 0; i < this.n; i++) {
        if (visible && Boolean(visible[i]) !== drawn) continue;
        const x = Math.round(at[2 * i] * scale + left);
        const y = Math.round(at[2 * i + 1] * scale + top);
        if (x < reach || y < reach || x >= width - reach || y >= height - reach) continue;
        const colour = drawn ? colours[codes[i]] : this.muted;
        stamp(pixels, y * width + x, disc, colour, opacity);
      }
    };
    if (visible) pass(false, 46);
    pass(true, this.n > 20000 ? 190 : 225);
    this.context.putImageData(this.image, 0, 0);
  }

  drawMarks() {
    const { pen, ratio, marks } = this;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, this.width, this.height);
    const style = getComputedStyle(this.root);
    const ink = style.color;
    const paper = style.backgroundColor;
    const r = this.radius;
    if (marks.query >= 0) {
      const [qx, qy] = this.toScreen(marks.query);
      pen.lineWidth = 1;
      pen.strokeStyle = ink;
      pen.globalAlpha = 0.28;
      pen.beginPath();
      for (const row of marks.hits) {
        const [x, y] = this.toScreen(row);
        pen.moveTo(qx, qy);
        pen.lineTo(x, y);
      }
      pen.stroke();
      pen.globalAlpha = 1;
      for (const row of [...marks.hits].reverse()) this.ring(row, r + 2.5, ink, paper, 1.5);
      this.ring(marks.query, r + 4, ink, paper, 3);
    }
    if (marks.playing >= 0) this.ring(marks.playing, r + 7.5, style.outlineColor, paper, 2, false);
    if (this.cursor >= 0 && this.root.matches(":focus")) {
      pen.setLineDash([4, 3]);
      this.ring(this.cursor, r + 10, style.outlineColor, paper, 2, false);
      pen.setLineDash([]);
    }
    if (this.hovered >= 0) this.ring(this.hovered, r + 5, ink, paper, 2);
  }

  ring(row, radius, ink, paper, width, filled = true) {
    const { pen } = this;
    const [x, y] = this.toScreen(row);
    pen.beginPath();
    pen.arc(x, y, radius, 0, 2 * Math.PI);
    if (filled) {
      pen.fillStyle = paper;
      pen.fill();
    }
    pen.lineWidth = width;
    pen.strokeStyle = ink;
    pen.stroke();
    if (!filled) return;
    const [r, g, b] = unpack(this.colours[this.codes[row]]);
    pen.beginPath();
    pen.arc(x, y, Math.max(2, radius - width - 0.5), 0, 2 * Math.PI);
    pen.fillStyle = `rgb(${r} ${g} ${b})`;
    pen.fill();
  }

  // The track nearest to a place on the screen, or -1.
  nearest(x, y) {
    if (!this.index || this.morph) return -1;
    const [mx, my] = this.toMap(x, y);
    return this.index.nearest(mx, my, REACH_PX / this.scale, this.visible);
  }

  zoomBy(factor, x = this.middle[0], y = this.middle[1]) {
    const [mx, my] = this.toMap(x, y);
    this.view.zoom = Math.min(MOST_ZOOM, Math.max(0.5, this.view.zoom * factor));
    this.view.x = mx - (x - this.middle[0]) / this.scale;
    this.view.y = my - (y - this.middle[1]) / this.scale;
    this.draw();
  }

  whole() {
    this.view = { x: 0, y: 0, zoom: 1 };
    this.draw();
  }

  // Moves the view so that a track is visible.
  reveal(row) {
    const [x, y] = this.toScreen(row);
    const margin = 40;
    if (x < margin || y < margin || x > this.width - margin || y > this.height - margin) {
      this.view.x = this.at[2 * row];
      this.view.y = this.at[2 * row + 1];
      this.draw();
    }
  }

  setCursor(row) {
    this.cursor = row;
    if (row >= 0) this.reveal(row);
    this.draw(false);
  }

  listen() {
    const { root, pointers } = this;
    const place = (event) => {
      const box = root.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    root.addEventListener("pointerdown", (event) => {
      if (event.button > 0) return;
      root.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, place(event));
      this.moved = pointers.size > 1 ? Infinity : 0;
    });
    root.addEventListener("pointermove", (event) => {
      const now = place(event);
      const before = pointers.get(event.pointerId);
      if (!before) {
        this.hover(now);
        return;
      }
      if (pointers.size === 1) {
        this.moved += Math.hypot(now[0] - before[0], now[1] - before[1]);
        if (this.moved > CLICK_PX) {
          this.view.x -= (now[0] - before[0]) / this.scale;
          this.view.y -= (now[1] - before[1]) / this.scale;
          this.draw();
        }
      } else {
        const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
        const spread = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1;
        this.zoomBy(spread(now) / spread(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
      }
      pointers.set(event.pointerId, now);
    });
    root.addEventListener("pointerup", (event) => {
      if (!pointers.delete(event.pointerId) || this.moved > CLICK_PX) return;
      const row = this.nearest(...place(event));
      if (row < 0) return;
      this.cursor = row;
      this.on.pick(row);
    });
    root.addEventListener("pointercancel", (event) => pointers.delete(event.pointerId));
    root.addEventListener("pointerleave", () => {
      this.setHovered(-1);
      this.on.leave();
    });
    root.addEventListener("wheel", (event) => {
      event.preventDefault();
      const pixels = event.deltaY * (event.deltaMode ? 33 : 1);
      this.zoomBy(Math.exp(-Math.max(-300, Math.min(300, pixels)) * 0.0022), ...place(event));
    }, { passive: false });
    root.addEventListener("keydown", (event) => this.key(event));
    root.addEventListener("focus", () => this.draw(false));
    root.addEventListener("blur", () => this.draw(false));
  }

  hover([x, y]) {
    const row = this.nearest(x, y);
    this.setHovered(row);
    if (row >= 0) this.on.hover(row, ...this.toScreen(row));
    else this.on.hover(-1, x, y);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (ways[event.key]) this.walk(...ways[event.key]);
    else if (event.key === "+" || event.key === "=") this.zoomBy(1.5);
    else if (event.key === "-") this.zoomBy(1 / 1.5);
    else if (event.key === "0") this.whole();
    else if (event.key === "Enter" && this.cursor >= 0) this.on.pick(this.cursor);
    else if (event.key === " " && this.cursor >= 0) this.on.play(this.cursor);
    else return;
    event.preventDefault();
  }

  // Moves the cursor to the nearest track in a direction; sideways offsets are penalized.
  walk(dx, dy) {
    const here = this.cursor >= 0 ? this.cursor : this.marks.query;
    let best = -1;
    if (here < 0) {
      best = this.index.nearest(this.view.x, this.view.y, Infinity, this.visible);
    } else {
      let least = Infinity;
      const [x, y] = [this.at[2 * here], this.at[2 * here + 1]];
      for (let i = 0; i < this.n; i++) {
        if (i === here || (this.visible && !this.visible[i])) continue;
        const along = (this.at[2 * i] - x) * dx + (this.at[2 * i + 1] - y) * dy;
        if (along <= 0) continue;
        const aside = Math.abs((this.at[2 * i] - x) * dy) + Math.abs((this.at[2 * i + 1] - y) * dx);
        const cost = along + 2.5 * aside;
        if (cost < least) [least, best] = [cost, i];
      }
    }
    if (best < 0) return;
    this.setCursor(best);
    this.on.cursor(best);
  }
}

// A spatial grid of the rows, for nearest-point queries.
class Grid {
  constructor(at) {
    const n = at.length / 2;
    this.at = at;
    this.side = Math.max(1, Math.min(300, Math.ceil(Math.sqrt(n / 2))));
    const cells = new Int32Array(n);
    this.start = new Int32Array(this.side ** 2 + 1);
    for (let i = 0; i < n; i++) {
      cells[i] = this.cell(at[2 * i + 1]) * this.side + this.cell(at[2 * i]);
      this.start[cells[i] + 1]++;
    }
    for (let c = 0; c < this.side ** 2; c++) this.start[c + 1] += this.start[c];
    const next = this.start.slice();
    this.rows = new Int32Array(n);
    for (let i = 0; i < n; i++) this.rows[next[cells[i]]++] = i;
  }

  cell(x) {
    return Math.max(0, Math.min(this.side - 1, Math.floor(((x + 1) / 2) * this.side)));
  }

  nearest(x, y, reach, visible) {
    const [x0, x1, y0, y1] = [x - reach, x + reach, y - reach, y + reach].map((v) => this.cell(v));
    let best = -1;
    let least = reach * reach;
    for (let cy = y0; cy <= y1; cy++) {
      for (let cx = x0; cx <= x1; cx++) {
        const cell = cy * this.side + cx;
        for (let j = this.start[cell]; j < this.start[cell + 1]; j++) {
          const i = this.rows[j];
          if (visible && !visible[i]) continue;
          const d = (this.at[2 * i] - x) ** 2 + (this.at[2 * i + 1] - y) ** 2;
          if (d < least) [least, best] = [d, i];
        }
      }
    }
    return best;
  }
}

const pack = ([r, g, b]) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
const unpack = (pixel) => [pixel & 255, (pixel >> 8) & 255, (pixel >> 16) & 255];

// Offsets and coverage (0 to 256) of the pixels of a disc in an image of that width.
const discs = new Map();
function discOf(radius, width) {
  const key = `${radius.toFixed(2)} ${width}`;
  if (!discs.has(key)) {
    if (discs.size > 50) discs.clear();
    const reach = Math.ceil(radius + 0.5);
    const [offsets, cover] = [[], []];
    for (let dy = -reach; dy <= reach; dy++) {
      for (let dx = -reach; dx <= reach; dx++) {
        const covered = Math.min(1, Math.max(0, radius + 0.5 - Math.hypot(dx, dy)));
        if (covered > 0.02) {
          offsets.push(dy * width + dx);
          cover.push(Math.round(256 * covered));
        }
      }
    }
    discs.set(key, { reach, offsets: Int32Array.from(offsets), cover: Int32Array.from(cover) });
  }
  return discs.get(key);
}

// Red and blue are blended in one multiplication, green in another; opacity is 0 to 256.
function stamp(pixels, centre, { offsets, cover }, colour, opacity) {
  const redBlue = colour & 0xff00ff;
  const green = colour & 0x00ff00;
  for (let j = 0; j < offsets.length; j++) {
    const at = centre + offsets[j];
    const a = (cover[j] * opacity) >> 8;
    const b = 256 - a;
    const under = pixels[at];
    const rb = (Math.imul(under & 0xff00ff, b) + Math.imul(redBlue, a)) >>> 8;
    const g = (Math.imul(under & 0x00ff00, b) + Math.imul(green, a)) >>> 8;
    pixels[at] = 0xff000000 | (rb & 0xff00ff) | (g & 0x00ff00);
  }
}
