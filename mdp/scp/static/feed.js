// A connection to the data service (protocol version 1) that comes back by itself.

const FIRST_DELAY_MS = 500;
const MAX_DELAY_MS = 15_000;
const STABLE_MS = 10_000; // connected this long, the next outage starts with a short delay again
const QUIET_MS = 10_000; // nothing came for this long: ask something, a closed market is quiet too
const DEAD_MS = 20_000; // and no answer either: the line is dead

/**
 * Version 1 sends payloads without their feed's name, so a payload is told by its shape. To know
 * which board a list of rows is, every board has a connection of its own.
 */
export class Feed {
  #url;
  #options;
  #socket = null;
  #delay = FIRST_DELAY_MS;
  #openedAt = 0;
  #heardAt = 0;
  #timer = 0;
  #stopped = false;

  /**
   * @param {string} url ws:// or wss:// address of the service
   * @param {{feeds: string[], gets?: {cache: string, limit: number}[], key?: () => string,
   *   onGet: (cache: string, data: any) => void, onMessage: (payload: any) => void,
   *   onState: (state: string, reason: string) => void}} options
   */
  constructor(url, options) {
    this.#url = url;
    this.#options = options;
    setInterval(() => this.#checkSilence(), 5_000);
  }

  /** Connect now, whatever the back-off says. */
  connect() {
    clearTimeout(this.#timer);
    this.#stopped = false;
    const old = this.#socket;
    const socket = new WebSocket(this.#url);
    this.#socket = socket;
    this.#heardAt = Date.now();
    if (old) leave(old);
    socket.onopen = () => this.#onOpen();
    socket.onmessage = (event) => this.#onMessage(event.data);
    socket.onclose = (event) => socket === this.#socket && this.#onClose(event);
  }

  #send(message) {
    this.#socket.send(JSON.stringify(message));
  }

  #onOpen() {
    this.#openedAt = Date.now();
    const key = this.#options.key?.();
    if (key) this.#send({ action: "auth", api_key: key });
    else this.#begin();
  }

  #begin() {
    // Subscribe first, then read: what changes in between comes by the subscription.
    for (const feed of this.#options.feeds) this.#send({ action: "subscribe", feed });
    for (const get of this.#options.gets ?? []) this.#send({ action: "get", ...get });
    this.#options.onState("live", "");
  }

  #onMessage(text) {
    this.#heardAt = Date.now();
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      return; // not ours to repair
    }
    if (message !== null && typeof message === "object" && !Array.isArray(message)) {
      if (message.status === "authorized") return this.#begin();
      if (message.status === "invalid key" || message.code === "unauthorized") {
        this.#stopped = true;
        return this.#options.onState("unauthorized", message.message ?? "the key was not accepted");
      }
      if (message.status === "subscribed" || message.status === "unsubscribed") return;
      if (message.status === "error") return console.warn("service:", message.code, message.message);
      if ("cache" in message && "data" in message) return this.#options.onGet(message.cache, message.data);
    }
    this.#options.onMessage(message);
  }

  #onClose(event) {
    this.#socket = null;
    if (this.#stopped) return;
    if (this.#openedAt && Date.now() - this.#openedAt > STABLE_MS) this.#delay = FIRST_DELAY_MS;
    this.#openedAt = 0;
    const wait = this.#delay * (0.5 + Math.random()); // jitter: not all pages at the same moment
    this.#delay = Math.min(this.#delay * 2, MAX_DELAY_MS);
    this.#options.onState("reconnecting", event.reason || (event.code === 1006 ? "no connection" : `code ${event.code}`));
    this.#timer = setTimeout(() => this.connect(), wait);
  }

  #checkSilence() {
    if (!this.#socket || this.#stopped) return;
    const silent = Date.now() - this.#heardAt;
    if (silent >= DEAD_MS) {
      // A dead line can take minutes to close: leave it behind.
      const dead = this.#socket;
      this.#onClose({ reason: "the line went silent", code: 1006 });
      leave(dead);
    } else if (silent >= QUIET_MS && this.#socket.readyState === WebSocket.OPEN) {
      this.#send({ action: "get", cache: "market:status" });
    }
  }
}

/** Close a socket whose events nobody wants any more. */
function leave(socket) {
  socket.onopen = socket.onmessage = socket.onclose = null;
  socket.close();
}
