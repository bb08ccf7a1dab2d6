import { readFileSync } from "node:fs";
import { hostVariable } from "../app/config.ts";
import { isolations } from "../contracts/constants.ts";
import { WarrenError } from "../contracts/errors.ts";
import type { Isolation } from "../contracts/sandbox.ts";
import { parseDuration, parseSize } from "../lib/units.ts";
import { UsageError } from "./report.ts";

/** For options that may be given several times. */
export function collect(value: string, earlier: string[] | undefined): string[] {
  return [...(earlier ?? []), value];
}

/** `NAME=value`, or `NAME` alone to pass on our own variable of that name, when there is one. */
export function parseEnvironment(entries: readonly string[]): Record<string, string> {
  const variables: Record<string, string> = Object.create(null);
  for (const entry of entries) {
    const equals = entry.indexOf("=");
    const name = equals < 0 ? entry : entry.slice(0, equals);
    if (name === "") {
      throw new UsageError(
        `${JSON.stringify(entry)} is not an environment variable`,
        "write it as NAME=value",
      );
    }
    const value = equals < 0 ? hostVariable(name) : entry.slice(equals + 1);
    if (value !== undefined) {
      variables[name] = value;
    }
  }
  return variables;
}

/** The lines of an env file: empty ones and those that start with `#` don't count; quotes mean nothing. */
export function readEnvFile(path: string): string[] {
  return readFileSync(path, "utf8")
    .split(/\r?\n/)
    .map((line) => line.trimStart())
    .filter((line) => line !== "" && !line.startsWith("#"));
}

/** `key=value`, or `key` alone for an empty value. */
export function parseLabels(entries: readonly string[]): Record<string, string> {
  const labels: Record<string, string> = Object.create(null);
  for (const entry of entries) {
    const equals = entry.indexOf("=");
    if (equals === 0 || entry === "") {
      throw new UsageError(`${JSON.stringify(entry)} is not a label`, "write it as key=value");
    }
    labels[equals < 0 ? entry : entry.slice(0, equals)] = equals < 0 ? "" : entry.slice(equals + 1);
  }
  return labels;
}

export function isolationLevel(text: string): Isolation {
  const level = isolations.find((one) => one === text);
  if (level) return level;
  throw new UsageError(
    `there is no isolation ${JSON.stringify(text)}`,
    `choose one of: ${isolations.join(", ")}`,
  );
}

/** `/path`, `/path:64m` or `/path:64m:ro,noexec`. */
export function parseTmpfs(entry: string): { path: string; size: string; options?: string } {
  const [path = "", size = "64m", options, ...more] = entry.split(":");
  if (!path.startsWith("/") || more.length > 0 || !/^[1-9]\d*[kmg]?$/i.test(size)) {
    throw new UsageError(
      `${JSON.stringify(entry)} is not a tmpfs`,
      "write it as /path:64m or /path:64m:ro,noexec",
    );
  }
  return { path, size, ...(options === undefined ? {} : { options }) };
}

/** Seconds; `never` is undefined. */
export function seconds(text: string): number | undefined {
  const duration = asUsage(() => parseDuration(text));
  return duration === "never" ? undefined : duration;
}

/** Whole seconds until an expiry, and -1 for `never`, as the API wants it. */
export function expirySeconds(text: string): number {
  const duration = seconds(text);
  if (duration === undefined) {
    return -1;
  }
  const whole = Math.ceil(duration);
  if (whole < 1) {
    throw new UsageError(
      "an expiry is at least one second away",
      "write `never` for a sandbox that does not expire",
    );
  }
  return whole;
}

export function bytes(text: string): number {
  return asUsage(() => parseSize(text));
}

/** Cores as NanoCPUs. */
export function nanoCpus(text: string): number {
  const cores = /^\d+(\.\d+)?$/.test(text) ? Number(text) : Number.NaN;
  if (!(cores > 0 && cores <= 4096)) {
    throw new UsageError(`${JSON.stringify(text)} is not a number of cores`, "write it as 2 or 1.5");
  }
  return Math.round(cores * 1e9);
}

export function wholeNumber(text: string): number {
  const number = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
  if (Number.isNaN(number)) {
    throw new UsageError(`${JSON.stringify(text)} is not a whole number`);
  }
  return number;
}

function asUsage<T>(parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    throw error instanceof WarrenError ? new UsageError(error.message, error.hint) : error;
  }
}
