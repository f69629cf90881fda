// The data service's client for browsers (protocol version 2, docs/clients.md): one connection for any number
// of subscriptions, deltas applied, events resumed, and it comes back by itself. Depends on nothing.

const SUBPROTOCOL = "mdp.v2";
const FIRST_DELAY_MS = 500;
const MAX_DELAY_MS = 15_000;
const STABLE_MS = 10_000; // connected this long, the next outage starts with a short delay again
const QUIET_MS = 10_000; // nothing came for this long: ask something, a closed market is quiet too
const DEAD_MS = 20_000; // and no answer either: the line is dead
const LATER_MS = 1_000; // before what was refused for the moment is asked again
const MAX_FEEDS = 500; // in one message
const MAX_MISFITS = 3; // deltas that do not fit should not happen: then whole values are asked for
const MAX_ASKED = 64; // questions that an answer may still refer to

// After these, the same client would be closed again.
const HOPELESS = new Map([
  [1009, "a message was too large"],
  [4001, "the key or token was not accepted"],
  [4004, "the key was revoked or has expired"],
]);
const TOKEN_EXPIRED = 4005; // worth another attempt with another token only
const PATIENCE_MS = new Map([[4006, 5_000], [4008, 1_000], [4029, 5_000], [4030, 30_000]]);

const EVENTS = [
  /^(unknown|halts|alerts|daily_range_(hod|lod)_alert|news:feed:latest)$/,
  /^(news:ticker|stocks:trades|stocks:luld):./,
  /^scanners:.+:events$/,
];
export const isEvent = (feed) => EVENTS.some((pattern) => pattern.test(feed));

/**
 * Connect to a data service, and stay connected.
 *
 * @param {string} url ws:// or wss:// address of the service
 * @param {{key?: string | (() => string), token?: () => string | Promise<string>,
 *   onState?: (state: "connecting" | "live" | "reconnecting" | "unauthorized", reason: string) => void,
 *   onWarning?: (text: string) => void}} [options] `token` is asked at each login and before a token ends.
 */
export const connect = (url, options = {}) => new Client(url, options);

/** The value after a delta: a value's fields or a board's rows; the value before stays as it is. */
export function applyDelta(value, delta) {
  if (!Array.isArray(value)) {
    if (value === null || typeof value !== "object") throw new TypeError("no value to change");
    return { ...value, ...delta };
  }
  const rows = new Map(value.map((row) => [row.symbol, row]));
  for (const symbol of delta.gone ?? []) {
    if (!rows.delete(symbol)) throw new TypeError("no such row");
  }
  for (const [symbol, change] of Object.entries(delta.set ?? {})) {
    rows.set(symbol, { ...rows.get(symbol), ...change });
  }
  if (delta.order) {
    return delta.order.map((symbol) => {
      if (!rows.has(symbol)) throw new TypeError("no such row");
      return rows.get(symbol);
    });
  }
  const result = [...rows.values()];
  return result.every((row) => "rank" in row) ? result.sort((one, other) => one.rank - other.rank) : result;
}

/** What was subscribed, over all connections. */
class Subscription {
  alone = false; // refused together with others: ask for it by itself
  told = false; // asked for on this connection
  begun = false; // and answered: what comes is ours
  #lived = false;
  #misfits = 0;
  #known = new Map(); // state feed → {epoch, seq, value}
  #places = new Map(); // event feed → {epoch, seq}
  #unsure = new Set(); // event feeds of which something may be missing

  constructor(feed, options, callback, onError) {
    this.feed = feed;
    this.options = options;
    this.callback = callback;
    this.onError = onError;
    this.wild = feed.split(":").includes("*");
    this.matches = this.wild
      ? new RegExp(`^${feed.split(":").map((part) => (part === "*" ? ".+" : part.replace(/\W/g, "\\$&"))).join(":")}$`)
      : null;
  }

  /** Options of the next subscribe. */
  ask() {
    this.told = true;
    this.begun = false;
    this.#known.clear();
    const options = this.#misfits >= MAX_MISFITS ? { ...this.options, full: true } : this.options;
    const place = this.wild ? undefined : this.#places.get(this.feed);
    if (place) return { ...options, resume: place };
    for (const feed of this.#places.keys()) this.#unsure.add(feed);
    if (this.#lived && !this.wild) this.#unsure.add(this.feed);
    return options;
  }

  begin() {
    this.begun = this.#lived = true;
  }

  resync() {
    this.#unsure.add(this.feed);
  }

  /** Take a message; false where it does not fit what is known. */
  take({ feed, epoch, seq, ts, kind, base, data }) {
    if (kind === "event") {
      const place = this.#places.get(feed);
      let gap = this.#unsure.has(feed);
      if (place) {
        if (place.epoch === epoch && seq <= place.seq) return true; // had it
        const next = place.epoch === epoch && seq === place.seq + 1;
        gap = !next && (gap || place.epoch !== epoch || !this.options.where); // `where` leaves out, too
      }
      this.#give({ feed, value: data, epoch, seq, ts, kind, gap });
      return true;
    }
    if (kind === "snapshot" && (this.#places.has(feed) || isEvent(feed))) {
      this.#give({ feed, value: data, epoch, seq, ts, kind: "list", gap: this.#unsure.has(feed) });
      return true;
    }
    let value = data;
    if (kind === "delta") {
      const known = this.#known.get(feed);
      if (!known && !this.wild) return true; // of the subscription before: the snapshot is still to come
      if (!known || known.epoch !== epoch || known.seq !== base) return this.#misfit();
      try {
        value = applyDelta(known.value, data);
      } catch {
        return this.#misfit();
      }
    }
    this.#known.set(feed, { epoch, seq, value });
    this.#call({ feed, value, epoch, seq, ts, kind: "value", gap: false });
    return true;
  }

  #misfit() {
    this.#misfits += 1;
    return false;
  }

  #give(update) {
    this.#unsure.delete(update.feed);
    this.#places.set(update.feed, { epoch: update.epoch, seq: update.seq });
    this.#call(update);
  }

  #call(update) {
    try {
      this.callback(update);
    } catch (error) {
      console.error(error); // of one subscriber: the others go on
    }
  }
}

