// One camera on the wall: picture, verdict, scores, counts, and what may be changed.

import { KEPT_POINTS, drawChart } from "./chart.js";
import { clock, drawPicture, readPicture, score } from "./picture.js";
import { ask } from "./access.js";

const HOLD_MS = 1500; // a FAIL stays on the wall for so long, however quickly parts follow

export class Tile {
  constructor(name, onChosen) {
    this.name = name;
    this.alone = false; // on the wall
    this.points = [];
    this.failedAt = -Infinity;
    this.pictureHeldUntil = -Infinity;
    this.picture = null;
    this.opacity = 0;
    this.proposed = null; // a threshold that is being chosen
    this.element = document.getElementById("tile").content.firstElementChild.cloneNode(true);
    this.element.dataset.camera = name;
    this.find = (selector) => this.element.querySelector(selector);
    this.find(".name").textContent = name;
    this.find(".name").addEventListener("click", () => onChosen(name));
    this.find(".more").addEventListener("toggle", () => this.draw());
    this.listenToSettings();
    new ResizeObserver(() => this.draw()).observe(this.find(".chart"));
  }

  /** Take in what the update says of this camera. */
  update(camera, line, mayControl) {
    this.camera = camera;
    if (camera.points.length) {
      this.points = [...this.points, ...camera.points].slice(-KEPT_POINTS);
      if (camera.points.some((point) => point[4] === "FAIL")) this.failedAt = performance.now();
    }
    this.showVerdict();
    this.showFacts(line, mayControl);
    this.draw();
  }

  /** The view hears nothing any more, so nothing on the wall is true. */
  lose(why) {
    if (!this.camera) return;
    this.camera = { ...this.camera, fault: why };
    this.failedAt = -Infinity;
    this.showVerdict();
  }

  async show(buffer) {
    const picture = await readPicture(buffer);
    const failed = picture.result.verdict === "FAIL";
    const now = performance.now();
    if (!failed && now < this.pictureHeldUntil) {
      picture.bitmap.close();
      return;
    }
    if (failed) this.pictureHeldUntil = now + HOLD_MS;
    this.picture?.bitmap.close();
    this.picture = picture;
    this.find("figcaption").textContent =
      `${clock(picture.result.captured_utc_ns)}  frame ${picture.result.frame_id}  ${picture.result.verdict} ${score(picture.result.score)}`;
    this.drawPicture(this.opacity);
  }

  drawPicture(opacity) {
    this.opacity = opacity;
    if (this.picture) drawPicture(this.find(".picture"), this.picture, opacity);
  }

  /** By itself there is room for everything. */
  showAlone(alone) {
    if (alone !== this.alone) this.find(".more").open = alone;
    this.alone = alone;
  }

  draw() {
    drawChart(this.find(".chart"), this.points, this.camera?.recipe?.warn ?? null, this.proposed);
  }

  showVerdict() {
    const { fault, last } = this.camera;
    const held = performance.now() - this.failedAt < HOLD_MS;
    const verdict = fault || !last ? "NONE" : held ? "FAIL" : last.verdict;
    const why = fault || (last ? last.reason || (last.doubtful ? "doubtful: above the warn threshold" : "") : "no verdict yet");
    this.element.dataset.verdict = verdict;
    this.find(".word").textContent = verdict === "NONE" ? "NO VERDICT" : verdict;
    this.find(".score").textContent = verdict === "NONE" || !last ? "" : score(this.heldScore(held) ?? last.smoothed_score ?? last.score);
    this.find(".why").textContent = why;
  }

  heldScore(held) {
    return held ? this.points.findLast((point) => point[4] === "FAIL")?.[2] : null;
  }

