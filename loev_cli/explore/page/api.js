// Requests to the server of this page.

const MOST_KEPT = 5000;
const kept = new Map(); // row -> track

async function get(url, signal) {
  const answer = await fetch(url, { signal, credentials: "same-origin" });
  if (answer.ok) return answer;
  let message = `the server answered ${answer.status}`;
  try {
    message = (await answer.json()).error || message;
  } catch {
    // not JSON: the guard's plain text, or not our response
  }
  throw new Error(message);
}

const json = async (url, signal) => (await get(url, signal)).json();
const bytes = async (url, signal) => (await get(url, signal)).arrayBuffer();
const name = encodeURIComponent;

export const library = () => json("/api/library");
export const places = async (subspace, layout) =>
  new Float32Array(await bytes(`/api/map/${name(subspace)}/${layout}`));
export const column = async (column) => {
  const [head, values] = await Promise.all([
    json(`/api/column/${name(column)}`),
    bytes(`/api/column/${name(column)}/values`),
  ]);
  return { ...head, name: column, values: new Float32Array(values) };
};
export const where = async (text) => new Uint8Array(await bytes(`/api/where?where=${name(text)}`));

export async function find(text, signal) {
  return (await json(`/api/find?text=${name(text)}`, signal)).map(keep);
}

export async function search({ row, weights, k, where }, signal) {
  const asked = new URLSearchParams({ row, weights, k, where });
  const answer = await json(`/api/search?${asked}`, signal);
  keep(answer.query);
  answer.hits.forEach(keep);
  return answer;
}

export const segments = (row) => json(`/api/segments/${row}`);

// Where the hits of the same search are as a playlist.
export const m3u = ({ row, weights, k, where }) =>
  `/api/m3u?${new URLSearchParams({ row, weights, k, where })}`;

// A list of two searches, whose clicks are logged (loev explore --ab).
export async function shown({ row, k }, session) {
  const answer = await json(`/api/shown?${new URLSearchParams({ row, k, session })}`);
  keep(answer.query);
  return answer;
}

export const clicked = ({ list, rank }) => json(`/api/click?${new URLSearchParams({ list, rank })}`);

// A track as shown on the page; cached.
export async function track(row) {
  if (!kept.has(row)) keep((await json(`/api/tracks?rows=${row}`))[0]);
  return kept.get(row);
}

export const audioOf = (track, decoded = false) => `/audio/${track.row}${decoded ? "?decoded" : ""}`;

function keep(track) {
  if (kept.size >= MOST_KEPT) kept.delete(kept.keys().next().value);
  kept.set(track.row, track);
  return track;
}