class Client {
  #url;
  #options;
  #socket = null;
  #ready = false; // logged in
  #subscriptions = new Map(); // pattern → Subscription
  #asked = new Map(); // number → subscriptions
  #number = 0;
  #delay = FIRST_DELAY_MS;
  #openedAt = 0;
  #heardAt = 0;
  #timer = 0;
  #sending = false;
  #stopped = false;
  #silence;

  constructor(url, options) {
    this.#url = url;
    this.#options = options;
    this.#silence = setInterval(() => this.#checkSilence(), 5_000);
    this.reconnect();
  }

  /**
   * Have `callback` called with every update `{feed, value, epoch, seq, ts, kind, gap}` of a feed, what there
   * is now first. `kind` is "value", "event" or "list": what an event feed had, newest first. A `gap` says that
   * events were missed and are not kept any more. Values share parts with later ones: do not change them.
   *
   * @param {string} feed a feed's name or a wildcard; of a name and a wildcard that covers it, the name counts
   * @param {{limit?: number, fields?: string[], where?: [string, string, any][], full?: boolean,
   *   onError?: (reason: string) => void}} options
   * @param {(update: object) => void} callback
   * @returns {() => void} ends the subscription
   */
  subscribe(feed, options, callback) {
    if (this.#subscriptions.has(feed)) throw new Error(`${feed} is subscribed already`);
    const { onError = (reason) => console.warn("data service:", reason), ...wanted } = options ?? {};
    const subscription = new Subscription(feed, wanted, callback, onError);
    this.#subscriptions.set(feed, subscription);
    this.#tellSoon();
    return () => {
      if (this.#subscriptions.get(feed) !== subscription) return;
      this.#subscriptions.delete(feed);
      if (subscription.told && this.#ready) this.#send({ action: "unsubscribe", feeds: [feed], id: ++this.#number });
    };
  }

  /** Connect now, whatever the back-off says; with a new key, for instance. */
  reconnect() {
    clearTimeout(this.#timer);
    this.#stopped = false;
    leave(this.#socket);
    this.#reset();
    const socket = new WebSocket(this.#url, [SUBPROTOCOL]);
    this.#socket = socket;
    this.#heardAt = Date.now();
    socket.onopen = () => this.#onOpen(socket);
    socket.onmessage = (event) => this.#onFrame(event.data);
    socket.onclose = (event) => this.#onClose(event);
  }

  /** End the connection and everything subscribed. */
  close() {
    clearTimeout(this.#timer);
    clearInterval(this.#silence);
    this.#stopped = true;
    this.#subscriptions.clear();
    leave(this.#socket);
    this.#socket = null;
    this.#ready = false;
  }

  #reset() {
    this.#ready = false;
    this.#asked.clear();
    for (const subscription of this.#subscriptions.values()) subscription.told = subscription.begun = false;
  }

  #send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  async #login() {
    const { key, token } = this.#options;
    if (token) return { action: "auth", token: await token() };
    const value = typeof key === "function" ? key() : key;
    return value ? { action: "auth", api_key: value } : null;
  }

  async #onOpen(socket) {
    this.#openedAt = Date.now();
    let login;
    try {
      login = await this.#login();
    } catch {
      if (socket === this.#socket) this.#lost("no token", 0); // whoever gives it may have hope later
      return;
    }
    if (socket !== this.#socket) return;
    if (login) this.#send(login);
    else this.#begin();
  }

  #begin() {
    this.#ready = true;
    this.#options.onState?.("live", "");
    this.#tell();
  }

  #tellSoon() {
    // Subscriptions of one turn go in one message.
    if (this.#sending) return;
    this.#sending = true;
    queueMicrotask(() => {
      this.#sending = false;
      this.#tell();
    });
  }

  #tell() {
    if (!this.#ready) return;
    const together = new Map(); // what is wanted → [options, subscriptions]
    for (const subscription of this.#subscriptions.values()) {
      if (subscription.told) continue;
      const options = subscription.ask();
      const own = subscription.alone || options.resume ? subscription.feed : "";
      const key = own + JSON.stringify(options);
      if (!together.has(key)) together.set(key, [options, []]);
      together.get(key)[1].push(subscription);
    }
    for (const [options, members] of together.values()) {
      for (let start = 0; start < members.length; start += MAX_FEEDS) {
        const part = members.slice(start, start + MAX_FEEDS);
        const id = ++this.#number;
        this.#asked.set(id, part);
        if (this.#asked.size > MAX_ASKED) this.#asked.delete(this.#asked.keys().next().value);
        this.#send({ action: "subscribe", feeds: part.map(({ feed }) => feed), ...options, id });
      }
    }
  }

  #again(members) {
    for (const subscription of members) subscription.told = subscription.begun = false;
    this.#tellSoon();
  }

  #onFrame(text) {
    this.#heardAt = Date.now();
    let frame;
    try {
      frame = JSON.parse(text);
    } catch {
      return; // not ours to repair
    }
    if (Array.isArray(frame)) for (const message of frame) this.#onMessage(message);
    else if (frame?.status) this.#onAnswer(frame);
  }

  #onMessage(message) {
    let subscription = this.#subscriptions.get(message.feed);
    if (!subscription) {
      for (const each of this.#subscriptions.values()) {
        if (each.matches?.test(message.feed)) subscription = each;
      }
    }
    // What is not begun is of a subscription that was ended or replaced.
    if (subscription?.begun && !subscription.take(message)) this.#again([subscription]);
  }

  #onAnswer(answer) {
    switch (answer.status) {
      case "authorized":
        if (!this.#ready) this.#begin();
        return;
      case "invalid key":
      case "invalid token":
        return this.#stop(answer.message ?? "the key was not accepted");
      case "subscribed":
        for (const subscription of this.#asked.get(answer.id) ?? []) {
          if (this.#subscriptions.get(subscription.feed) === subscription) subscription.begin();
        }
        return;
      case "unsubscribed":
        if (answer.id !== undefined) return; // else by the service: a new login permits less
        for (const feed of answer.feeds ?? []) this.#refused(feed, `${feed} is not permitted any more`);
        return;
      case "resync":
        return this.#subscriptions.get(answer.feed)?.resync();
      case "token expires":
      case "key expires":
        return this.#renew(answer);
      case "error":
        return this.#onError(answer);
    }
  }

  async #renew(answer) {
    const socket = this.#socket;
    try {
      if (this.#options.token && answer.status === "token expires") {
        const login = await this.#login();
        if (socket === this.#socket) this.#send(login);
        return;
      }
    } catch {
      // the old one lasts a while: told below
    }
    this.#options.onWarning?.(`${answer.status} in ${answer.seconds} s`);
  }

  #onError({ id, code, message }) {
    const members = this.#asked.get(id) ?? [];
    if (code === "slow_down" || code === "unavailable") {
      const waiting = members.length ? members : [...this.#subscriptions.values()].filter((each) => !each.begun);
      const socket = this.#socket;
      setTimeout(() => socket === this.#socket && this.#again(waiting), LATER_MS);
    } else if (members.length > 1) {
      for (const subscription of members) subscription.alone = true; // which one is meant is found out so
      this.#again(members);
    } else if (members.length) {
      this.#refused(members[0].feed, `${members[0].feed} was refused: ${message}`);
    } else if (code !== "unauthorized") { // of that the close says what to do
      console.warn("data service:", code, message);
    }
  }

  #refused(feed, reason) {
    const subscription = this.#subscriptions.get(feed);
    this.#subscriptions.delete(feed);
    subscription?.onError(reason);
  }

  #stop(reason) {
    this.#stopped = true;
    this.#options.onState?.("unauthorized", reason);
  }

  #onClose({ code, reason }) {
    if (this.#stopped) return;
    if (HOPELESS.has(code)) return this.#stop(HOPELESS.get(code));
    if (code === TOKEN_EXPIRED && !this.#options.token) return this.#stop("the token has expired");
    this.#lost(reason || (code === 1006 ? "no connection" : `code ${code}`), PATIENCE_MS.get(code) ?? 0);
  }

  #lost(reason, patience) {
    leave(this.#socket);
    this.#socket = null;
    this.#reset();
    if (this.#openedAt && Date.now() - this.#openedAt > STABLE_MS) this.#delay = FIRST_DELAY_MS;
    const wait = patience + this.#delay * (0.5 + Math.random()); // jitter: not all pages at the same moment
    this.#delay = Math.min(this.#delay * 2, MAX_DELAY_MS);
    this.#options.onState?.("reconnecting", reason);
    this.#timer = setTimeout(() => this.reconnect(), wait);
  }

  #checkSilence() {
    if (!this.#socket || this.#stopped) return;
    const silent = Date.now() - this.#heardAt;
    // A dead line can take minutes to close: leave it behind.
    if (silent >= DEAD_MS) this.#lost("the line went silent", 0);
    else if (silent >= QUIET_MS && this.#ready) this.#send({ action: "get", feed: "market:status" });
  }
}

/** Close a socket whose events nobody wants any more. */
function leave(socket) {
  if (!socket) return;
  socket.onopen = socket.onmessage = socket.onclose = null;
  socket.close();
}
