import { WarrenError } from "../contracts/errors.ts";

const secondsPer: Record<string, number> = { ms: 0.001, s: 1, m: 60, h: 3600, d: 86_400, w: 604_800 };

/**
 * Seconds of a duration: `90`, `1.5s`, `250ms`, `5m`, `1h30m`, `1d`; `never` when that word was given.
 * A bare number is seconds. Throws `invalid_request`.
 */
export function parseDuration(text: string): number | "never" {
  const value = text.trim().toLowerCase();
  if (value === "never") {
    return "never";
  }
  if (/^\d+(\.\d+)?$/.test(value)) {
    return Number(value);
  }
  const parts = /^(?:\d+(?:\.\d+)?(?:ms|[smhdw]))+$/.test(value)
    ? [...value.matchAll(/(\d+(?:\.\d+)?)(ms|[smhdw])/g)]
    : [];
  const seconds = parts.reduce(
    (sum, [, amount, unit]) => sum + Number(amount) * (secondsPer[unit ?? ""] ?? Number.NaN),
    0,
  );
  if (parts.length === 0 || !Number.isFinite(seconds)) {
    throw new WarrenError("invalid_request", `${JSON.stringify(text)} is not a duration`, {
      hint: "write it as 90, 30s, 5m, 2h, 1d or never",
    });
  }
  // 0.1s + 0.2s must not become 0.30000000000000004.
  return Math.round(seconds * 1000) / 1000;
}

const sizeUnits = ["", "k", "m", "g", "t"] as const;

/** Bytes of a size: `1048576`, `512k`, `512m`, `1.5g`, `1GiB`. Units are powers of 1024. Throws `invalid_request`. */
export function parseSize(text: string): number {
  const match = /^(\d+(?:\.\d+)?)(?:([kmgt])(?:i?b)?|b)?$/.exec(text.trim().toLowerCase());
  const power = sizeUnits.indexOf((match?.[2] ?? "") as (typeof sizeUnits)[number]);
  const bytes = match ? Math.round(Number(match[1]) * 1024 ** power) : Number.NaN;
  if (!Number.isSafeInteger(bytes)) {
    throw new WarrenError("invalid_request", `${JSON.stringify(text)} is not a size`, {
      hint: "write it as a number of bytes, or with a unit as in 512m or 1.5g",
    });
  }
  return bytes;
}

/** `0 B`, `640 KiB`, `1.5 GiB`. */
export function formatBytes(bytes: number): string {
  const power = bytes < 1 ? 0 : Math.min(Math.floor(Math.log2(bytes) / 10), 4);
  const amount = bytes / 1024 ** power;
  const digits = power === 0 || amount >= 100 ? 0 : 1;
  return `${amount.toFixed(digits).replace(/\.0$/, "")} ${["B", "KiB", "MiB", "GiB", "TiB"][power]}`;
}

/** The largest one or two units of a number of seconds: `0s`, `45s`, `5m`, `2h 5m`, `3d 4h`. */
export function formatDuration(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds));
  const parts: [number, string][] = [
    [Math.floor(whole / 86_400), "d"],
    [Math.floor(whole / 3600) % 24, "h"],
    [Math.floor(whole / 60) % 60, "m"],
    [whole % 60, "s"],
  ];
  const first = parts.findIndex(([amount]) => amount > 0);
  if (first < 0) {
    return "0s";
  }
  // Minutes and seconds together are noise in a table; days and hours, hours and minutes are not.
  return parts
    .slice(first, first < 2 ? first + 2 : first + 1)
    .filter(([amount]) => amount > 0)
    .map(([amount, unit]) => `${amount}${unit}`)
    .join(" ");
}
