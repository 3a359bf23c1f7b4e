// A column -> a palette, a color index for every point, and a legend.

export const UNKNOWN = 255;
const N_STEPS = 64;
// Adjacent hues in the list are distinct.
const HUES = [265, 45, 155, 350, 100, 210, 20, 300, 130, 185, 70];

// OKLCH (Ottosson 2020) -> [r, g, b], 0 to 255.
export function oklch(lightness, chroma, hue) {
  const a = chroma * Math.cos((hue * Math.PI) / 180);
  const b = chroma * Math.sin((hue * Math.PI) / 180);
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ].map((x) => {
    const y = x <= 0.0031308 ? 12.92 * x : 1.055 * Math.max(x, 0) ** (1 / 2.4) - 0.055;
    return Math.round(255 * Math.min(1, Math.max(0, y)));
  });
}

export const css = ([r, g, b]) => `rgb(${r} ${g} ${b})`;

// Interpolates between two OKLCH colors, which is perceptually uniform.
function ramp(dark) {
  return Array.from({ length: N_STEPS }, (_, i) => {
    const t = i / (N_STEPS - 1);
    return dark
      ? oklch(0.5 + 0.38 * t, 0.13 + 0.02 * Math.sin(Math.PI * t), 292 - 200 * t)
      : oklch(0.8 - 0.42 * t, 0.13 + 0.03 * Math.sin(Math.PI * t), 85 + 205 * t);
  });
}

export function keyColour(code, dark) {
  const hue = 30 * (code % 12) + 20;
  const minor = code >= 12;
  if (dark) return oklch(minor ? 0.62 : 0.79, minor ? 0.13 : 0.14, hue);
  return oklch(minor ? 0.48 : 0.68, minor ? 0.12 : 0.15, hue);
}

// {palette: [[r,g,b]], codes: Uint8Array, label(row)} of a column; null: one color for all.
export function colouring(column, dark, n) {
  const codes = new Uint8Array(n);
  if (!column) {
    return { palette: [dark ? oklch(0.72, 0.08, 265) : oklch(0.52, 0.11, 265)], codes };
  }
  const { values, kind } = column;
  let palette;
  if (kind === "number") {
    palette = ramp(dark);
    const scale = (N_STEPS - 1) / (column.high - column.low || 1);
    for (let i = 0; i < n; i++) {
      const x = (values[i] - column.low) * scale;
      codes[i] = Number.isNaN(x) ? UNKNOWN : Math.max(0, Math.min(N_STEPS - 1, Math.round(x)));
    }
  } else {
    palette =
      kind === "key"
        ? column.labels.map((_, code) => keyColour(code, dark))
        : column.labels.map((_, i) =>
            i < HUES.length ? oklch(dark ? 0.76 : 0.6, 0.14, HUES[i]) : oklch(0.62, 0.01, 265));
    for (let i = 0; i < n; i++) codes[i] = Number.isNaN(values[i]) ? UNKNOWN : values[i];
  }
  return { palette, codes };
}

export function valueOf(column, row) {
  const value = column.values[row];
  if (Number.isNaN(value)) return "";
  return column.kind === "number" ? `${+value.toPrecision(4)}` : column.labels[value];
}

const SVG = "http://www.w3.org/2000/svg";

function svg(tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// Fills the legend, a `details`. `chosen`: codes to show alone; `choose(code)` toggles one.
export function drawLegend(details, column, palette, chosen, choose) {
  const [title, box] = details.children;
  box.replaceChildren();
  details.hidden = !column;
  if (!column) return;
  title.textContent = column.name.replace(/^tag_/, "");
  if (column.kind === "number") box.append(numberLegend(column, palette));
  else if (column.kind === "key") box.append(keyLegend(column, palette, chosen, choose));
  else box.append(classLegend(column, palette, chosen, choose));
  if (column.n_unknown > 0) box.append(element("p", "quiet small", `${column.n_unknown} unknown`));
}

function numberLegend(column, palette) {
  const made = element("div", "scale");
  const bar = element("div", "bar");
  bar.style.background = `linear-gradient(to right, ${palette.filter((_, i) => i % 7 === 0).map(css)})`;
  const ends = element("div", "ends");
  ends.append(
    element("span", "", `${+column.low.toPrecision(3)}`),
    element("span", "", `${+column.high.toPrecision(3)}`),
  );
  made.append(bar, ends);
  return made;
}

function classLegend(column, palette, chosen, choose) {
  const list = element("ul", "classes");
  column.labels.forEach((label, code) => {
    const button = element("button", "class");
    button.type = "button";
    button.setAttribute("aria-pressed", String(chosen.has(code)));
    button.title = label;
    const swatch = element("span", "swatch");
    swatch.style.background = css(palette[code]);
    button.append(
      swatch,
      element("span", "label", label),
      element("span", "n quiet", `${column.counts[code]}`),
    );
    button.addEventListener("click", () => choose(code));
    const item = element("li");
    item.append(button);
    list.append(item);
  });
  return list;
}

// The circle of fifths: major keys outside, their relative minors inside.
function keyLegend(column, palette, chosen, choose) {
  const drawing = svg("svg", { viewBox: "-62 -62 124 124", class: "fifths", role: "group",
    "aria-label": "Circle of fifths" });
  column.labels.forEach((label, code) => {
    const minor = code >= 12;
    const [inner, outer] = minor ? [20, 38] : [39, 60];
    const from = ((code % 12) * 30 - 104) * (Math.PI / 180);
    const to = from + 28 * (Math.PI / 180);
    const at = (r, angle) => `${r * Math.cos(angle)} ${r * Math.sin(angle)}`;
    const wedge = svg("path", {
      d: `M${at(inner, from)}L${at(outer, from)}A${outer} ${outer} 0 0 1 ${at(outer, to)}` +
        `L${at(inner, to)}A${inner} ${inner} 0 0 0 ${at(inner, from)}Z`,
      class: "wedge", tabindex: "0", role: "button",
      "aria-pressed": String(chosen.has(code)),
      "aria-label": `${label}, ${column.counts[code]} tracks`,
    });
    wedge.style.fill = css(palette[code]);
    wedge.append(svg("title", {}, `${label}: ${column.counts[code]}`));
    wedge.addEventListener("click", () => choose(code));
    wedge.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      choose(code);
    });
    const middle = (from + to) / 2;
    const r = (inner + outer) / 2;
    const [tonic] = label.split(" ");
    const text = svg("text", { x: r * Math.cos(middle), y: r * Math.sin(middle) + 0.5,
      class: minor ? "minor" : "major", "aria-hidden": "true" },
      minor ? tonic[0].toLowerCase() + tonic.slice(1) : tonic);
    drawing.append(wedge, text);
  });
  return drawing;
}
