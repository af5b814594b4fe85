// The page: which tiles there are, what the line says, which of the two pages is shown.

import { listenToSignIn, openSignIn, permission, showPermission, useTokenOfAddress } from "./access.js";
import { Connection } from "./connection.js";
import { listenToRejects, offerCameras, redrawKept, refresh } from "./rejects.js";
import { Tile } from "./tile.js";
import { arrangement } from "./wall.js";

const live = document.getElementById("live");
const state = document.getElementById("state");
const warnings = document.getElementById("warnings");
const opacity = document.getElementById("opacity");
const tiles = new Map();
let alone = ""; // the camera that is shown by itself
let arranged = 0; // so many tiles are
let mayControl = false;

const connection = new Connection({
  hello(message) {
    mayControl = message.may_control;
    document.getElementById("show-rejects").hidden = !message.archive;
    showPermission(mayControl ? "control" : "view", message.controllable);
  },
  update(line) {
    live.classList.remove("gone");
    document.getElementById("line").textContent = line.line;
    document.title = `${line.line} \u2013 dualkd`;
    showState(line.fault ? "gone" : line.state, line.fault || line.state);
    showWarnings(line);
    for (const [name, camera] of Object.entries(line.cameras)) tileOf(name).update(camera, line, mayControl);
    if (tiles.size !== arranged) {
      arrange();
      offerCameras([...tiles.keys()]);
    }
  },
  picture(buffer) {
    const length = new DataView(buffer).getUint32(0, true);
    const { result } = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
    return tileOf(result.camera).show(buffer);
  },
  lost() {
    const why = "this page has no connection to dualkd-view";
    live.classList.add("gone");
    showState("gone", "no connection");
    for (const tile of tiles.values()) tile.lose(why);
  },
});

function tileOf(name) {
  if (!tiles.has(name)) {
    const tile = new Tile(name, choose);
    tiles.set(name, tile);
    live.append(tile.element);
    tile.drawPicture(Number(opacity.value) / 100);
  }
  return tiles.get(name);
}

/** Show a camera alone, or all of them again. */
function choose(name) {
  alone = alone === name ? "" : name;
  connection.show(alone);
  arrange();
}

function arrange() {
  arranged = tiles.size;
  for (const [name, tile] of tiles) tile.element.hidden = alone !== "" && alone !== name;
  const single = alone !== "" || tiles.size === 1;
  for (const tile of tiles.values()) tile.showAlone(single && !tile.element.hidden);
  fitWall();
}

function fitWall() {
  if (live.hidden) return;
  const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
  const style = getComputedStyle(live);
  const width = live.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
  const height = window.innerHeight - live.offsetTop - parseFloat(style.paddingTop) - parseFloat(style.paddingBottom);
  const best = arrangement(alone === "" ? tiles.size : 1, width / rem, height / rem);
  live.style.gridTemplateColumns = best ? `repeat(${best.columns}, minmax(0, 1fr))` : "";
  live.classList.toggle("wide", best?.wide ?? false);
}

function showState(kind, text) {
  state.className = `pill ${kind}`;
  state.textContent = text;
}

function showWarnings(line) {
  const texts = line.lost ? [...line.warnings, `${line.lost} messages did not reach this view`] : line.warnings;
  if (warnings.dataset.shown === texts.join("\n")) return;
  warnings.dataset.shown = texts.join("\n");
  warnings.replaceChildren(...texts.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
  fitWall();
}

function showPage(rejects) {
  live.hidden = rejects;
  document.getElementById("rejects").hidden = !rejects;
  document.getElementById("show-live").setAttribute("aria-pressed", String(!rejects));
  document.getElementById("show-rejects").setAttribute("aria-pressed", String(rejects));
  if (rejects) refresh();
  else fitWall();
}

function showOpacity() {
  const share = Number(opacity.value) / 100;
  for (const tile of tiles.values()) tile.drawPicture(share);
  redrawKept(share);
}

async function begin() {
  const may = await permission();
  showPermission(may, true);
  if (may === "nothing") {
    connection.close();
    openSignIn();
    showState("", "sign in to look");
  } else {
    connection.open();
  }
}

document.getElementById("show-live").addEventListener("click", () => showPage(false));
document.getElementById("show-rejects").addEventListener("click", () => showPage(true));
opacity.addEventListener("input", showOpacity);
window.addEventListener("resize", fitWall);
listenToSignIn(begin);
listenToRejects();
showOpacity();
await useTokenOfAddress();
await begin();
