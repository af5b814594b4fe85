// The archive: thumbnails, newest first, and one frame as large as there is room.

import { clock, drawPicture, readPicture, score } from "./picture.js";
import { list } from "./tile.js";

const PAGE = 60;
const filter = document.getElementById("filter");
const thumbnails = document.getElementById("thumbnails");
const older = document.getElementById("older");
const says = document.getElementById("archive-says");
const dialog = document.getElementById("kept");
let entries = [];
let shown = -1; // index of the frame in the dialog
let picture = null;
let opacity = 0;

/** Begin to listen; `cameraNames()` says which cameras may be chosen. */
export function listenToRejects() {
  filter.addEventListener("submit", (event) => {
    event.preventDefault();
    refresh();
  });
  filter.addEventListener("change", refresh);
  older.addEventListener("click", loadMore);
  document.getElementById("newer-frame").addEventListener("click", () => open(shown - 1));
  document.getElementById("older-frame").addEventListener("click", () => open(shown + 1));
  dialog.addEventListener("keydown", ({ key }) => {
    if (key === "ArrowLeft") open(shown - 1);
    if (key === "ArrowRight") open(shown + 1);
  });
}

export function offerCameras(names) {
  const select = filter.elements.camera;
  if (select.options.length === names.length + 1) return;
  const chosen = select.value;
  select.replaceChildren(new Option("all", ""), ...names.map((name) => new Option(name)));
  select.value = chosen;
}

export async function refresh() {
  entries = [];
  thumbnails.replaceChildren();
  await loadMore();
}

export function redrawKept(newOpacity) {
  opacity = newOpacity;
  if (picture) drawPicture(document.getElementById("kept-picture"), picture, opacity);
}

async function loadMore() {
  const query = new URLSearchParams({ limit: PAGE });
  for (const name of ["verdict", "camera"]) {
    if (filter.elements[name].value) query.set(name, filter.elements[name].value);
  }
  if (entries.length) query.set("until_utc_ns", entries.at(-1).captured_utc_ns);
  const answer = await get(`/archive?${query}`);
  if (answer.message) {
    says.textContent = answer.message;
    return;
  }
  const first = entries.length;
  entries.push(...answer.entries);
  says.textContent = entries.length ? "" : "Nothing like this is kept.";
  older.hidden = answer.entries.length < PAGE;
  thumbnails.append(...answer.entries.map((entry, index) => thumbnailOf(entry, first + index)));
}

async function get(path) {
  try {
    const response = await fetch(path);
    const body = await response.json();
    return response.ok ? { entries: body } : body;
  } catch {
    return { message: "the view does not answer" };
  }
}

function thumbnailOf(entry, index) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "thumbnail";
  if (entry.picture) {
    const image = new Image();
    image.loading = "lazy";
    image.alt = `${entry.camera}, frame ${entry.frame_id}`;
    image.src = `/archive/${entry.id}/thumbnail`;
    button.append(image);
  }
  const text = document.createElement("span");
  const verdict = document.createElement("b");
  verdict.className = entry.verdict;
  verdict.textContent = entry.doubtful ? "PASS?" : entry.verdict;
  text.append(verdict, ` ${score(entry.score)}  ${entry.camera}`, document.createElement("br"), when(entry));
  if (entry.reason) text.append(document.createElement("br"), entry.reason);
  button.append(text);
  button.addEventListener("click", () => open(index));
  return button;
}

async function open(index) {
  if (index < 0 || index >= entries.length) return;
  shown = index;
  const entry = entries[index];
  document.getElementById("kept-title").textContent = `${entry.verdict} ${score(entry.score)}  ${entry.camera}, ${when(entry)}`;
  document.getElementById("newer-frame").disabled = index === 0;
  document.getElementById("older-frame").disabled = index === entries.length - 1;
  if (!dialog.open) dialog.showModal();
  const canvas = document.getElementById("kept-picture");
  canvas.hidden = true;
  let header = entry;
  const response = await fetch(`/archive/${entry.id}/frame`).catch(() => null);
  if (shown !== index) return;
  if (response?.ok) {
    picture?.bitmap.close();
    picture = await readPicture(await response.arrayBuffer());
    header = picture.result;
    canvas.hidden = false;
    redrawKept(opacity);
  }
  list(document.getElementById("kept-facts"), factsOf(entry, header));
}

function factsOf(entry, header) {
  const facts = [
    ["frame", `${entry.frame_id ?? "none"}${header.source_name ? `, ${header.source_name}` : ""}`],
    ["score", `${score(header.score)}, threshold ${score(header.threshold)}`],
    ["students", `local ${score(header.p_local)}, semantic ${score(header.p_semantic)}`],
    ["archive", entry.id],
  ];
  if (entry.job_id) facts.unshift(["job", entry.job_id]);
  if (entry.reason) facts.unshift(["reason", entry.reason]);
  return facts;
}

function when(entry) {
  return `${new Date(entry.captured_utc_ns / 1e6).toLocaleDateString()} ${clock(entry.captured_utc_ns)}`;
}