  showFacts(line, mayControl) {
    const { camera } = this;
    const dropped = Object.values(camera.dropped).reduce((sum, count) => sum + count, 0);
    const { passed = 0, failed = 0, invalid = 0, absent = 0, captured = 0 } = camera.counts;
    this.find(".recipe").textContent = camera.recipe ? `recipe ${camera.recipe.name}` : "";
    this.find(".rate").textContent = camera.fault ? "" : `${camera.frames_per_s.toFixed(1)} /s`;
    list(this.find(".counts"), [
      ["pass", passed],
      ["fail", failed],
      ["invalid", invalid + absent, invalid + absent > 0],
      ["dropped", dropped],
      ["rejected", camera.reject_share === null ? "\u2013" : `${(100 * camera.reject_share).toFixed(1)} %`],
      ["latency", camera.stage_ms ? `${camera.stage_ms.total.toFixed(0)} ms` : "\u2013"],
    ]);
    if (!this.find(".more").open) return;
    const stages = camera.stage_ms && Object.entries(camera.stage_ms).map(([name, ms]) => `${name} ${ms.toFixed(1)}`).join(", ");
    const { last } = camera;
    list(this.find(".facts"), [
      ["camera", [camera.state ?? "unknown", camera.paused ? "paused" : "", camera.restarts ? `${camera.restarts} restarts` : ""].filter(Boolean).join(", ")],
      ["engine", camera.recipe?.engine || "\u2013"],
      ["bundle", camera.recipe ? `${camera.recipe.bundle.name} ${camera.recipe.bundle.sha256.slice(0, 12)}` : "\u2013"],
      ["thresholds", camera.recipe ? `fail ${camera.recipe.fail.toFixed(3)}, warn ${camera.recipe.warn?.toFixed(3) ?? "off"}` : "\u2013"],
      ["median ms", stages ?? "\u2013"],
      ["last verdict", last ? `local ${score(last.p_local)}, semantic ${score(last.p_semantic)}${last.job_id ? `, job ${last.job_id}` : ""}` : "\u2013"],
      ["captured", captured],
      ...Object.entries(camera.dropped).map(([why, count]) => [`dropped`, `${count} ${why}`]),
    ]);
    this.showSettings(line, mayControl);
  }

  showSettings(line, mayControl) {
    const { camera } = this;
    this.find(".settings").hidden = !mayControl || !camera.recipe;
    if (!mayControl || !camera.recipe) return;
    const choose = this.find(".choose");
    if (choose.dataset.names !== line.recipes.join()) {
      choose.dataset.names = line.recipes.join();
      choose.replaceChildren(...line.recipes.map((name) => new Option(name)));
    }
    if (document.activeElement !== choose && !this.changing) choose.value = camera.recipe.name;
    if (this.proposed === null) this.propose(camera.recipe.fail, false);
    this.find(".pause").textContent = camera.paused ? "Resume" : "Pause";
  }

  propose(value, byHand) {
    if (byHand) this.proposed = value;
    this.find(".threshold").value = value;
    this.find(".threshold-value").textContent = Number(value).toFixed(2);
  }

  listenToSettings() {
    this.find(".threshold").addEventListener("input", ({ target }) => {
      this.propose(Number(target.value), true);
      this.draw();
    });
    this.find(".apply").addEventListener("click", () => {
      const fail = Number(this.find(".threshold").value);
      this.change({ command: "threshold", recipe: this.camera.recipe.name, fail });
    });
    this.find(".calibrated").addEventListener("click", () => {
      this.change({ command: "threshold", recipe: this.camera.recipe.name, fail: "calibrated" });
    });
    this.find(".choose").addEventListener("change", ({ target }) => {
      this.change({ command: "recipe", recipe: target.value, camera: this.name });
    });
    this.find(".pause").addEventListener("click", () => {
      this.change({ command: this.camera.paused ? "resume" : "pause", camera: this.name });
    });
  }

  async change(request) {
    this.changing = true;
    this.find(".says").textContent = "asking \u2026";
    const { message } = await ask(request);
    this.find(".says").textContent = message;
    this.changing = false;
    this.proposed = null;
  }
}

/** Fill a <dl> with [name, value, bad?] rows. */
export function list(element, rows) {
  element.replaceChildren(
    ...rows.map(([name, value, bad]) => {
      const row = document.createElement("div");
      row.classList.toggle("bad", Boolean(bad));
      const [term, text] = [document.createElement("dt"), document.createElement("dd")];
      term.textContent = name;
      text.textContent = value;
      row.append(term, text);
      return row;
    }),
  );
}
