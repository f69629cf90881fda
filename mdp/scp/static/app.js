// The live page: three boards, the market's state, the latest highs, lows and halts.

import { compact, count, known, lag, percent, price, time, times, words } from "./format.js";
import { connect } from "./mdp-client.js";

const ROWS = 25;
const ALERTS = 30;
const HALTS = 15;
const $ = (id) => document.getElementById(id);

// ---- A board: rows are keyed by symbol, moved and changed in place, never rebuilt.

class Board {
  #section;
  #body;
  #rows = new Map(); // symbol → {element, cells, values}
  #pending = null;

  constructor(section) {
    this.#section = section;
    this.feed = section.dataset.feed;
    this.change = section.dataset.change;
    const hint = document.createElement("small");
    hint.textContent = section.dataset.hint;
    section.querySelector("h2").append(" ", hint);
    const table = document.createElement("table");
    table.setAttribute("aria-label", section.querySelector("h2").firstChild.textContent.trim());
    const head = table.createTHead().insertRow();
    for (const name of ["#", "Symbol", "Last", "Chg %", "Volume", "Rel vol", "Float"]) {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.textContent = name;
      head.append(cell);
    }
    this.#body = table.createTBody();
    const scroll = document.createElement("div");
    scroll.className = "scroll";
    scroll.append(table);
    this.empty = document.createElement("p");
    this.empty.className = "empty";
    this.empty.textContent = "Waiting for the first rows…";
    section.append(scroll, this.empty);
  }

  /** Show a board's rows at the next frame; of several updates within one frame the last counts. */
  update(data) {
    if (!Array.isArray(data)) return;
    if (this.#pending === null) requestAnimationFrame(() => this.#render());
    this.#pending = data;
  }

  #render() {
    const rows = this.#pending.slice(0, ROWS);
    this.#pending = null;
    const gone = new Set(this.#rows.keys());
    let at = this.#body.firstChild;
    for (const [index, row] of rows.entries()) {
      if (row === null || typeof row !== "object") continue;
      const symbol = String(row.symbol ?? "?");
      gone.delete(symbol);
      const line = this.#rows.get(symbol) ?? this.#create(symbol);
      // Only a row that is not in its place moves; the others are not touched.
      if (line.element === at) at = at.nextSibling;
      else this.#body.insertBefore(line.element, at);
      this.#fill(line, row, index);
    }
    for (const symbol of gone) {
      this.#rows.get(symbol).element.remove();
      this.#rows.delete(symbol);
    }
    this.empty.textContent = "Nothing ranks here yet.";
    this.empty.hidden = this.#rows.size > 0;
  }

  #create(symbol) {
    const element = document.createElement("tr");
    const cells = Array.from({ length: 7 }, () => element.insertCell());
    cells[1].className = "symbol";
    cells[1].textContent = symbol;
    const line = { element, cells, values: [], fresh: true };
    this.#rows.set(symbol, line);
    return line;
  }

  #fill(line, row, index) {
    const change = row[this.change];
    const rank = Number.isInteger(row.rank) ? row.rank : index + 1;
    set(line, 0, rank, String(rank), false);
    set(line, 2, row.close, price(row.close), true);
    set(line, 3, change, percent(change), true);
    set(line, 4, row.accumulated_volume, compact(row.accumulated_volume), false);
    set(line, 5, row.relative_volume, times(row.relative_volume), false);
    set(line, 6, row.free_float, known(row.free_float), false);
    line.cells[3].classList.toggle("up", change > 0);
    line.cells[3].classList.toggle("down", change < 0);
    line.cells[5].classList.toggle("hot", row.relative_volume >= 5);
    line.fresh = false;
  }
}

/** Put a text in a cell if it changed; flash the cell green or red for its direction. */
function set(line, index, value, text, flash) {
  const cell = line.cells[index];
  const before = line.values[index];
  line.values[index] = value;
  if (cell.textContent === text) return;
  cell.textContent = text;
  if (!flash || line.fresh || typeof before !== "number" || typeof value !== "number") return;
  // The Web Animations API restarts a flash without forcing a layout.
  cell.animate?.(value > before ? FLASH_UP : FLASH_DOWN, { duration: 700, easing: "ease-out" });
}
const FLASH_UP = [{ backgroundColor: "rgb(61 220 132 / 28%)" }, { backgroundColor: "transparent" }];
const FLASH_DOWN = [{ backgroundColor: "rgb(255 107 107 / 28%)" }, { backgroundColor: "transparent" }];
if (matchMedia("(prefers-reduced-motion: reduce)").matches) FLASH_UP.length = FLASH_DOWN.length = 0;

// ---- Tickers: newest first, bounded; an item that comes by get and by subscription shows once.

class Ticker {
  #list;
  #limit;
  #line;
  #items = new Map(); // identity → element
  #pending = []; // until the next frame; at the open, alerts come by the hundred a second

  constructor(list, limit, line) {
    this.#list = list;
    this.#limit = limit;
    this.#line = line;
  }

