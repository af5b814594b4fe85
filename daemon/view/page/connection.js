// The conversation with the view: updates and pictures come, each is answered when it is on the screen.
// A page that nobody sees answers nothing, so that nothing more is sent to it.

const SILENT_MS = 3000;
const RETRY_MS = [500, 1000, 2000, 3000];

/** Keeps one WebSocket open for as long as the page lives. */
export class Connection {
  /** `handlers`: hello(object), update(object), picture(ArrayBuffer) (may be async), lost(). */
  constructor(handlers) {
    this.handlers = handlers;
    this.attempts = 0;
    this.heard = 0;
    this.camera = "";
    this.owed = new Set(); // answers that wait until the page is seen again
    setInterval(() => this.watch(), 500);
    document.addEventListener("visibilitychange", () => this.settle());
  }

  open() {
    this.close();
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}/live`);
    socket.binaryType = "arraybuffer";
    socket.onmessage = ({ data }) => this.take(socket, data);
    socket.onclose = () => socket === this.socket && this.retry();
    this.socket = socket;
  }

  close() {
    clearTimeout(this.timer);
    const socket = this.socket;
    this.socket = null;
    this.owed.clear();
    socket?.close();
  }

  /** Pictures of one camera only; an empty name is all of them. */
  show(camera) {
    this.camera = camera;
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(`camera ${camera}`);
  }

  async take(socket, data) {
    if (socket !== this.socket) return;
    this.heard = performance.now();
    if (typeof data !== "string") {
      await this.handlers.picture(data);
      this.answer(socket, "p");
      return;
    }
    const message = JSON.parse(data);
    if (message.kind === "hello") {
      this.attempts = 0;
      this.show(this.camera);
      this.handlers.hello(message);
    } else {
      this.handlers.update(message);
      this.answer(socket, "u");
    }
  }

  answer(socket, word) {
    this.owed.add(word);
    if (!document.hidden) requestAnimationFrame(() => socket === this.socket && this.settle());
  }

  settle() {
    if (document.hidden || this.socket?.readyState !== WebSocket.OPEN) return;
    for (const word of this.owed) this.socket.send(word);
    this.owed.clear();
  }

  watch() {
    if (!document.hidden && performance.now() - this.heard > SILENT_MS) this.handlers.lost();
  }

  retry() {
    this.socket = null;
    this.handlers.lost();
    this.timer = setTimeout(() => this.open(), RETRY_MS[Math.min(this.attempts++, RETRY_MS.length - 1)]);
  }
}
