// Numbers as traders read them. Every function takes anything and gives text; what is no number is "–".

const NOTHING = "–";
const UNITS = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "K"]];

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

/** 1234567 → "1.23M"; three significant digits from a thousand on. */
export function compact(value) {
  if (!isNumber(value)) return NOTHING;
  const size = Math.abs(value);
  for (const [unit, letter] of UNITS) {
    // 999,999 rounds to 1.00M, not to 1000K.
    if (size >= unit * 0.9995) {
      const scaled = value / unit;
      const digits = Math.abs(scaled) >= 99.95 ? 0 : Math.abs(scaled) >= 9.995 ? 1 : 2;
      return scaled.toFixed(digits) + letter;
    }
  }
  return Number.isInteger(value) ? String(value) : value.toFixed(1);
}

/** Dollars: two decimals, four below a dollar. */
export function price(value) {
  if (!isNumber(value)) return NOTHING;
  return value.toFixed(Math.abs(value) < 1 ? 4 : 2);
}

/** "+4.20%"; a true minus sign keeps the width of the plus. */
export function percent(value) {
  if (!isNumber(value)) return NOTHING;
  const digits = Math.abs(value) >= 999.95 ? 0 : Math.abs(value) >= 99.995 ? 1 : 2;
  const text = Math.abs(value).toFixed(digits);
  const sign = Number(text) === 0 ? "" : value > 0 ? "+" : "−";
  return `${sign}${text}%`;
}

/** Relative volume: "3.4×"; 0 means that the average is not known. */
export function times(value) {
  if (!isNumber(value) || value === 0) return NOTHING;
  if (value >= 999.5) return `${compact(value)}×`;
  return `${value.toFixed(value >= 99.95 ? 0 : 1)}×`;
}

/** A whole number in full: "11,022". */
export const count = (value) => (isNumber(value) ? value.toLocaleString("en-US") : NOTHING);

/** A count where 0 means "not known", as a missing reference value does. */
export const known = (value) => (value === 0 ? NOTHING : compact(value));

const clock = new Intl.DateTimeFormat("en-US", {
  timeZone: "America/New_York", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23",
});

/** Epoch milliseconds (or seconds, as alerts have them) → "09:31:05" in New York. */
export function time(value) {
  if (!isNumber(value) || value <= 0) return NOTHING;
  return clock.format(new Date(value < 1e11 ? value * 1000 : value));
}

/** A lag in milliseconds: "85 ms", "1.2 s", "3 min". */
export function lag(value) {
  if (!isNumber(value)) return NOTHING;
  const size = Math.max(0, value);
  if (size < 1000) return `${Math.round(size)} ms`;
  if (size < 90_000) return `${(size / 1000).toFixed(1)} s`;
  return `${Math.round(size / 60_000)} min`;
}

/** "after_hours" → "after hours". */
export const words = (value) => (typeof value === "string" && value ? value.replaceAll("_", " ") : NOTHING);