  add(item) {
    if (this.#pending.length === 0) requestAnimationFrame(() => this.#render());
    this.#pending.push(item);
    // A hidden tab draws no frames: the oldest would not be shown anyway.
    if (this.#pending.length > 4 * this.#limit) this.#pending.shift();
  }

  #render() {
    for (const item of this.#pending) this.#insert(item);
    this.#pending = [];
  }

  #insert(item) {
    const key = JSON.stringify(item);
    if (this.#items.has(key)) return;
    const element = this.#line(item);
    this.#items.set(key, element);
    // By time, as what get brings may be older than what came meanwhile.
    element.stamp = millis(item.timestamp);
    let at = this.#list.firstChild;
    while (at !== null && at.stamp > element.stamp) at = at.nextSibling;
    this.#list.insertBefore(element, at);
    while (this.#items.size > this.#limit) {
      const last = this.#list.lastChild;
      for (const [old, held] of this.#items) if (held === last) this.#items.delete(old);
      last.remove();
    }
  }
}

const millis = (stamp) => (typeof stamp !== "number" ? 0 : stamp < 1e11 ? stamp * 1000 : stamp);

function entry(kind, parts) {
  const element = document.createElement("li");
  element.className = kind;
  for (const [name, text] of parts) {
    if (!text) continue;
    const part = document.createElement("span");
    part.className = name;
    part.textContent = text;
    element.append(part);
  }
  return element;
}

function alertLine(item) {
  const up = /^(h|u)/i.test(String(item.direction ?? ""));
  return entry(up ? "up" : "down", [
    ["when", time(item.timestamp)],
    ["symbol", String(item.symbol ?? "?")],
    ["what", `${up ? "▲ new high" : "▼ new low"} ${price(item.price)}`],
    ["note", typeof item.note === "string" ? item.note : words(item.session)],
  ]);
}

/** m:ss of a duration in ms. */
function minutes(ms) {
  if (typeof ms !== "number") return "";
  return `${Math.floor(ms / 60_000)}:${String(Math.floor(ms / 1_000) % 60).padStart(2, "0")}`;
}

function haltLine(item) {
  const resumed = item.event === "resumed";
  const lasted = resumed ? minutes(item.halted_ms) : "";
  const until = resumed ? 0 : millis(item.resume_expected_timestamp);
  const notes = [
    typeof item.reason === "string" ? item.reason : "",
    lasted && `after ${lasted}`,
    until > 0 && `until ${time(until)}`,
    item.halts_today > 1 ? `halt ${item.halts_today} today` : "",
  ];
  return entry(resumed ? "up" : "down", [
    ["when", time(millis((resumed ? item.resume_timestamp : item.halt_timestamp) ?? item.timestamp))],
    ["symbol", String(item.symbol ?? "?")],
    ["what", resumed ? "▶ resumed" : "■ halted"],
    ["note", notes.filter(Boolean).join(" · ")],
  ]);
}

const alerts = new Ticker($("alerts"), ALERTS, alertLine);
const halts = new Ticker($("halts"), HALTS, haltLine);

/** The panel shows once there is a halt: an analyzer that finds them need not be installed. */
function addHalt(item) {
  halts.add(item);
  $("halts").closest("section").hidden = false;
}

// ---- Header

function showStatus(status) {
  const text = {
    session: words(status.session),
    "market-time": time(status.market_time),
    "feed-state": words(status.feed_state),
    lag: lag(status.lag_ms),
    events: compact(round(status.events_per_second)),
    symbols: count(status.symbols),
    "new-highs": compact(status.new_highs),
    "new-lows": compact(status.new_lows),
  };
  for (const [id, value] of Object.entries(text)) {
    if ($(id).textContent !== value) $(id).textContent = value;
  }
  $("feed-state").className = status.feed_state === "live" ? "up" : status.feed_state ? "warn" : "";
  $("warming").hidden = !status.warming_up;
}

const round = (value) => (typeof value === "number" ? Math.round(value) : value);

function showConnection(state, reason) {
  $("connection").dataset.state = state;
  const text = reason ? `${state} · ${reason}` : state;
  if ($("connection-text").textContent !== text) $("connection-text").textContent = text;
  document.body.classList.toggle("stale", state !== "live");
  const wanted = state === "unauthorized";
  $("key-form").hidden = !wanted;
  $("key-error").textContent = wanted && key ? reason : "";
}

// ---- Connection

let key = sessionStorage.getItem("mdp-key") ?? "";

/** Events one by one; what there was before them comes newest first. */
function each(add) {
  return ({ value, kind }) => {
    const items = kind === "list" ? [...(value ?? [])].reverse() : [value];
    for (const item of items) if (item !== null && typeof item === "object") add(item);
  };
}

function connectAll(url, boards) {
  const service = connect(url, { key: () => key, onState: showConnection });
  for (const board of boards) {
    const fields = ["close", board.change, "accumulated_volume", "relative_volume", "free_float"];
    service.subscribe(board.feed, { limit: ROWS, fields }, ({ value }) => board.update(value ?? []));
  }
  service.subscribe("market:status", {}, ({ value }) => {
    if (value !== null && typeof value === "object") showStatus(value);
  });
  for (const feed of ["daily_range_hod_alert", "daily_range_lod_alert"]) {
    service.subscribe(feed, { limit: ALERTS }, each((item) => alerts.add(item)));
  }
  service.subscribe("halts", { limit: HALTS }, each(addHalt));
  return service;
}

async function main() {
  const config = await loadConfig();
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const url = `${scheme}://${location.hostname}:${config.wds_port}/ws`;
  const boards = [...document.querySelectorAll(".board")].map((section) => new Board(section));
  let service = null;
  $("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    key = $("key").value;
    sessionStorage.setItem("mdp-key", key);
    if (service) service.reconnect();
    else service = connectAll(url, boards);
  });
  if (config.auth_required && !key) showConnection("unauthorized", "an API key is needed");
  else service = connectAll(url, boards);
}

async function loadConfig() {
  for (let wait = 500; ; wait = Math.min(wait * 2, 10_000)) {
    try {
      const response = await fetch("/config.json", { cache: "no-store" });
      const config = await response.json();
      if (config.wds_port) return config;
      showConnection("connecting", "the data service is starting");
    } catch {
      showConnection("reconnecting", "no answer from the page's server");
    }
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
}

await main();
