// A camera's scores over its last verdicts, against the threshold.

export const KEPT_POINTS = 1500;
const STEP_PX = 3;

/**
 * Draw `points` ([number, utc_ms, score, threshold, verdict, doubtful], newest last) as large as the canvas is shown,
 * with the warn threshold and a threshold that is being chosen, where there are such.
 */
export function drawChart(canvas, points, warn, proposed) {
  const { clientWidth: width, clientHeight: height } = canvas;
  if (!width || !height) return;
  const ratio = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
  if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  const style = getComputedStyle(canvas);
  const colour = (name) => style.getPropertyValue(name);
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  const shown = points.slice(-Math.floor((width - 44) / STEP_PX));
  const x = (index) => width - 10 - (shown.length - 1 - index) * STEP_PX;
  const y = (value) => 6 + (1 - Math.min(1, Math.max(0, value))) * (height - 12);
  context.font = "11px system-ui, sans-serif";
  context.fillStyle = colour("--muted");
  for (const mark of [0, 0.5, 1]) {
    context.fillText(mark.toFixed(1), 6, y(mark) + 4);
    context.fillRect(28, Math.round(y(mark)), width - 36, 0.25);
  }
  const across = (value, name) => {
    context.strokeStyle = colour(name);
    context.setLineDash([6, 4]);
    context.beginPath();
    context.moveTo(28, y(value));
    context.lineTo(width - 8, y(value));
    context.stroke();
    context.setLineDash([]);
  };
  if (warn !== null) across(warn, "--invalid");
  if (proposed !== null) across(proposed, "--accent");
  context.strokeStyle = colour("--accent");
  context.beginPath();
  shown.forEach(([, , , threshold], index) => {
    if (index === 0) context.moveTo(28, y(threshold));
    context.lineTo(x(index), y(threshold));
  });
  context.lineTo(width - 8, y(shown.at(-1)?.[3] ?? 0));
  if (shown.length) context.stroke();
  context.strokeStyle = colour("--muted");
  context.beginPath();
  let pen = false;
  shown.forEach(([, , value], index) => {
    if (value === null) pen = false;
    else if (pen) context.lineTo(x(index), y(value));
    else (pen = true), context.moveTo(x(index), y(value));
  });
  context.stroke();
  shown.forEach(([, , value, , verdict, doubtful], index) => {
    if (verdict === "PASS" && !doubtful) return;
    context.fillStyle = colour(verdict === "FAIL" ? "--fail" : "--invalid");
    if (value === null) context.fillRect(x(index) - 1, 6, 2, height - 12);
    else context.beginPath(), context.arc(x(index), y(value), 3, 0, 7), context.fill();
  });
}
